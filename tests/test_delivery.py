"""``delivery.py``: lo que cuenta el núcleo de lo enviado, con sockets de verdad; de quien desaparece, con uno falso."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from comunicacion_tcp.delivery import arrived, cut_if_closed, in_transit, silence

from .support.sockets import connect, receive, receive_all
from .support.waiting import wait_until

TCP, UNIX = "tcp", "unix"
linux = pytest.mark.skipif(sys.platform != "linux", reason="solo Linux cuenta lo que llega y a quién se pregunta")


@contextlib.contextmanager
def pair(kind: str = TCP) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Un socket de los dos extremos; el primero no espera."""
    if kind == TCP:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = connect(listener.getsockname()[1])
            ours, _ = listener.accept()
    else:
        ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def fill(sock: socket.socket) -> int:
    """Envía lo que admita el sistema; cuántos bytes."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(b"x" * 65536)
    return sent


@pytest.mark.parametrize("kind", [TCP, UNIX])
def test_what_the_other_end_has_not_got_yet(kind: str) -> None:
    with pair(kind) as (ours, theirs):
        assert in_transit(ours) == 0
        sent = fill(ours)
        before = in_transit(ours)
        assert before
        receive(theirs, sent)
        wait_until(lambda: in_transit(ours) == 0, "que se sepa que llegó todo")
    assert in_transit(ours) == 0  # cerrado
    assert in_transit(None) == 0


@linux
def test_what_has_arrived_grows_as_the_other_end_reads() -> None:
    with pair() as (ours, theirs):
        begun = arrived(ours)
        assert begun is not None
        sent = fill(ours)
        wait_until(lambda: arrived(ours) != begun, "que llegue lo primero")
        receive(theirs, sent)
        wait_until(lambda: arrived(ours) == begun + sent, "que llegue todo")
        assert silence(ours) == 0
    assert arrived(ours) is None
    with pair(UNIX) as (ours, _):
        assert arrived(ours) is None
        assert silence(ours) == 0


def test_closing_is_cutting_only_when_told() -> None:
    for cut in (True, False):
        with pair() as (ours, theirs):
            ours.send(b"hola")
            assert receive(theirs, 4) == b"hola"
            cut_if_closed(ours)
            if not cut:
                cut_if_closed(ours, False)
            ours.close()
            if cut:
                with pytest.raises(ConnectionResetError):
                    receive_all(theirs)
            else:
                assert receive_all(theirs) == b""
    cut_if_closed(ours)  # cerrado
    cut_if_closed(None)


class Told:
    """Un socket del que el núcleo dice lo que quiera la prueba: veces que no respondió, y milisegundos de silencio."""

    family = socket.AF_INET

    def __init__(self, retransmits: int, probes: int, since_sent: int, since_heard: int, size: int = 128) -> None:
        numbers = [0] * 24
        numbers[9], numbers[12] = since_sent, since_heard
        self._info = struct.pack("=8B24I3Q", 1, 0, retransmits, probes, 0, 0, 0, 0, *numbers, 0, 0, 0)[:size]

    def getsockopt(self, *_: int) -> bytes:
        """Lo que dice ``TCP_INFO``."""
        return self._info


@linux
@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (Told(0, 0, 90_000, 90_000), 0),  # callado, y nadie le ha preguntado nada
        (Told(0, 1, 90_000, 90_000), 0),  # la pregunta acaba de salir
        (Told(2, 0, 600, 3_600_000), 0.6),  # calló una hora, y lo de ahora no llega
        (Told(0, 7, 90_000, 40_000), 40),  # hace 40 s aún decía que no le cabía nada
        (Told(5, 7, 90_000, 90_000, size=104), 0),  # un núcleo que cuenta menos cosas
    ],
)
def test_the_silence_of_a_machine_counts_from_what_it_did_not_answer(told: Any, seconds: float) -> None:
    assert silence(told) == seconds
