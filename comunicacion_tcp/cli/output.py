"""La salida del servidor, que nunca lo detiene: a una tubería que nadie lee, a una terminal parada (Ctrl-S) o a un
disco lleno los espera un hilo aparte, y no los clientes.

Un proceso que va a bifurcarse no puede tener hilos: el suyo es ``CarefulOutput``, que solo escribe lo que cabe.

Aquí no se sabe qué dicen las líneas (``report.py``) ni qué forma tienen (``log.py``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from ..forks import keep_from_children
from .terminal import complain

with contextlib.suppress(ImportError):  # Windows, donde no hay varios procesos
    import fcntl

# Caracteres por escribir: unas 20 000 líneas, las de un segundo de un servidor a tope. Una salida atascada no puede
# quedarse con toda la memoria; lo que no cabe se cuenta, y se dice.
_ROOM = 1024 * 1024
# Segundos que se junta después de cada escritura: a una persona le parece al instante, y un servidor a tope solo
# despierta al hilo 50 veces por segundo. La primera línea tras un rato callado no espera.
_GATHER = 0.02
_RETRY = 1.0  # segundos hasta volver a probar con una salida que dio error: un disco lleno se vacía
# Segundos que puede durar una escritura que el sistema dijo que no esperaría: entre mirar si una tubería admite algo y
# escribirlo, otro proceso puede llenarla.
_STUCK = 0.2
_AGAIN = 0.1  # segundos entre avisos de que venció ese plazo: a una persona, otra décima no le dice nada
_ERRORS = 2  # su descriptor: cerrada, es /dev/null (terminal.prepare_streams)
_FAREWELL = 1.0  # segundos que se espera al acabar a que salga lo último: de sobra si alguien lo lee


class Backlog:
    """Lo que falta por escribir, con tope. Pura: ni hilos ni reloj.

    ``room``: cuánto cabe, en caracteres. ``encoding``: en qué se escribe; lo que no conozca sale escapado.
    ``notice``: da la línea que dice que se perdieron tantas.
    """

    def __init__(self, room: int, encoding: str, notice: Callable[[int], str]) -> None:
        self._room = room
        self._encoding = encoding
        self._notice = notice
        self._unwritten = b""
        self._lines: list[str] = []
        self._size = 0
        self._lost = 0

    def add(self, line: str) -> None:
        """Una línea más, sin su final; si no cabe, se pierde y se cuenta."""
        size = self._size + len(line) + 1
        # Desde que se pierde una se pierden todas hasta que se tome lo guardado: así el aviso va donde falta el trozo.
        if size > self._room or self._lost:
            self._lost += 1
        else:
            self._size = size
            self._lines.append(line)

    def take(self) -> bytes:
        """Todo lo que falta por escribir, y cuántas líneas se perdieron detrás. Queda vacía."""
        if self._lost:
            self._lines.append(self._notice(self._lost))
        text = os.linesep.join([*self._lines, ""]) if self._lines else ""
        data = self._unwritten + text.encode(self._encoding, "backslashreplace")
        self._unwritten, self._lines, self._size, self._lost = b"", [], 0, 0
        return data

    def give_back(self, data: bytes) -> None:
        """De lo último que se tomó no se pudo escribir ``data``: va delante de lo que haya llegado después."""
        self._unwritten = data
        self._size += len(data)


class Output:
    """Escribe líneas sin hacer esperar a quien las da.

    ``sink``: escribe unos bytes y devuelve cuántos (``None`` si ahora no admite ninguno), o lanza ``OSError``; puede no
    volver nunca. ``encoding`` y ``notice``, como en ``Backlog``. Error: ``RuntimeError`` si el sistema no da otro hilo.
    """

    def __init__(
        self, sink: Callable[[memoryview], int | None], encoding: str, notice: Callable[[int], str], room: int = _ROOM
    ) -> None:
        self.terminal = False
        """Si la lee una persona."""
        self._sink = sink
        self._backlog = Backlog(room, encoding, notice)
        # Reentrante: el recolector de basura puede pasar justo aquí y hacer que asyncio cuente algo.
        self._lock = threading.RLock()
        self._wanted = threading.Event()
        self._closing = threading.Event()
        # Demonio: si está esperando a una salida atascada, el programa acaba sin él.
        self._thread = threading.Thread(target=self._work, name="salida", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """``line``, sin su final de línea; se verá enseguida. No espera ni falla."""
        with self._lock:
            self._backlog.add(line)
        if not self._wanted.is_set():
            self._wanted.set()

    def close(self, patience: float = _FAREWELL) -> None:
        """Ya no habrá más: espera ``patience`` segundos como mucho a que salga lo que falte."""
        self._closing.set()
        self._wanted.set()
        self._thread.join(patience)

    def _work(self) -> None:
        unwritten = b""
        while True:
            self._wanted.wait(_RETRY if unwritten else None)
            self._wanted.clear()
            closing = self._closing.is_set()  # antes de tomar: si se está acabando, ahí va ya todo
            with self._lock:
                data = self._backlog.take()
            unwritten = self._put(data)
            if unwritten:
                with self._lock:
                    self._backlog.give_back(unwritten)
            if closing:
                return
            self._closing.wait(_GATHER)

    def _put(self, data: bytes) -> bytes:
        """Escribe ``data``; devuelve lo que la salida no admitió."""
        left = memoryview(data)
        while left:
            try:
                written = self._sink(left)
            except (OSError, ValueError):  # ValueError: alguien la cerró
                break
            if written:
                left = left[written:]
            else:  # sin bloqueo, que así la dejó otro programa: la terminal y algunos sockets se comparten
                time.sleep(_GATHER)
        return bytes(left)


class CarefulOutput:
    """Como ``Output`` y sin hilo: escribe solo si la salida admite algo ya, y lo demás lo guarda para el siguiente
    ``flush()``. Para quien escribe poco. ``stream``: ``sys.stdout``, que puede ser ``None``. ``turn``: el de todos los
    que escriben en ella."""

    def __init__(self, stream: Any, notice: Callable[[int], str], turn: Turn) -> None:
        self._sink, encoding = sink_of(stream)
        self._turn = turn
        self._backlog = Backlog(_ROOM, encoding, notice)
        try:
            self._number = stream.fileno()
        except (AttributeError, OSError, ValueError):  # cerrada, o la de otro programa
            self._number = -1

    def write(self, line: str) -> None:
        """``line``, sin su final de línea. No espera ni falla."""
        self._backlog.add(line)
        self.flush()

    def flush(self) -> None:
        """Escribe lo que falte y quepa."""
        left = memoryview(self._backlog.take())
        if not left:
            return
        with contextlib.suppress(OSError, ValueError), not_for_long(_STUCK), self._turn.taken(wait=False):
            while left and self._admits():
                left = left[self._sink(_some_lines(left)) or 0 :]
        self._backlog.give_back(bytes(left))

    def _admits(self) -> bool:
        return self._number < 0 or bool(select.select([], [self._number], [], 0)[1])


@contextlib.contextmanager
def not_for_long(seconds: float) -> Iterator[None]:
    """Lo que dure más de ``seconds`` acaba en ``TimeoutError``; en Windows, donde no hay SIGALRM, no. Solo para el hilo
    principal."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    given_up = False

    def give_up(*_: object) -> None:
        nonlocal given_up
        if not given_up:
            given_up = True
            raise TimeoutError(errno.ETIME, os.strerror(errno.ETIME))

    before = signal.signal(signal.SIGALRM, give_up)
    # Y se repite: si el proceso estaba parado, el sistema puede dar el primer aviso a otro hilo, y este no se entera.
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # antes: sin nadie que lo atienda, mataría al proceso
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def complain_briefly(line: str) -> None:
    """Como ``complain``; a quien no lee los errores se le espera un momento, y nada más: quien los dice va a acabar."""
    with not_for_long(_FAREWELL):
        complain(line)


class Turn:
    """El turno para escribir en una salida que comparten varios procesos: que nadie escriba en mitad de la línea de
    otro. Hace falta para las más largas de lo que el sistema escribe de una vez en una tubería (PIPE_BUF). Nace antes
    que los demás procesos; si quien lo tiene muere, el sistema lo suelta."""

    def __init__(self) -> None:
        self._file: int | IO[bytes] | None = None
        with contextlib.suppress(OSError):  # sin él se escribe igual: solo se mezclaría lo muy largo
            self._file = os.memfd_create("turno") if hasattr(os, "memfd_create") else _temporary_file()

    @contextlib.contextmanager
    def taken(self, *, wait: bool) -> Iterator[None]:
        """Mientras dura, es nuestro. Sin ``wait``, ``BlockingIOError`` si lo tiene otro."""
        if self._file is None:
            yield
            return
        fcntl.lockf(self._file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


def _temporary_file() -> IO[bytes]:
    import tempfile  # solo donde no hay memfd_create

    return tempfile.TemporaryFile()


def by_lines(sink: Callable[[memoryview], int | None], turn: Turn) -> Callable[[memoryview], int | None]:
    """``sink``, pero de pocas líneas enteras cada vez, y en su ``turn``: las de varios procesos no se mezclan."""

    def put(data: memoryview) -> int | None:
        done = 0
        with turn.taken(wait=True):
            lines = _some_lines(data)
            while done < len(lines):
                try:
                    written = sink(lines[done:])
                except OSError:
                    if done:
                        break
                    raise
                if not written and not done:
                    return None
                if not written:  # a mitad de una línea, y no admite más por ahora
                    time.sleep(_GATHER)
                done += written or 0
        return done

    return put


def _some_lines(data: memoryview) -> memoryview:
    """Las primeras líneas enteras que caben en ``PIPE_BUF``; si no cabe ni una, esa."""
    if len(data) <= select.PIPE_BUF:
        return data
    fit = bytes(data[: select.PIPE_BUF]).rfind(b"\n") + 1
    return data[: fit or bytes(data).find(b"\n") + 1 or len(data)]


@contextlib.contextmanager
def only_ours() -> Iterator[Any]:
    """Mientras dura, la salida es solo de quien tiene lo que esto da, que hace de ``sys.stdout``. Lo que escriban los
    demás, con ``print()``, por debajo (una biblioteca en C) o desde un proceso que creen, va con los errores."""
    stream, errors = sys.stdout, sys.stderr
    try:
        number = stream.fileno()
        own = os.dup(number)
    except (AttributeError, OSError, ValueError):  # cerrada, o la de otro programa: por debajo no hay nada que apartar
        with contextlib.redirect_stdout(errors):
            yield stream
        return
    with open(own, "w", encoding=stream.encoding, errors=stream.errors) as ours:
        keep_from_children(ours, lambda ours: [] if ours.closed else [ours.fileno()])
        stream.flush()
        with contextlib.suppress(AttributeError, OSError, ValueError):  # la de errores es de otro programa
            os.dup2(errors.fileno() if errors else _ERRORS, number)
        try:
            with contextlib.redirect_stdout(errors):
                yield ours
        finally:
            with contextlib.suppress(OSError, ValueError):  # un servicio puede haberla cerrado
                stream.flush()
            os.dup2(own, number)


def sink_of(stream: Any) -> tuple[Callable[[memoryview], int | None], str]:
    """Cómo escribir bytes en ``stream`` (``sys.stdout``, que puede ser ``None``) y con qué codificación."""
    if stream is None:  # cerrada (`>&-`)
        return len, "utf-8"
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # la de otro programa, que solo admite texto (IDLE)

        def put(data: memoryview) -> int:
            stream.write(bytes(data).decode().replace(os.linesep, "\n"))
            stream.flush()
            return len(data)

        return put, "utf-8"
    # Por debajo del búfer de Python: su cerrojo, en manos de un hilo que no vuelve, haría abortar al intérprete al
    # acabar. Con `python3 -u` no hay búfer. No es os.write: en Windows la consola solo entiende los acentos por aquí.
    write: Callable[[memoryview], int | None] = getattr(buffer, "raw", buffer).write
    return write, stream.encoding
