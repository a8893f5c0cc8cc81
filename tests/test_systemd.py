"""``systemd.py``: qué se avisa y con qué bytes, y qué sockets se aceptan; con un systemd de pega, que es un socket.

Con el de verdad (``systemd-socket-activate``) y el servidor entero, en ``cli/test_under_systemd.py``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from comunicacion_tcp.errors import BadSocket
from comunicacion_tcp.systemd import Notifier, listening_sockets

from .support.waiting import PATIENCE


@contextlib.contextmanager
def manager(address: str | bytes) -> Iterator[socket.socket]:
    """El lado de systemd: recibe los avisos en ``address``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(PATIENCE)
        yield sock


def heard(sock: socket.socket) -> list[str]:
    """Las líneas del aviso siguiente."""
    return sock.recv(4096).decode().split("\n")


def test_each_notice_is_what_the_manual_says(tmp_path: Path) -> None:
    place = str(tmp_path / "avisos")
    with manager(place) as systemd, contextlib.closing(Notifier(os.fsencode(place), 2.0, lambda: 7_654_321)) as ours:
        ours.ready("Sirviendo")
        ours.reloading()
        ours.ready()
        ours.status("3 conversaciones")
        ours.watchdog()
        ours.stopping("Adiós")
        assert [heard(systemd) for _ in range(6)] == [
            ["READY=1", "STATUS=Sirviendo"],
            ["RELOADING=1", "MONOTONIC_USEC=7654"],
            ["READY=1"],
            ["STATUS=3 conversaciones"],
            ["WATCHDOG=1"],
            ["STOPPING=1", "STATUS=Adiós"],
        ]


def test_a_status_is_one_line_whatever_it_says(tmp_path: Path) -> None:
    # Si no, un texto con un salto de línea podría decir READY=1.
    place = str(tmp_path / "avisos")
    with manager(place) as systemd, contextlib.closing(Notifier(os.fsencode(place))) as ours:
        ours.status("uno\nREADY=1\r\n\x85dos \udcff")
        assert heard(systemd) == ["STATUS=uno READY=1  dos ?"]


def test_the_environment_says_where_and_is_left_clean() -> None:
    with tempfile.TemporaryDirectory() as folder:
        name = Path(folder).name  # ninguno más se llama así
        environ = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "A": "1"}
        with manager(b"\0" + name.encode()) as systemd:
            with contextlib.closing(Notifier.from_environment(environ)) as ours:
                ours.ready()
                assert heard(systemd) == ["READY=1"]
                assert ours.present
                assert ours.watchdog_interval == 1.5  # la mitad
            assert not ours.present
            ours.ready()  # cerrado, no dice nada
        assert environ == {"A": "1"}


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "20000000"}, 10.0),  # sin WATCHDOG_PID es para cualquiera
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "yo"}, 0.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "-5"}, 0.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1.5"}, 0.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "٣"}, 0.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "18446744073709551615"}, 0.0),  # el infinito de systemd
        ({"NOTIFY_SOCKET": "/x"}, 0.0),
        ({"WATCHDOG_USEC": "20000000"}, 0.0),  # sin a quién contárselo
    ],
    ids=str,
)
def test_how_often_to_say_alive(environ: dict[str, str], interval: float) -> None:
    assert Notifier.from_environment(environ).watchdog_interval == interval


@pytest.mark.parametrize(
    "place", ["", "relativo", "vsock:2:1234", "@", "/" + "largo" * 40, "/no/existe", "@nadie \udcff"]
)
def test_a_notice_nobody_can_hear_is_not_an_error(place: str) -> None:
    with contextlib.closing(Notifier.from_environment({"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "1000"})) as ours:
        ours.ready("x")
        ours.reloading()
        ours.status("x")
        ours.watchdog()
        ours.stopping()


def test_a_stuck_systemd_does_not_stop_us(tmp_path: Path) -> None:
    place = str(tmp_path / "avisos")
    with manager(place) as systemd, contextlib.closing(Notifier(os.fsencode(place), 1.0)) as ours:
        for _ in range(2000):  # más de los que caben en su cola
            ours.watchdog()
        while heard(systemd) == ["WATCHDOG=1"]:
            ours.status("hay sitio")
    assert ours.watchdog_interval == 1.0


# -- los sockets -------------------------------------------------------------------------------------------


def given(count: object, **more: str) -> dict[str, str]:
    return {"LISTEN_FDS": str(count), "LISTEN_PID": str(os.getpid()), **more}


@contextlib.contextmanager
def descriptors(*socks: socket.socket) -> Iterator[int]:
    """Copias de ``socks`` en descriptores seguidos, como los da systemd: el primero."""
    first = 700  # lejos de los que usa la prueba
    for position, sock in enumerate(socks):
        os.dup2(sock.fileno(), first + position, inheritable=True)
    try:
        yield first
    finally:
        for position in range(len(socks)):
            with contextlib.suppress(OSError):
                os.close(first + position)


def test_what_listens_is_taken_ready_to_serve(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "un.sock"))
        unix.listen()
        with descriptors(tcp, unix) as first:
            environ = given(2, LISTEN_FDNAMES="uno:dos", A="1")
            taken = listening_sockets(environ, first)
            assert environ == {"A": "1"}
            assert [sock.getsockname() for sock in taken] == [tcp.getsockname(), unix.getsockname()]
            assert taken[0].proto == socket.IPPROTO_TCP  # sin él, asyncio no pone TCP_NODELAY a los que acepta
            for sock in taken:
                assert not sock.get_inheritable()
                assert not sock.getblocking()
                sock.close()


@pytest.mark.parametrize("count", ["0", "-1", "uno", "9" * 30, ""])
def test_a_count_that_is_not_one_is_as_if_it_were_not(count: str) -> None:
    environ = given(count)
    with socket.create_server(("127.0.0.1", 0)) as tcp, descriptors(tcp) as first:
        assert listening_sockets(environ, first) == []
    assert environ == {}


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "x"}],
    ids=str,
)
def test_what_is_not_for_us_is_as_if_it_were_not(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, descriptors(tcp) as first:
        assert listening_sockets(environ, first) == []
    assert environ == {}


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("datagram", "not_stream"),
        ("packets", "not_stream"),
        ("file", "not_stream"),
        ("conversation", "not_listening"),
        ("closed", "closed"),
    ],
)
def test_what_cannot_listen_is_told_and_nothing_stays_open(kind: str, problem: str) -> None:
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        bad: list[socket.socket] = []
        if kind == "datagram":
            bad = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
        elif kind == "packets":
            bad = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
        elif kind == "conversation":
            mine, other = socket.socketpair()
            stack.enter_context(other)
            bad = [mine]
        for sock in bad:
            stack.enter_context(sock)
        first = stack.enter_context(descriptors(good, *bad))
        if kind == "file":
            os.dup2(stack.enter_context(open(os.devnull)).fileno(), first + 1)
            stack.callback(os.close, first + 1)
        with pytest.raises(BadSocket) as caught:
            listening_sockets(given(2, LISTEN_FDNAMES="bueno:malo"), first)
        assert (caught.value.number, caught.value.name, caught.value.problem) == (first + 1, "malo", problem)
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(first)  # el bueno tampoco quedó abierto
