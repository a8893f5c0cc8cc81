"""Lo que se cuenta: responde los mismos bytes que sin contar, y las cuentas salen como en el modelo de referencia."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comunicacion_tcp import board
from comunicacion_tcp.board import Board
from comunicacion_tcp.errors import (
    AddressFull,
    BadMessage,
    BadProxyHeader,
    BadService,
    BadTLSFile,
    OnlyThroughBalancer,
    ServerFull,
    ServiceTimedOut,
    TLSFailed,
)
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.measuring import MeasuredProtocol, Meter, Observers, measure
from comunicacion_tcp.observer import Observer
from comunicacion_tcp.protocol import ServerProtocol
from comunicacion_tcp.server import Server
from comunicacion_tcp.services import Service, uppercase
from comunicacion_tcp.tls import ServerTLS
from comunicacion_tcp.workers import raising

from .support import model
from .support.certificates import Certificates
from .support.driving import FRAGMENTS, LIMIT, play
from .support.encrypted import encrypted
from .support.fakes import FakeLoop, FakeTransport
from .support.model import EOF, SILENCE, Step
from .support.serving import served
from .support.sockets import connect, receive_all
from .support.waiting import wait_until

pieces = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=6), max_size=8).map(b"".join)
steps = st.lists(pieces.filter(bool) | st.just(SILENCE), max_size=10)
PEER = ("192.0.2.7", 4000)

ways = pytest.mark.parametrize(
    ("service", "deferred"),
    [(uppercase, False), (Service(str.upper, by_character=True), False), (Service(str.upper, by_character=True), True)],
    ids=["en bloque", "uno a uno", "preguntando"],
)


def measured(service: Service = uppercase, **how: Any) -> tuple[MeasuredProtocol, Board]:
    """Una conversación que cuenta, en una pizarra nueva; su reloj avanza un segundo cada vez que se mira."""
    made = Board()
    clock = itertools.count().__next__
    return MeasuredProtocol(made.seat(0), clock, service, Limits(max_message=LIMIT), **how), made


def counted(made: Board) -> dict[str, float]:
    """Los mensajes de cada resultado que haya, y las despedidas."""
    found = {result: made.total(column) for result, column in board.MESSAGES.items()}
    return {name: count for name, count in {**found, "goodbyes": made.total(board.GOODBYES)}.items() if count}


def expected(steps: list[Step]) -> tuple[bytes, dict[str, int]]:
    """Lo que el modelo responde, y cuántos mensajes de cada resultado."""
    counts: Counter[str] = Counter()

    def answer(message: bytes) -> bytes:
        reply = model.answer(message)
        counts["not_utf8" if reply == model.NOT_UTF8 else "ok"] += 1
        return reply

    reply = model.answer_steps(steps, LIMIT, answer, http_at_first=True)
    # En mayúsculas nadie puede escribir ninguna de estas tres.
    counts["http"] = reply.count(model.HTTP)
    counts["too_long"] = reply.count(model.too_long(LIMIT))
    counts["goodbyes"] = reply.count(model.FAREWELL)
    return reply, {name: count for name, count in counts.items() if count}


@ways
@given(steps=steps)
def test_the_counts_are_those_of_the_reference_model(service: Service, deferred: bool, steps: list[Step]) -> None:
    conversation, made = measured(service, deferred=deferred)
    reply, counts = expected([*steps, EOF])
    assert play(conversation, [*steps, EOF]) == reply
    assert counted(made) == counts
    assert made.total(board.SENT_BYTES) == len(reply)
    assert made.total(board.RECEIVED_BYTES) == sum(len(step) for step in steps if isinstance(step, bytes))
    calls = sum(made.total(column) for column in board.BUCKETS)
    assert made.total(board.SERVICE_SECONDS) == calls  # con este reloj, cada llamada tarda un segundo
    if service.block:
        assert bool(calls) == bool(counts.get("ok"))
        assert calls <= counts.get("ok", 0)
    else:
        assert calls == counts.get("ok", 0)


@ways
@given(steps=steps)
def test_each_step_answers_what_it_would_without_counting(service: Service, deferred: bool, steps: list[Step]) -> None:
    counting, _ = measured(service, deferred=deferred)
    plain = ServerProtocol(service, Limits(max_message=LIMIT), deferred=deferred)
    told: list[BadMessage] = []
    expected: list[BadMessage] = []
    for step in [*steps, EOF]:
        assert play(counting, [step], told=told) == play(plain, [step], told=expected)
        assert counting.unsettled == plain.unsettled
        assert repr(told) == repr(expected)


def test_a_block_is_one_call_and_all_its_messages() -> None:
    conversation, made = measured(lines_only=True)
    assert conversation.receive_data(b"a\nb\nc\n") == b"A\nB\nC\n"
    assert counted(made) == {"ok": 3}
    assert made.total(board.SERVICE_SECONDS) == 1


def fail(message: str) -> str:
    raise LookupError(message)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("function", [fail, lambda message: None, lambda message: "a\nb"])
def test_the_failures_of_the_service(function: Callable[[str], str], deferred: bool) -> None:
    conversation, made = measured(Service(function), deferred=deferred)
    reply = play(conversation, [b"uno\ndos\n\xff\n"], function)
    assert counted(made) == {"service_failed": 2, "not_utf8": 1}
    assert made.total(board.SENT_BYTES) == len(reply)
    assert made.total(board.SERVICE_SECONDS) == 2


def test_a_service_that_does_not_answer_in_time() -> None:
    conversation, made = measured(Service(str.upper), deferred=True)
    conversation.receive_data(b"hola\n")
    assert conversation.take_question() == "hola"
    conversation.receive_answer(raising(ServiceTimedOut(2)))
    assert counted(made) == {"service_timed_out": 1}
    assert made.total(board.SERVICE_SECONDS) == 1


def test_a_message_that_does_not_end_in_time() -> None:
    conversation, made = measured(lines_only=True)
    conversation.receive_data(b"ho")
    reply = conversation.receive_deadline()
    assert counted(made) == {"too_slow": 1}
    assert made.total(board.SENT_BYTES) == len(reply)


def test_the_time_falls_in_its_bucket() -> None:
    made = Board()
    times = iter([0, 0.02, 1, 4, 5, 30])
    conversation = MeasuredProtocol(made.seat(0), lambda: next(times), Service(str.upper), Limits())
    conversation.receive_data(b"uno\ndos\ntres\n")
    found = [made.total(column) for column in board.BUCKETS]
    assert sum(found) == 3
    assert found[board.BOUNDS.index(0.025)] == found[board.BOUNDS.index(5.0)] == found[-1] == 1


def test_a_new_service_is_counted_too() -> None:
    conversation, made = measured(lines_only=True)
    conversation.change_service(Service(str.lower), deferred=False)
    assert conversation.receive_data(b"HOLA\n") == b"hola\n"
    assert counted(made) == {"ok": 1}


# -- la conexión --------------------------------------------------------------------------------------------


def connection(limits: Limits, refusal: ServerFull | None = None) -> tuple[Any, FakeTransport, FakeLoop, Board]:
    """Una conexión que cuenta, recién aceptada."""
    made = Board()
    server = Server(limits=limits)
    server.observer = Observers(Meter(made.seat(0), limits))
    loop: Any = FakeLoop()
    server._use_loop(loop)
    measure(server, made.seat(0))
    new, wire = server.new_connection(server, PEER), FakeTransport()
    server._connections.enter(new, refusal)
    transport: Any = wire
    new.connection_made(transport)
    return new, wire, loop, made


def test_every_byte_written_is_counted() -> None:
    new, wire, _, made = connection(Limits())
    for data in (b"hola", b"\n\xff\n", b"x" * 100, b"\nDESCONEXION\n"):
        new.data_received(data)
    assert wire.state == "FIN enviado"
    assert made.total(board.SENT_BYTES) == len(wire.written) > 100
    new.data_received(b"esto ya se tira")
    assert made.total(board.RECEIVED_BYTES) == 4 + 3 + 100 + 13


def test_who_is_refused_or_silent_is_told_and_counted() -> None:
    _, wire, _, made = connection(Limits(), ServerFull())
    assert made.total(board.REFUSED["server_full"]) == 1
    assert made.total(board.ACCEPTED) == made.total(board.OPEN) == 0
    assert made.total(board.SENT_BYTES) == len(wire.written) > 10
    new, wire, loop, made = connection(Limits(idle_timeout=5))
    new.data_received(b"hola\n")
    loop.advance(6)
    assert made.total(board.IDLE) == 1
    assert made.total(board.SENT_BYTES) == len(wire.written) > 10


# -- lo que cuenta el servidor ------------------------------------------------------------------------------


def test_all_hear_everything() -> None:
    heard: list[tuple[int, str, tuple[object, ...]]] = []

    class Ear(Observer):
        def __init__(self, number: int) -> None:
            self.number = number

        def __getattribute__(self, name: str) -> Any:
            if name.startswith("_") or name == "number":
                return super().__getattribute__(name)
            return lambda *what: heard.append((self.number, name, what))

    everyone = Observers(Ear(1), Ear(2))
    names = [name for name in vars(Observer) if not name.startswith("_")]
    assert "accepted" in names
    for name in names:
        heard.clear()
        getattr(everyone, name)("algo")
        assert heard == [(1, name, ("algo",)), (2, name, ("algo",))]


def test_each_event_has_its_column() -> None:
    made = Board()
    meter = Meter(made.seat(0), Limits(max_connections=7))
    meter.starting()
    meter.lowered(5, 7)
    assert (made.total(board.CAPACITY), made.total(board.WANTED_CAPACITY)) == (5, 7)
    meter.accepted(PEER)
    assert made.total(board.OPEN) == 1
    calls: list[tuple[Callable[[], None], int]] = [
        (lambda: meter.closed(PEER), board.CLOSED),
        (lambda: meter.left(PEER), board.LEFT),
        (lambda: meter.lost(PEER, OSError()), board.LOST),
        (lambda: meter.undelivered(PEER), board.UNDELIVERED),
        (lambda: meter.idle(PEER), board.IDLE),
        (lambda: meter.refused(PEER, ServerFull()), board.REFUSED["server_full"]),
        (lambda: meter.refused(PEER, AddressFull()), board.REFUSED["address_full"]),
        (lambda: meter.handshake_failed(PEER, TLSFailed("x", None, "cut")), board.HANDSHAKES_FAILED["cut"]),
        (lambda: meter.handshake_failed(PEER, TLSFailed("x", None, "nuevo")), board.HANDSHAKES_FAILED["other"]),
        (lambda: meter.refused(PEER, OnlyThroughBalancer()), board.REFUSED["not_through_balancer"]),
        (lambda: meter.proxy_header_bad(PEER, BadProxyHeader("cut")), board.PROXY_HEADERS_BAD["cut"]),
        (lambda: meter.proxy_header_bad(PEER, BadProxyHeader("nuevo")), board.PROXY_HEADERS_BAD["other"]),
        (lambda: meter.cannot_accept(OSError()), board.ACCEPT_ERRORS),
        (lambda: meter.certificate_reread(), board.CERTIFICATE_REREADS["ok"]),
        (lambda: meter.certificate_unusable(BadTLSFile("cert", "x", "locked")), board.CERTIFICATE_REREADS["failed"]),
        (lambda: meter.service_reloaded("x:y"), board.SERVICE_RELOADS["ok"]),
        (lambda: meter.service_unusable(BadService("x:y", "syntax")), board.SERVICE_RELOADS["failed"]),
    ]
    for call, column in calls:
        before = made.total(column)
        call()
        assert made.total(column) == before + 1
    assert made.total(board.OPEN) == 0


def test_it_remembers_whether_the_last_it_read_was_good() -> None:
    made = Board()
    meter = Meter(made.seat(0), Limits())
    meter.starting()

    def failed() -> set[str]:
        return {what for what, column in board.RELOAD_FAILED.items() if made.seat(0).cells[column]}

    assert failed() == set()  # quien empieza lo ha leído todo bien
    meter.certificate_unusable(BadTLSFile("cert", "x", "locked"))
    assert failed() == {"certificate"}
    meter.service_unusable(BadService("x:y", "syntax"))
    meter.certificate_reread()
    assert failed() == {"service"}
    meter.service_reloaded("x:y")
    assert failed() == set()
    meter.service_unusable(BadService("x:y", "syntax"))
    meter.starting()  # murió, y otro ocupa su puesto
    assert failed() == set()


def test_a_real_server_counts_and_beats() -> None:
    made = Board()
    with served() as running:
        meter = Meter(made.seat(0), running.server.limits)
        running.server.observer = Observers(running.events, meter)
        measure(running.server, made.seat(0))
        meter.starting()
        first = made.seat(0).cells[board.HEARTBEAT]
        running.run(lambda: meter.serving(running.server.reread_certificate))
        with connect(running.port) as sock:
            sock.sendall("hola\nseñor\nDESCONEXION\n".encode())
            reply = receive_all(sock)
        wait_until(lambda: made.total(board.CLOSED) == 1)
        assert counted(made) == {"ok": 2, "goodbyes": 1}
        assert made.total(board.SENT_BYTES) == len(reply)
        assert made.total(board.OPEN) == 0
        wait_until(lambda: made.seat(0).cells[board.HEARTBEAT] > first + board.BEAT)
        running.run(meter.stopping)
        assert made.unreadiness(made.seat(0).cells[board.HEARTBEAT]) == "arrancando"


def test_with_tls_the_text_is_counted_and_the_expiry_known(certificates: Certificates) -> None:
    made = Board()
    tls = ServerTLS(certificates.server)
    with served(tls=tls) as running:
        meter = Meter(made.seat(0), running.server.limits, tls)
        running.server.observer = Observers(running.events, meter)
        measure(running.server, made.seat(0))
        meter.starting()
        assert made.total(board.CERTIFICATE_EXPIRY) == tls.expiry()
        with encrypted(running.port, certificates.trusting()) as client:
            client.send(b"hola\nDESCONEXION\n")
            reply = client.receive_all()
        assert made.total(board.SENT_BYTES) == len(reply)
        assert made.total(board.RECEIVED_BYTES) == len(b"hola\nDESCONEXION\n")


def test_a_renewed_certificate_is_seen_without_clients(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "BEAT", 0.01)
    monkeypatch.setattr("comunicacion_tcp.tls.LOOK_EVERY", 0.0)
    path = tmp_path / "cert.pem"
    path.write_bytes(Path(certificates.expired).read_bytes())
    made = Board()
    tls = ServerTLS(str(path))
    with served(tls=tls) as running:
        meter = Meter(made.seat(0), running.server.limits, tls)
        running.server.observer = Observers(running.events, meter)
        meter.starting()
        running.run(lambda: meter.serving(running.server.reread_certificate))
        path.write_text("a medio escribir", encoding="utf-8")
        wait_until(lambda: made.total(board.CERTIFICATE_REREADS["failed"]) > 0)
        path.write_bytes(Path(certificates.server).read_bytes())
        wait_until(lambda: made.total(board.CERTIFICATE_EXPIRY) == certificates.serving().expiry())
        running.run(meter.stopping)
        rereads, beat = made.total(board.CERTIFICATE_REREADS["ok"]), made.total(board.HEARTBEAT)
        path.write_bytes(Path(certificates.expired).read_bytes())
        wait_until(lambda: made.total(board.HEARTBEAT) > beat + 5 * board.BEAT)
        assert made.total(board.CERTIFICATE_REREADS["ok"]) == rereads  # quien no acepta no se lo enseña a nadie
