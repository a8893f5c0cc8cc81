"""``Relay``: una conversación en bruto, de un descriptor de entrada a donde digan, para millones de líneas.

Los bytes van y vienen como llegan: ni se parten en mensajes ni se decodifican, y solo se cuentan saltos de línea para
saber que nada se queda sin respuesta. Conectar, cifrar y los errores son de ``client.py``. Aquí no se escribe en
ninguna salida ni se habla con personas: de eso se ocupa ``cli/pipe.py``.
"""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import socket
import stat
import time
from collections.abc import Callable

from .client import Client
from .errors import ConnectionLost, TimedOut
from .protocol import GOODBYE, ClientProtocol

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from typing import Any

# Bytes por lectura. Con 64 KiB costaba un 10 % más; con 1 MiB, lo mismo. Siempre sobre los mismos dos búferes: pedir
# uno cada vez, de más de 128 KiB, es pedir y devolver páginas al sistema, y eso sí se nota.
_BLOCK = 256 * 1024

_GOODBYE = GOODBYE.encode()
_GOODBYE_LINE = rb"(?m)^" + _GOODBYE + rb"\r?\n"  # sin compilar: casi nadie la necesita, y re la recuerda
_RARE = b"X"  # una letra de la despedida que apenas se escribe: buscarla sola es diez veces más rápido (memchr)
_NEWLINE = ord("\n")
_ENOUGH = len(_GOODBYE) + 2  # bytes del principio de una línea que bastan para saber que no es la despedida


class Tally:
    """Qué se ha enviado, qué ha llegado y qué falta. Pura: cuenta líneas, estén cortadas por donde estén."""

    def __init__(self) -> None:
        self.said_goodbye = False
        """Si ya se envió la línea de despedida, o la entrada acabó en ella: no se envía nada más."""
        self._sent = 0  # líneas acabadas
        self._start = b""  # principio de la línea enviada a medias
        self._replies = 0  # respuestas acabadas
        self._half_reply = False  # ha llegado algo de otra
        self._quiet = True  # no ha llegado nada desde lo último enviado

    def send(self, block: bytearray, size: int) -> int:
        """Se van a enviar los ``size`` primeros bytes de ``block``. Devuelve cuántos: menos, si detrás de una línea de
        despedida viene algo más."""
        if end := self._goodbye_end(block, size):
            self.said_goodbye = True
            size = end
        self._sent += block.count(b"\n", 0, size)
        last = block.rfind(b"\n", 0, size) + 1
        self._start = ((b"" if last else self._start) + block[last : min(size, last + _ENOUGH)])[:_ENOUGH]
        self._quiet = True
        return size

    def end_input(self) -> None:
        """No hay nada más que enviar."""
        self.said_goodbye = self.said_goodbye or self._start == _GOODBYE

    def receive(self, block: bytes | bytearray, size: int) -> None:
        """Llegaron los ``size`` primeros bytes de ``block``; al menos uno."""
        self._replies += block.count(b"\n", 0, size)
        self._half_reply = block[size - 1] != _NEWLINE
        self._quiet = False

    @property
    def due(self) -> bool:
        """Si el servidor debe alguna respuesta. De uno que no acaba las suyas en salto de línea no se sabe cuántas van:
        basta que haya dicho algo desde lo último que se le envió."""
        return self._sent > self._replies and (self._replies > 0 or self._quiet)

    @property
    def settled(self) -> bool:
        """Si no ha llegado ninguna respuesta a medias."""
        return not self._half_reply

    @property
    def unanswered(self) -> int:
        """Cuántos mensajes enviados no tienen respuesta; el último cuenta aunque no acabe en salto de línea. De un
        servidor que no responde por líneas, 0 si dijo algo."""
        if not self._replies and self._half_reply:
            return 0
        owed = self._sent + bool(self._start) - self._replies - self._half_reply
        return max(0, owed - self.said_goodbye)  # a la despedida basta contestar cerrando

    def _goodbye_end(self, block: bytearray, size: int) -> int:
        """Dónde acaba en ``block`` la primera línea que es la despedida; 0 si no la hay."""
        middle = bool(self._start)
        if middle:
            end = block.find(b"\n", 0, min(size, _ENOUGH)) + 1
            if end and (self._start + block[: end - 1]).removesuffix(b"\r") == _GOODBYE:
                return end
        if block.find(_RARE, 0, size) < 0:
            return 0
        import re  # tarda en cargarse: lo paga quien escribe equis

        found = re.compile(_GOODBYE_LINE).search(block, middle, size)
        return found.end() if found else 0


class Relay(Client):
    """Un ``Client`` que no envía mensajes sino un chorro de líneas: se construye igual, y se usa ``relay``."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._raw = _Raw()
        self._inbox = bytearray(_BLOCK)
        super().__init__(*arguments, **named)
        self.tally = Tally()
        """La cuenta de lo enviado y lo recibido."""

    def connect(self) -> None:
        """Como en ``Client``."""
        self._raw = _Raw()
        self.tally = Tally()
        super().connect()
        self._protocol = self._raw

    def __enter__(self) -> Relay:
        self.connect()
        return self

    def relay(
        self,
        source: int,
        write: Callable[[memoryview], object],
        report: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Envía lo que vaya dando el descriptor ``source`` hasta que acabe, o hasta una línea de despedida, y da a
        ``write`` los bytes de las respuestas según llegan, que solo valen hasta que ``write`` vuelve. La memoria no
        depende de cuántas líneas sean ni de cómo de largas.

        ``report``: se llama a menudo con cuántos bytes se han enviado. Esperar a la entrada no tiene plazo. Errores:
        ``TimedOut`` si el servidor debe algo y en ``limits.reply_timeout`` segundos no llega nada;
        ``ConnectionLost`` si cierra o corta antes de responderlo todo (``tally.unanswered`` dice cuánto faltó; con TLS,
        también si falta su aviso de cierre); ``OSError`` de la entrada, y lo que lance ``write``.
        """
        sock, selector = self._connected()
        with _Input(source, selector) as entry:
            self._exchange_all(sock, selector, entry, write, report)
        self._complain_of_tls()
        self.tally.end_input()  # la despedida pudo ir sin salto de línea, y con la entrada aún abierta
        finished = entry.ended or self.tally.said_goodbye
        if self._server_ended and (not finished or self.tally.unanswered):
            raise ConnectionLost(self.address, self._cut_by)

    def _exchange_all(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        entry: _Input,
        write: Callable[[memoryview], object],
        report: Callable[[int], object],
    ) -> None:
        buffer = bytearray(_BLOCK)
        rest = memoryview(b"")
        total = 0
        since = time.monotonic()  # desde cuándo el servidor debe algo y no se mueve
        self._deliver(write)  # lo que llegara con el saludo de TLS
        while not self._server_ended:
            # Lo siguiente no se lee hasta haber enviado esto: quien no nos lee nos detiene, y la memoria es la misma.
            entry.watch(not rest and not entry.ended)
            waiting = bool(rest) or self.tally.due or entry.ended
            done = entry.ended and not rest and not self.tally.unanswered
            # A quien lo ha respondido todo y no cierra no se le espera más. Si lo último no acabó, sí, por si sigue.
            patience = self._limits.reply_silence if done and self.tally.settled else self._limits.reply_timeout
            left = since + patience - time.monotonic()
            if waiting and left <= 0:
                if done:
                    return
                raise TimedOut(self.address, patience, connecting=False)
            selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if rest else 0))
            events = {key.fd: mask for key, mask in selector.select(0 if entry.ready else left if waiting else None)}
            mine = events.pop(sock.fileno(), 0)
            if mine & selectors.EVENT_READ:
                # Se lee siempre, también con algo por enviar: un servidor al que no se le lee deja de leer.
                if self._session:
                    self._read(sock)
                    self._deliver(write)
                else:
                    self._read_plain(sock, write)
                if self._session and not self._server_ended and (more := self._session.take_outgoing()):
                    rest = memoryview(bytes(rest) + more)  # lo que TLS contesta por su cuenta
            if mine or not waiting:
                since = time.monotonic()
            if not rest and (events or entry.ready):
                size = entry.read_into(buffer)
                if size is None:
                    continue  # otro proceso se llevó lo que había
                total += size
                rest = self._prepare(entry, buffer, size)
            elif not mine & selectors.EVENT_WRITE:
                continue
            rest = self._write(sock, rest)
            report(total)
            if entry.ended and not rest:
                with contextlib.suppress(OSError):  # ya cortada por el otro lado: lo dirá la lectura
                    sock.shutdown(socket.SHUT_WR)

    def _prepare(self, entry: _Input, buffer: bytearray, size: int) -> memoryview:
        """Lo que hay que escribir para enviar lo recién leído, y nada más si es lo último."""
        if size:
            size = self.tally.send(buffer, size)
            entry.ended = self.tally.said_goodbye
        else:
            entry.ended = True
            self.tally.end_input()
        # Sin copiarlo: a quien escribe o cifra le da igual.
        return self._for_the_wire(memoryview(buffer)[:size], last=entry.ended)  # type: ignore[arg-type]

    def _read_plain(self, sock: socket.socket, write: Callable[[memoryview], object]) -> None:
        """Lo que ``_read`` y ``_deliver``, sin cifrar y sin pedir memoria."""
        size = 0
        try:
            size = sock.recv_into(self._inbox)
        except BlockingIOError:
            return
        except OSError as error:
            self._cut_by = error
        if size:
            self.tally.receive(self._inbox, size)
            write(memoryview(self._inbox)[:size])
        else:
            self._server_ended = True

    def _deliver(self, write: Callable[[memoryview], object]) -> None:
        for data in self._raw.take():
            self.tally.receive(data, len(data))
            write(memoryview(data))

    def _greet(self, *arguments: Any) -> Any:
        self._protocol = self._raw  # un servidor puede hablar detrás del saludo de TLS
        return super()._greet(*arguments)


class _Raw(ClientProtocol):
    """Lo que llega, sin mirarlo: ni acaba respuestas ni las decodifica."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: list[bytes] = []

    def receive_data(self, data: bytes) -> None:
        self._blocks.append(data)

    def receive_eof(self) -> None:
        pass

    def take(self) -> list[bytes]:
        """Lo que ha llegado desde la última vez."""
        blocks, self._blocks = self._blocks, []
        return blocks


class _Input:
    """La entrada: se sabe cuándo hay algo que leer sin esperar por ello.

    De un fichero lo hay siempre. De una tubería, una terminal o un socket lo dice el sistema (``selector``), salvo en
    Windows y en los dispositivos de que no sabe nada (``/dev/null``): esos los lee un hilo, que lo pasa por un socket.
    """

    def __init__(self, source: int, selector: selectors.BaseSelector) -> None:
        self.ended = False
        """Lo apunta quien la lee, al llegar al final o no querer más."""
        self._selector = selector
        self._file = io.FileIO(source, closefd=False)
        self._pumped: socket.socket | None = None
        self._failure: list[OSError] = []
        self._watched = False
        self._always = stat.S_ISREG(os.fstat(source).st_mode)
        self._fd = source
        if not self._always and not self._selectable():
            self._pump()

    @property
    def ready(self) -> bool:
        """Si se puede leer sin preguntar al selector."""
        return self._always and self._watched

    def watch(self, wanted: bool) -> None:
        """Si al selector le debe importar que haya algo que leer."""
        if wanted != self._watched and not self._always:
            if wanted:
                self._selector.register(self._fd, selectors.EVENT_READ)
            else:
                self._selector.unregister(self._fd)
        self._watched = wanted

    def read_into(self, buffer: bytearray) -> int | None:
        """Lee una vez; devuelve cuántos bytes (0, el final), o ``None`` si no había nada. Error: ``OSError``."""
        if self._pumped is None:
            return self._file.readinto(buffer)
        size = self._pumped.recv_into(buffer)
        if not size and self._failure:
            raise self._failure[0]
        return size

    def _selectable(self) -> bool:
        if os.name == "nt":  # allí select es solo para sockets, y no lo dice hasta usarlo
            return False
        try:
            self._selector.register(self._fd, selectors.EVENT_READ)
        except (OSError, ValueError):
            return False
        self._selector.unregister(self._fd)
        return True

    def _pump(self) -> None:
        import threading  # solo aquí: cargarlo cuesta lo que conectar

        self._pumped, writer = socket.socketpair()
        self._fd = self._pumped.fileno()

        def copy() -> None:
            with writer, contextlib.suppress(ConnectionError):  # ya nadie lo quiere
                try:
                    while data := self._file.read(_BLOCK):
                        writer.sendall(data)
                except ConnectionError:
                    raise
                except OSError as error:
                    self._failure.append(error)

        # Daemon: parado en una lectura que no llega, no impide acabar.
        threading.Thread(target=copy, daemon=True).start()

    def __enter__(self) -> _Input:
        return self

    def __exit__(self, *error: object) -> None:
        self.watch(False)
        if self._pumped:
            self._pumped.close()
