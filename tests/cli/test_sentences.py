"""``sentences.py``: cada error dice qué pasó y qué hacer, sin nada del otro extremo que la terminal obedezca."""

from __future__ import annotations

import errno
import re
import sys

import pytest

from comunicacion_tcp import errors
from comunicacion_tcp.cli.sentences import conversation_failed, listening_failed, proxy_header_bad, reason
from comunicacion_tcp.errors import (
    AddressInUse,
    AddressNotOurs,
    ConnectionLost,
    NetworkError,
    PortNotAllowed,
    ServerNotRunning,
    TimedOut,
    UnknownHost,
)


@pytest.mark.parametrize("kind", [AddressInUse, PortNotAllowed, AddressNotOurs, UnknownHost, NetworkError])
def test_listening_sentences_name_the_place_and_an_option(kind: type[NetworkError]) -> None:
    sentence = listening_failed(kind("aquí:7000", OSError(errno.EIO, "no")))
    assert "aquí:7000" in sentence
    assert "--host" in sentence or "--puerto" in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize("kind", [ServerNotRunning, UnknownHost, ConnectionLost, NetworkError])
def test_conversation_sentences_name_the_place(kind: type[NetworkError]) -> None:
    sentence = conversation_failed(kind("allí:5000", OSError(errno.ENETUNREACH, "no")))
    assert "allí:5000" in sentence
    assert sentence.endswith(".")


def test_each_problem_of_a_proxy_header_has_its_sentence() -> None:
    assert errors.BadProxyHeader.__doc__
    problems = re.findall(r'``"(\w+)"``', errors.BadProxyHeader.__doc__)
    assert len(problems) == 13
    sentences = {proxy_header_bad(errors.BadProxyHeader(problem)) for problem in problems}
    assert len(sentences) == 13
    assert all("PROXY" in sentence and not sentence.endswith(".") for sentence in sentences)


def test_time_outs_say_how_long_and_how_to_wait_more() -> None:
    for connecting in (True, False):
        sentence = conversation_failed(TimedOut("allí:5000", 1.5, connecting=connecting))
        assert "1.5 s" in sentence
        assert "--espera" in sentence


def test_airplay_is_named_on_macos_only_on_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "AirPlay" not in listening_failed(AddressInUse("localhost:5000"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "AirPlay" in listening_failed(AddressInUse("localhost:5000"))
    assert "AirPlay" not in listening_failed(AddressInUse("localhost:7000"))


def test_an_address_cannot_write_on_the_terminal() -> None:
    assert "\x1b" not in conversation_failed(UnknownHost("\x1b[2J:5000"))


def test_reasons() -> None:
    assert reason(MemoryError()) == "no queda memoria"
    assert reason(None) == ""
    assert reason(ConnectionResetError(errno.ECONNRESET, "x")) == "el otro extremo la cortó"
    assert reason(OSError(errno.EXDEV, "x")).startswith("el sistema dice: ")
    assert reason(ValueError("raro\x1b")) == r"el sistema dice: raro\x1b"
