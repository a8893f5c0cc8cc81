"""``relay.py``: la cuenta de lo enviado y lo respondido, y el chorro de líneas contra servidores buenos y malos."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comunicacion_tcp import conversation
from comunicacion_tcp.errors import ConnectionLost, TimedOut, Truncated
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.relay import CLOSED, CUT, SILENT, Relay, Tally

from .support.certificates import Certificates
from .support.serving import served
from .support.sockets import fill_pipe, foreign_server, receive, receive_all, reset
from .support.waiting import PATIENCE

# -- la cuenta ----------------------------------------------------------------------------------------------

LINES = st.lists(
    st.sampled_from(
        [b"", b"hola", b"DESCONEXION", b"DESCONEXION\r", b"DESCONEXION\r\r", b"xDESCONEXION", b"DESCONEXIONx"]
    )
    | st.binary(max_size=20).map(lambda data: data.replace(b"\n", b""))
)


def until_goodbye(text: bytes) -> tuple[bytes, bool]:
    """El modelo: lo que hay que enviar de ``text``, y si acaba en una despedida."""
    *lines, last = text.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line in (b"DESCONEXION", b"DESCONEXION\r"):
            return b"".join(line + b"\n" for line in lines[:number]), True
    return text, last == b"DESCONEXION"


def cut(text: bytes, cuts: list[int]) -> Iterator[bytes]:
    """``text`` en trozos de esos tamaños, y lo que quede."""
    for size in cuts:
        yield text[:size]
        text = text[size:]
    yield text


@given(LINES, st.lists(st.integers(1, 16)))
def test_however_it_is_cut_the_same_is_sent_and_counted(lines: list[bytes], cuts: list[int]) -> None:
    text = b"\n".join(lines)
    expected, goodbye = until_goodbye(text)
    tally, sent = Tally(), b""
    for piece in cut(text, cuts):
        if piece and not tally.said_goodbye:
            buffer = bytearray(piece + b"basura\nde antes")
            sent += buffer[: tally.send(buffer, len(piece))]
    tally.end_input()
    assert sent == expected
    assert tally.said_goodbye == goodbye
    half = expected != b"" and not expected.endswith(b"\n")
    assert tally.unanswered == expected.count(b"\n") + half - goodbye


def test_what_is_due() -> None:
    tally = Tally()
    assert not tally.due
    tally.send(bytearray(b"uno\ndos\ntr"), 10)
    assert tally.due
    assert tally.unanswered == 3
    tally.receive(b"UNO\nDO", 6)
    assert tally.due
    assert tally.half_reply
    tally.receive(b"S\n", 2)
    assert not tally.due  # «tr» aún no es un mensaje
    assert not tally.half_reply
    assert tally.unanswered == 1
    tally.receive(b"TR", 2)
    assert tally.unanswered == 0


def test_a_server_that_sends_no_terminators_owes_nothing_once_it_speaks() -> None:
    tally = Tally()
    tally.send(bytearray(b"uno\n"), 4)
    assert tally.due
    tally.receive(b"UNO", 3)
    assert not tally.due
    assert tally.unanswered == 0
    tally.send(bytearray(b"dos\n"), 4)
    assert tally.due


@pytest.mark.parametrize(
    ("sent", "arrived", "good"),
    [
        ("uno\ndos\n", "UNO\n", ""),
        ("uno\ndos\n", "", ""),
        ("uno\ndos\n", "UNO\nDOS\n", "closed cut silent"),
        ("", "", "closed cut silent"),
        ("uno\ndos\n", "UNO\nMÁS\nDOS\n", "closed"),
        ("uno\ndos\n", "UNO\nDO", ""),
        ("uno\ndos\n", "UNO\nDOS\nTR", ""),
        ("uno\ndos", "UNO\nDO", "closed"),
        ("uno\ndos", "UNO\nDOS\nMÁ", ""),
        ("uno\n", "UN", "closed silent"),
        ("uno", "UN", "closed silent"),
        ("uno\ndos\n", "UNODOS", ""),
        ("uno\ndos", "UNODOS", ""),
        # la despedida
        ("uno\nDESCONEXION\n", "UNO\n", "closed cut silent"),
        ("uno\nDESCONEXION\n", "UNO\nAdiós\n", "closed cut silent"),
        ("uno\nDESCONEXION\n", "UNO\nAd", ""),
        ("uno\nDESCONEXION", "UNO\nAdiós", "closed"),
        ("uno\nDESCONEXION", "UNOAdiós", "closed silent"),
        ("DESCONEXION\n", "", "closed cut silent"),
        ("DESCONEXION", "Adiós", "closed silent"),
    ],
)
def test_when_nothing_is_missing(sent: str, arrived: str, good: str) -> None:
    tally = Tally()
    tally.send(bytearray(sent.encode()), len(sent.encode()))
    tally.end_input()
    if arrived:
        tally.receive(arrived.encode(), len(arrived.encode()))
    assert [end for end in (CLOSED, CUT, SILENT) if tally.complete(end)] == good.split()


@pytest.mark.parametrize("greeting", [b"hola\n", b"ho", b"uno\ndos\n"])
def test_a_greeting_is_not_a_reply(greeting: bytes) -> None:
    tally = Tally()
    tally.receive(greeting, len(greeting))
    assert tally.complete(CLOSED)
    tally.send(bytearray(b"uno\n"), 4)
    rest = b"" if greeting.endswith(b"\n") else b"la\n"
    tally.receive(rest + b"U", len(rest) + 1)
    tally.receive(b"NO\n", 3)
    assert tally.complete(SILENT)
    assert not tally.excess


# -- contra servidores --------------------------------------------------------------------------------------


@contextlib.contextmanager
def pipe_with(data: bytes, *, open_ended: bool = False) -> Iterator[int]:
    """Una tubería con ``data``; acabada, o abierta y callada."""
    reader, writer = os.pipe()
    os.write(writer, data)
    if not open_ended:
        os.close(writer)
    try:
        yield reader
    finally:
        os.close(reader)
        if open_ended:
            os.close(writer)


def relayed(relay: Relay, data: bytes, *, open_ended: bool = False) -> bytes:
    """Lo que responde el servidor a ``data``."""
    replies: list[bytes] = []
    with pipe_with(data, open_ended=open_ended) as source:
        relay.relay(source, lambda block: replies.append(bytes(block)))
    return b"".join(replies)


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Un servidor que ni lee ni responde ni cierra."""
    over = threading.Event()

    def serve(sock: socket.socket) -> None:
        over.wait(30)

    with foreign_server(serve) as port:
        yield port
        over.set()


def to(port: int, **limits: float) -> Relay:
    return Relay("127.0.0.1", port, limits=Limits(**limits))  # type: ignore[arg-type]


def test_the_bytes_come_back_as_they_are() -> None:
    with served() as running:
        for data, replies in (
            (b"uno\r\ndos\n\ntr\xc3\xa9s", "UNO\r\nDOS\n\nTRÉS".encode()),
            (b"", b""),
            (b"\xff\n", "ERROR: el mensaje no es UTF-8 válido\n".encode()),
            (b"a\nDESCONEXION\r\nb\n", "A\nConexión cerrada\r\n".encode()),
            (b"a\nDESCONEXION", "A\nConexión cerrada".encode()),
        ):
            with to(running.port) as relay:
                assert relayed(relay, data) == replies


def test_a_goodbye_without_its_newline_is_one_too() -> None:
    with served() as running, to(running.port) as relay:
        assert relayed(relay, b"DESCONEXION", open_ended=True) == "Conexión cerrada".encode()


def test_from_a_file_a_device_and_a_socket(tmp_path: Path) -> None:
    (tmp_path / "entrada").write_bytes(b"hola\n" * 200_000)
    with served() as running:
        with (tmp_path / "entrada").open("rb") as file, to(running.port) as relay:
            sizes: list[int] = []
            relay.relay(file.fileno(), lambda block: sizes.append(len(block)))
            assert sum(sizes) == 1_000_000
        with open(os.devnull, "rb") as device, to(running.port) as relay:
            relay.relay(device.fileno(), lambda block: sizes.append(-1))
        assert -1 not in sizes
        ours, theirs = socket.socketpair()
        with ours, theirs, to(running.port) as relay:
            theirs.sendall(b"hola\n")
            theirs.shutdown(socket.SHUT_WR)
            got: list[bytes] = []
            relay.relay(ours.fileno(), lambda block: got.append(bytes(block)))
            assert b"".join(got) == b"HOLA\n"


def test_with_tls(certificates: Certificates) -> None:
    with served(tls=certificates.serving()) as running:
        data = b"hola\n" * 100_000 + b"fin"
        with Relay("localhost", running.port, tls=certificates.trusting()) as relay:
            reader, writer = os.pipe()

            def feed() -> None:
                with open(writer, "wb") as entry:
                    entry.write(data)

            feeder = threading.Thread(target=feed)
            feeder.start()
            replies: list[bytes] = []
            relay.relay(reader, lambda block: replies.append(bytes(block)))
            feeder.join()
            os.close(reader)
        assert b"".join(replies) == data.upper()


def test_goodbye_with_tls_ends_it_there(certificates: Certificates) -> None:
    with served(tls=certificates.serving()) as running:
        with Relay("localhost", running.port, tls=certificates.trusting()) as relay:
            replies = relayed(relay, b"a\nDESCONEXION\nb\n", open_ended=True)
        assert replies == "A\nConexión cerrada\n".encode()


def test_cut_without_the_tls_notice_is_told(certificates: Certificates) -> None:
    with (
        served(tls=certificates.serving()) as running,
        Relay("localhost", running.port, tls=certificates.trusting()) as relay,
    ):
        assert relay._socket
        relay._socket.shutdown(socket.SHUT_RD)  # lo que ve quien recibe un FIN de un tercero
        with pytest.raises(Truncated):
            relayed(relay, b"hola\n")


def test_a_server_that_dies_halfway_is_told_with_what_is_missing() -> None:
    def hangs_up(sock: socket.socket) -> None:
        receive(sock, 13)  # todo: cerrar con algo sin leer sería un RST
        sock.sendall(b"UNO\n")

    def cuts(sock: socket.socket) -> None:
        hangs_up(sock)
        reset(sock)

    for serve in (hangs_up, cuts):
        got: list[memoryview] = []
        with foreign_server(serve) as port, to(port) as relay:
            with pipe_with(b"uno\ndos\ntres\n") as source, pytest.raises(ConnectionLost):
                relay.relay(source, got.append)
            if serve is hangs_up:  # un RST puede llevarse lo que no se había leído
                assert b"".join(got) == b"UNO\n"
                assert relay.tally.unanswered == 2


def test_a_server_that_leaves_before_the_input_ends_is_told_even_if_it_owes_nothing() -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(sock.recv(1024).upper())

    with foreign_server(serve) as port, to(port) as relay, pytest.raises(ConnectionLost):
        relayed(relay, b"uno\n", open_ended=True)


@pytest.mark.parametrize("open_ended", [False, True])
def test_a_server_that_does_not_answer(open_ended: bool) -> None:
    with silent_server() as port, to(port, reply_timeout=0.05) as relay:
        with pytest.raises(TimedOut):
            relayed(relay, b"uno\n", open_ended=open_ended)
        assert relay.tally.unanswered == 1


def test_waiting_for_the_input_is_not_a_time_out() -> None:
    # Quien escribe en la entrada espera cada vez varios plazos del servidor.
    with served() as running, to(running.port, reply_timeout=0.4) as relay:  # a una respuesta le sobra
        reader, writer = os.pipe()
        got: list[bytes] = []

        def feed() -> None:
            for line in (b"uno\n", b"dos\n"):
                threading.Event().wait(1)
                os.write(writer, line)
            threading.Event().wait(1)
            os.close(writer)

        feeder = threading.Thread(target=feed)
        feeder.start()
        relay.relay(reader, lambda block: got.append(bytes(block)))
        feeder.join()
        os.close(reader)
        assert b"".join(got) == b"UNO\nDOS\n"


def test_a_server_that_is_still_receiving_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    received = [1, 2, 3, 3]
    monkeypatch.setattr(conversation, "in_transit", lambda _: 9)
    monkeypatch.setattr(conversation, "arrived", lambda _: received.pop(0))
    with silent_server() as port, to(port, reply_timeout=0.05) as relay:
        with pytest.raises(TimedOut):
            relayed(relay, b"uno\n")
        assert not received


def test_a_trickle_of_input_does_not_hide_a_server_that_is_gone() -> None:
    stop = threading.Event()
    reader, writer = os.pipe()

    def feed() -> None:
        while not stop.wait(0.02):
            os.write(writer, b"hola\n")

    feeder = threading.Thread(target=feed)
    with silent_server() as port, to(port, reply_timeout=0.2) as relay:
        feeder.start()
        with pytest.raises(TimedOut):
            relay.relay(reader, lambda block: None)
    stop.set()
    feeder.join()
    os.close(reader)
    os.close(writer)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="este sistema no tiene /dev/zero")
def test_a_server_that_does_not_read_one_endless_line() -> None:
    with (
        silent_server() as port,
        to(port, reply_timeout=0.2) as relay,
        open("/dev/zero", "rb") as zeros,
        pytest.raises(TimedOut),
    ):
        relay.relay(zeros.fileno(), lambda block: None)


@pytest.mark.parametrize(
    ("reply", "good"), [(b"UNO\n", True), (b"UNO", True), (b"UNO\nY OTRA\n", False), (b"UNO\nY O", False)]
)
def test_a_server_that_does_not_close_is_left_if_it_is_known_to_have_answered(reply: bytes, good: bool) -> None:
    left = threading.Event()

    def serve(sock: socket.socket) -> None:
        receive_all(sock)
        sock.sendall(reply)
        assert left.wait(PATIENCE)

    def stop_waiting(block: memoryview) -> None:
        relay._limits = Limits(reply_timeout=0.01)

    with foreign_server(serve) as port, to(port) as relay, pipe_with(b"uno\n") as source:
        with contextlib.nullcontext() if good else pytest.raises(TimedOut):
            relay.relay(source, stop_waiting)
        left.set()


def test_a_server_without_terminators() -> None:
    def serve(sock: socket.socket) -> None:
        while data := sock.recv(1024):
            sock.sendall(data.strip().upper())

    with foreign_server(serve) as port, to(port) as relay:
        assert relayed(relay, b"hola\n") == b"HOLA"


def test_what_fails_in_the_input_or_the_output_comes_out() -> None:
    def full(block: memoryview) -> None:
        raise OSError(28, "lleno")

    with served() as running:
        with to(running.port) as relay, pipe_with(b"hola\n") as source, pytest.raises(OSError, match="lleno"):
            relay.relay(source, full)
        with (
            to(running.port) as relay,
            open(os.devnull, "wb") as unreadable,
            pytest.raises(OSError, match=r"not readable|Errno 9"),
        ):
            relay.relay(unreadable.fileno(), lambda block: None)


def test_a_line_that_the_input_leaves_half_written_waits_for_its_end() -> None:
    arrived: list[bytes] = []
    seen = threading.Event()

    def serve(sock: socket.socket) -> None:
        while data := sock.recv(1024):
            arrived.append(data)
            sock.sendall(data.upper())
            seen.set()

    reader, writer = os.pipe()
    with foreign_server(serve) as port, to(port) as relay:
        os.write(writer, b"uno\ndos\ntr")

        def feed() -> None:
            assert seen.wait(PATIENCE)
            os.write(writer, b"es")
            os.write(writer, b"\nfin")
            os.close(writer)

        feeder = threading.Thread(target=feed)
        feeder.start()
        got: list[bytes] = []
        relay.relay(reader, lambda block: got.append(bytes(block)))
        feeder.join()
        os.close(reader)
    assert b"".join(got) == b"UNO\nDOS\nTRES\nFIN"
    assert arrived[0] == b"uno\ndos\n"
    assert b"".join(arrived) == b"uno\ndos\ntres\nfin"


@pytest.mark.parametrize("ciphered", [False, True])
def test_while_the_output_waits_what_is_sent_goes_on_in_whole_lines(certificates: Certificates, ciphered: bool) -> None:
    # La salida no admite nada hasta que el servidor lo tiene todo: si se parara a esperarla, no acabaría nunca.
    data = b"".join(b"%060d\n" % number for number in range(20_000))  # cuatro veces lo que se envía de una vez
    everything = threading.Event()
    reader, writer = os.pipe()
    fill_pipe(writer)

    def serve(text: str) -> str:
        if text == data[-61:-1].decode():
            everything.set()
        return ""

    kept: list[bytes] = []

    def write(block: memoryview) -> bool:
        kept.append(bytes(block))
        return not everything.is_set()

    def drain() -> None:
        assert everything.wait(PATIENCE)
        os.read(reader, 1 << 20)

    tls = {"tls": certificates.serving()} if ciphered else {}
    trust = {"tls": certificates.trusting()} if ciphered else {}
    with served(serve, threads=0, **tls) as running, Relay("localhost", running.port, **trust) as relay:  # type: ignore[arg-type]
        drainer = threading.Thread(target=drain)
        drainer.start()
        with tempfile.TemporaryFile() as entry:
            entry.write(data)
            entry.flush()
            entry.seek(0)
            relay.relay(entry.fileno(), write, output=writer)
        drainer.join()
    assert b"".join(kept) == b"\n" * 20_000
    os.close(reader)
    os.close(writer)
