"""``listener.py``: dónde se escucha, y aceptar también cuando el sistema no deja."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from comunicacion_tcp import listener as module
from comunicacion_tcp.errors import AddressInUse, AddressNotOurs, NetworkError, PortNotAllowed, UnknownHost
from comunicacion_tcp.listener import Listener, open_sockets

from .support.loops import run_loop
from .support.serving import served
from .support.sockets import connect, free_port
from .support.waiting import PATIENCE


def test_a_busy_port() -> None:
    with served() as running, pytest.raises(AddressInUse) as caught:
        open_sockets("127.0.0.1", running.port, 1)
    assert caught.value.address == f"127.0.0.1:{running.port}"


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(AddressNotOurs):
        open_sockets("192.0.2.1", 0, 1)  # reservada para ejemplos (RFC 5737)


@pytest.mark.parametrize("host", ["no-existe.invalid", "a" * 64 + ".invalid", "1.2.3.4.5"])
def test_an_unknown_host(host: str) -> None:
    with pytest.raises(UnknownHost):
        open_sockets(host, 0, 1)


@pytest.mark.parametrize(
    ("cause", "kind"), [(PermissionError(13, "no"), PortNotAllowed), (OSError(5, "no"), NetworkError)]
)
def test_what_the_system_refuses(monkeypatch: pytest.MonkeyPatch, cause: OSError, kind: type) -> None:
    def refuse(*args: object) -> None:
        raise cause

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(NetworkError) as caught:
        open_sockets("127.0.0.1", 1, 1)
    assert type(caught.value) is kind
    assert caught.value.cause is cause


def resolving_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Hace que cualquier nombre se resuelva a ``hosts``."""
    real = socket.getaddrinfo

    def fake(host: str, port: int, **options: int) -> list[object]:
        return [found for name in hosts for found in real(name, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", fake)


def test_a_name_with_two_addresses_listens_on_both_on_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")  # repetida, como en algunos /etc/hosts
    listeners = open_sockets("dos.example", 0, 1)
    places = [sock.getsockname() for sock in listeners]
    for sock in listeners:
        sock.close()
    assert [host for host, _ in places] == ["127.0.0.1", "127.0.0.2"]
    assert len({port for _, port in places}) == 1


def test_an_ipv6_listener_leaves_ipv4_alone() -> None:
    try:
        (sock,) = open_sockets("::1", 0, 1)
    except NetworkError:
        pytest.skip("esta máquina no tiene IPv6")
    with sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_ipv4_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[socket.AddressFamily] = []

    def note(places: list[tuple[socket.AddressFamily, object]], *rest: object) -> list[socket.socket]:
        seen.extend(family for family, _ in places)
        return []

    monkeypatch.setattr(module, "_open_all", note)
    resolving_to(monkeypatch, "::1", "127.0.0.1")
    open_sockets("localhost", 5000, 1)
    assert seen == [socket.AF_INET, socket.AF_INET6]


def test_an_absent_family_is_not_an_error_while_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, "192.0.2.1", "127.0.0.1")
    (sock,) = open_sockets("localhost", 0, 1)
    assert sock.getsockname()[0] == "127.0.0.1"
    sock.close()


def test_a_free_port_taken_meanwhile_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._open_all
    failures = [AddressInUse("x"), AddressInUse("x")]

    def unlucky(*args: object) -> list[socket.socket]:
        if failures:
            raise failures.pop()
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_open_all", unlucky)
    (sock,) = open_sockets("127.0.0.1", 0, 1)
    sock.close()
    failures += [AddressInUse("x")] * 8
    with pytest.raises(AddressInUse):
        open_sockets("127.0.0.1", 0, 1)
    failures[:] = [AddressInUse("x")]
    with pytest.raises(AddressInUse):  # un puerto pedido no se busca: o ese o nada
        open_sockets("127.0.0.1", free_port(), 1)


def test_a_vanished_client_will_be_noticed() -> None:
    (sock,) = open_sockets("127.0.0.1", 0, 10, keepalive=30)
    with sock, connect(sock.getsockname()[1]):
        sock.setblocking(True)
        accepted, _ = sock.accept()
        with accepted:  # lo hereda del que escucha
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0  # cortaría a quien no lee


# -- sockets de Unix ----------------------------------------------------------------------------------------

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="aquí Python no tiene sockets de Unix")


@unix
def test_a_unix_socket_that_nobody_serves_any_more_is_replaced(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/s"
    (old,) = open_sockets(place, 0, 10)
    with pytest.raises(AddressInUse):
        open_sockets(place, 0, 10)
    old.close()  # su fichero queda
    (new,) = open_sockets(place, 0, 10)
    new.close()


@unix
@pytest.mark.parametrize("stale", [False, True])
def test_of_several_at_once_only_one_opens_a_unix_socket(stale: bool, tmp_path: Path) -> None:
    for attempt in range(30):
        place = f"unix:{tmp_path}/{attempt}"
        if stale:
            open_sockets(place, 0, 10)[0].close()
        barrier = threading.Barrier(4)
        opened: list[socket.socket] = []
        refused: list[type] = []

        def start(place: str = place, barrier: threading.Barrier = barrier, opened=opened, refused=refused) -> None:  # type: ignore[no-untyped-def]
            barrier.wait(PATIENCE)
            try:
                opened.extend(open_sockets(place, 0, 10))
            except NetworkError as error:
                refused.append(type(error))

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for sock in opened:
            sock.close()
        assert (len(opened), refused) == (1, [AddressInUse] * 3)


@unix
def test_a_folder_locked_by_another_program_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(module, "_LOCK_PAUSE", 0)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        open_sockets(f"unix:{tmp_path}/s", 0, 10)[0].close()
    finally:
        os.close(folder)


def test_a_keepalive_longer_than_the_system_knows() -> None:
    for sock in open_sockets("127.0.0.1", 0, 10, keepalive=2e9):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        sock.close()


@unix
def test_a_file_that_is_not_a_socket_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mío")
    with pytest.raises(AddressInUse):
        open_sockets(f"unix:{tmp_path}/s", 0, 10)
    assert (tmp_path / "s").read_text() == "mío"


@unix
@pytest.mark.parametrize("path", ["", "/no/existe/s", "/tmp/" + "x" * 200])
def test_a_unix_socket_that_cannot_be(path: str) -> None:
    with pytest.raises(NetworkError, match="unix:"):
        open_sockets(f"unix:{path}", 0, 10)


# -- aceptar ------------------------------------------------------------------------------------------------


class Door:
    """Un ``Listener`` en el bucle de la prueba, y lo que ha dado."""

    def __init__(self, pause: float = 0.01) -> None:
        (self.sock,) = open_sockets("127.0.0.1", 0, 100)
        self.taken: list[socket.socket] = []
        self.troubles: list[OSError] = []
        self.listener = Listener(self.sock, lambda sock, peer: self.taken.append(sock), self.troubles.append, pause)
        self.port = self.listener.address[1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Deja correr el bucle hasta que se cumpla."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while not condition():
            assert loop.time() < deadline
            await asyncio.sleep(0.001)

    def close(self, queued: int = 100) -> None:
        """Cierra la puerta y lo que entró por ella."""
        self.listener.close(queued)
        for sock in self.taken:
            sock.close()


def without_readers(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hace de ``loop`` uno como el de Windows: no avisa de que un socket está listo. uvloop no puede serlo."""
    if not isinstance(loop, asyncio.SelectorEventLoop):
        pytest.skip("así es el bucle de asyncio en Windows, donde no hay uvloop")

    def refuse(*args: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(loop, "add_reader", refuse)
    monkeypatch.setattr(loop, "remove_reader", refuse)


@pytest.mark.parametrize("readers", [True, False])
def test_whoever_comes_is_taken(monkeypatch: pytest.MonkeyPatch, readers: bool) -> None:
    async def run() -> None:
        if not readers:
            without_readers(asyncio.get_running_loop(), monkeypatch)
        door = Door()
        crowd = [connect(door.port) for _ in range(3)]
        door.listener.start()
        await door.until(lambda: len(door.taken) == 3)
        assert {sock.getpeername() for sock in door.taken} == {sock.getsockname() for sock in crowd}
        door.close()
        for sock in crowd:
            sock.close()
        with pytest.raises(ConnectionRefusedError):
            connect(door.port)

    run_loop(run())


@pytest.mark.parametrize("readers", [True, False])
def test_when_the_system_does_not_let_it_tells_rests_and_tries_again(
    monkeypatch: pytest.MonkeyPatch, readers: bool
) -> None:
    real = socket.socket.accept
    failures: list[OSError] = [OSError(errno.EMFILE, "no quedan"), OSError(errno.ENFILE, "no quedan")]

    def accept(sock: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop(0)
        return real(sock)

    async def run() -> None:
        if not readers:
            without_readers(asyncio.get_running_loop(), monkeypatch)
        monkeypatch.setattr(socket.socket, "accept", accept)
        door = Door()
        with connect(door.port):
            door.listener.start()
            await door.until(lambda: len(door.taken) == 1)
        assert [error.errno for error in door.troubles] == [errno.EMFILE, errno.ENFILE]
        door.close()

    run_loop(run())


def test_it_does_not_try_again_after_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sock: socket.socket) -> tuple[socket.socket, object]:
        raise OSError(errno.EMFILE, "no quedan")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[object] = []
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        monkeypatch.setattr(socket.socket, "accept", refuse)
        door = Door(pause=0.02)
        door.listener.start()
        with connect(door.port):
            await door.until(lambda: len(door.troubles) == 1)
            door.close()  # descansando, con el reintento pendiente; y lo intenta una última vez
            later = loop.time() + 0.04
            await door.until(lambda: loop.time() > later)
            assert len(door.troubles) == 2
            assert not complaints

    run_loop(run())


def test_one_that_left_before_entering_does_not_stop_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.accept
    gone = [OSError(number, "se fue") for number in (errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN)]

    def accept(sock: socket.socket) -> tuple[socket.socket, object]:
        if gone:
            raise gone.pop()
        return real(sock)

    async def run() -> None:
        monkeypatch.setattr(socket.socket, "accept", accept)
        door = Door()
        door.listener.start()
        with connect(door.port):
            await door.until(lambda: len(door.taken) == 1)
        assert door.troubles == []
        door.close()

    run_loop(run())


@pytest.mark.parametrize(("queued", "taken"), [(100, 5), (2, 2), (0, 0)])  # 0: son de quien comparte el socket
def test_closing_takes_whoever_was_already_waiting(queued: int, taken: int) -> None:
    async def run() -> None:
        door = Door()
        crowd = [connect(door.port) for _ in range(5)]
        door.close(queued)
        assert len(door.taken) == taken
        for sock in crowd:
            sock.close()

    run_loop(run())


def test_where_it_listened_is_known_after_closing() -> None:
    # Quien lo pregunta puede ser otro hilo, mientras el del bucle lo cierra.
    async def run() -> None:
        door = Door()
        before = door.listener.address
        door.close(0)
        assert door.listener.address == before

    run_loop(run())
