"""El fuzzer sin atheris: cada entrada guardada se repite, y con un protocolo roto alguna falla."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comunicacion_tcp.errors import BadMessage
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.protocol import ClientProtocol, ServerProtocol
from fuzz import check, corpus

from .support.examples import ROOT, parse_bytes
from .support.model import SILENCE
from .support.programs import environment

INPUTS = [(path.name, data) for path in (corpus.SEEDS, corpus.CORPUS) for data in corpus.read(path)]


def test_every_kept_input_agrees_with_the_model() -> None:
    assert len(INPUTS) > 100
    for name, data in INPUTS:
        try:
            check.check(data)
        except BaseException as error:
            pytest.fail(f"{name}: {corpus.show(data)}: {error!r}")


class DropsCarriageReturns(ServerProtocol):
    def receive_data(self, data: bytes, **how: Any) -> bytes:
        return super().receive_data(data).replace(b"\r", b"")


class ForgetsTheCut(ServerProtocol):
    def receive_data(self, data: bytes, **how: Any) -> bytes:
        self._pending = b""
        return super().receive_data(data)


class AnswersLate(ServerProtocol):
    """Lo último que se debe, al final: los mismos bytes."""

    late = b""

    def receive_data(self, data: bytes, **how: Any) -> bytes:
        reply, self.late = self.late, super().receive_data(data)
        return reply

    def receive_eof(self) -> bytes:
        return self.late + super().receive_eof()


class IgnoresSilence(ServerProtocol):
    def receive_silence(self) -> bytes:
        return b""


class LeavesAtAnyGoodbye(ServerProtocol):
    def receive_data(self, data: bytes, **how: Any) -> bytes:
        return self._say_goodbye(b"") if b"DESCONEXION" in data else super().receive_data(data)


class GrowsByOne(ServerProtocol):
    def __init__(self, service: object, limits: Limits, **named: Any) -> None:
        super().__init__(service, Limits(max_message=limits.max_message + 1), **named)  # type: ignore[arg-type]


class SkipsWhatComesAfterAQuestion(ServerProtocol):
    def receive_answer(self, outcome: Callable[[], object]) -> bytes:
        self._unread = b""
        return super().receive_answer(outcome)


class Raises(ServerProtocol):
    def receive_eof(self) -> bytes:
        raise RuntimeError


class TellsTwice(ServerProtocol):
    def take_bad_messages(self) -> tuple[BadMessage, ...]:
        return self.bad_messages * 2


class ClientSplitsAtEveryRead(ClientProtocol):
    def receive_data(self, data: bytes) -> None:
        super().receive_data(data)
        self.receive_eof()


@pytest.mark.parametrize(
    "broken",
    [
        *(DropsCarriageReturns, ForgetsTheCut, AnswersLate, IgnoresSilence, LeavesAtAnyGoodbye, GrowsByOne, Raises),
        *(TellsTwice, SkipsWhatComesAfterAQuestion, ClientSplitsAtEveryRead),
    ],
)
def test_a_broken_protocol_does_not_pass(broken: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, broken.__mro__[1].__name__, broken)
    with pytest.raises((AssertionError, RuntimeError)):
        for _, data in INPUTS:
            check.check(data)


@pytest.mark.parametrize("kind", range(len(check.SERVICES)))
def test_a_script_reaches_every_service(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def spy(service: object, limits: Limits, **named: Any) -> ServerProtocol:
        used.append((service, limits.max_message, named))
        return ServerProtocol(service, limits, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(check, "ServerProtocol", spy)
    check.check(f"{kind}2240hola|".encode())
    assert used[0] == (check.SERVICES[kind][0], 20, {"lines_only": False, "deferred": True, "allow_http": False})


def test_a_script_becomes_steps() -> None:
    assert check.read_script(b"ho|la~\n", byte_by_byte=False) == [b"ho", b"la", SILENCE, b"\n"]
    assert check.read_script(b"ho|la~\n", byte_by_byte=True) == [b"h", b"o", b"l", b"a", SILENCE, b"\n"]
    assert check.read_script(b"a\n*b*", byte_by_byte=True) == [b"a\n" * 40, b"b"]


@given(st.lists(st.binary(max_size=20) | st.text(max_size=8).map(str.encode), max_size=5))
def test_inputs_are_kept_as_text_and_read_back(tmp_path_factory: pytest.TempPathFactory, inputs: list[bytes]) -> None:
    assert [parse_bytes(corpus.show(data)) for data in inputs] == inputs
    path = tmp_path_factory.getbasetemp() / "corpus.txt"
    path.write_text("# comentario\n", encoding="utf-8")
    corpus.write(path, inputs)
    for data in filter(None, inputs):
        corpus.add(path, data)
    assert set(corpus.read(path)) == set(filter(None, inputs))
    assert len(corpus.read(path)) == len(set(filter(None, inputs)))


def test_without_atheris_it_says_so() -> None:
    # Sin site-packages no hay atheris, lo haya o no en este entorno.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "fuzz.run"], cwd=ROOT, capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "No hay atheris para Python" in done.stdout
