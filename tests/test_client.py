"""``client.py`` contra servidores de verdad: el nuestro y otros con peores modales."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

import comunicacion_tcp.client as client_module
from comunicacion_tcp.client import Client
from comunicacion_tcp.errors import (
    ConnectionLost,
    MessageError,
    NetworkError,
    ServerNotRunning,
    TimedOut,
    UnknownHost,
)
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.protocol import ClientProtocol

from .support.serving import served
from .support.sockets import foreign_server, free_port, receive_all, reset
from .support.waiting import PATIENCE

QUICK = Limits(reply_silence=0.05, reply_timeout=5)  # para servidores que no terminan sus respuestas
PATIENT = Limits(reply_silence=PATIENCE, reply_timeout=PATIENCE)  # para respuestas que una máquina ocupada trae a ratos


def talk(port: int, limits: Limits = QUICK) -> Client:
    """Un cliente sin conectar aún."""
    return Client("127.0.0.1", port, limits=limits)


def test_a_conversation() -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        assert client.send("hola señor") == "HOLA SEÑOR"
        assert client.send("") == ""
        assert client.take_unasked() == []
        assert client.say_goodbye() == ["Conexión cerrada"]


def test_goodbye_as_the_only_message() -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        assert client.say_goodbye() == ["Conexión cerrada"]


def test_a_reply_of_several_megabytes_arrives_whole() -> None:
    # Y el primer mensaje: el servidor responde a trozos mientras aún se le envía, y nadie se queda esperando.
    message = "ΰ" * (512 * 1024)
    with served() as running, talk(running.port, PATIENT) as client:
        for _ in range(3):
            assert client.send(message) == message.upper()
        assert len(message.upper().encode()) == 3 * 1024 * 1024


def test_a_server_that_answers_as_it_reads_never_blocks_us() -> None:
    # Más de lo que cabe en los búferes de los dos sentidos: si solo escribiéramos, nadie avanzaría.
    def serve(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        while data := sock.recv(65536):
            sock.sendall(data.upper())

    message = "x" * (32 * 1024 * 1024)
    with foreign_server(serve) as port, talk(port, PATIENT) as client:
        assert client.send(message) == message.upper()


def test_a_server_that_cannot_be_written_to_is_still_read() -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        assert client.send("uno") == "UNO"
        assert client._socket
        client._socket.shutdown(socket.SHUT_WR)  # desde aquí, escribir es EPIPE
        with pytest.raises(ConnectionLost):
            client.send("dos")


def test_a_message_too_long_gets_its_error_and_the_next_its_reply() -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        client.send("por líneas")
        assert client.send("x" * (3 * 1024 * 1024)) == "ERROR: el mensaje pasa de 1048576 bytes"
        assert client.send("sigo") == "SIGO"


def test_what_cannot_be_a_message_is_not_sent() -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        with pytest.raises(MessageError):
            client.send("dos\nlíneas")
        assert client.send("hola") == "HOLA"


# -- servidores ajenos --------------------------------------------------------------------------------------


def messages(sock: socket.socket) -> Iterator[bytes]:
    """Lo que reciben los servidores del montón: una lectura, un mensaje."""
    while data := sock.recv(1024):
        yield data
        if b"DESCONEXION" in data:
            return


def like_the_original(sock: socket.socket) -> None:
    for data in messages(sock):
        sock.sendall("Conexión cerrada".encode() if data == b"DESCONEXION" else data.decode().upper().encode())


def strips(sock: socket.socket) -> None:
    for data in messages(sock):
        text = data.decode().strip()
        sock.sendall(b"Adios" if text == "DESCONEXION" else text.upper().encode())


def splits(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for data in messages(sock):
        for byte in data.decode().upper().encode():
            sock.sendall(bytes([byte]))


def upper_of_bytes(sock: socket.socket) -> None:
    for data in messages(sock):
        sock.sendall(data.upper())


@pytest.mark.parametrize(
    ("serve", "expected"),
    [
        (like_the_original, ["HOLA", "AÑO Ω", "Conexión cerrada"]),
        (strips, ["HOLA", "AÑO Ω", "Adios"]),
        (splits, ["HOLA", "AÑO Ω", "DESCONEXION"]),
        (upper_of_bytes, ["HOLA", "AñO ω", "DESCONEXION"]),
    ],
)
def test_foreign_servers(serve: Callable[[socket.socket], None], expected: list[str]) -> None:
    with foreign_server(serve) as port, talk(port) as client:
        assert [client.send("hola"), client.send("año ω"), *client.say_goodbye()] == expected


def test_a_server_that_strips_the_newline_after_having_sent_some() -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(b"UNO\n")
        sock.recv(1024)
        sock.sendall(b"DO")
        sock.sendall(b"S\r\n")

    with foreign_server(serve) as port, talk(port) as client:
        assert client.send("uno") == "UNO"
        assert client.send("dos") == "DOS"


def test_a_slow_reply_of_a_server_of_lines_is_not_cut_by_its_silence() -> None:
    silence_passed = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(b"UNO\n")
        sock.recv(1024)
        sock.sendall(b"DO")
        silence_passed.wait(4 * QUICK.reply_silence)
        sock.sendall(b"S\n")

    with foreign_server(serve) as port, talk(port) as client:
        assert [client.send("uno"), client.send("dos")] == ["UNO", "DOS"]


def test_what_the_server_says_unasked_is_not_the_next_reply() -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"Bienvenido\n")
        for data in messages(sock):
            sock.sendall(data.upper() + b"y algo mas\n")

    with foreign_server(serve) as port, talk(port) as client:
        greeting: list[str] = []
        while not greeting:
            greeting += client.take_unasked()
        assert greeting == ["Bienvenido"]
        assert client.send("uno") == "UNO"
        assert client.send("dos") == "DOS"
        assert client.take_unasked()[:1] == ["y algo mas"]
        assert client.say_goodbye()


def test_a_server_that_says_goodbye_but_never_closes() -> None:
    done = threading.Event()

    def serve(sock: socket.socket) -> None:
        like_the_original(sock)
        done.wait(10)

    with foreign_server(serve) as port:
        with talk(port) as client:
            assert client.say_goodbye() == ["Conexión cerrada"]
        done.set()


@pytest.mark.parametrize("close", [socket.socket.close, reset], ids=["FIN", "RST"])
def test_a_server_that_hangs_up(close: Callable[[socket.socket], None]) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        close(sock)

    with foreign_server(serve) as port:
        with talk(port) as client, pytest.raises(ConnectionLost):
            client.send("hola")
        with talk(port) as client:
            assert client.say_goodbye() == []


def test_a_server_that_hangs_up_while_we_think() -> None:
    left = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(b"UNO\n")
        sock.close()
        left.set()

    with foreign_server(serve) as port, talk(port) as client:
        assert client.send("uno") == "UNO"
        assert left.wait(10)
        with pytest.raises(ConnectionLost):
            client.send("dos")


def test_a_goodbye_in_lines_from_a_server_that_never_closes() -> None:
    done = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(b"Adios\n")
        done.wait(10)

    with foreign_server(serve) as port:
        with talk(port) as client:
            assert client.say_goodbye() == ["Adios"]
        done.set()


def test_a_server_that_never_stops_talking_does_not_keep_us() -> None:
    def serve(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"y\n" * 1000)

    with foreign_server(serve) as port, talk(port) as client:
        assert set(client.say_goodbye()) == {"y"}


@pytest.mark.parametrize("farewell", ["Adios", "Adios\n"])
@pytest.mark.parametrize("leaving", [False, True])
def test_what_arrived_before_a_cut_is_not_lost(farewell: str, leaving: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    read = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(farewell.encode())
        assert read.wait(10)  # un corte antes tiraría lo que el cliente no ha leído aún
        reset(sock)

    def receive_data(protocol: ClientProtocol, data: bytes) -> None:
        real(protocol, data)
        read.set()

    real = ClientProtocol.receive_data
    monkeypatch.setattr(ClientProtocol, "receive_data", receive_data)
    with foreign_server(serve) as port, talk(port, Limits(reply_silence=5, reply_timeout=5)) as client:
        assert (client.say_goodbye() if leaving else [client.send("hola")]) == ["Adios"]


def test_a_server_that_neither_answers_the_goodbye_nor_closes() -> None:
    done = threading.Event()

    def serve(sock: socket.socket) -> None:
        receive_all(sock)
        done.wait(10)

    with foreign_server(serve) as port:
        with talk(port, Limits(reply_timeout=0.05)) as client, pytest.raises(TimedOut):
            client.say_goodbye()
        done.set()


def test_a_server_that_refuses_with_a_reason_and_stops_reading() -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"ERROR: completo\n")

    with foreign_server(serve) as port, talk(port) as client:
        said: list[str] = []
        with pytest.raises(ConnectionLost):
            while True:
                said += client.take_unasked()
                said.append(client.send("x" * 100_000))
        assert said == ["ERROR: completo"]


def test_a_server_that_says_nothing() -> None:
    def serve(sock: socket.socket) -> None:
        receive_all(sock)

    with foreign_server(serve) as port, talk(port, Limits(reply_timeout=0.05)) as client:
        with pytest.raises(TimedOut) as caught:
            client.send("hola")
        assert (caught.value.seconds, caught.value.connecting) == (0.05, False)
        # Una respuesta tardía sería del mensaje anterior: ya no se puede seguir.
        with pytest.raises(ConnectionLost):
            client.send("otra")


# -- no poder conectar --------------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    with pytest.raises(ServerNotRunning) as caught:
        talk(free_port()).connect()
    assert isinstance(caught.value.cause, ConnectionRefusedError)


@pytest.mark.parametrize("host", ["no-existe.invalid", "a" * 64])
def test_unknown_host(host: str) -> None:
    with pytest.raises(UnknownHost):
        Client(host, 5000).connect()


@pytest.mark.parametrize(
    ("cause", "kind"), [(TimeoutError("tarde"), TimedOut), (OSError(101, "sin red"), NetworkError)]
)
def test_no_way_there(monkeypatch: pytest.MonkeyPatch, cause: OSError, kind: type) -> None:
    def fail(*args: object) -> None:
        raise cause

    monkeypatch.setattr(client_module, "_open_one", fail)
    with pytest.raises(NetworkError) as caught:
        Client("2001:db8::1", 5000).connect()
    assert type(caught.value) is kind
    assert caught.value.address == "[2001:db8::1]:5000"


def test_each_address_is_tried_ipv4_first(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, resolve = client_module._open_one, socket.getaddrinfo
    tried: list[str] = []

    def resolve_three(host: bytes, port: int, *args: int, **options: int) -> list[object]:
        hosts = ["::1", "127.0.0.9", "127.0.0.1"] if host == b"tres.example" else [host]
        return [found for name in hosts for found in resolve(name, port, *args, **options)]

    def note(family: int, place: tuple[str, int], timeout: float) -> socket.socket:
        tried.append(place[0])
        return connect(family, place, timeout)

    with served() as running:
        monkeypatch.setattr(socket, "getaddrinfo", resolve_three)
        monkeypatch.setattr(client_module, "_open_one", note)
        with Client("tres.example", running.port) as client:
            assert client.send("hola") == "HOLA"
    assert tried == ["127.0.0.9", "127.0.0.1"]


def test_nobody_listening_says_more_than_an_address_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(family: int, place: tuple[str, int], timeout: float) -> socket.socket:
        raise OSError(errno.EADDRNOTAVAIL, "no") if family == socket.AF_INET6 else ConnectionRefusedError()

    resolve = socket.getaddrinfo

    def resolve_two(host: bytes, port: int, **kind: int) -> list[object]:
        return [found for name in ("127.0.0.1", "::1") for found in resolve(name, port, **kind)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_two)
    monkeypatch.setattr(client_module, "_open_one", fail)
    with pytest.raises(ServerNotRunning):
        Client().connect()


def test_a_server_that_cuts_right_after_accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    # Según lo pronto que llegue el RST, lo nota ya el primer uso del socket.
    monkeypatch.setattr(client_module, "_open_one", lambda *args: socket.socket())
    with pytest.raises(ConnectionLost):
        Client().connect()


def test_a_port_connected_to_itself_is_not_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    # TCP lo permite si el puerto efímero que toca es el mismo al que se conecta.
    with socket.socket() as itself:
        itself.bind(("127.0.0.1", 0))
        itself.connect(itself.getsockname())
        monkeypatch.setattr(client_module, "_open_one", lambda *args: itself)
        with pytest.raises(ServerNotRunning):
            talk(itself.getsockname()[1]).connect()


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_out_of_range(port: int) -> None:
    with pytest.raises(ValueError, match="65535"):
        Client("localhost", port)


def test_connecting_again_is_another_conversation() -> None:
    with served() as running:
        client = talk(running.port, PATIENT)
        for _ in range(2):
            client.connect()
            client.connect()
            assert client.send("hola") == "HOLA"
            assert client.say_goodbye() == ["Conexión cerrada"]


def test_closing_twice_and_using_it_closed() -> None:
    with served() as running:
        client = talk(running.port, PATIENT)
        with pytest.raises(ConnectionLost):
            client.send("sin conectar")
        client.connect()
        client.close()
        client.close()
        with pytest.raises(ConnectionLost):
            client.send("cerrado")
