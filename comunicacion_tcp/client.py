"""El cliente que espera: ``Client``, un socket bloqueante alrededor de ``ClientProtocol``.

Aquí se conecta, se envía y se lee con plazos, y los errores del sistema se vuelven los de ``errors.py``. No se
parten mensajes (``protocol.py``) ni se habla con personas (``cli/client.py``). Solo usa la biblioteca estándar,
y no importa asyncio.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from types import TracebackType

from .errors import ConnectionLost, NetworkError, ServerNotRunning, TimedOut, UnknownHost, format_address
from .limits import DEFAULT_LIMITS, Limits
from .protocol import ClientProtocol

_READ_SIZE = 64 * 1024  # bytes por lectura: lo que un socket de Linux suele tener listo de una vez
_MOST_UNASKED_READS = 16  # 1 MiB: un servidor que no para de hablar no impide enviar


class Client:
    """Una conversación con un servidor de mensajes.

    Con ``with``, se conecta al entrar y al salir cierra (sin despedirse: para eso está ``say_goodbye``)::

        with Client("localhost", 5000) as client:
            reply = client.send("hola")
            client.say_goodbye()

    ``host`` y ``port``: adónde conectar. ``limits``: de él se usan los plazos del cliente.
    """

    def __init__(self, host: str = "localhost", port: int = 5000, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._host = host
        self._port = port
        self._limits = limits
        self._protocol = ClientProtocol()
        self._unasked: list[str] = []
        self._socket: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._server_ended = False

    @property
    def address(self) -> str:
        """``"host:puerto"``, como se le dice a una persona."""
        return format_address(self._host, self._port)

    def connect(self) -> None:
        """Se conecta. Errores: ``UnknownHost``, ``ServerNotRunning``, ``TimedOut`` o ``NetworkError``."""
        timeout = self._limits.connect_timeout
        try:
            sock = socket.create_connection((self._host, self._port), timeout)
        except (socket.gaierror, UnicodeError) as error:
            raise UnknownHost(self.address, error) from error
        except ConnectionRefusedError as error:
            raise ServerNotRunning(self.address, error) from error
        except TimeoutError as error:
            raise TimedOut(self.address, timeout, connecting=True) from error
        except OSError as error:
            raise NetworkError(self.address, error) from error
        if sock.getsockname() == sock.getpeername():
            # TCP permite conectar un puerto efímero consigo mismo (RFC 9293, 3.5: apertura simultánea).
            sock.close()
            raise ServerNotRunning(self.address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self._socket = sock
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)

    def send(self, message: str) -> str:
        """Envía ``message`` y devuelve su respuesta, sin terminador.

        Errores: ``MessageError`` si el texto no puede ser un mensaje (no se envía nada), ``TimedOut`` si no llega
        nada en ``limits.reply_timeout`` segundos, ``ConnectionLost`` si el servidor cierra o corta.
        """
        outgoing = self._protocol.send(message)
        self._read_unasked()
        reply = self._exchange(outgoing)
        if reply is None:
            raise ConnectionLost(self.address)
        return reply

    def say_goodbye(self) -> list[str]:
        """Se despide, cierra su lado y devuelve lo que el servidor dijera hasta cerrar el suyo (quizá nada).

        Error: ``TimedOut`` si el servidor ni contesta ni cierra. Que cierre o corte ya no es un error.
        """
        self._read_unasked()
        replies = self.take_unasked()
        with contextlib.suppress(ConnectionLost):
            reply = self._exchange(self._protocol.say_goodbye(), last=True)
            while reply is not None:
                replies.append(reply)
                reply = self._protocol.next_reply()
        self.close()
        return replies

    def take_unasked(self) -> list[str]:
        """Lo que el servidor ha dicho sin que se le preguntara (un saludo, una negativa). No espera."""
        self._read_unasked()
        unasked, self._unasked = self._unasked, []
        return unasked

    def close(self) -> None:
        """Cierra la conexión. Se puede llamar más de una vez."""
        if self._selector:
            self._selector.close()
            self._selector = None
        if self._socket:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Client:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- por dentro -----------------------------------------------------------------------------------------

    def _exchange(self, outgoing: bytes, *, last: bool = False) -> str | None:
        """Envía ``outgoing`` sin dejar de leer y devuelve la primera respuesta, o ``None`` si el servidor cierra.

        Se lee mientras se envía porque el servidor puede responder a medio mensaje: si los dos solo escribieran,
        con mensajes mayores que los búferes del sistema, ninguno avanzaría.

        ``last``: tras ``outgoing`` se cierra nuestro lado y se espera al cierre del otro.
        """
        sock, selector = self._connected()
        rest = memoryview(outgoing)
        while not self._server_ended:
            if not rest and not last:
                reply = self._protocol.next_reply()
                if reply is not None:
                    return reply
            silence = self._protocol.awaiting_silence and not rest
            selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if rest else 0))
            events = selector.select(self._limits.reply_silence if silence else self._limits.reply_timeout)
            ready = events[0][1] if events else 0
            if silence and not ready:
                self._protocol.receive_silence()
                last = False  # un servidor que contesta y no cierra: basta con su respuesta
            elif not ready:
                self.close()  # una respuesta que llegara tarde parecería la del mensaje siguiente
                raise TimedOut(self.address, self._limits.reply_timeout, connecting=False)
            if ready & selectors.EVENT_WRITE:
                rest = self._write(sock, rest)
                if last and not rest:
                    with contextlib.suppress(OSError):  # ya cerrada por el otro lado: lo dirá la lectura
                        sock.shutdown(socket.SHUT_WR)
            if ready & selectors.EVENT_READ:
                self._read(sock)
        return self._protocol.next_reply()

    def _write(self, sock: socket.socket, rest: memoryview) -> memoryview:
        try:
            return rest[sock.send(rest) :]
        except BlockingIOError:
            return rest
        except OSError:
            # El servidor ya no lee, pero puede haber dicho por qué: se deja de escribir y se sigue leyendo.
            return rest[:0]

    def _read(self, sock: socket.socket) -> bool:
        """Lee lo que haya; devuelve si hubo algo. El fin de la entrada queda en ``_server_ended``."""
        try:
            data = sock.recv(_READ_SIZE)
        except BlockingIOError:
            return False
        except OSError as error:
            self._server_ended = True
            raise ConnectionLost(self.address, error) from error
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
            self._server_ended = True
        return bool(data)

    def _read_unasked(self) -> None:
        sock, _ = self._connected()
        with contextlib.suppress(ConnectionLost):  # lo dirá el envío que venga
            for _ in range(_MOST_UNASKED_READS):
                if self._server_ended or not self._read(sock):
                    break
        self._protocol.receive_silence()
        while (reply := self._protocol.next_reply()) is not None:
            self._unasked.append(reply)

    def _connected(self) -> tuple[socket.socket, selectors.BaseSelector]:
        if self._socket is None or self._selector is None:
            raise ConnectionLost(self.address)
        return self._socket, self._selector
