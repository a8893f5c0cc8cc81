"""El puesto de un hijo: cómo habla con su padre; y qué hace este antes de tenerlo. Lo demás, con procesos de verdad, en
``cli/test_processes.py``."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import weakref
from collections.abc import Iterator

import pytest

from comunicacion_tcp import supervisor
from comunicacion_tcp.limits import DEFAULT_LIMITS
from comunicacion_tcp.supervision import CUT, DRAIN, RETIRE, TURN, Fork, Supervision, Watcher
from comunicacion_tcp.supervisor import Seat, Supervisor

from .support.loops import run_loop
from .support.waiting import PATIENCE

LONG = 2 * PATIENCE


@pytest.fixture
def parent() -> Iterator[socket.socket]:
    """El lado del padre, y el puesto del otro lado en ``seat``."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    theirs.setblocking(False)
    seats[ours] = Seat(Fork(generation=3, row=2, first=True), theirs)
    yield ours
    seats.pop(ours)
    ours.close()
    theirs.close()


seats: dict[socket.socket, Seat] = {}


def obeyed(parent: socket.socket, data: bytes, wanted: int) -> list[str]:
    """Las órdenes que entiende el hijo si el padre le envía ``data``; si no es nada, cierra."""
    orders: list[str] = []

    async def run() -> None:
        enough = asyncio.Event()

        def obey(order: str) -> None:
            orders.append(order)
            if len(orders) == wanted:
                enough.set()

        seats[parent].attend(asyncio.get_running_loop(), obey, LONG)
        if data:
            parent.send(data)
        else:
            parent.close()
        await asyncio.wait_for(enough.wait(), PATIENCE)

    run_loop(run())
    return orders


def test_it_knows_what_it_is(parent: socket.socket) -> None:
    seat = seats[parent]
    assert (seat.generation, seat.row, seat.first) == (3, 2, True)


def test_each_order_arrives_even_if_several_come_together(parent: socket.socket) -> None:
    assert obeyed(parent, b"rdc", 3) == [RETIRE, DRAIN, CUT]


def test_without_a_parent_it_drains(parent: socket.socket) -> None:
    assert obeyed(parent, b"", 1) == [DRAIN]


def test_it_gives_signs_of_life_while_the_loop_turns(parent: socket.socket) -> None:
    async def run() -> None:
        seats[parent].attend(asyncio.get_running_loop(), lambda _: None, 1.0)
        seats[parent].ready()
        seen = b""
        while seen.count(b"v") < 3:
            seen += await asyncio.to_thread(parent.recv, 100)
        assert seen.startswith(b"vl")

    run_loop(run())


def test_what_it_cannot_do_is_not_taken_for_words(parent: socket.socket) -> None:
    seats[parent].cannot("no puede ser: \udcff")
    assert parent.recv(100) == b"\0no puede ser: \\udcff"


def test_a_parent_that_does_not_read_or_left_stops_nobody(parent: socket.socket) -> None:
    for _ in range(100_000):
        seats[parent].ready()
    parent.close()
    seats[parent].ready()


def test_a_terminal_that_left_without_a_word_wanted_this_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = True
    reloads = []
    monkeypatch.setattr(supervisor, "_has_terminal", lambda: terminal)
    monkeypatch.setattr("signal.getsignal", lambda _: signal.SIG_DFL)

    def new() -> tuple[Supervisor, Supervision]:
        policy = Supervision(1, DEFAULT_LIMITS, Watcher())
        return Supervisor(policy, lambda: reloads.append(1), lambda: None), policy

    (closed, stops), (disowned, stays) = new(), new()
    terminal = False
    closed._look_at_terminal(0.0)  # una vez no se pudo mirar; después, sí
    terminal = True
    closed._look_at_terminal(1.0)
    terminal = False
    closed._look_at_terminal(100.0)
    closed._obey([signal.SIGHUP])  # se cerró, y se avisa
    assert stops.stopping
    assert not reloads
    for moment in (100.0, 100.0 + TURN):
        disowned._look_at_terminal(moment)
    disowned._obey([signal.SIGHUP])
    assert not stays.stopping
    assert reloads == [1]


def test_a_helper_that_gives_no_sign_of_life_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    parent = Supervisor(Supervision(1, DEFAULT_LIMITS, Watcher()), lambda: None, lambda: None, helped=True)
    parent._helper, parent._helper_heard, parent._helper_watched = 999, 0.0, 0.0
    for second in range(1, 11):
        parent._watch_helper(second)
    assert not killed
    parent._watch_helper(1000)  # quien dormía era el padre
    assert not killed
    for second in range(1001, 1012):
        parent._watch_helper(second)
    assert killed == [999]


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
