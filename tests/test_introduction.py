"""Detrás de un balanceador, con sockets de verdad: a quién trae cada conexión, a quién se cree, y quien no lo dice."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from comunicacion_tcp.addresses import Peer
from comunicacion_tcp.connection import Introduction
from comunicacion_tcp.errors import AddressFull, OnlyThroughBalancer, ServerFull
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.server import Server

from .support import proxy
from .support.certificates import Certificates
from .support.encrypted import Encrypted
from .support.proxy import field, line, tcp4, tcp6
from .support.serving import Served, served
from .support.sockets import connect, receive, receive_all, reset
from .support.waiting import wait_until

BYE = "Conexión cerrada\n".encode()
HERE = ["127.0.0.1"]
ANA = ("192.0.2.7", 59319)
GOOD = [
    (line(*ANA), ANA),
    (tcp4(*ANA), ANA),
    (tcp6("2001:db8::7", 4000, field(0x20, b"x" * 1000)), ("2001:db8::7", 4000)),
    (proxy.unix(b"/run/ana"), ("unix:/run/ana", 0)),
]
BAD = {
    "absent": b"hola\n",
    "syntax": b"PROXY TCP4 192.0.2.7\r\n",
    "too_long": b"PROXY UNKNOWN " + b"x" * 200,
    "family": proxy.SIGNATURE + b"\x21\x12",
    "checksum": tcp4(*ANA, field(proxy.CRC32C, b"1234")),
}


@contextlib.contextmanager
def behind(**options: object) -> Iterator[Served]:
    """``served()``, con el balanceador en esta máquina."""
    with served(**{"proxy_from": HERE, **options}) as running:  # type: ignore[arg-type]
        yield running


def rejected(sock: socket.socket) -> bool:
    """Si se le corta con un RST, sin decirle nada."""
    try:
        receive_all(sock)
    except ConnectionResetError:
        return True
    return False


@pytest.mark.parametrize(("header", "peer"), GOOD)
def test_the_client_is_whoever_the_header_says(header: bytes, peer: Peer) -> None:
    with behind() as running, connect(running.port) as sock:
        sock.sendall(header + b"hola\n")
        assert receive(sock, 5) == b"HOLA\n"
        sock.sendall(b"DESCONEXION\n")
        assert receive_all(sock) == BYE
        sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: running.events.gone == [peer])
        assert running.events.events == [("accepted", peer, None), ("said_goodbye", peer, None)]


def test_a_header_in_pieces_and_its_message_apart() -> None:
    with behind() as running, connect(running.port) as sock:
        for byte in tcp4(*ANA, field(0x04, b"")):
            sock.sendall(bytes([byte]))
        wait_until(lambda: running.events.names == ["accepted"])  # sin esperar a que hable
        sock.sendall(b"hola\n")
        assert receive(sock, 5) == b"HOLA\n"


@pytest.mark.parametrize("header", [line(*ANA), tcp4(*ANA)])
def test_what_follows_is_answered_whole(header: bytes) -> None:
    # Más de lo que se lee de una vez, pegado a la cabecera; y un cliente que no envía terminadores.
    messages = b"x" * 99 + b"\n"
    with behind() as running:
        with connect(running.port) as sock:
            sock.sendall(header + messages * 5_000)
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == messages.upper() * 5_000
        with connect(running.port) as sock:
            sock.sendall(header + b"hola")
            assert receive(sock, 4) == b"HOLA"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", proxy.binary()])
def test_one_that_does_not_say_is_whoever_connects(header: bytes) -> None:
    with behind() as running, connect(running.port) as sock:
        sock.sendall(header + b"hola\n")
        assert receive(sock, 5) == b"HOLA\n"
        assert running.events.events == [("accepted", sock.getsockname(), None)]


@pytest.mark.parametrize(("problem", "sent"), BAD.items())
def test_a_bad_header_is_cut_and_told(problem: str, sent: bytes) -> None:
    with behind() as running, connect(running.port) as sock:
        sock.sendall(sent)
        assert rejected(sock)
        assert running.events.events == [("proxy_header_bad", sock.getsockname(), problem)]
        with connect(running.port) as other:
            other.sendall(tcp4(*ANA) + b"sigo\n")
            assert receive(other, 5) == b"SIGO\n"


def test_a_header_that_does_not_arrive_has_a_deadline_that_its_bytes_do_not_renew() -> None:
    limits = Limits(handshake_timeout=0.3)
    with behind(limits=limits) as running, connect(running.port) as silent, connect(running.port) as slow:
        slow.settimeout(0.02)
        sent = 0
        with contextlib.suppress(ConnectionError):
            for byte in b"PROXY UNKNOWN " + b"x" * 80:  # enviados todos, sería por el tamaño; y son casi 2 s
                slow.sendall(bytes([byte]))
                sent += 1
                with contextlib.suppress(TimeoutError):
                    slow.recv(1)
        assert sent < 94
        assert rejected(silent)
        assert {event[2] for event in running.events.events} == {"late"}
        assert running.events.names == ["proxy_header_bad"] * 2


@pytest.mark.parametrize("header", [line(*ANA), tcp4(*ANA)])
@pytest.mark.parametrize("cut", [socket.socket.close, reset])
def test_one_that_hangs_up_halfway_is_told_and_one_that_says_nothing_is_not(header: bytes, cut: object) -> None:
    with behind() as running:
        quiet = connect(running.port)
        wait_until(lambda: running.server.conversations == 1)
        cut(quiet)  # type: ignore[operator]
        wait_until(lambda: running.server.conversations == 0)
        assert running.events.names == []
        sock = connect(running.port)
        sock.sendall(header[:-1])
        wait_until(lambda: any(one._parser.begun for one in introductions(running)))
        cut(sock)  # type: ignore[operator]
        wait_until(lambda: running.events.names == ["proxy_header_bad"])
        assert running.events.events[0][2] == "cut"


def introductions(running: Served) -> list[Introduction]:
    """Los que aún no han dicho quiénes son."""
    return [one for one in running.server._connections if isinstance(one, Introduction)]


# -- a quién se cree ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [tcp4(*ANA) + b"hola\n", line(*ANA), b"hola\n", b""])
def test_a_header_from_elsewhere_is_never_believed(sent: bytes) -> None:
    with served(proxy_from=["192.0.2.0/24", "::1", "unix"]) as running, connect(running.port) as sock:
        sock.sendall(sent)
        assert receive_all(sock) == f"ERROR: {OnlyThroughBalancer()}\n".encode()
        ((name, peer, why),) = running.events.events
        assert (name, peer) == ("refused", sock.getsockname())
        assert isinstance(why, OnlyThroughBalancer)


def test_only_those_of_the_network_are_believed() -> None:
    with served(proxy_from=["127.0.0.2/31"]) as running:
        for source, trusted in (("127.0.0.1", False), ("127.0.0.2", True), ("127.0.0.3", True), ("127.0.0.4", False)):
            with connect(running.port, source=source) as sock:
                sock.sendall(tcp4(*ANA) + b"hola\n")
                assert (receive(sock, 5) == b"HOLA\n") is trusted


def test_a_crowd_from_elsewhere_does_not_fill_the_server() -> None:
    with behind(limits=Limits(reserve=4, max_connections=2)) as running, contextlib.ExitStack() as socks:
        for _ in range(20):
            sock = socks.enter_context(connect(running.port, source="127.0.0.9"))
            assert receive_all(sock) == f"ERROR: {OnlyThroughBalancer()}\n".encode()
        assert running.events.names == ["refused"] * 20
        sock = socks.enter_context(connect(running.port))
        sock.sendall(tcp4(*ANA) + b"hola\n")
        assert receive(sock, 5) == b"HOLA\n"


def test_without_the_option_a_header_is_a_message_like_any_other() -> None:
    with served() as running, connect(running.port) as sock:
        sock.sendall(line(*ANA))
        assert receive(sock, len(line(*ANA))) == line(*ANA).upper()
        assert running.events.events[0][1] == sock.getsockname()


@pytest.mark.parametrize(
    ("proxy_from", "why"),
    [
        ([], "al menos una"),
        (["localhost"], "'localhost' no es una dirección ni una red"),
        (["10.0.0.1/8"], "'10.0.0.1/8' no es una red: la suya es 10.0.0.0/8"),
    ],
)
def test_what_is_not_a_network_is_an_error(proxy_from: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Server(proxy_from=proxy_from)


def test_by_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    for proxy_from, reply in ((["unix"], b"HOLA\n"), (HERE, b"ERROR")):
        with served(host=f"unix:{path}", proxy_from=proxy_from) as running:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                sock.sendall(line(*ANA) + b"hola\n")
                assert receive(sock, 5) == reply
            if reply == b"HOLA\n":
                assert running.events.events[0] == ("accepted", ANA, None)
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(path)
                    sock.sendall(b"hola\n")
                    with contextlib.suppress(ConnectionResetError):
                        assert receive_all(sock) == b""
                assert running.events.names[-1] == "proxy_header_bad"


def test_by_ipv6_and_by_a_socket_of_both_families() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("esta máquina no tiene ::1 (tests/test_haproxy.py lo prueba en una red con ella)")
    with served(host="::1", proxy_from=["::1"]) as running, connect(running.port, "::1") as client:
        client.sendall(tcp6("2001:db8::7", 1) + b"hola\n")
        assert receive(client, 5) == b"HOLA\n"
        assert running.events.events == [("accepted", ("2001:db8::7", 1), None)]


def test_by_a_socket_that_sees_ipv4_within_ipv6() -> None:
    try:
        both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    except (OSError, ValueError):
        pytest.skip("esta máquina no tiene IPv6")
    with both, served(sockets=[both], proxy_from=HERE) as running, connect(running.port) as client:
        client.sendall(line(*ANA) + b"hola\n")
        assert receive(client, 5) == b"HOLA\n"
        assert running.events.events == [("accepted", ANA, None)]


# -- los sitios ---------------------------------------------------------------------------------------------


def test_each_client_counts_for_its_own_address() -> None:
    with behind(limits=Limits(max_per_address=2)) as running, contextlib.ExitStack() as socks:

        def arrive(address: str) -> bytes:
            sock = socks.enter_context(connect(running.port))
            sock.sendall(tcp4(address, 1) + b"hola\n")
            return receive(sock, 5)

        waiting = [socks.enter_context(connect(running.port)) for _ in range(5)]  # estos aún no han dicho nada
        assert [arrive("192.0.2.7") for _ in range(3)] == [b"HOLA\n", b"HOLA\n", b"ERROR"]
        assert arrive("192.0.2.8") == b"HOLA\n"
        assert running.server.conversations == 3 + len(waiting)
        ((_, peer, why),) = [event for event in running.events.events if event[0] == "refused"]
        assert peer == ("192.0.2.7", 1)
        assert isinstance(why, AddressFull)


def test_too_many_of_one_address_do_not_take_the_descriptors_of_the_others() -> None:
    limits = Limits(max_per_address=1, reserve=8, max_connections=50)
    with behind(limits=limits) as running, contextlib.ExitStack() as socks:
        for number in range(40):
            sock = socks.enter_context(connect(running.port))
            sock.sendall(tcp4("192.0.2.7", number) + b"hola\n")
            expected = b"HOLA\n" if not number else f"ERROR: {AddressFull()}\n".encode()
            assert receive(sock, len(expected)) == expected
            assert len(running.server._connections) <= 1 + 4 + 1  # él, los que se despiden, y uno que entra
        assert running.events.names.count("refused") == 39


def test_full_it_says_so_to_whoever_the_header_brings() -> None:
    with behind(limits=Limits(max_connections=1)) as running, connect(running.port) as silent:
        wait_until(lambda: running.server.conversations == 1)  # ocupa sitio aunque no diga nada
        with connect(running.port) as sock:
            sock.sendall(tcp4(*ANA) + b"hola\n")
            assert receive_all(sock) == f"ERROR: {ServerFull()}\n".encode()
        ((name, peer, _),) = running.events.events
        assert (name, peer) == ("refused", ANA)
        silent.sendall(tcp4(*ANA) + b"hola\n")
        assert receive(silent, 5) == b"HOLA\n"


# -- el balanceador, que mira si el servidor vive -------------------------------------------------------------


@pytest.mark.parametrize("idle", [0.0, 30.0])
def test_the_questions_of_the_balancer_are_answered_and_not_told(idle: float) -> None:
    with behind(limits=Limits(max_per_address=1, idle_timeout=idle)) as running:
        for end in (socket.socket.close, reset):
            for _ in range(3):
                with connect(running.port) as sock, connect(running.port) as other:
                    for one in (sock, other):  # dos a la vez: no son clientes de una misma dirección
                        one.sendall(proxy.local() + b"DESCONEXION")
                        assert receive_all(one) == BYE.rstrip()
                sock = connect(running.port)
                sock.sendall(proxy.local())
                wait_until(lambda: running.server.conversations == 1)  # ocupa sitio como cualquiera
                end(sock)
                wait_until(lambda: running.server.conversations == 0)
        assert running.events.events == []


def test_a_balancer_that_asks_nothing_does_not_keep_its_place_for_ever() -> None:
    with behind(limits=Limits(idle_timeout=0.1)) as running, connect(running.port) as sock:
        sock.sendall(proxy.local())
        assert receive_all(sock).startswith(b"ERROR: 0.1 s")
        assert running.events.events == []


def test_what_goes_wrong_with_the_questions_of_the_balancer_is_told() -> None:
    with behind(limits=Limits(max_connections=1)) as running, connect(running.port) as sock:
        sock.sendall(proxy.local() + b"\xff\n")
        assert receive(sock, 5) == b"ERROR"
        with connect(running.port) as other:
            other.sendall(proxy.local() + b"DESCONEXION\n")
            assert receive_all(other) == f"ERROR: {ServerFull()}\n".encode()
            assert [(name, peer) for name, peer, _ in running.events.events] == [
                ("bad_message", sock.getsockname()),
                ("refused", other.getsockname()),
            ]


# -- con TLS ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("together", [True, False])
def test_the_header_goes_before_tls(certificates: Certificates, version: ssl.TLSVersion, together: bool) -> None:
    with behind(tls=certificates.serving()) as running, connect(running.port) as sock:
        client = Encrypted(sock, certificates.trusting(version=version))
        hello = client.session.take_outgoing()
        for piece in [tcp4(*ANA) + hello] if together else [tcp4(*ANA)[:20], tcp4(*ANA)[20:] + hello[:9], hello[9:]]:
            sock.sendall(piece)
        client.shake()
        client.send(b"hola\nDESCONEXION\n")
        assert client.receive_all() == b"HOLA\n" + BYE
        assert running.events.events == [("accepted", ANA, None), ("said_goodbye", ANA, None)]


def test_with_tls_the_limits_are_of_whoever_the_header_brings(certificates: Certificates) -> None:
    limits = Limits(max_per_address=1)
    with behind(tls=certificates.serving(), limits=limits) as running, contextlib.ExitStack() as socks:

        def arrive(address: str) -> bytes:
            sock = socks.enter_context(connect(running.port))
            sock.sendall(tcp4(address, 1))
            client = Encrypted(sock, certificates.trusting())
            client.shake()
            client.send(b"hola\n")
            return client.receive(5)

        assert [arrive(address) for address in ("192.0.2.7", "192.0.2.7", "192.0.2.8")] == [
            b"HOLA\n",
            b"ERROR",
            b"HOLA\n",
        ]


def test_with_tls_nothing_is_believed_to_the_others_nor_served_in_plain(certificates: Certificates) -> None:
    with served(tls=certificates.serving(), proxy_from=["192.0.2.1"]) as running:
        with connect(running.port) as sock:
            client = Encrypted(sock, certificates.trusting())
            client.shake()
            assert client.receive_all() == f"ERROR: {OnlyThroughBalancer()}\n".encode()
        with connect(running.port) as sock:
            sock.sendall(tcp4(*ANA) + b"hola\n")
            assert b"HOLA" not in receive_all(sock)
        wait_until(lambda: running.events.names == ["refused", "handshake_failed"])


def test_with_tls_a_handshake_that_fails_is_of_whoever_the_header_brings(certificates: Certificates) -> None:
    with behind(tls=certificates.serving()) as running, connect(running.port) as sock:
        sock.sendall(tcp4(*ANA) + b"hola\n")
        assert receive_all(sock).startswith(b"ERROR: este servidor solo habla TLS")
        assert running.events.events == [("handshake_failed", ANA, "not_tls")]


def test_with_tls_the_questions_of_the_balancer_are_not_told_unless_they_go_wrong(certificates: Certificates) -> None:
    with behind(tls=certificates.serving()) as running:
        with connect(running.port) as sock:
            sock.sendall(proxy.local())
            client = Encrypted(sock, certificates.trusting())
            client.shake()
            client.send(b"DESCONEXION\n")
            assert client.receive_all() == BYE
        for end in (socket.socket.close, reset):
            sock = connect(running.port)
            sock.sendall(proxy.local())  # y le basta con que escuche
            wait_until(lambda: running.server.conversations == 1)
            end(sock)
            wait_until(lambda: running.server.conversations == 0)
        assert running.events.events == []
        with connect(running.port) as sock:
            sock.sendall(proxy.local() + b"hola\n")
            receive_all(sock)
        assert running.events.names == ["handshake_failed"]


# -- al parar -----------------------------------------------------------------------------------------------


def test_stopping_does_not_wait_for_a_header() -> None:
    with behind() as running, connect(running.port) as silent, connect(running.port) as halfway:
        halfway.sendall(b"PROXY")
        wait_until(lambda: any(one._parser.begun for one in introductions(running)))
        wait_until(lambda: running.server.conversations == 2)
        assert running.drain() == 0
        for sock in (silent, halfway):
            with contextlib.suppress(ConnectionResetError):
                assert receive_all(sock) == b""
        assert running.events.names == []


def test_stopping_answers_who_had_already_said_who_it_is() -> None:
    with behind() as running, connect(running.port) as sock:
        sock.sendall(tcp4(*ANA) + b"hola\n")
        running.drain()
        assert receive_all(sock) == b"HOLA\n"


def test_nothing_of_the_introduction_is_left_behind() -> None:
    with behind() as running:
        with connect(running.port) as sock:  # con la primera conversación se abren algunos para siempre
            sock.sendall(tcp4(*ANA) + b"DESCONEXION\n")
            assert receive_all(sock) == BYE
        wait_until(lambda: running.server.conversations == 0)
        gc.collect()
        descriptors = len(os.listdir("/proc/self/fd"))
        gc.disable()
        try:
            with connect(running.port) as sock:
                sock.sendall(tcp4(*ANA) + b"hola\n")
                assert receive(sock, 5) == b"HOLA\n"
                # Con la conversación en marcha, y sin esperar al recolector.
                wait_until(lambda: not any(isinstance(one, Introduction) for one in gc.get_objects()))
        finally:
            gc.enable()
        for sent in BAD.values():
            with connect(running.port) as sock:
                sock.sendall(sent)
                assert rejected(sock)
        wait_until(lambda: running.server.conversations == 0)
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
