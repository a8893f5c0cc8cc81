"""Un proceso aparte que mata a este si se le pidió acabar y no acaba.

Una función que no suelta el intérprete (el GIL: una expresión regular que no termina, una biblioteca en C) no deja
ejecutar nada de Python: ni el plazo, ni lo que atiende la señal. Lo único que ocurre entonces es que la señal, al
llegar, escribe un byte (``signal.set_wakeup_fd``); el guarda lo ve, sin leerlo, y cuenta el plazo por su cuenta.

Aquí no se decide qué es acabar con cuidado (``cli/serving.py``). Con ``--procesos`` no hace falta: vigila el padre.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Collection

from .forks import keep_from_children

_LOOK_EVERY = 0.25  # segundos entre dos miradas, mientras se acaba
# Lo más que cuenta una mirada: si la máquina estaba parada (docker pause), tampoco este proceso pudo avanzar.
_LONGEST_LOOK = 1.0
_INSISTENCE = 1.0  # segundos tras la primera señal sin atender: otra, entonces, es insistir
_HURRY = 5.0  # segundos que le quedan a quien se insiste: si puede ejecutar algo, acaba él, y dice por qué
_READ = 4096  # bytes: uno por señal
_MOST_FILES = 65536  # descriptores que se cierran: al nacer hay pocos
_ERRORS = 2


class Guard:
    """El guarda de este proceso. ``channel``: nuestro lado; cuando se cierra, se va. ``pid``: su número."""

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self._channel = channel
        self._pid = pid
        keep_from_children(self, lambda guard: [guard._channel.fileno()])

    def stopping(self) -> None:
        """Se ha pedido acabar: corre el plazo."""
        with contextlib.suppress(OSError):  # ya no está: lo mató alguien
            self._channel.send(b"!")

    def leave(self) -> None:
        """Ya no hace falta: no queda ni el proceso."""
        self._channel.close()
        with contextlib.suppress(ChildProcessError):  # un servicio pudo recogerlo antes
            os.waitpid(self._pid, 0)


def stand_guard(
    awake: socket.socket, signals: Collection[int], patience: float, farewell: Callable[[], object]
) -> Guard | None:
    """Crea el guarda; ``None`` si aquí no hay ``fork``, o el sistema no da otro proceso. Antes de tener hilos.

    ``awake``: donde se lee el byte de cada señal que llega. ``signals``: las que piden acabar. ``patience``: segundos
    desde que se pide, o desde que una llega, hasta matar. ``farewell``: lo que hace el guarda después de matar.
    """
    if not hasattr(os, "fork"):
        return None
    us = os.getpid()
    try:
        ours, theirs = socket.socketpair()
    except OSError:
        return None
    gc.collect()
    gc.freeze()  # como en supervisor.py: el recolector no escribe en las páginas que se comparten
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        return None
    if pid:
        gc.unfreeze()
        theirs.close()
        return Guard(ours, pid)
    try:
        gc.disable()
        _become_nobody({awake.fileno(), theirs.fileno(), _ERRORS})
        if _Watch(us, theirs, awake, signals, patience).until_over():
            farewell()
    finally:
        os._exit(0)


def _become_nobody(kept: set[int]) -> None:
    """Ni la terminal, ni las señales, ni los ficheros del otro: solo ``kept``."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # systemd la envía a todos; y se va cuando el otro
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    first = 3
    for number in (*sorted(kept), _MOST_FILES):
        if number >= first:
            os.closerange(first, number)
            first = number + 1


class _Watch:
    """Lo que hace el guarda."""

    def __init__(
        self, pid: int, channel: socket.socket, awake: socket.socket, signals: Collection[int], patience: float
    ) -> None:
        self._pid = pid
        self._channel = channel
        self._awake = awake
        self._signals = signals
        self._left = patience
        self._stopping = False
        self._gone = False
        self._unseen = 0.0  # segundos con alguna señal sin atender
        self._first = 0  # cuántas eran al principio
        self._process = -1
        with contextlib.suppress(AttributeError, OSError):  # Linux, desde 5.3
            self._process = os.pidfd_open(pid)  # type: ignore[attr-defined, unused-ignore]  # no está en macOS

    def until_over(self) -> bool:
        """Espera a que el otro acabe, o lo mata; si lo mató."""
        while not self._gone:
            before = time.monotonic()
            unread = self._unread()
            self._stopping = self._stopping or bool(unread)
            self._wait(_LOOK_EVERY if self._stopping or unread is not None else None, aware=unread is None)
            if self._stopping and not self._gone:
                self._count(unread or 0, min(time.monotonic() - before, _LONGEST_LOOK))
                if self._left <= 0:
                    os.kill(self._pid, signal.SIGKILL)
                    return True
        return False

    def _count(self, unread: int, seconds: float) -> None:
        self._left -= seconds
        if not unread:
            self._unseen, self._first = 0.0, 0
            return
        self._unseen += seconds
        if self._unseen <= _INSISTENCE:
            self._first = unread
        elif unread > self._first:
            self._left = min(self._left, _HURRY)
            self._first = _READ  # ya está

    def _unread(self) -> int | None:
        """Cuántas señales de acabar hay sin atender; ``None`` si no hay ninguna señal."""
        try:
            arrived = self._awake.recv(_READ, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        return sum(number in self._signals for number in arrived)

    def _wait(self, seconds: float | None, *, aware: bool) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        if self._process >= 0:
            poll.register(self._process, select.POLLIN)  # cuando acabe, aunque otro conserve el canal
        if aware:
            poll.register(self._awake, select.POLLIN)
        for number, _ in poll.poll(None if seconds is None else seconds * 1000):
            if number == self._channel.fileno():
                said = self._channel.recv(_READ)
                self._stopping = self._stopping or bool(said)
                self._gone = not said
            elif number == self._process:
                self._gone = True
