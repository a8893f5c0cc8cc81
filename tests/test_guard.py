"""``guard.py``: el guarda mata a quien no acaba, y no se mete con quien acaba. Con un servicio de verdad, en
``cli/test_service_ends.py``."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest

from comunicacion_tcp.guard import stand_guard

from .support.programs import Program

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="este sistema no tiene fork")

# Un programa con su guarda; sin servidor, y con plazos cortos. Lo que hace es lo de la línea que se le ponga.
_PROGRAM = """
import os, re, signal, socket, sys, threading, time
from comunicacion_tcp.guard import stand_guard
awake, alarm = socket.socketpair()
for end in (awake, alarm): end.setblocking(False)
guard = stand_guard(awake, [signal.SIGTERM], 0.3, lambda: os.write(2, b"adios\\n"))
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.set_wakeup_fd(alarm.fileno())
"""


def outcome(code: str) -> tuple[int, str]:
    """Cómo acaba, y lo que dice."""
    with Program([sys.executable, "-c", _PROGRAM + code]) as program:
        return program.wait(), program.errors


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(600)",  # nadie lee su byte
        "guard.stopping(); time.sleep(600)",
        "guard.stopping(); child = os.fork(); time.sleep(600 if child else 0)",
    ],
)
def test_who_was_asked_to_end_and_does_not_is_killed(code: str) -> None:
    assert outcome(code) == (-signal.SIGKILL, "adios\n")


@pytest.mark.parametrize(
    "code",
    [
        "",
        "guard.leave()",
        "guard.stopping(); guard.leave()",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(guard._pid, signal.SIGKILL); os.waitpid(guard._pid, 0); guard.stopping(); guard.leave()",
        # Otra señal, que nadie lee: más de lo que dura el plazo.
        "os.kill(os.getpid(), signal.SIGUSR1); time.sleep(1)",
        # Lo que se crea no retiene al guarda, ni es cosa suya.
        "child = os.fork()\nif not child: time.sleep(600)\nguard.leave(); os.kill(child, 9); os.waitpid(child, 0)",
    ],
)
def test_who_ends_or_was_not_asked_to_is_left_alone(code: str) -> None:
    assert outcome(code) == (0, "")


def test_it_may_not_be_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError("no hay más")

    awake, alarm = socket.socketpair()
    with awake, alarm:
        monkeypatch.setattr(os, "fork", refuse)
        assert stand_guard(awake, [signal.SIGTERM], 1.0, lambda: None) is None
        monkeypatch.setattr(socket, "socketpair", refuse)
        assert stand_guard(awake, [signal.SIGTERM], 1.0, lambda: None) is None
        monkeypatch.delattr(os, "fork")
        assert stand_guard(awake, [signal.SIGTERM], 1.0, lambda: None) is None
