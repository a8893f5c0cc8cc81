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
from .hints import typing
from .protocol import GOODBYE, ClientProtocol

# Bytes por lectura, y de la línea más larga que se envía siempre entera. Con 64 KiB costaba un 10 % más; con 1 MiB, lo
# mismo. Siempre sobre los mismos dos búferes: pedir uno cada vez, de más de 128 KiB, es pedir y devolver páginas al
# sistema, y eso sí se nota.
_BLOCK = 256 * 1024
# Y las primeras, y las que siguen a una que la salida tardó en admitir: así a un servidor que va más deprisa que la
# salida se le lee a menudo, y no parece que nadie le lee. A 1 kB/s, cada 16 s.
_SIP = 16 * 1024
_SLOW = 0.1  # segundos de esa tardanza: un programa que va a nuestro paso vacía una tubería en mucho menos

_GOODBYE = GOODBYE.encode()
_GOODBYE_LINE = rb"(?m)^" + _GOODBYE + rb"\r?\n"  # sin compilar: casi nadie la necesita, y re la recuerda
_RARE = b"X"  # una letra de la despedida que apenas se escribe: buscarla sola es diez veces más rápido (memchr)
_NEWLINE = ord("\n")
_ENOUGH = len(_GOODBYE) + 2  # bytes del principio de una línea que bastan para saber que no es la despedida


CLOSED, CUT, SILENT = "closed", "cut", "silent"
"""Cómo acaba un servidor: cierra su lado (FIN, o el aviso de TLS), corta (RST) o calla sin cerrar."""


class Tally:
    """Qué se ha enviado, qué ha llegado y qué falta. Pura: cuenta líneas, estén cortadas por donde estén.

    Las reglas son la tabla de «Cuándo -q acaba bien», en ``docs/protocolo.md``.
    """

    def __init__(self) -> None:
        self.said_goodbye: bool = False
        """Si ya se envió la línea de despedida, o la entrada acabó en ella: no se envía nada más."""
        self._sent = 0  # líneas acabadas
        self._start = b""  # principio de la línea enviada a medias
        self._replies = 0  # respuestas acabadas
        self._half_reply = False  # ha llegado algo de otra
        self._half_greeting = False  # ha llegado el principio de una línea que no es respuesta de nada
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
        half = block[size - 1] != _NEWLINE
        if not self.messages:  # un saludo: aún no se ha preguntado nada
            self._half_greeting = half
            return
        lines = block.count(b"\n", 0, size)
        if self._half_greeting and lines:
            self._half_greeting = False
            lines -= 1
        self._replies += lines
        self._half_reply = half
        self._quiet = False

    @property
    def messages(self) -> int:
        """Cuántos mensajes se han enviado; el último cuenta aunque no acabe en salto de línea."""
        return self._sent + self.mid_line

    @property
    def answered(self) -> int:
        """Cuántos de ellos tienen ya su respuesta, si cada uno tiene una."""
        return min(self._replies, self.messages)

    @property
    def begun(self) -> bool:
        """Si ha llegado algo de una respuesta, y no el salto de línea con que acaba."""
        return self._half_reply

    @property
    def mid_line(self) -> bool:
        """Si se ha enviado el principio de una línea, y no su final."""
        return bool(self._start)

    @property
    def due(self) -> bool:
        """Si el servidor debe alguna respuesta. De uno que no acaba las suyas en salto de línea no se sabe cuántas van:
        basta que haya dicho algo desde lo último que se le envió."""
        return self._sent > self._replies and (self._replies > 0 or self._quiet)

    @property
    def unanswered(self) -> int:
        """Cuántos mensajes enviados no se sabe que tengan su respuesta entera."""
        return max(0, self._owed - self._replies - self._half_is_whole)

    @property
    def half_reply(self) -> bool:
        """Si de la última respuesta solo ha llegado el principio."""
        return self._half_reply and not self._half_is_whole

    @property
    def uncountable(self) -> bool:
        """Si ninguna respuesta ha acabado en salto de línea y no se sabe cuántas hay en lo que ha llegado."""
        return not self._replies and self.half_reply

    @property
    def excess(self) -> bool:
        """Si han llegado más líneas que mensajes: las hay de varias, y no se sabe cuál es de cuál."""
        return self._replies > self.messages

    def complete(self, end: str) -> bool:
        """Si no falta nada, ahora que el servidor ha acabado así (``CLOSED``, ``CUT`` o ``SILENT``)."""
        if self.unanswered or self.half_reply:
            return False
        if end == CLOSED:
            return True
        # Sin su cierre no se sabe si de una respuesta de varias líneas faltaba alguna. Y de una sin salto de línea, un
        # corte dice que no acabó; el silencio, con un solo mensaje, que sí: hay servidores que no lo ponen.
        return not self.excess and not (self._half_reply and (end == CUT or self._replies))

    @property
    def _owed(self) -> int:
        return self.messages - self.said_goodbye  # a la despedida basta contestar cerrando

    @property
    def _half_is_whole(self) -> bool:
        """Si lo que ha llegado sin salto de línea puede ser una respuesta entera: la única, de un servidor que no los
        pone, o la de un último mensaje que tampoco lo llevaba."""
        if not self._half_reply:
            return False
        return self._owed <= 1 if not self._replies else self.mid_line and self._replies == self._sent

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

    def __init__(self, *arguments: typing.Any, **named: typing.Any) -> None:
        self._inbox = bytearray(_BLOCK)
        super().__init__(*arguments, **named)
        self.tally: Tally = Tally()
        """La cuenta de lo enviado y lo recibido."""

    def connect(self) -> None:
        """Como en ``Client``."""
        self.tally = Tally()
        super().connect()

    def relay(
        self,
        source: int,
        write: Callable[[memoryview], object],
        report: Callable[[int], object] = lambda _: None,
        *,
        output: int = -1,
    ) -> None:
        """Envía lo que vaya dando el descriptor ``source`` hasta que acabe, o hasta una línea de despedida, y da a
        ``write`` los bytes de las respuestas según llegan, que solo valen hasta que ``write`` vuelve. La memoria no
        depende de cuántas líneas sean ni de cómo de largas.

        Las líneas de hasta ``_BLOCK`` bytes se envían enteras: la que la entrada deja a medias espera aquí a su final.

        Si ``write`` se queda con algo que no puede escribir aún, devuelve verdadero. Entonces no recibe nada más hasta
        que ``output``, su descriptor, admita algo; se le llama con nada, y vuelve a decir si le queda. Mientras, se
        sigue enviando: un servidor no debe recibir media línea porque nuestra salida vaya lenta.

        ``report``: se llama a menudo con cuántos bytes se han enviado. Esperar a la entrada o a la salida no tiene
        plazo. Acabada la entrada se espera a que el servidor cierre. Errores: ``TimedOut`` si en
        ``limits.reply_timeout`` segundos no llega nada y no se sabe que lo haya respondido todo, o si en
        ``limits.reply_deadline`` no acaba la respuesta que toca; ``ConnectionLost`` si
        cierra o corta antes (con TLS, también si falta su aviso de cierre). ``tally`` dice qué faltó. ``OSError`` de la
        entrada, y lo que lance ``write``.
        """
        sock, selector = self._connected()
        with _Input(source, selector) as entry:
            self._exchange_all(sock, selector, entry, write, report, output)
        self._complain_of_end()
        self.tally.end_input()  # la despedida pudo ir sin salto de línea, y con la entrada aún abierta
        finished = entry.ended or self.tally.said_goodbye
        end = CUT if self._cut_by and not self._session else CLOSED
        if self._server_ended and not (finished and self.tally.complete(end)):
            raise ConnectionLost(self.address, self._cut_by)

    def _exchange_all(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        entry: _Input,
        write: Callable[[memoryview], object],
        report: Callable[[int], object],
        output: int,
    ) -> None:
        lines = _Lines(self.tally)
        rest = memoryview(b"")
        total = 0
        since = whole = time.monotonic()  # desde cuándo el servidor debe algo y no se mueve, y no acaba una respuesta
        answered = 0
        stuck = self._deliver(write)  # lo que llegara con el saludo de TLS
        stopped = since  # desde cuándo no admite más la salida
        sip = _SIP
        while not self._server_ended:
            # Lo siguiente no se lee hasta haber enviado esto: quien no nos lee nos detiene, y la memoria es la misma.
            entry.watch(not rest and not entry.ended)
            _watch(
                selector, sock.fileno(), (0 if stuck else selectors.EVENT_READ) | (selectors.EVENT_WRITE if rest else 0)
            )
            # A quien no se le lee, porque nuestra salida no admite más, no se le puede pedir nada.
            waiting = not stuck and (bool(rest) or self.tally.due or entry.ended)
            silence = min(self._limits.reply_timeout, self._limits.reply_silence)  # lo que acaba una sin salto de línea
            now = time.monotonic()
            if not waiting or self.tally.answered != answered:
                answered, whole = self.tally.answered, now
            left = min(since + self._limits.reply_timeout, whole + self._limits.reply_deadline + silence) - now
            if waiting and left <= 0:
                if entry.ended and not rest and now >= since + silence and self.tally.complete(SILENT):
                    return
                silent = now >= since + self._limits.reply_timeout
                if silent and self._still_receives(rest):
                    since = time.monotonic()
                    continue
                if silent:
                    raise TimedOut(self.address, self._limits.reply_timeout, connecting=False)
                begun = self.tally.begun or self.tally.excess
                raise TimedOut(self.address, self._limits.reply_deadline, connecting=False, unfinished=begun)
            if stuck:
                _watch(selector, output, selectors.EVENT_WRITE)
            timeout = 0 if entry.ready else left if waiting else None
            # Como en Client: si el proceso estuvo parado hasta vencer el plazo, aún no se ha mirado si llegó algo.
            ready = selector.select(timeout) or (selector.select(0) if timeout else [])
            events = {key.fd: mask for key, mask in ready}
            mine = events.get(sock.fileno(), 0)
            if mine & selectors.EVENT_READ:
                # Se lee siempre, también con algo por enviar: un servidor al que no se le lee deja de leer.
                if self._session:
                    self._read(sock)
                    stuck = self._deliver(write)
                else:
                    stuck = self._read_plain(sock, write, sip)
                    sip = min(_BLOCK, sip * 2)
                if stuck:
                    stopped = time.monotonic()
                if self._session and not self._server_ended and (more := self._session.take_outgoing()):
                    rest = memoryview(bytes(rest) + more)  # lo que TLS contesta por su cuenta
            elif stuck and output in events:
                stuck = bool(write(memoryview(b"")))
                if not stuck:
                    _watch(selector, output, 0)
                    if time.monotonic() > stopped + _SLOW:
                        sip = _SIP
            if not waiting or (mine and self.tally.messages):  # a quien no se preguntó nada, hablar no le da más plazo
                since = time.monotonic()
            if not rest and (entry.ready or entry.fd in events):
                size = entry.read_into(lines.room())
                if size is None:
                    continue  # otro proceso se llevó lo que había
                total += size
                entry.ended, block = lines.take(size)
                # Sin copiarlo: a quien escribe o cifra le da igual.
                rest = self._for_the_wire(block, last=entry.ended)  # type: ignore[arg-type]
                if not rest and not entry.ended:
                    continue
            elif not mine & selectors.EVENT_WRITE:
                continue
            rest = self._write(sock, rest)
            report(total)
            if entry.ended and not rest:
                with contextlib.suppress(OSError):  # ya cortada por el otro lado: lo dirá la lectura
                    sock.shutdown(socket.SHUT_WR)
        entry.watch(False)
        _watch(selector, sock.fileno(), 0)
        while stuck:
            _watch(selector, output, selectors.EVENT_WRITE)
            selector.select()
            stuck = bool(write(memoryview(b"")))

    def _read_plain(self, sock: socket.socket, write: Callable[[memoryview], object], most: int) -> bool:
        """Lo que ``_read`` y ``_deliver``, sin cifrar y sin pedir memoria."""
        size = 0
        try:
            size = sock.recv_into(self._inbox, most)
        except BlockingIOError:
            return False
        except OSError as error:
            self._cut_by = error
        if not size:
            self._server_ended = True
            return False
        self.tally.receive(self._inbox, size)
        return bool(write(memoryview(self._inbox)[:size]))

    def _deliver(self, write: Callable[[memoryview], object]) -> bool:
        """Da a ``write`` lo que haya llegado; devuelve si se ha quedado con algo."""
        data = b"".join(self._raw.take())
        if not data:
            return False
        self.tally.receive(data, len(data))
        return bool(write(memoryview(data)))

    def _new_protocol(self) -> ClientProtocol:
        self._raw = _Raw(self._limits.max_reply, greeting=self._expects_greeting)
        return self._raw


class _Lines:
    """Lo leído de la entrada, que se envía por líneas enteras. Si la última está a medias espera a su final, salvo que
    no quepa o que su principio ya se enviara: a quien le llega media línea puede vencerle el plazo de la otra media.
    También espera media despedida, pero no una a la que solo le falte el salto de línea: puede ser la última."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._block = bytearray(_BLOCK)
        self._start = self._end = 0  # la línea que espera

    def room(self) -> memoryview:
        """Dónde leer lo siguiente, ahora que ``take`` ya está enviado."""
        size = self._end - self._start
        self._block[:size] = self._block[self._start : self._end]
        self._start, self._end = 0, size
        return memoryview(self._block)[size:]

    def take(self, size: int) -> tuple[bool, memoryview]:
        """Se han leído ``size`` bytes (0, el final). Devuelve si es lo último, y lo que hay que enviar."""
        before, self._end = self._end, self._end + size
        whole = self._block.rfind(b"\n", before, self._end) + 1 if size else self._end
        if not whole and (self._tally.mid_line or self._end == _BLOCK or self._block[: self._end] == _GOODBYE):
            whole = self._end
        self._start = whole
        sent = self._tally.send(self._block, whole) if whole else 0
        if not size:
            self._tally.end_input()
        return not size or self._tally.said_goodbye, memoryview(self._block)[:sent]


def _watch(selector: selectors.BaseSelector, descriptor: int, events: int) -> None:
    """Al selector le importan desde ahora esos sucesos de ``descriptor``, o ninguno."""
    known = descriptor in selector.get_map()
    if known and events:
        selector.modify(descriptor, events)
    elif known:
        selector.unregister(descriptor)
    elif events:
        selector.register(descriptor, events)


class _Raw(ClientProtocol):
    """Lo que llega, sin mirarlo: ni acaba respuestas ni las decodifica. ``greeting``: si antes llega un saludo, que sí
    se mira."""

    def __init__(self, max_reply: int, *, greeting: bool) -> None:
        super().__init__(max_reply)
        self._greeting = greeting
        self._blocks: list[bytes] = []

    def receive_data(self, data: bytes) -> None:
        if self._greeting:
            line, newline, data = data.partition(b"\n")
            super().receive_data(line + newline)
            self._greeting = not newline
        if data:
            self._blocks.append(data)

    def _end_reply(self) -> None:
        super()._end_reply()
        self._greeting = False

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
        self.fd = source
        """Lo que hay que mirar para saber si se puede leer."""
        if not self._always and not self._selectable():
            self._pump()

    @property
    def ready(self) -> bool:
        """Si se puede leer sin preguntar al selector."""
        return self._always and self._watched

    def watch(self, wanted: bool) -> None:
        """Si al selector le debe importar que haya algo que leer."""
        if wanted != self._watched and not self._always:
            _watch(self._selector, self.fd, selectors.EVENT_READ if wanted else 0)
        self._watched = wanted

    def read_into(self, buffer: memoryview) -> int | None:
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
            self._selector.register(self.fd, selectors.EVENT_READ)
        except (OSError, ValueError):
            return False
        self._selector.unregister(self.fd)
        return True

    def _pump(self) -> None:
        import threading  # solo aquí: cargarlo cuesta lo que conectar

        self._pumped, writer = socket.socketpair()
        self.fd = self._pumped.fileno()

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
