"""Lo que el padre hace en cada bifurcación. Los procesos de verdad, en ``cli/test_processes.py``."""

from __future__ import annotations

import gc
import os
import weakref

import pytest

from comunicacion_tcp.limits import DEFAULT_LIMITS
from comunicacion_tcp.supervision import Fork, Supervision, Watcher
from comunicacion_tcp.supervisor import Supervisor


class Ring:
    """Algo que se señala a sí mismo: solo lo suelta el recolector."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_not_set_aside_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = weakref.ref(Ring())
    left: list[Ring | None] = []

    def no_more_processes() -> int:
        raise BlockingIOError

    monkeypatch.setattr(gc, "freeze", lambda: left.append(ring()))
    monkeypatch.setattr(os, "fork", no_more_processes)
    supervisor = Supervisor(Supervision(1, DEFAULT_LIMITS, Watcher()), lambda: None, lambda: None)
    assert supervisor._fork(Fork()) is None
    assert left == [None]
