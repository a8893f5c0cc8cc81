"""``Supervisor``: varios procesos que sirven lo mismo, creados con ``fork`` y vigilados por su padre.

Aquí no se decide cuándo hace falta otro, ni cuándo sobra (``supervision.py``), no se sirve nada, ni se le dice nada a
una persona. El padre no tiene bucle de asyncio ni hilos: un proceso con hilos no se puede bifurcar sin riesgo (POSIX,
fork()), y así no hay nada en él que se pueda atascar.

Padre e hijo hablan por un par de sockets, con palabras de un byte; cuando uno muere, el otro lee el final. Los sockets
que escuchan los abre el padre y los heredan los hijos: la muerte de uno no pierde a quien esperaba en la cola.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable

from .forks import keep_from_children
from .supervision import CUT, DRAIN, RETIRE, TURN, Action, Fork, Kill, Order, Supervision

with contextlib.suppress(ImportError):  # Windows, donde tampoco hay fork
    import fcntl

CAN_FORK = hasattr(os, "fork")
_READY, _ALIVE, _RETIRED = b"l", b"v", b"n"  # lo que dice un hijo: que está listo, que vive, que ya no acepta
_CANNOT = b"\0"  # que no puede servir; detrás, hasta el final, por qué
_WORDS = {RETIRE: b"r", DRAIN: b"d", CUT: b"c"}  # lo que se le ordena
_ORDERS = {word: order for order, word in _WORDS.items()}
_BEAT = 1.0  # segundos entre dos señales de vida
_STOP = (signal.SIGINT, signal.SIGTERM)
_HELPER_PAUSE = 1.0  # segundos entre un ayudante que muere y el siguiente: sin él se sirve igual
_HELPER_PATIENCE = 10.0  # segundos sin señales de vida suyas, hasta poner otro: lo mismo que con los que sirven
_READ = 4096  # bytes: muchas más palabras de las que se juntan


class Seat:
    """El puesto de un hijo: lo que sabe de sí y cómo habla con su padre.

    ``generation``, ``row`` y ``first``: los de ``supervision.Fork``.
    """

    def __init__(self, fork: Fork, channel: socket.socket) -> None:
        self.generation: int = fork.generation
        self.row: int = fork.row
        self.first: bool = fork.first
        self._channel = channel
        keep_from_children(self, lambda seat: [seat._channel.fileno()])  # los que cree un servicio
        self._patience = _BEAT  # hasta que atienda no tiene nada que responder
        self._orphan = False

    def fear_orphanhood(self) -> None:
        """Desde ahora, si el padre ha muerto y el bucle no gira, el sistema mata a este proceso: nadie más podría, y se
        quedaría con el puerto. Avisa el canal (SIGIO, fcntl(2)) y no un plazo que corra mientras el padre vive: ese
        vencería para todos al volver de Ctrl-Z, o de una máquina parada."""
        signal.signal(signal.SIGIO, lambda *_: self._look_for_parent())
        # Python, al acabar, deja cada señal como al principio, y una orden que llegue entonces lo mataría.
        atexit.register(signal.signal, signal.SIGIO, signal.SIG_IGN)
        fcntl.fcntl(self._channel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._channel, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        self._look_for_parent()  # pudo morir antes

    def _look_for_parent(self) -> None:
        end = select.poll()
        end.register(self._channel, 0)  # sin pedir nada, solo dice si el otro lado está cerrado
        if end.poll(0):
            self._orphan = True
            self._live_a_little()

    def _live_a_little(self) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self._patience)

    def attend(self, loop: asyncio.AbstractEventLoop, obey: Callable[[str], None], patience: float) -> None:
        """Desde ahora da señales de vida mientras ``loop`` gire, y pasa a ``obey`` cada orden (``RETIRE``, ``DRAIN`` o
        ``CUT``); si el padre muere, ``DRAIN``. ``patience``: segundos que el padre espera una señal."""
        self._patience = patience
        self._beat(loop, min(_BEAT, patience / 4))

        def listen() -> None:
            try:
                words = self._channel.recv(_READ)
            except BlockingIOError:
                return
            except OSError:
                words = b""
            if not words:
                loop.remove_reader(self._channel)
                obey(DRAIN)
            for word in words:
                obey(_ORDERS[bytes([word])])

        loop.add_reader(self._channel, listen)

    def ready(self) -> None:
        """Ya sirve."""
        self._say(_READY)

    def retired(self) -> None:
        """Ya no acepta a nadie, como se le ordenó."""
        self._say(_RETIRED)

    def cannot(self, why: str) -> None:
        """No puede servir, y va a acabar. ``why``: la frase que lo dice, para quien lo cuenta, que es el padre."""
        self._say(_CANNOT + why.encode(errors="backslashreplace"))

    def _beat(self, loop: asyncio.AbstractEventLoop, every: float) -> None:
        self._say(_ALIVE)
        if self._orphan:
            self._live_a_little()
        loop.call_later(every, self._beat, loop, every)

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # el padre no está, o no lee: no se espera por él
            self._channel.send(word)


class Helper:
    """El puesto de un proceso que no sirve, y ayuda. ``parent``: un socket que se puede leer cuando el padre muere."""

    def __init__(self, parent: socket.socket) -> None:
        self.parent = parent

    def alive(self) -> None:
        """Da señales de vida. Hay que llamarla cada segundo, más o menos."""
        with contextlib.suppress(OSError):  # el padre no está, o no lee
            self.parent.send(_ALIVE)


class Supervisor:
    """Hace lo que dice una ``Supervision`` con procesos de verdad.

    ``reload``: se llama con cada SIGHUP; debe pedir la recarga a la ``Supervision``, o no. ``turn``: se llama en cada
    vuelta, una vez por segundo como poco. Ninguna de las dos debe lanzar ni esperar. ``helped``: si hay además un
    ``Helper``; si muere o calla se pone otro, y acaba cuando ya no queda nadie más.
    """

    def __init__(
        self, supervision: Supervision, reload: Callable[[], None], turn: Callable[[], None], *, helped: bool = False
    ) -> None:
        self._supervision = supervision
        self._reload = reload
        self._turn = turn
        self._channels: dict[int, socket.socket] = {}
        self._reasons: dict[int, bytes] = {}  # lo que va diciendo cada hijo que no puede servir
        self.reason: str = ""
        """Por qué no pudo servir el último que acabó, si lo dijo; lo que se le cuenta al ``Watcher`` es de ese."""
        self._selector = selectors.DefaultSelector()
        # A quien ya ignoraba SIGHUP (nohup) que se cierre la terminal le da igual.
        self._had_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _has_terminal()
        self._terminal_gone: float | None = None  # desde cuándo no está
        self._helped = helped
        self._helper = 0  # su número, si vive
        self._next_helper = 0.0  # hasta entonces no se pone otro
        self._helper_heard = self._helper_watched = 0.0  # cuándo se supo de él, y cuándo se miró

    def run(self) -> int | Seat | Helper:
        """Crea los procesos y los vigila. Vuelve una vez en el padre, cuando todo ha acabado, con el código de salida;
        y una vez en cada hijo, con su ``Seat`` (o ``Helper``)."""
        with _Signals() as signals:
            self._selector.register(signals.awake, selectors.EVENT_READ)
            try:
                while self._supervision.exit_code is None:
                    for action in self._supervision.step(time.monotonic()):
                        seat = self._do(action)
                        if seat:
                            return seat
                    helper = self._keep_helper(time.monotonic())
                    if helper:
                        return helper
                    self._turn()
                    self._look_at_terminal(time.monotonic())
                    if self._supervision.exit_code is None:
                        self._wait(signals)
                self._end_helper()
                return self._supervision.exit_code
            finally:  # en el padre y en el hijo: nada de esto es suyo
                self._selector.close()
                for channel in self._channels.values():
                    channel.close()

    # -- por dentro -----------------------------------------------------------------------------------------

    def _wait(self, signals: _Signals) -> None:
        for key, _ in self._selector.select(self._supervision.pause(time.monotonic())):
            if key.data is not None:
                self._hear(key.data)
        self._obey(signals.take())
        self._reap()

    def _obey(self, numbers: list[int]) -> None:
        now = time.monotonic()
        for number in numbers:
            if number in _STOP:
                self._supervision.stop(now)
        # Muchos seguidos quieren lo mismo que uno. Y al cerrarse la terminal pueden llegar dos: no son dos prisas.
        if signal.SIGHUP in numbers and not self._supervision.stopping:
            if self._had_terminal and not _has_terminal():
                self._supervision.stop(now)
            else:
                self._reload()

    def _look_at_terminal(self, now: float) -> None:
        """Si ya no está, y no llegó con eso ningún SIGHUP, se quiso que esto siguiera (disown): el que llegue será para
        recargar."""
        if not self._had_terminal:
            return
        if _has_terminal():
            self._terminal_gone = None
            return
        if self._terminal_gone is None:
            self._terminal_gone = now
        self._had_terminal = now - self._terminal_gone < TURN

    def _hear(self, pid: int) -> bool:
        """Atiende lo que dice un hijo; si puede decir más."""
        channel = self._channels[pid]
        try:
            words = channel.recv(_READ)
        except OSError:
            words = b""
        if not words:
            with contextlib.suppress(KeyError):
                self._selector.unregister(channel)  # acaba: lo dirá waitpid
            return False
        now = time.monotonic()
        if pid == self._helper:
            self._helper_heard = now
            return True
        self._supervision.alive(pid, now)
        if pid in self._reasons:
            self._reasons[pid] += words
            return True
        words, cannot, why = words.partition(_CANNOT)
        if cannot:
            self._reasons[pid] = why
        if _READY in words:
            self._supervision.ready(pid, now)
        if _RETIRED in words:
            self._supervision.retired(pid)
        return True

    def _reap(self) -> None:
        # Todos, también los que no son nuestros: con el número 1 se heredan los huérfanos de la máquina.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self._channels:
                while self._hear(pid):  # lo último que dijo
                    pass
                self._channels.pop(pid).close()
            self.reason = self._reasons.pop(pid, b"").decode(errors="replace")
            if pid == self._helper:
                self._helper, self._next_helper = 0, time.monotonic() + _HELPER_PAUSE
            self._supervision.died(pid, os.waitstatus_to_exitcode(status), time.monotonic())

    def _do(self, action: Action) -> Seat | None:
        if isinstance(action, Fork):
            return self._fork(action)
        if isinstance(action, Kill):
            with contextlib.suppress(ProcessLookupError):
                os.kill(action.pid, signal.SIGKILL)
        elif isinstance(action, Order):
            with contextlib.suppress(KeyError, OSError):  # ya acabó, o no lee: vencerá su plazo
                self._channels[action.pid].send(_WORDS[action.what])
        return None

    def _fork(self, fork: Fork) -> Seat | None:
        """En el padre, ``None``; en el hijo, su puesto."""
        born = self._bear()
        if not born:
            self.reason = ""
            self._supervision.not_forked(fork, time.monotonic())
            return None
        pid, channel = born
        if not pid:
            seat = Seat(fork, channel)
            seat.fear_orphanhood()
            return seat
        self._supervision.forked(pid, fork, time.monotonic())
        return None

    def _bear(self) -> tuple[int, socket.socket] | None:
        """Nace un proceso: su número (en él, 0) y con qué se habla con el otro; ``None`` si el sistema no da más."""
        try:
            ours, theirs = socket.socketpair()
        except OSError:  # ni descriptores
            return None
        for end in (ours, theirs):
            end.setblocking(False)
        gc.collect()  # primero la basura, que apartada se quedaría para siempre (25 KB por recarga: make soak, reloads)
        gc.freeze()  # lo que hay ya no lo mira el recolector, que escribiría en cada página que el hijo comparte
        _Signals.hold()
        try:
            pid = os.fork()
        except OSError:
            _Signals.release()
            ours.close()
            theirs.close()
            return None
        if not pid:
            ours.close()
            return 0, theirs
        _Signals.release()
        theirs.close()
        self._channels[pid] = ours
        self._selector.register(ours, selectors.EVENT_READ, pid)
        return pid, ours

    def _keep_helper(self, now: float) -> Helper | None:
        """Si hace falta un ayudante, nace. En el padre, ``None``; en él, su puesto."""
        self._watch_helper(now)
        if not self._helped or self._helper or now < self._next_helper or self._supervision.stopping:
            return None
        born = self._bear()
        if not born:
            self._next_helper = now + _HELPER_PAUSE
            return None
        self._helper, channel = born
        self._helper_heard = now
        return None if self._helper else Helper(channel)

    def _watch_helper(self, now: float) -> None:
        """Si calla hace mucho, se le mata: lo demás, como si hubiera muerto."""
        if now - self._helper_watched > 2 * TURN:
            self._helper_heard = now  # quien no ha mirado somos nosotros (Ctrl-Z)
        self._helper_watched = now
        if self._helper and now - self._helper_heard > _HELPER_PATIENCE:
            os.kill(self._helper, signal.SIGKILL)

    def _end_helper(self) -> None:
        if self._helper:
            os.kill(self._helper, signal.SIGKILL)  # no tiene nada a medias
            os.waitpid(self._helper, 0)


class _Signals:
    """Mientras dura, ``take()`` da las señales que han llegado, y ``awake`` se puede leer cuando hay alguna. Después,
    en el padre, no hacen nada: ya se acaba; y en un hijo las de la terminal son cosa del padre, y a quien aún no sirve
    SIGTERM lo mata."""

    _HEARD = (*_STOP, *(getattr(signal, name) for name in ("SIGHUP", "SIGCHLD") if CAN_FORK))

    def __init__(self) -> None:
        self.awake, self._alarm = socket.socketpair()
        for end in (self.awake, self._alarm):
            end.setblocking(False)
        self._arrived: list[int] = []
        self._parent = os.getpid()

    def take(self) -> list[int]:
        """Las que han llegado desde la última vez. En los bytes de ``awake`` no se mira cuáles: si no se leen a tiempo,
        no caben todos."""
        with contextlib.suppress(BlockingIOError):
            self.awake.recv(_READ)
        arrived, self._arrived = self._arrived, []
        return arrived

    @classmethod
    def hold(cls) -> None:
        """Desde ahora esperan: entre que nace un hijo y deja de oír las de su padre, una para él le llegaría al otro
        (con Ctrl-C, dos)."""
        signal.pthread_sigmask(signal.SIG_BLOCK, cls._HEARD)

    @classmethod
    def release(cls) -> None:
        """Ya no esperan."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, cls._HEARD)

    def __enter__(self) -> _Signals:
        signal.set_wakeup_fd(self._alarm.fileno(), warn_on_full_buffer=False)
        for number in self._HEARD:
            signal.signal(number, lambda number, _: self._arrived.append(number))
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        child = os.getpid() != self._parent
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL if child else signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.release()
        self.awake.close()
        self._alarm.close()


def _has_terminal() -> bool:
    """Si este proceso tiene una terminal que lo gobierna, y sigue ahí."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
