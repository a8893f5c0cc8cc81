"""``conversation.py``: lo que hacen igual ``Client`` y ``AsyncClient``, con cada uno y en cada bucle, contra servidores
de verdad: el nuestro y otros con peores modales."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from comunicacion_tcp.client import Client
from comunicacion_tcp.errors import (
    ConnectionLost,
    MessageError,
    ServerNotRunning,
    TimedOut,
)
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.protocol import ClientProtocol

from .support.clients import Clients, clients
from .support.serving import served
from .support.sockets import foreign_server, free_port, receive_all, reset
from .support.waiting import PATIENCE

QUICK = Limits(reply_silence=0.05, reply_timeout=5)  # para servidores que no terminan sus respuestas
PATIENT = Limits(reply_silence=PATIENCE, reply_timeout=PATIENCE)  # para respuestas que una máquina ocupada trae a ratos

Talk = Callable[..., Client]

__all__ = ["clients"]


@pytest.fixture
def talk(clients: Clients) -> Talk:
    """Hace un cliente sin conectar aún, de la clase que toca."""

    def make(port: int, limits: Limits = QUICK, **options: object) -> Client:
        return clients("127.0.0.1", port, limits=limits, **options)

    return make


def test_a_conversation(talk: Talk) -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        assert client.send("hola señor") == "HOLA SEÑOR"
        assert client.send("") == ""
        assert client.take_unasked() == []
        assert client.say_goodbye() == ["Conexión cerrada"]


def test_goodbye_as_the_only_message(talk: Talk) -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        assert client.say_goodbye() == ["Conexión cerrada"]


def test_a_reply_of_several_megabytes_arrives_whole(talk: Talk) -> None:
    # Y el primer mensaje: el servidor responde a trozos mientras aún se le envía, y nadie se queda esperando.
    message = "ΰ" * (512 * 1024)
    with served() as running, talk(running.port, PATIENT) as client:
        for _ in range(3):
            assert client.send(message) == message.upper()
        assert len(message.upper().encode()) == 3 * 1024 * 1024


def test_a_server_that_answers_as_it_reads_never_blocks_us(talk: Talk) -> None:
    # Más de lo que cabe en los búferes de los dos sentidos: si solo escribiéramos, nadie avanzaría.
    def serve(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        while data := sock.recv(65536):
            sock.sendall(data.upper())

    message = "x" * (32 * 1024 * 1024)
    with foreign_server(serve) as port, talk(port, PATIENT) as client:
        assert client.send(message) == message.upper()


def test_a_message_too_long_gets_its_error_and_the_next_its_reply(talk: Talk) -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        client.send("por líneas")
        assert client.send("x" * (3 * 1024 * 1024)) == "ERROR: el mensaje pasa de 1048576 bytes"
        assert client.send("sigo") == "SIGO"


def test_what_cannot_be_a_message_is_not_sent(talk: Talk) -> None:
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
def test_foreign_servers(talk: Talk, serve: Callable[[socket.socket], None], expected: list[str]) -> None:
    with foreign_server(serve) as port, talk(port) as client:
        assert [client.send("hola"), client.send("año ω"), *client.say_goodbye()] == expected


def test_a_server_that_strips_the_newline_after_having_sent_some(talk: Talk) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(b"UNO\n")
        sock.recv(1024)
        sock.sendall(b"DO")
        sock.sendall(b"S\r\n")

    with foreign_server(serve) as port, talk(port) as client:
        assert client.send("uno") == "UNO"
        assert client.send("dos") == "DOS"


def test_a_slow_reply_of_a_server_of_lines_is_not_cut_by_its_silence(talk: Talk) -> None:
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


def test_what_the_server_says_unasked_is_not_the_next_reply(talk: Talk) -> None:
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


def test_a_server_that_says_goodbye_but_never_closes(talk: Talk) -> None:
    done = threading.Event()

    def serve(sock: socket.socket) -> None:
        like_the_original(sock)
        done.wait(10)

    with foreign_server(serve) as port:
        with talk(port) as client:
            assert client.say_goodbye() == ["Conexión cerrada"]
        done.set()


@pytest.mark.parametrize("close", [socket.socket.close, reset], ids=["FIN", "RST"])
def test_a_server_that_hangs_up(talk: Talk, close: Callable[[socket.socket], None]) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        close(sock)

    with foreign_server(serve) as port:
        with talk(port) as client, pytest.raises(ConnectionLost):
            client.send("hola")
        with talk(port) as client:
            assert client.say_goodbye() == []


def test_a_server_that_hangs_up_while_we_think(talk: Talk) -> None:
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


def test_a_goodbye_in_lines_from_a_server_that_never_closes(talk: Talk) -> None:
    done = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(b"Adios\n")
        done.wait(10)

    with foreign_server(serve) as port:
        with talk(port) as client:
            assert client.say_goodbye() == ["Adios"]
        done.set()


def test_a_server_that_never_stops_talking_does_not_keep_us(talk: Talk) -> None:
    def serve(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"y\n" * 1000)

    with foreign_server(serve) as port, talk(port) as client:
        assert set(client.say_goodbye()) == {"y"}


@pytest.mark.parametrize("farewell", ["Adios", "Adios\n"])
@pytest.mark.parametrize("leaving", [False, True])
def test_what_arrived_before_a_cut_is_not_lost(
    talk: Talk, farewell: str, leaving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_server_that_neither_answers_the_goodbye_nor_closes(talk: Talk) -> None:
    done = threading.Event()

    def serve(sock: socket.socket) -> None:
        receive_all(sock)
        done.wait(10)

    with foreign_server(serve) as port:
        with talk(port, Limits(reply_timeout=0.05)) as client, pytest.raises(TimedOut):
            client.say_goodbye()
        done.set()


def test_a_server_that_refuses_with_a_reason_and_stops_reading(talk: Talk) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"ERROR: completo\n")

    with foreign_server(serve) as port, talk(port) as client:
        said: list[str] = []
        with pytest.raises(ConnectionLost):
            while True:
                said += client.take_unasked()
                said.append(client.send("x" * 100_000))
        assert said == ["ERROR: completo"]


def test_a_server_that_says_nothing(talk: Talk) -> None:
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


def test_nobody_listens(talk: Talk) -> None:
    with pytest.raises(ServerNotRunning) as caught:
        talk(free_port()).connect()
    assert isinstance(caught.value.cause, ConnectionRefusedError)


def test_connecting_again_is_another_conversation(talk: Talk) -> None:
    with served() as running:
        client = talk(running.port, PATIENT)
        for _ in range(2):
            client.connect()
            client.connect()
            assert client.send("hola") == "HOLA"
            assert client.say_goodbye() == ["Conexión cerrada"]


def test_closing_twice_and_using_it_closed(talk: Talk) -> None:
    with served() as running:
        client = talk(running.port, PATIENT)
        with pytest.raises(ConnectionLost):
            client.send("sin conectar")
        client.connect()
        client.close()
        client.close()
        with pytest.raises(ConnectionLost):
            client.send("cerrado")
