"""``Supervisor``: varios procesos que sirven lo mismo, creados con ``fork`` y vigilados por su padre.

Aquí no se decide cuándo hace falta otro, ni cuándo sobra (``supervision.py``), no se sirve nada, ni se le dice nada a
una persona. El padre no tiene bucle de asyncio ni hilos: un proceso con hilos no se puede bifurcar sin riesgo (POSIX,
fork()), y así no hay nada en él que se pueda atascar.

Padre e hijo hablan por un par de sockets, de byte en byte; cuando uno muere, el otro lee el final. Los sockets que
escuchan los abre el padre y los heredan los hijos: la muerte de uno no pierde a quien esperaba en la cola.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable

from .supervision import CUT, DRAIN, RETIRE, Action, Fork, Kill, Order, Supervision

CAN_FORK = hasattr(os, "fork")
_READY, _ALIVE = b"l", b"v"  # lo que dice un hijo: que está listo, y que vive
_WORDS = {RETIRE: b"r", DRAIN: b"d", CUT: b"c"}  # lo que se le ordena
_ORDERS = {word: order for order, word in _WORDS.items()}
_BEAT = 1.0  # segundos entre dos señales de vida
_STOP = (signal.SIGINT, signal.SIGTERM)
_HELPER_PAUSE = 1.0  # segundos entre un ayudante que muere y el siguiente: sin él se sirve igual
_READ = 4096  # bytes: muchas más palabras de las que se juntan


class Seat:
    """El puesto de un hijo: lo que sabe de sí y cómo habla con su padre.

    ``generation``, ``row`` y ``first``: los de ``supervision.Fork``.
    """

    def __init__(self, fork: Fork, channel: socket.socket) -> None:
        self.generation, self.row, self.first = fork.generation, fork.row, fork.first
        self._channel = channel
        self._last_wait = 0.0

    def attend(self, loop: asyncio.AbstractEventLoop, obey: Callable[[str], None], patience: float) -> None:
        """Desde ahora da señales de vida mientras ``loop`` gire, y pasa a ``obey`` cada orden (``RETIRE``, ``DRAIN`` o
        ``CUT``); si el padre muere, ``DRAIN``. ``patience``: segundos que el padre espera una señal."""
        self._last_wait = 2 * patience
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

    def _beat(self, loop: asyncio.AbstractEventLoop, every: float) -> None:
        self._say(_ALIVE)
        # Si el padre ha muerto y el servicio no deja girar al bucle, nadie más puede acabar con este proceso: lo hace
        # un hilo de C, al que se le pide otra vez cada vez que el bucle gira.
        faulthandler.dump_traceback_later(self._last_wait, exit=True, file=_nowhere())
        loop.call_later(every, self._beat, loop, every)

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # el padre no está, o no lee: no se espera por él
            self._channel.send(word)


class Helper:
    """El puesto de un proceso que no sirve, y ayuda. ``parent``: un socket que se puede leer cuando el padre muere."""

    def __init__(self, parent: socket.socket) -> None:
        self.parent = parent


class Supervisor:
    """Hace lo que dice una ``Supervision`` con procesos de verdad.

    ``reload``: se llama con cada SIGHUP; debe pedir la recarga a la ``Supervision``, o no. ``turn``: se llama en cada
    vuelta, una vez por segundo como poco. Ninguna de las dos debe lanzar ni esperar. ``helped``: si hay además un
    ``Helper``; si muere se pone otro, y acaba cuando ya no queda nadie más.
    """

    def __init__(
        self, supervision: Supervision, reload: Callable[[], None], turn: Callable[[], None], *, helped: bool = False
    ) -> None:
        self._supervision = supervision
        self._reload = reload
        self._turn = turn
        self._channels: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._had_terminal = _has_terminal()
        self._helped = helped
        self._helper = 0  # su número, si vive
        self._next_helper = 0.0  # hasta entonces no se pone otro

    def run(self) -> int | Seat | Helper:
        """Crea los procesos y los vigila. Vuelve una vez en el padre, cuando todo ha acabado, con el código de salida;
        y una vez en cada hijo, con su ``Seat`` (o ``Helper``)."""
        awake, alarm = socket.socketpair()
        for end in (awake, alarm):
            end.setblocking(False)
        self._selector.register(awake, selectors.EVENT_READ)
        with _Signals(alarm):
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
                    if self._supervision.exit_code is None:
                        self._wait(awake)
                self._end_helper()
                return self._supervision.exit_code
            finally:  # en el padre y en el hijo: nada de esto es suyo
                self._selector.close()
                for sock in (awake, alarm, *self._channels.values()):
                    sock.close()

    # -- por dentro -----------------------------------------------------------------------------------------

    def _wait(self, awake: socket.socket) -> None:
        for key, _ in self._selector.select(self._supervision.pause(time.monotonic())):
            if key.data is None:
                for number in awake.recv(_READ):
                    self._signalled(number)
            else:
                self._hear(key.data)
        self._reap()

    def _signalled(self, number: int) -> None:
        if number in _STOP or (number == signal.SIGHUP and self._had_terminal and not _has_terminal()):
            self._supervision.stop()  # SIGHUP sin terminal: la cerraron
        elif number == signal.SIGHUP and not self._supervision.stopping:
            self._reload()

    def _hear(self, pid: int) -> None:
        channel = self._channels[pid]
        try:
            words = channel.recv(_READ)
        except OSError:
            words = b""
        now = time.monotonic()
        if not words:
            self._selector.unregister(channel)  # acaba: lo dirá waitpid
        if words:
            self._supervision.alive(pid, now)
        if _READY in words:
            self._supervision.ready(pid, now)

    def _reap(self) -> None:
        # Todos, también los que no son nuestros: con el número 1 se heredan los huérfanos de la máquina.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            channel = self._channels.pop(pid, None)
            if channel:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(channel)
                channel.close()
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
            self._supervision.not_forked(fork, time.monotonic())
            return None
        pid, channel = born
        if not pid:
            return Seat(fork, channel)
        self._supervision.forked(pid, fork, time.monotonic())
        return None

    def _bear(self) -> tuple[int, socket.socket] | None:
        """Nace un proceso: su número (en él, 0) y con qué se habla con el otro; ``None`` si el sistema no da más."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        gc.collect()  # primero la basura, que apartada se quedaría para siempre (25 KB por recarga: make soak, reloads)
        gc.freeze()  # lo que hay ya no lo mira el recolector, que escribiría en cada página que el hijo comparte
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return None
        if not pid:
            ours.close()
            return 0, theirs
        theirs.close()
        self._channels[pid] = ours
        self._selector.register(ours, selectors.EVENT_READ, pid)
        return pid, ours

    def _keep_helper(self, now: float) -> Helper | None:
        """Si hace falta un ayudante, nace. En el padre, ``None``; en él, su puesto."""
        if not self._helped or self._helper or now < self._next_helper or self._supervision.stopping:
            return None
        born = self._bear()
        if not born:
            self._next_helper = now + _HELPER_PAUSE
            return None
        self._helper, channel = born
        return None if self._helper else Helper(channel)

    def _end_helper(self) -> None:
        if self._helper:
            os.kill(self._helper, signal.SIGKILL)  # no tiene nada a medias
            os.waitpid(self._helper, 0)


class _Signals:
    """Mientras dura, cada señal es un byte en ``alarm``. Después, en el padre, no hace nada: ya se acaba; y en un hijo
    las de la terminal son cosa del padre, y a quien aún no sirve SIGTERM lo mata."""

    def __init__(self, alarm: socket.socket) -> None:
        self._alarm = alarm
        self._parent = os.getpid()

    def __enter__(self) -> None:
        signal.set_wakeup_fd(self._alarm.fileno(), warn_on_full_buffer=False)
        for number in (*_STOP, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        child = os.getpid() != self._parent
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL if child else signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _has_terminal() -> bool:
    """Si este proceso tiene una terminal que lo gobierna, y sigue ahí."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _nowhere() -> int:
    """Un descriptor en que lo escrito se pierde; siempre el mismo."""
    global _nowhere_fd
    if _nowhere_fd < 0:
        _nowhere_fd = os.open(os.devnull, os.O_WRONLY)
    return _nowhere_fd


_nowhere_fd = -1
