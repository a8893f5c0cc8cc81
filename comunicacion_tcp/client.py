"""El cliente que espera: ``Client``, un socket bloqueante alrededor de ``ClientProtocol``.

Aquí se conecta, se envía y se lee con plazos, y los errores del sistema se vuelven los de ``errors.py``. No se
parten mensajes (``protocol.py``), ni se cifra (``tls.py``, que solo se carga si se pide) ni se habla con personas
(``cli/client.py``). Solo usa la biblioteca estándar, y no importa asyncio.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time

from .addresses import format_address, unix_path
from .errors import (
    ConnectionLost,
    NetworkError,
    ServerNotRunning,
    TimedOut,
    TLSFailed,
    Truncated,
    UnknownHost,
)
from .limits import DEFAULT_LIMITS, Limits
from .protocol import ClientProtocol

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    import ssl
    from types import TracebackType
    from typing import Any, NoReturn

    from .tls import TLSSession

_READ_SIZE = 64 * 1024  # bytes por lectura: lo que un socket de Linux suele tener listo de una vez
_MOST_UNASKED_READS = 16  # 1 MiB: un servidor que no para de hablar no impide enviar
_SHORTEST_WAIT = 0.001  # segundos: con cero o menos, conectar no esperaría nada y fallaría por eso


class Client:
    """Una conversación con un servidor de mensajes.

    Con ``with``, se conecta al entrar y al salir cierra (sin despedirse: para eso está ``say_goodbye``)::

        with Client("localhost", 5000) as client:
            reply = client.send("hola")
            client.say_goodbye()

    ``host`` y ``port``: adónde conectar (``ValueError`` si el puerto no va de 1 a 65535); un ``host`` como
    ``"unix:/ruta"`` es un socket de Unix, que no tiene puerto. ``limits``: de él se usan los plazos del cliente.
    ``tls``: con qué cifrar (``client_context()``); por defecto, no se cifra.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 5000,
        *,
        limits: Limits = DEFAULT_LIMITS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not 0 < port <= 65535:
            raise ValueError(f"port debe ser un número de 1 a 65535, no {port}")
        if tls and unix_path(host) is not None:
            raise ValueError("un socket de Unix no sale de la máquina y no tiene nombre que comprobar: va sin tls")
        self._host = host
        self._port = port
        self._limits = limits
        self._tls = tls
        self._session: TLSSession | None = None
        self._protocol = ClientProtocol()
        self._unasked: list[str] = []
        self._socket: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._server_ended = False
        self._cut_by: OSError | None = None

    @property
    def address(self) -> str:
        """``"host:puerto"``, como se le dice a una persona."""
        return format_address(self._host, self._port)

    def connect(self) -> None:
        """Se conecta; si ya lo estaba, deja la conexión anterior y empieza otra conversación.

        Errores: ``UnknownHost``, ``ServerNotRunning``, ``TimedOut``, ``ConnectionLost`` o ``NetworkError``; con TLS,
        también ``CertificateRejected`` o ``TLSFailed``.
        """
        self.close()
        self._protocol = ClientProtocol()
        self._unasked = []
        self._server_ended = False
        self._cut_by = None
        timeout = self._limits.connect_timeout
        try:
            sock = self._open(time.monotonic() + timeout)
        except (socket.gaierror, UnicodeError) as error:
            raise UnknownHost(self.address, error) from error
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise ServerNotRunning(self.address, error) from error
        except TimeoutError as error:
            raise TimedOut(self.address, timeout, connecting=True) from error
        except OSError as error:
            raise NetworkError(self.address, error) from error
        try:
            itself = sock.getsockname() == sock.getpeername()
            if unix_path(self._host) is None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
        except OSError as error:  # el servidor cortó nada más aceptar
            sock.close()
            raise ConnectionLost(self.address, error) from error
        if itself:
            # TCP permite conectar un puerto efímero consigo mismo (RFC 9293, 3.5: apertura simultánea).
            sock.close()
            raise ServerNotRunning(self.address)
        self._socket = sock
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)
        if self._tls:
            try:
                self._greet(self._tls)
            except BaseException:
                self.close()
                raise

    def send(self, message: str) -> str:
        """Envía ``message`` y devuelve su respuesta, sin terminador.

        Errores: ``MessageError`` si el texto no puede ser un mensaje (no se envía nada), ``TimedOut`` si no llega
        nada en ``limits.reply_timeout`` segundos, ``ConnectionLost`` si el servidor cierra o corta (con TLS, también
        ``TLSFailed``: en TLS 1.3 el servidor puede rechazar nuestro certificado después del saludo).
        """
        outgoing = self._protocol.send(message)
        self._read_unasked()
        rest = self._for_the_wire(outgoing)
        # Se lee mientras se envía porque el servidor puede responder a medio mensaje: si los dos solo escribieran,
        # con mensajes mayores que los búferes del sistema, ninguno avanzaría.
        while (rest or not self._protocol.has_reply) and not self._server_ended:
            silence = self._protocol.awaiting_silence and not rest
            rest, moved = self._move(rest, self._limits.reply_silence if silence else self._limits.reply_timeout)
            if not moved and not silence:
                self._time_out(self._limits.reply_timeout)
            if not moved:
                self._protocol.receive_silence()
        reply = self._protocol.next_reply()
        if reply is None:
            self._complain_of_tls()
            raise ConnectionLost(self.address, self._cut_by)
        return reply

    def say_goodbye(self, timeout: float | None = None) -> list[str]:
        """Se despide, cierra su lado y devuelve lo que el servidor dijera hasta cerrar el suyo (quizá nada).

        ``timeout``: segundos hasta que conteste o cierre (por defecto, ``limits.reply_timeout``).

        A un servidor que contesta y no cierra se le espera ``limits.reply_silence`` segundos más. Error: ``TimedOut``
        si ni contesta ni cierra. Que cierre o corte ya no es un error, salvo con TLS: sin su aviso de cierre no se sabe
        si falta algo, y es ``ConnectionLost`` (lo que sí llegó entero queda en ``take_unasked()``).
        """
        replies = self.take_unasked()
        rest = self._for_the_wire(self._protocol.say_goodbye(), last=True)
        patience = self._limits.reply_timeout if timeout is None else timeout
        deadline = time.monotonic() + patience
        answered = False
        while not self._server_ended:
            if self._protocol.has_reply and not answered:
                answered = True
                deadline = time.monotonic() + self._limits.reply_silence
            quiet = self._limits.reply_silence if self._protocol.has_begun else patience
            rest, moved = self._move(rest, max(0, min(quiet, deadline - time.monotonic())), last=True)
            if not moved or time.monotonic() > deadline:
                break
        self._complain_of_tls()
        self._protocol.receive_eof()
        while (reply := self._protocol.next_reply()) is not None:
            replies.append(reply)
        if not replies and not self._server_ended:
            self._time_out(patience)
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
            if self._session:
                self._session.close()
                with contextlib.suppress(OSError):  # si cabe y aún hay quien lo oiga
                    self._socket.send(self._session.take_outgoing())
                self._session = None
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

    def _open(self, deadline: float) -> socket.socket:
        """Un socket conectado a la primera dirección que conteste. Errores: los del sistema."""
        path = unix_path(self._host)
        if path is not None:
            if not hasattr(socket, "AF_UNIX"):
                raise OSError("en este sistema Python no tiene sockets de Unix")
            return _open_one(socket.AF_UNIX, path, deadline - time.monotonic())
        # En bytes no pasa por IDNA, cuyas tablas tardan en cargarse más que en conectar (1,5 ms) y aquí sobran.
        host = self._host.encode() if self._host.isascii() else self._host
        found = socket.getaddrinfo(host, self._port, type=socket.SOCK_STREAM)
        # Primero IPv4, como escucha el servidor: con localhost, es la dirección que una persona espera ver en él.
        found.sort(key=lambda one: one[0] != socket.AF_INET)
        failure = OSError("sin direcciones")
        for number, (family, *_, place) in enumerate(found):
            # El plazo se reparte: una dirección que no contesta deja tiempo a las siguientes.
            share = (deadline - time.monotonic()) / (len(found) - number)
            try:
                return _open_one(family, place, max(_SHORTEST_WAIT, share))
            except OSError as error:
                # Que nadie escuche dice más que lo que falle en otra dirección (::1 en una máquina sin IPv6).
                if not isinstance(failure, ConnectionRefusedError):
                    failure = error
        raise failure

    def _move(self, rest: memoryview, timeout: float, *, last: bool = False) -> tuple[memoryview, bool]:
        """Espera hasta ``timeout`` segundos a poder leer, o escribir ``rest``, y lo hace una vez.

        Devuelve lo que falta por escribir y si hubo algo que hacer. ``last``: escrito todo, cierra nuestro lado.
        """
        sock, selector = self._connected()
        selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if rest else 0))
        events = selector.select(timeout)
        ready = events[0][1] if events else 0
        if ready & selectors.EVENT_WRITE:
            rest = self._write(sock, rest)
            if last and not rest:
                with contextlib.suppress(OSError):  # ya cortada por el otro lado: lo dirá la lectura
                    sock.shutdown(socket.SHUT_WR)
        if ready & selectors.EVENT_READ:
            self._read(sock)
            if self._session and not self._server_ended and (more := self._session.take_outgoing()):
                rest = memoryview(bytes(rest) + more)  # lo que TLS contesta por su cuenta
        return rest, bool(ready)

    def _time_out(self, seconds: float) -> NoReturn:
        self.close()  # una respuesta que llegara tarde parecería la del mensaje siguiente
        raise TimedOut(self.address, seconds, connecting=False)

    def _write(self, sock: socket.socket, rest: memoryview) -> memoryview:
        try:
            return rest[sock.send(rest) :]
        except BlockingIOError:
            return rest
        except OSError:
            # El servidor ya no lee, pero puede haber dicho por qué: se deja de escribir y se sigue leyendo.
            return rest[:0]

    def _read(self, sock: socket.socket) -> bool:
        """Lee lo que haya; devuelve si hubo algo. El fin de la entrada, o un corte, queda en ``_server_ended``."""
        data = b""
        try:
            data = sock.recv(_READ_SIZE)
        except BlockingIOError:
            return False
        except OSError as error:
            self._cut_by = error
        ended = not data
        if self._session:
            data = self._session.receive(data)
            # Sin su aviso de cierre, lo que quede a medias no es una respuesta: quizá la cortó otro.
            ended = ended or self._session.peer_closed or bool(self._session.failure)
        if data:
            self._protocol.receive_data(data)
        if ended:
            if not self._session or self._session.peer_closed:
                self._protocol.receive_eof()
            self._server_ended = True
        return not ended

    # -- TLS ------------------------------------------------------------------------------------------------

    def _greet(self, context: ssl.SSLContext) -> None:
        from .tls import TLSSession

        try:
            # Un punto final es de la manera de escribir un nombre, y %eth0 de esta máquina: no son del certificado.
            self._session = TLSSession(context, self._host.rstrip(".").partition("%")[0])
        except ValueError as error:
            raise UnknownHost(self.address, error) from error
        deadline = time.monotonic() + self._limits.handshake_timeout
        rest = memoryview(self._session.take_outgoing())
        while rest or not self._session.established:
            rest, moved = self._move(rest, max(0, deadline - time.monotonic()))
            if self._server_ended:
                self._complain_of_tls()
                break  # acabó bien: quizá con una negativa, que se leerá
            if not moved or time.monotonic() > deadline:
                raise TLSFailed(self.address, problem="silent")

    def _for_the_wire(self, text: bytes, *, last: bool = False) -> memoryview:
        """Lo que hay que escribir para enviar ``text``, y nada más si es lo último."""
        if self._session is None:
            return memoryview(text)
        self._session.send(text)
        if last:
            self._session.close()
        return memoryview(self._session.take_outgoing())

    def _complain_of_tls(self) -> None:
        """Si el servidor acabó como no se acaba en TLS, lo lanza. Las respuestas enteras quedan en ``_unasked``."""
        session = self._session
        if session is None or session.peer_closed or not self._server_ended:
            return
        from .tls import tls_error

        while (reply := self._protocol.next_reply()) is not None:
            self._unasked.append(reply)
        if session.failure or not session.established:
            raise tls_error(self.address, session.failure or self._cut_by, "cut")
        raise Truncated(self.address, self._cut_by)

    def _read_unasked(self) -> None:
        sock, _ = self._connected()
        for _ in range(_MOST_UNASKED_READS):
            if self._server_ended or not self._read(sock):
                break
        if not self._server_ended:  # si acabó, ya se sabe qué es una respuesta
            self._protocol.receive_silence()
        while (reply := self._protocol.next_reply()) is not None:
            self._unasked.append(reply)

    def _connected(self) -> tuple[socket.socket, selectors.BaseSelector]:
        if self._socket is None or self._selector is None:
            raise ConnectionLost(self.address)
        return self._socket, self._selector


def _open_one(family: int, place: Any, timeout: float) -> socket.socket:
    """Un socket conectado a ``place``. Errores: los del sistema."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock
