"""``line_editor.py``: qué editor se elige según lo que haya; cómo se usa cada uno, en ``test_dialogue.py``."""

from __future__ import annotations

import io
import locale
import os
import pty
import select
import signal
import sys
import termios
from collections.abc import Iterator

import pytest
from prompt_toolkit import PromptSession

from comunicacion_tcp.cli.dialogue import PlainEditor, Talk
from comunicacion_tcp.cli.line_editor import ReadlineEditor, earlier, open_editor

from ..support.screen import CTRL_D, EDITORS, READLINE
from ..support.waiting import PATIENCE

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGQUIT)


@pytest.fixture(autouse=True)
def around(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Una terminal cualquiera, y al acabar la señal como estaba."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(), encoding=locale.nl_langinfo(locale.CODESET)))
    yield
    for number, action in before.items():
        signal.signal(number, action)


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


class Silence(Talk):
    """Nada que decir ni que esperar."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("editor", EDITORS)
def test_the_end_of_the_input_typed_before_the_editor_reads_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, editor: str
) -> None:
    if editor == READLINE:
        hide(monkeypatch, "prompt_toolkit", "comunicacion_tcp.cli.prompt_toolkit_editor")
    master, terminal = pty.openpty()
    with os.fdopen(terminal, encoding=locale.nl_langinfo(locale.CODESET)) as stdin, os.fdopen(master, "wb", 0) as keys:
        monkeypatch.setattr(sys, "stdin", stdin)
        usual = termios.tcgetattr(terminal)

        def begin_to_read(*_: object, **__: object) -> str:
            keys.write(CTRL_D.encode())
            assert select.select([terminal], [], [], PATIENCE)[0]  # lo tecleado llega cuando el sistema quiere
            before = termios.tcgetattr(terminal)
            raw = list(before)
            raw[3] &= ~(termios.ICANON | termios.ECHO)  # como hace todo editor al empezar
            termios.tcsetattr(terminal, termios.TCSANOW, raw)
            typed = os.read(terminal, 2)
            termios.tcsetattr(terminal, termios.TCSANOW, before)
            return typed.decode()

        monkeypatch.setattr("builtins.input", begin_to_read)
        monkeypatch.setattr(PromptSession, "prompt", begin_to_read)
        chosen = open_editor(keep_history=False)
        assert [chosen.ask("", Silence()) for _ in range(2)] == [CTRL_D, CTRL_D]
        chosen.close()
        assert termios.tcgetattr(terminal) == usual


def test_earlier_messages_that_begin_alike() -> None:
    entries = ["hola", "adiós", "hola señor", "hola"]
    assert earlier(entries, "ho") == ["hola", "hola señor"]
    assert earlier(entries, "x") == []
    assert earlier(entries, "") == []  # si no, serían todos
