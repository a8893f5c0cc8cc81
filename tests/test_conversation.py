"""``conversation.py``: lo que hacen igual ``Client`` y ``AsyncClient``, con cada uno y en cada bucle, contra servidores
de verdad: el nuestro y otros con peores modales."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from comunicacion_tcp import conversation
from comunicacion_tcp.backoff import Backoff
from comunicacion_tcp.client import Client
from comunicacion_tcp.conversation import WINDOW_BYTES, WINDOW_MESSAGES
from comunicacion_tcp.errors import (
    CertificateRejected,
    ConnectionLost,
    MessageError,
    NetworkError,
    OutOfStep,
    ServerNotRunning,
    TimedOut,
    TLSFailed,
    TooMuchSaid,
    Truncated,
    UnknownHost,
)
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.protocol import ClientProtocol
from comunicacion_tcp.tls import client_context

from .support.certificates import Certificates
from .support.clients import Blocking, Clients, clients
from .support.serving import served
from .support.sockets import foreign_server, free_port, receive_all, reset
from .support.waiting import PATIENCE, wait_until

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
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
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


def test_a_silence_before_it_has_all_the_message_does_not_end_the_reply(talk: Talk) -> None:
    message = "a" * (16 << 20)  # no cabe en los búferes del sistema

    def serve(sock: socket.socket) -> None:
        sock.sendall(sock.recv(10))
        threading.Event().wait(0.5)  # más que su silencio
        while not sock.recv(1 << 20).endswith(b"\n"):
            pass
        sock.sendall(b"aa\n")
        sock.sendall(sock.recv(100))
        receive_all(sock)

    with foreign_server(serve) as port, talk(port, Limits(reply_silence=0.2, reply_timeout=PATIENCE)) as client:
        assert client.send(message) == "a" * 12
        assert client.send("dos") == "dos"


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


def once_read(monkeypatch: pytest.MonkeyPatch, what: bytes) -> threading.Event:
    """Se cumple cuando un cliente ha leído ``what``: un corte antes tiraría lo que el cliente no ha leído aún."""
    read = threading.Event()

    def receive_data(protocol: ClientProtocol, data: bytes) -> None:
        real(protocol, data)
        if what in data:
            read.set()

    real = ClientProtocol.receive_data
    monkeypatch.setattr(ClientProtocol, "receive_data", receive_data)
    return read


def test_half_a_reply_that_is_cut_is_not_a_reply(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    read = once_read(monkeypatch, b"DO")

    def serve(sock: socket.socket) -> None:
        with sock.makefile("rb") as lines:
            lines.readline()
            sock.sendall(b"UNO\n")
            lines.readline()
            sock.sendall(b"DO")
            assert read.wait(10)
        reset(sock)

    with foreign_server(serve) as port, talk(port, PATIENT) as client:
        assert client.send("uno") == "UNO"
        with pytest.raises(ConnectionLost):
            client.send("dos")


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

    with foreign_server(serve) as port:
        little = Limits(max_unasked=10_000, reply_silence=PATIENCE, reply_timeout=PATIENCE)
        with talk(port, little) as client, pytest.raises(TooMuchSaid) as caught:
            client.say_goodbye()
        assert (caught.value.limit, caught.value.unasked) == (10_000, True)
        with talk(port, Limits(max_unasked=2**31 - 1, reply_silence=0.05)) as client:
            assert set(client.say_goodbye()) <= {"y", ""}


@pytest.mark.parametrize("farewell", ["Adios", "Adios\n"])
@pytest.mark.parametrize("leaving", [False, True])
def test_what_arrived_before_a_cut_is_not_lost(
    talk: Talk, farewell: str, leaving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = once_read(monkeypatch, farewell.encode())

    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(farewell.encode())
        assert read.wait(10)
        reset(sock)

    def said(client: Client) -> list[str]:
        return client.say_goodbye() if leaving else [client.send("hola")]

    with foreign_server(serve) as port, talk(port, Limits(reply_silence=5, reply_timeout=5)) as client:
        if farewell.endswith("\n"):
            assert said(client) == ["Adios"]
            return
        with pytest.raises(ConnectionLost):  # un corte no acaba una respuesta: puede faltarle algo
            said(client)
        assert client.take_unasked() == ["Adios"]


def test_a_server_that_neither_answers_the_goodbye_nor_closes(talk: Talk) -> None:
    done = threading.Event()

    def serve(sock: socket.socket) -> None:
        receive_all(sock)
        done.wait(10)

    with foreign_server(serve) as port:
        for limits, timeout in ((Limits(reply_timeout=0.05), None), (PATIENT, 0.05)):
            with talk(port, limits) as client, pytest.raises(TimedOut) as caught:
                client.say_goodbye(timeout)
            assert caught.value.seconds == 0.05
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
        said += client.take_unasked()  # si llegó antes de empezar a enviar, no es la respuesta de ese mensaje
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


@pytest.mark.parametrize(
    ("received", "left"),
    [
        ([7], 0),  # lo tiene todo, y no responde
        ([1, 1], 9),  # no lo lee
        ([1, 2, 3, 3], 9),
        ([1, 5, 10, 11], 9),  # le ha llegado todo lo de entonces, y lo de después no cuenta
    ],
)
def test_a_server_that_is_still_receiving_has_more_time(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, received: list[int], left: int
) -> None:
    looks = list(received)
    monkeypatch.setattr(conversation, "in_transit", lambda _: left)
    monkeypatch.setattr(conversation, "arrived", lambda _: looks.pop(0))

    def serve(sock: socket.socket) -> None:
        receive_all(sock)

    with foreign_server(serve) as port, talk(port, Limits(reply_timeout=0.05)) as client:
        with pytest.raises(TimedOut):
            client.send("hola")
        assert not looks
        client.connect()
        looks += received
        with pytest.raises(TimedOut):
            list(client.send_many(["hola", "mundo"]))
        assert not looks


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


# -- muchos mensajes ----------------------------------------------------------------------------------------


class Lines:
    """Un servidor ajeno por líneas que apunta lo que recibe y corta cada conexión tras responder ``each`` líneas (con
    ``None``, nunca). ``extra``: lo que envía justo antes de cortar."""

    def __init__(self, *each: int | None, extra: bytes = b"") -> None:
        self.each = list(each)
        self.extra = extra
        self.received: list[bytes] = []
        self.ends: list[threading.Event] = []

    def __call__(self, sock: socket.socket) -> None:
        left = self.each.pop(0) if self.each else None
        ended = threading.Event()
        self.ends.append(ended)
        with sock, sock.makefile("rb") as lines:
            while left != 0 and (line := lines.readline()):
                self.received.append(line)
                sock.sendall(line.decode().upper().encode())
                left = left and left - 1
            if left == 0:
                if self.extra:
                    self.received.append(lines.readline())
                    sock.sendall(self.extra)
                sock.shutdown(socket.SHUT_WR)
                ended.set()
                while lines.readline():  # sin esto, cerrar sería un RST y podría llevarse las respuestas
                    pass


def numbered(count: int) -> list[str]:
    """Mensajes distintos."""
    return [f"mensaje número {number}" for number in range(count)]


def upper(messages: list[str]) -> list[str]:
    """Sus respuestas."""
    return [message.upper() for message in messages]


@pytest.mark.parametrize("kind", [list, tuple, iter, lambda found: (message for message in found)])
def test_many_messages_in_order(talk: Talk, kind: Callable[[list[str]], Iterable[str]]) -> None:
    messages = [*numbered(3 * WINDOW_MESSAGES), "", "ñ" * 100_000, "fin"]
    with served() as running, talk(running.port, PATIENT) as client:
        assert list(client.send_many(kind(messages))) == upper(messages)
        assert list(client.send_many(kind([]))) == []
        assert client.send("y uno más") == "Y UNO MÁS"
        assert client.take_unasked() == []


def test_large_messages_both_ways_never_block(talk: Talk) -> None:
    def serve(sock: socket.socket) -> None:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 64 * 1024)
        while data := sock.recv(65536):
            sock.sendall(data.upper())

    messages = [letter * 12_000_000 for letter in "ab"]  # más de lo que cabe entre los dos en los búferes del sistema
    with foreign_server(serve) as port, talk(port, PATIENT) as client:
        assert list(client.send_many(iter(messages))) == upper(messages)


def test_a_message_is_sent_before_the_next_one_is_asked_for(talk: Talk) -> None:
    lines = Lines()
    got: list[str] = []

    def slow() -> Iterator[str]:
        for number in range(5):
            yield str(number)
            wait_until(lambda: len(lines.received) > number, "que llegue antes de pedir otro")  # noqa: B023

    with foreign_server(lines) as port, talk(port, PATIENT) as client:
        got.extend(client.send_many(slow()))
    assert got == list("01234")


def test_what_has_arrived_is_given_before_asking_for_more(talk: Talk) -> None:
    replied = threading.Event()
    got: list[str] = []

    def serve(sock: socket.socket) -> None:
        sock.sendall(sock.recv(100).upper())
        replied.set()
        while data := sock.recv(100):
            sock.sendall(data.upper())

    def slow() -> Iterator[str]:
        yield "uno"
        assert replied.wait(PATIENCE)
        yield "dos"
        assert got[:1] == ["UNO"]
        yield "tres"

    with foreign_server(serve) as port, talk(port, PATIENT) as client:
        for reply in client.send_many(slow()):
            got.append(reply)  # noqa: PERF402  # se mira desde slow()
    assert got == ["UNO", "DOS", "TRES"]


@pytest.mark.parametrize(
    ("message", "most"), [("x", WINDOW_MESSAGES), ("x" * 100_000, WINDOW_BYTES // 100_000 + 1)], ids=["1", "100000"]
)
def test_a_server_that_does_not_answer_is_not_asked_for_ever(talk: Talk, message: str, most: int) -> None:
    asked = 0

    def endless() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield message

    with (
        foreign_server(reads_all) as port,
        talk(port, Limits(reply_timeout=1)) as client,  # para pedirlos todos sobra
        pytest.raises(TimedOut),
    ):
        next(client.send_many(endless()))
    assert asked == most


def reads_all(sock: socket.socket) -> None:
    """Un servidor que nunca dice nada."""
    receive_all(sock)


def test_the_memory_of_a_hundred_thousand_messages(talk: Talk) -> None:
    messages = ("hola",) * 100_000
    with served() as running, talk(running.port, PATIENT) as client:
        tracemalloc.start()
        try:
            assert letters_of_replies(client, messages) == 400_000
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # Las ventanas de ida y vuelta y lo que ocupen como objetos de Python; sin ventana serían más de 10 MiB.
    assert peak < 2 * 1024 * 1024


def letters_of_replies(client: Client, messages: Iterable[str]) -> int:
    """Cuántas letras tienen las respuestas. Las de ``AsyncClient``, en una sola vuelta de su bucle: arrancarlo y
    pararlo con cada una son, en una máquina ocupada, minutos."""
    if not isinstance(client, Blocking):
        return sum(len(reply) for reply in client.send_many(messages))
    inner = client.inner

    async def add() -> int:
        total = 0
        async for reply in inner.send_many(messages):
            total += len(reply)
        return total

    return client.run(add())


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        *((bad, kind) for bad in ("dos\nlíneas", "\ud800", "DESCONEXION", 5) for kind in (list, iter)),
        (ZeroDivisionError(), iter),
    ],
)
def test_what_cannot_be_sent_waits_for_the_replies_before_it(
    talk: Talk, bad: object, kind: Callable[[list[str]], Iterable[str]]
) -> None:
    def messages() -> Iterator[str]:
        yield from ["uno", "dos"]
        if isinstance(bad, Exception):
            raise bad
        yield bad  # type: ignore[misc]

    got = []
    with served() as running, talk(running.port, PATIENT) as client:
        with pytest.raises((MessageError, TypeError, ZeroDivisionError)):
            for reply in client.send_many(kind(messages())):  # type: ignore[arg-type]
                got.append(reply)  # noqa: PERF402  # antes del error
        assert got == ["UNO", "DOS"]
        assert client.send("sigo") == "SIGO"


def test_leaving_with_replies_to_come_closes(talk: Talk) -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        for reply in client.send_many(["uno", "dos"]):
            assert reply == "UNO"
            break
        with pytest.raises(ConnectionLost):
            client.send("su respuesta no es DOS")
        client.connect()
        assert client.send("tres") == "TRES"


def test_leaving_with_every_reply_read_does_not_close(talk: Talk) -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        for reply in client.send_many(["uno"]):
            assert reply == "UNO"
            break
        assert client.send("dos") == "DOS"


def test_during_send_many_nothing_else_is_asked(talk: Talk) -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        replies = client.send_many(["uno", "dos", "tres"])
        assert next(replies) == "UNO"
        for ask in (
            lambda: client.send("no"),
            client.take_unasked,
            client.say_goodbye,
            lambda: next(client.send_many(["no"])),
        ):
            with pytest.raises(RuntimeError, match="send_many"):
                ask()
        assert list(replies) == ["DOS", "TRES"]
        assert client.send("ya") == "YA"


@pytest.mark.parametrize("leave", ["connect", "close"])
def test_connecting_or_closing_leaves_send_many(talk: Talk, leave: str) -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        replies = client.send_many(["uno", "dos", "tres"])
        assert next(replies) == "UNO"
        getattr(client, leave)()
        with pytest.raises(ConnectionLost) as caught:
            next(replies)
        assert caught.value.unanswered == 2
        if leave == "connect":
            assert client.send("otra") == "OTRA"


@pytest.mark.parametrize("kind", [list, iter])
def test_a_server_that_dies_in_the_middle(talk: Talk, kind: Callable[[list[str]], Iterable[str]]) -> None:
    got = []
    with foreign_server(Lines(2, extra=b"TR")) as port, talk(port) as client:
        with pytest.raises(ConnectionLost) as caught:
            for reply in client.send_many(kind(["uno", "dos", "tres"])):
                got.append(reply)  # noqa: PERF402  # antes del error
        assert got == ["UNO", "DOS"]  # «TR» no es una respuesta: quizá no está entera
        assert caught.value.unanswered == 1
        assert client.take_unasked() == ["TR"]


@pytest.mark.parametrize("messages", [["uno"], ["uno", "dos", "tres"]])
def test_a_server_without_terminators_is_not_for_send_many(talk: Talk, messages: list[str]) -> None:
    def serve(sock: socket.socket) -> None:
        while data := sock.recv(1024):
            sock.sendall(data.upper().replace(b"\n", b""))

    with foreign_server(serve) as port, talk(port, Limits(reply_silence=0.05, reply_timeout=1)) as client:
        with pytest.raises(TimedOut):
            list(client.send_many(messages))
        client.connect()
        assert client.send("uno") == "UNO"


def test_unasked_lines_are_not_replies(talk: Talk) -> None:
    greeted = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"Bienvenido\n")
        greeted.set()
        while data := sock.recv(1024):
            sock.sendall(data.upper())

    with foreign_server(serve) as port, talk(port, PATIENT) as client:
        assert greeted.wait(PATIENCE)
        assert list(client.send_many(["uno", "dos"])) == ["UNO", "DOS"]
        assert client.take_unasked() == ["Bienvenido"]


# -- lo que queda a medias ----------------------------------------------------------------------------------


def test_a_late_reply_is_never_the_next_one(talk: Talk) -> None:
    late = threading.Event()

    def serve(sock: socket.socket) -> None:
        while data := sock.recv(1024):
            if data.startswith(b"uno\n"):
                late.wait(PATIENCE)
            sock.sendall(data.upper())

    limits = Limits(reply_timeout=1)  # lo que se agota dos veces; a las respuestas que sí llegan les sobra
    with foreign_server(serve) as port, talk(port, limits, reconnect=AT_ONCE) as client:
        with pytest.raises(TimedOut):
            client.send("uno")
        late.set()
        assert client.send("dos") == "DOS"
        late.clear()
        with pytest.raises(TimedOut):
            list(client.send_many(["uno", "dos"]))
        late.set()
        assert list(client.send_many(["tres", "cuatro"])) == ["TRES", "CUATRO"]


def test_half_a_message_is_not_taken_for_a_whole_one(talk: Talk) -> None:
    gone = threading.Event()
    ends: list[str] = []

    def serve(sock: socket.socket) -> None:
        assert gone.wait(PATIENCE)
        try:
            receive_all(sock)
            ends.append("FIN")  # un servidor atendería lo que tiene: el final de la entrada acaba el mensaje
        except ConnectionResetError:
            ends.append("RST")

    with foreign_server(serve) as port, talk(port, Limits(reply_timeout=0.2)) as client:
        with pytest.raises(TimedOut):
            client.send("x" * (32 * 1024 * 1024))
        gone.set()
    assert ends == ["RST"]


# -- volver a conectar --------------------------------------------------------------------------------------

AT_ONCE = Backoff(first=0.001, most=0.001, attempts=5)  # en estas pruebas nadie espera: se apunta en ``naps``


def test_connecting_is_tried_until_someone_listens(talk: Talk, clients: Clients) -> None:
    port = free_port()
    client = talk(port, PATIENT, reconnect=Backoff(first=1, most=8))
    with contextlib.ExitStack() as stack:

        async def nap(seconds: float) -> None:
            clients.naps.append(seconds)
            if len(clients.naps) == 4:
                stack.enter_context(served(port=port))

        clients.inside(client)._sleep = nap
        client.connect()
        assert client.send("por fin") == "POR FIN"
        client.close()
    assert len(clients.naps) == 4
    assert all(0 <= nap <= most for nap, most in zip(clients.naps, [1, 2, 4, 8], strict=True))


def test_a_client_that_never_connected_connects_to_send(talk: Talk) -> None:
    with served() as running:
        client = talk(running.port, PATIENT, reconnect=AT_ONCE)
        assert client.send("hola") == "HOLA"
        client.close()
        assert list(client.send_many(["uno", "dos"])) == ["UNO", "DOS"]
        client.close()


@pytest.mark.parametrize(
    "ask",
    [lambda client: client.connect(), lambda client: client.send("x"), lambda client: list(client.send_many("x"))],
)
def test_the_attempts_run_out(talk: Talk, clients: Clients, ask: Callable[[Client], object]) -> None:
    client = talk(free_port(), reconnect=AT_ONCE)
    with pytest.raises(ServerNotRunning):
        ask(client)
    assert len(clients.naps) == AT_ONCE.attempts


@pytest.mark.parametrize("first", [0, 100], ids=["al llegar", "al leer"])
def test_a_server_that_hangs_up_on_everyone_is_not_called_without_rest(
    talk: Talk, clients: Clients, first: int
) -> None:
    calls: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        calls.append(sock.recv(first) if first else b"")

    with foreign_server(serve) as port:
        client = talk(port, reconnect=AT_ONCE, resend=True)
        with pytest.raises(ConnectionLost):
            client.send("hola")
        assert len(calls) == len(clients.naps) == AT_ONCE.attempts


def test_what_waiting_does_not_fix_is_not_tried_again(clients: Clients, certificates: Certificates) -> None:
    with served(tls=certificates.serving()) as running:
        for host, tls, kind in (
            ("localhost", client_context(), CertificateRejected),
            ("unix:" + "x" * 200, None, NetworkError),
            ("a" * 64, None, UnknownHost),
        ):
            with pytest.raises(kind):
                clients(host, running.port, tls=tls, reconnect=AT_ONCE).connect()
    assert clients.naps == []


@pytest.mark.parametrize(("number", "naps"), [(socket.EAI_AGAIN, AT_ONCE.attempts), (socket.EAI_NONAME, 0)])
def test_a_name_that_is_not_known_for_now_is_asked_again(clients: Clients, number: int, naps: int) -> None:
    async def fail(host: str, timeout: float) -> NoReturn:
        raise socket.gaierror(number, "no")

    client = clients("maquina.example", 1, reconnect=AT_ONCE)
    clients.inside(client)._resolve = fail
    with pytest.raises(UnknownHost):
        client.connect()
    assert len(clients.naps) == naps


def test_a_slow_name_leaves_time_to_connect(clients: Clients) -> None:
    now = 0.0
    patience: list[float] = []

    async def resolve(host: str, timeout: float) -> list[object]:
        nonlocal now
        now += timeout  # todo lo que se le da
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", 1))] * 2

    async def join(family: int, place: object, timeout: float) -> NoReturn:
        nonlocal now
        patience.append(timeout)
        now += timeout
        raise ConnectionRefusedError

    client = clients("lenta.example", 1, limits=Limits(connect_timeout=8))
    inside = clients.inside(client)
    inside._resolve, inside._join, inside._now = resolve, join, lambda: now
    with pytest.raises(ServerNotRunning):
        client.connect()
    assert patience == [1, 1]
    assert now == 8


@pytest.mark.parametrize("many", [False, True])
def test_a_connection_closed_while_idle_is_replaced(talk: Talk, clients: Clients, many: bool) -> None:
    lines = Lines(1)
    with foreign_server(lines) as port, talk(port, PATIENT, reconnect=AT_ONCE) as client:
        assert client.send("uno") == "UNO"
        assert lines.ends[0].wait(PATIENCE)  # el FIN ya está aquí
        assert (list(client.send_many(["dos"])) if many else [client.send("dos")]) == ["DOS"]
        client.close()
    assert lines.received == [b"uno\n", b"dos\n"]
    assert len(clients.naps) == 1


def test_what_may_have_been_processed_is_not_sent_again(talk: Talk) -> None:
    received: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        received.append(sock.recv(100))
        if len(received) > 1:
            sock.sendall(received[-1].upper())

    with foreign_server(serve) as port, talk(port, PATIENT, reconnect=AT_ONCE) as client:
        with pytest.raises(ConnectionLost):
            client.send("uno")
        assert client.send("dos") == "DOS"
    assert received == [b"uno\n", b"dos\n"]


def test_unless_told_that_it_may(talk: Talk, clients: Clients) -> None:
    received: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        received.append(sock.recv(100))
        if len(received) > 2:
            sock.sendall(received[-1].upper())

    with foreign_server(serve) as port, talk(port, PATIENT, reconnect=AT_ONCE, resend=True) as client:
        assert client.send("uno") == "UNO"
    assert received == [b"uno\n"] * 3
    assert len(clients.naps) == 2


@pytest.mark.parametrize("kind", [list, iter])
def test_many_messages_through_a_server_that_keeps_dying(
    talk: Talk, clients: Clients, kind: Callable[[list[str]], Iterable[str]]
) -> None:
    messages = numbered(400)
    lines = Lines(*range(1, 20), extra=b"A MEDIAS")  # 190 respuestas en 19 conexiones, y las demás en la última
    once = Backoff(first=0.001, most=0.001, attempts=1)  # una por racha: cada respuesta la empieza de nuevo
    with foreign_server(lines) as port, talk(port, PATIENT, reconnect=once, resend=True) as client:
        assert list(client.send_many(kind(messages))) == upper(messages)
        client.close()
    assert len(clients.naps) == 19


def test_many_messages_that_may_not_be_sent_twice(talk: Talk) -> None:
    messages = numbered(50)
    lines = Lines(10)
    got = []
    with foreign_server(lines) as port, talk(port, PATIENT, reconnect=AT_ONCE) as client:
        with pytest.raises(ConnectionLost) as caught:
            for reply in client.send_many(messages):
                got.append(reply)  # noqa: PERF402  # antes del error
        assert got == upper(messages[:10])
        assert caught.value.unanswered == 40  # una lista que cabe se envía entera
        assert client.send("sigo") == "SIGO"
        client.close()
    assert lines.received == [f"{message}\n".encode() for message in [*messages[:10], "sigo"]]


def test_with_nothing_in_flight_send_many_goes_on_in_another_connection(talk: Talk, clients: Clients) -> None:
    lines = Lines(2, 2)

    def after_each_end() -> Iterator[str]:
        for number in range(5):
            yield str(number)
            if number % 2:
                wait_until(lambda: len(lines.ends) > number // 2 and lines.ends[number // 2].is_set())  # noqa: B023

    with foreign_server(lines) as port, talk(port, PATIENT, reconnect=AT_ONCE) as client:
        assert list(client.send_many(after_each_end())) == list("01234")
        client.close()
    assert lines.received == [b"%d\n" % number for number in range(5)]
    assert len(clients.naps) == 2


def test_goodbye_and_unasked_do_not_connect(talk: Talk) -> None:
    with served() as running:
        client = talk(running.port, reconnect=AT_ONCE)
        for ask in (client.say_goodbye, client.take_unasked):
            with pytest.raises(ConnectionLost):
                ask()
        assert running.events.names == []


def test_resend_is_for_those_who_reconnect(clients: Clients) -> None:
    with pytest.raises(ValueError, match="reconnect"):
        Client("localhost", 5000, resend=True)


# -- por otros caminos --------------------------------------------------------------------------------------


def test_by_a_unix_socket(clients: Clients, tmp_path: Path) -> None:
    host = f"unix:{tmp_path}/s"
    client = clients(host, limits=PATIENT, reconnect=AT_ONCE)
    with pytest.raises(ServerNotRunning):
        client.connect()
    for _ in range(2):
        with served(host=host):
            assert client.send("hola") == "HOLA"
            assert list(client.send_many(numbered(10))) == upper(numbered(10))
    client.close()


def test_with_tls(clients: Clients, certificates: Certificates) -> None:
    messages = [*numbered(2 * WINDOW_MESSAGES), "ñ" * 300_000]
    with served(tls=certificates.serving()) as running:
        options = {"limits": PATIENT, "tls": certificates.trusting(), "reconnect": AT_ONCE}
        with clients("localhost", running.port, **options) as client:
            assert client.send("hola") == "HOLA"
            assert list(client.send_many(messages)) == upper(messages)
            assert list(client.send_many(iter(messages))) == upper(messages)
            client.close()
            assert client.send("otra") == "OTRA"
            assert client.say_goodbye() == ["Conexión cerrada"]
        wait_until(lambda: running.server.conversations == 0)
        assert running.events.names == ["accepted", "left", "accepted", "said_goodbye"]


@pytest.mark.parametrize("bye", [False, True])
def test_a_client_without_the_certificate_it_is_asked_for(
    clients: Clients, certificates: Certificates, bye: bool
) -> None:
    with served(tls=certificates.serving(ca=certificates.ca)) as running:
        with (
            pytest.raises(TLSFailed) as caught,
            clients(
                "localhost", running.port, limits=PATIENT, tls=certificates.trusting(), reconnect=AT_ONCE, resend=True
            ) as client,
        ):
            client.say_goodbye() if bye else client.send("hola")
        assert caught.value.problem == "needs_certificate"
    assert clients.naps == []


def test_a_truncated_conversation(clients: Clients, certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.recv(100)
            wrapped.sendall(b"ENTERA\nA ME")
            wrapped.shutdown(socket.SHUT_WR)  # un FIN sin aviso
            with contextlib.suppress(OSError):
                while wrapped.recv(4096):  # sin leer lo que llegue sería un RST, que puede llevarse lo enviado
                    pass

    options = {"limits": PATIENT, "tls": certificates.trusting()}
    with foreign_server(serve) as port, clients("localhost", port, **options) as client:
        assert client.send("hola") == "ENTERA"
        with pytest.raises(Truncated):
            client.send("otra")
        client.connect()
        with pytest.raises(Truncated):
            client.say_goodbye()
        assert client.take_unasked() == ["ENTERA"]
        client.connect()
        replies = client.send_many(["uno", "dos"])
        assert next(replies) == "ENTERA"
        with pytest.raises(Truncated) as caught:
            next(replies)
        assert caught.value.unanswered == 1


def test_the_whole_replies_of_a_truncated_conversation_are_given(clients: Clients, certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            while wrapped.recv(100):  # hasta la despedida
                pass
            wrapped.sendall(b"UNA\nDOS\nTRES\nA ME")

    options = {"limits": PATIENT, "tls": certificates.trusting()}
    with foreign_server(serve) as port, clients("localhost", port, **options) as client:
        with pytest.raises(Truncated):
            client.say_goodbye()
        assert client.take_unasked() == ["UNA", "DOS", "TRES"]


def test_the_goodbye_of_tls_is_the_end_though_the_connection_stays_open(
    clients: Clients, certificates: Certificates
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.recv(100)
            wrapped.sendall(b"ENTERA\n")
            wrapped.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError):
                wrapped.unwrap()  # avisa; sin bloqueo, no espera el aviso del cliente
            wrapped.settimeout(PATIENCE)
            while socket.socket.recv(wrapped, 4096):  # y sigue ahí, sin decir más
                pass

    options = {"limits": Limits(reply_timeout=5), "tls": certificates.trusting()}
    with foreign_server(serve) as port, clients("localhost", port, **options) as client:
        assert client.send("hola") == "ENTERA"
        with pytest.raises(ConnectionLost):
            client.send("otra")


def test_what_is_not_tls_in_the_middle_ends_the_conversation(clients: Clients, certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.recv(100)
            wrapped.sendall(b"ENTERA\n")
            socket.socket.sendall(wrapped, b"220 sin cifrar\r\n")  # por debajo de TLS
            while socket.socket.recv(wrapped, 4096):
                pass

    # Sin verlo, se esperaría a que venciera el plazo de la respuesta.
    options = {"limits": Limits(reply_timeout=5), "tls": certificates.trusting()}
    with foreign_server(serve) as port, clients("localhost", port, **options) as client:
        assert client.send("hola") == "ENTERA"
        with pytest.raises(TLSFailed):
            client.send("otra")


def test_a_server_that_does_not_speak_tls(clients: Clients, certificates: Certificates) -> None:
    def talker(sock: socket.socket) -> None:
        sock.sendall(b"220 hola\r\n")
        receive_all(sock)

    for serve, problem in ((talker, "not_tls"), (reads_all, "silent")):
        limits = Limits(handshake_timeout=0.3) if problem == "silent" else PATIENT
        with foreign_server(serve) as port:
            with pytest.raises(TLSFailed) as caught:
                clients("localhost", port, limits=limits, tls=certificates.trusting()).connect()
            assert caught.value.problem == problem


# -- lo que dice sin que se le pregunte ---------------------------------------------------------------------


def greets_late(sock: socket.socket) -> None:
    """Un servidor que saluda cuando ya ha recibido el primer mensaje: el caso peor de uno que tarda en saludar."""
    first = sock.recv(1024)
    sock.sendall(b"220 hola\n" + first.upper())
    for data in messages(sock):
        sock.sendall(data.upper())


def greets(sock: socket.socket) -> None:
    sock.sendall(b"220 hola\n")
    for data in messages(sock):
        sock.sendall(data.upper())


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_greeting_that_is_expected_is_never_a_reply(
    clients: Clients, encrypted: bool, certificates: Certificates
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)

    def serve(sock: socket.socket) -> None:
        if not encrypted:
            greets(sock)
            return
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(sock, server_side=True) as wrapped:
            greets(wrapped)

    tls = certificates.trusting() if encrypted else None
    with foreign_server(serve) as port:
        client = clients("localhost", port, limits=PATIENT, tls=tls, greeting=True, reconnect=AT_ONCE)
        assert clients.inside(client).greeting is None
        for _ in range(2):
            assert client.send("uno") == "UNO"
            assert clients.inside(client).greeting == "220 hola"
            assert list(client.send_many(["dos", "tres"])) == ["DOS", "TRES"]
            assert client.take_unasked() == []
            client.close()


def test_a_greeting_without_a_newline(talk: Talk, clients: Clients) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"hola")
        like_the_original(sock)

    with foreign_server(serve) as port, talk(port, greeting=True) as client:
        assert clients.inside(client).greeting == "hola"
        assert client.send("uno") == "UNO"


@pytest.mark.parametrize(("said", "kind"), [(None, TimedOut), (b"", ConnectionLost)])
def test_a_greeting_that_does_not_come(talk: Talk, said: bytes | None, kind: type[NetworkError]) -> None:
    def serve(sock: socket.socket) -> None:
        if said is None:
            receive_all(sock)

    with foreign_server(serve) as port:
        client = talk(port, Limits(reply_timeout=0.1), greeting=True)
        with pytest.raises(kind):
            client.connect()
        with pytest.raises(ConnectionLost):
            client.send("hola")


def test_more_replies_than_messages_is_an_error(talk: Talk) -> None:
    with foreign_server(greets_late) as port, talk(port, PATIENT) as client:
        with pytest.raises(OutOfStep) as caught:
            list(client.send_many(["uno"]))
        assert caught.value.said in ("UNO", "220 hola")
        with pytest.raises(ConnectionLost):
            client.send("dos")


def test_a_conversation_out_of_step_can_be_found_out(talk: Talk) -> None:
    with foreign_server(greets_late) as port, talk(port, PATIENT) as client:
        client.raise_if_out_of_step()
        assert client.send("uno") == "220 hola"
        with pytest.raises(OutOfStep) as caught:
            while True:
                client.raise_if_out_of_step()
        assert caught.value.said == "UNO"
        with pytest.raises(ConnectionLost):
            client.raise_if_out_of_step()


def test_what_is_said_before_any_message_is_not_out_of_step(talk: Talk) -> None:
    with foreign_server(greets) as port, talk(port, PATIENT) as client:
        wait_until(lambda: client.take_unasked() == ["220 hola"])
        assert client.send("uno") == "UNO"
        client.raise_if_out_of_step()
    greeted = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"220 hola\n")
        greeted.set()
        for data in messages(sock):
            sock.sendall(data.upper())

    with foreign_server(serve) as port, talk(port, PATIENT) as client:
        assert greeted.wait(PATIENCE)
        assert client.send("uno") == "UNO"
        client.raise_if_out_of_step()
        assert client.take_unasked() == ["220 hola"]
        client.raise_if_out_of_step()


# -- lo que no acaba ----------------------------------------------------------------------------------------


def test_a_reply_that_never_ends_is_not_kept(talk: Talk, clients: Clients) -> None:
    def serve(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"x" * 10_000)

    with foreign_server(serve) as port:
        client = talk(port, Limits(max_reply=100_000), reconnect=AT_ONCE)
        for ask in (lambda: client.send("hola"), lambda: list(client.send_many(["hola"])), client.say_goodbye):
            client.connect()
            with pytest.raises(TooMuchSaid) as caught:
                ask()
            assert (caught.value.limit, caught.value.unasked) == (100_000, False)
        with pytest.raises(ConnectionLost):
            client.take_unasked()
        assert clients.naps == []


def test_what_arrived_whole_before_a_reply_too_long_is_not_lost(talk: Talk) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(b"UNO\n" + b"x" * 200_000)
        receive_all(sock)

    with foreign_server(serve) as port, talk(port, Limits(max_reply=100_000)) as client:
        replies = client.send_many(["uno", "dos"])
        assert next(replies) == "UNO"
        with pytest.raises(TooMuchSaid):
            next(replies)


def test_what_nobody_collects_has_a_limit(talk: Talk) -> None:
    def serve(sock: socket.socket) -> None:
        for data in messages(sock):
            sock.sendall(data.upper() + b"sin que se le pida\n" * 100)

    with foreign_server(serve) as port, talk(port, Limits(max_unasked=20_000)) as client:
        for number in range(10):  # recogiéndolo, lo que haga falta
            assert client.send(str(number)) == str(number)
            wait_until(lambda: client.take_unasked()[-1:] == ["sin que se le pida"])
    with foreign_server(serve) as port, talk(port, Limits(max_unasked=20_000)) as client:
        with pytest.raises(TooMuchSaid) as caught:
            for _ in range(1000):
                client.send("hola")
        assert (caught.value.limit, caught.value.unasked) == (20_000, True)


@pytest.mark.parametrize("ending", [b"", b"\n"])
@pytest.mark.parametrize("many", [False, True])
def test_a_reply_that_drips_has_a_deadline(talk: Talk, many: bool, ending: bytes) -> None:
    ended = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.recv(1024)
        sock.sendall(b"x" + ending + b"x")  # con salto de línea, a partir de ahí el silencio no acaba nada
        while not ended.wait(0.01):
            sock.sendall(b"x")

    with foreign_server(serve) as port:
        limits = Limits(reply_timeout=0.5, reply_deadline=0.5, reply_silence=PATIENCE)
        with talk(port, limits) as client:
            with pytest.raises(TimedOut) as caught:
                list(client.send_many(["uno", "dos"])) if many else [client.send("uno"), client.send("dos")]
            assert (caught.value.seconds, caught.value.unfinished) == (0.5, True)
            with pytest.raises(ConnectionLost):
                client.send("tres")
        ended.set()
