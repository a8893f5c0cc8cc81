"""Quien lee despacio y quien no lee: a uno se le espera mientras algo le llegue, y al otro se le corta con un RST.

Los sockets son de verdad: se prueba lo que el núcleo cuenta de ellos. El reloj, donde importa la hora, es falso.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comunicacion_tcp import connection as connection_module
from comunicacion_tcp.connection import Connection
from comunicacion_tcp.delivery import in_transit
from comunicacion_tcp.limits import DEFAULT_LIMITS, Limits

from .support.certificates import Certificates
from .support.encrypted import Encrypted, encrypted
from .support.fakes import FakeLoop, FakeTransport, fake_connection
from .support.modules import write
from .support.programs import SERVER, Program
from .support.serving import Recorder, Served, served
from .support.sockets import connect, receive, receive_all
from .support.waiting import PATIENCE, wait_until

REPLY = 8_000_000  # bytes: más de lo que Linux guarda de una conexión (tcp_wmem, tcp(7)), y el resto espera aquí
LIMITS = Limits(max_output=2 * REPLY)
BIT = 4096  # bytes: lo que lee cada vez quien lee despacio


def sentence(message: str) -> str:
    """Un servicio que responde mucho a poco."""
    return "x" * REPLY


class Slow:
    """Una conexión de reloj falso sobre un socket de verdad, lleno, de quien no ha leído nada."""

    def __init__(self, limits: Limits, ours: socket.socket, client: socket.socket) -> None:
        self.ours = ours
        self.client = client
        self.wire = FakeTransport()
        self.connection: Connection
        self.loop: FakeLoop
        self.recorder: Recorder
        self.connection, _, self.loop, self.recorder = fake_connection(limits, self.wire)
        self.wire.socket = ours

    def fill(self) -> None:
        """El sistema ya no admite más."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.ours.send(b"x" * BIT)

    def receive_some(self) -> None:
        """El cliente lee, y no para hasta que el sistema de aquí lo nota."""
        before = in_transit(self.ours)

        def noticed() -> bool:
            with contextlib.suppress(BlockingIOError):
                self.client.recv(BIT)
            return in_transit(self.ours) < before

        wait_until(noticed, "que avance lo que se le envía")

    def receive_everything(self) -> None:
        """El cliente lee todo lo que se le debe, también lo que espera aquí."""
        self.wire.owed = 0
        while in_transit(self.ours):
            self.receive_some()


def linger(sock: socket.socket) -> bytes:
    """Lo que hará el sistema cuando se cierre."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)


@contextlib.contextmanager
def slow(limits: Limits = DEFAULT_LIMITS, family: int = socket.AF_INET) -> Iterator[Slow]:
    """Uno que aún no ha leído nada."""
    if family == socket.AF_INET:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * BIT)
            client.connect(listener.getsockname())
            ours, _ = listener.accept()
    else:
        ours, client = socket.socketpair()
    with ours, client:
        for sock in (ours, client):
            sock.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * BIT)
        one = Slow(limits, ours, client)
        one.fill()
        yield one


both_families = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])


# -- con reloj falso ----------------------------------------------------------------------------------------


@both_families
def test_who_reads_slowly_is_not_cut_while_something_reaches_it(family: int) -> None:
    with slow(family=family) as one:
        one.wire.owed = 1000  # a asyncio el sistema no le admite más en todo este rato
        one.connection.pause_writing()
        for _ in range(5):
            one.loop.advance(50)
            one.receive_some()
        assert one.wire.state == "abierto"
        one.loop.advance(50)
        assert one.wire.state == "abierto"
        one.loop.advance(100)  # ya no lee
        assert one.wire.state == "cortado"
        assert one.recorder.names == ["accepted", "undelivered"]


def test_who_never_reads_is_cut_when_the_deadline_says() -> None:
    with slow() as one:
        one.wire.owed = 1000
        one.connection.pause_writing()
        one.loop.advance(59)
        assert one.wire.state == "abierto"
        one.loop.advance(1)
        assert one.wire.state == "cortado"


def test_who_owes_only_what_the_system_keeps_is_cut_too() -> None:
    with slow() as one:
        one.connection.look()
        one.loop.advance(59)
        one.receive_some()
        one.loop.advance(59)
        assert one.wire.state == "abierto"
        one.loop.advance(60)
        assert one.wire.state == "cortado"
        assert one.recorder.names == ["accepted", "undelivered"]
        assert linger(one.ours)[0] == 1


def test_who_has_received_everything_has_nothing_to_be_late_with() -> None:
    with slow() as one:
        one.connection.look()
        one.receive_everything()
        one.loop.advance(59)
        one.fill()  # otra respuesta, en el último momento
        one.loop.advance(30)
        assert one.wire.state == "abierto"


@both_families
@pytest.mark.parametrize("limits", [Limits(), Limits(idle_timeout=10, message_timeout=10_000)])
def test_who_has_not_received_its_replies_is_not_asked_for_more(family: int, limits: Limits) -> None:
    with slow(limits, family) as one:
        one.connection.data_received(b"\nmedio")
        for _ in range(5):
            one.loop.advance(9)
            one.receive_some()
        one.loop.advance(50)
        assert one.wire.written == b"\n"
        one.receive_everything()
        one.loop.advance(9)
        assert one.wire.written == b"\n"
        one.loop.advance(3)
        assert one.wire.written.startswith(b"\nERROR: ")
        assert one.wire.state == "FIN enviado"


def test_who_left_gets_everything_while_it_advances_and_then_has_its_time_to_close() -> None:
    limits = Limits(output_timeout=20)
    with slow(limits) as one:
        one.connection.data_received(b"DESCONEXION\n")
        one.ours.shutdown(socket.SHUT_WR)
        while in_transit(one.ours) > 1:
            one.loop.advance(19)
            assert one.wire.state == "FIN enviado"
            one.receive_some()
        one.loop.advance(limits.linger)
        assert one.wire.state == "FIN enviado"
        one.loop.advance(1)
        assert one.wire.state == "cerrado"
        assert one.recorder.names == ["accepted", "said_goodbye"]


def test_who_left_and_does_not_read_is_cut_with_a_reset() -> None:
    with slow() as one:
        one.connection.data_received(b"DESCONEXION\n")
        one.loop.advance(59)
        assert one.wire.state == "FIN enviado"
        one.loop.advance(3)
        assert one.wire.state == "cortado"
        assert one.recorder.names == ["accepted", "said_goodbye", "undelivered"]
        assert linger(one.ours)[0] == 1


@pytest.mark.parametrize("owed", [0, 1000])
def test_stopping_leaves_to_the_system_what_the_system_keeps_and_nothing_else(owed: int) -> None:
    with slow() as one:
        one.wire.owed = owed
        one.connection._server.stopping = True
        one.connection.drain()
        one.loop.advance(5)
        assert one.wire.state == ("FIN enviado" if owed else "cerrado")
        one.connection.give_up()
        assert one.wire.state == "cortado"  # con nada en asyncio, es cerrar
        assert one.recorder.names == (["accepted", "undelivered"] if owed else ["accepted"])
        assert linger(one.ours)[0] == (1 if owed else 0)


def test_a_machine_that_does_not_answer_is_lost_and_one_that_answers_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = Limits(keepalive=5)
    for silent, lost in ((9.0, False), (10.0, True)):
        monkeypatch.setattr(connection_module, "silence", lambda _, seconds=silent: seconds)
        with slow(limits) as one:
            one.connection.look()
            assert one.wire.state == ("cortado" if lost else "abierto")
            assert one.recorder.names == (["accepted", "lost"] if lost else ["accepted"])
    assert one.recorder.events[-1][2].errno == errno.ETIMEDOUT  # type: ignore[attr-defined]
    for silent, name in ((20.0, "undelivered"), (50.0, "lost")):
        monkeypatch.setattr(connection_module, "silence", lambda _, seconds=silent: seconds)
        with slow(Limits(keepalive=0)) as one:
            one.connection.look()
            one.loop.advance(60)
            assert one.recorder.names == ["accepted", name]


def test_dying_with_something_owed_is_not_an_orderly_end() -> None:
    with slow() as one:
        one.connection.pause_writing()
        assert linger(one.ours)[0] == 1  # si el proceso muere ahora
        one.connection.resume_writing()
        assert linger(one.ours)[0] == 0


# -- con un servidor de verdad ------------------------------------------------------------------------------


def ask(running: Served, context: ssl.SSLContext | None, *, shut: bool) -> socket.socket:
    """Pide la respuesta que no cabe, y no la lee."""
    sock = connect(running.port)
    if context:
        client = Encrypted(sock, context)
        client.shake()
        client.send(b"hola\n")
        if shut:
            client.close()
    else:
        sock.sendall(b"hola\n")
    if shut:
        sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: is_owed(running), "que se le deba más de lo que guarda el sistema")
    return sock


def is_owed(running: Served) -> bool:
    """Si a la única conexión el sistema no le admite más."""
    return any(one.introduced and one._transport.get_write_buffer_size() for one in conversations(running))


def conversations(running: Served) -> list[Connection]:
    """Las que hay."""
    return [one for one in running.server._connections if isinstance(one, Connection)]


def stop(running: Served) -> None:
    """Detiene el servidor."""
    assert running.drain() == 1


def cut(running: Served) -> None:
    """Corta a todos."""
    running.run(running.server.cut)


def expire(running: Served) -> None:
    """Vence el plazo de lo que no se lee."""
    for one in conversations(running):
        running.run(one.output_late)


@pytest.mark.parametrize("ciphered", [False, True], ids=["sin cifrar", "cifrada"])
@pytest.mark.parametrize("shut", [False, True], ids=["sigue", "cerró su lado"])
@pytest.mark.parametrize(
    ("end", "limits"),
    [
        (expire, LIMITS),
        (stop, Limits(max_output=2 * REPLY, drain=0.2)),
        (cut, LIMITS),
    ],
    ids=["no lee", "parada", "corte"],
)
def test_a_cut_with_something_owed_is_seen_as_an_error(
    certificates: Certificates, end: Callable[[Served], None], limits: Limits, ciphered: bool, shut: bool
) -> None:
    with (
        served(sentence, threads=0, limits=limits, tls=certificates.serving() if ciphered else None) as running,
        ask(running, certificates.trusting() if ciphered else None, shut=shut) as sock,
    ):
        end(running)
        wait_until(lambda: "undelivered" in running.events.names, "que lo corte")
        with pytest.raises(ConnectionResetError):
            receive_all(sock)


@pytest.mark.skipif(sys.platform != "linux", reason="solo Linux dice si avanza lo que ya guarda el sistema")
@pytest.mark.parametrize("ciphered", [False, True], ids=["sin cifrar", "cifrada"])
def test_who_does_not_read_what_the_system_keeps_is_cut_too(certificates: Certificates, ciphered: bool) -> None:
    size = 1_000_000  # cabe en el sistema, y no en la ventana de un cliente que no lee (64 KiB)
    with (
        served(
            lambda message: "x" * size,
            threads=0,
            limits=Limits(output_timeout=0.2),
            tls=certificates.serving() if ciphered else None,
        ) as running,
        connect(running.port) as sock,
    ):
        if ciphered:
            client = Encrypted(sock, certificates.trusting())
            client.shake()
            client.send(b"hola\n")
        else:
            sock.sendall(b"hola\n")
        wait_until(lambda: "undelivered" in running.events.names, "que lo corte")
        with pytest.raises(ConnectionResetError):
            receive_all(sock)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="aquí Python no tiene sockets de Unix")
def test_a_cut_in_a_unix_socket_is_an_error_if_something_was_left_to_read(tmp_path: Path) -> None:
    place = tmp_path / "s"
    with (
        served(sentence, host=f"unix:{place}", threads=0, limits=LIMITS) as running,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.settimeout(PATIENCE)
        sock.connect(str(place))
        sock.sendall(b"hola\n")
        assert receive(sock, 1) == b"x"
        sock.sendall(b"sigo\n")  # y no se le lee: tiene mucho por recibir
        cut(running)
        with pytest.raises(ConnectionResetError):
            receive_all(sock)


@pytest.mark.parametrize("shut", [False, True], ids=["sigue", "cerró su lado"])
def test_who_reads_late_but_in_time_gets_everything_and_an_orderly_end(shut: bool) -> None:
    with served(sentence, threads=0, limits=LIMITS) as running, ask(running, None, shut=shut) as sock:
        stopping = threading.Thread(target=running.drain)
        if not shut:
            stopping.start()
        assert len(receive_all(sock)) == REPLY + 1
        if not shut:
            stopping.join(PATIENCE)
        assert "undelivered" not in running.events.names


def test_who_reads_late_but_in_time_gets_everything_encrypted_too(certificates: Certificates) -> None:
    with (
        served(sentence, threads=0, limits=LIMITS, tls=certificates.serving()) as running,
        encrypted(running.port, certificates.trusting()) as client,
    ):
        client.send(b"hola\n")
        wait_until(lambda: is_owed(running), "que se le deba más de lo que guarda el sistema")
        stopping = threading.Thread(target=running.drain)
        stopping.start()
        assert len(client.receive_all()) == REPLY + 1
        stopping.join(PATIENCE)
        assert "undelivered" not in running.events.names


def test_a_server_killed_with_something_owed_is_seen_as_an_error(tmp_path: Path) -> None:
    write(tmp_path / "largo.py", f"def sentence(message):\n    return 'x' * {REPLY}\n")
    command = [*SERVER, "--puerto", "0", "--servicio", "largo:sentence", "--hilos", "0", "--max-salida", "16M"]
    with Program(command, cwd=tmp_path) as server, connect(server.port) as sock:
        sock.sendall(b"hola\n")
        assert receive(sock, 1) == b"x"
        with connect(server.port) as other:
            other.sendall(b"hola\n")
            assert receive(other, 1) == b"x"  # y a la primera ya se le escribió todo lo que cabía
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(PATIENCE)
        with pytest.raises(ConnectionResetError):
            receive_all(sock)
