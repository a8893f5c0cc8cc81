"""``line_editor.py``: qué editor se elige según lo que haya; cómo se usa cada uno, en ``test_dialogue.py``."""

from __future__ import annotations

import io
import locale
import signal
import sys
from collections.abc import Iterator

import pytest

from comunicacion_tcp.cli.dialogue import PlainEditor
from comunicacion_tcp.cli.line_editor import ReadlineEditor, earlier, open_editor


@pytest.fixture(autouse=True)
def around(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Una terminal cualquiera, y al acabar la señal como estaba."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(), encoding=locale.nl_langinfo(locale.CODESET)))
    yield
    signal.signal(signal.SIGTERM, before)


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Como si ``modules`` no estuvieran instalados."""
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("terminal", ["", "dumb"])
def test_a_terminal_that_knows_nothing_edits_as_the_system_does(monkeypatch: pytest.MonkeyPatch, terminal: str) -> None:
    monkeypatch.setenv("TERM", terminal)
    assert isinstance(open_editor(keep_history=False), PlainEditor)


def test_without_the_extra_there_is_readline(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "prompt_toolkit", "comunicacion_tcp.cli.prompt_toolkit_editor")
    assert isinstance(open_editor(keep_history=False), ReadlineEditor)


def test_readline_is_not_asked_to_read_what_the_system_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "prompt_toolkit", "comunicacion_tcp.cli.prompt_toolkit_editor")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(), encoding="utf-16"))
    assert isinstance(open_editor(keep_history=False), PlainEditor)


def test_without_either_the_system_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "prompt_toolkit", "comunicacion_tcp.cli.prompt_toolkit_editor", "readline")
    assert isinstance(open_editor(keep_history=False), PlainEditor)


def test_without_termios_nothing_is_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "prompt_toolkit", "comunicacion_tcp.cli.prompt_toolkit_editor", "termios")
    open_editor(keep_history=False).close()


def test_earlier_messages_that_begin_alike() -> None:
    entries = ["hola", "adiós", "hola señor", "hola"]
    assert earlier(entries, "ho") == ["hola", "hola señor"]
    assert earlier(entries, "x") == []
    assert earlier(entries, "") == []  # si no, serían todos
