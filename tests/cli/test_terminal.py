"""``terminal.py``: nada de lo que llega de fuera manda en la terminal, y se escribe en la que haya."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest

from comunicacion_tcp.cli import terminal
from comunicacion_tcp.cli.terminal import escape, is_terminal, prepare_streams, say


def test_no_control_reaches_the_terminal() -> None:
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        obeyed = (
            (unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs") and char != "\t")
            or unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
            or char in "\u200e\u200f\u061c"
        )
        shown = escape(char)
        assert (shown != char) == obeyed, hex(code)
        assert not obeyed or shown.isascii()


def test_escapes_are_readable() -> None:
    assert escape("\udcff\ud800") == r"\xff\ud800"
    assert escape("a\r\n\x1b[31m\x85\u202e\0z") == r"a\r\n\x1b[31m\x85\u202e\0z"
    assert escape("¿señor? C:\\nada 日本 👩‍👧") == "¿señor? C:\\nada 日本 👩‍👧"


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize(
    ("encoding", "used"),
    [
        ("utf-8", "utf-8"),
        ("cp1252", "cp1252"),
        ("cp850", "cp850"),
        ("ascii", "utf-8"),
        ("cp866", "utf-8"),
        ("utf-16", "utf-8"),
    ],
)
def test_the_encoding_is_kept_while_it_knows_our_accents(
    monkeypatch: pytest.MonkeyPatch, encoding: str, used: str
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream(encoding))
    prepare_streams()
    assert sys.stdout.encoding == used
    assert sys.stdin.encoding == used
    assert sys.stdout.errors == "backslashreplace"


def test_streams_that_are_closed_or_not_ours_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    prepare_streams()
    say("nadie lo ve")
    terminal.complain("nadie lo ve")
    terminal.close_output()
    assert not is_terminal(None)
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    prepare_streams()
    say("una línea")
    assert output.getvalue() == "una línea\n"
