"""Un programa en una terminal como la ve una persona: un pseudoterminal y un emulador (pyte) que pinta su pantalla."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyte

from .examples import ROOT
from .programs import Program, environment
from .waiting import wait_until

ROWS, COLUMNS = 40, 80
PROMPT_TOOLKIT, READLINE = "prompt_toolkit", "readline"
EDITORS = [PROMPT_TOOLKIT, READLINE]
_WITHOUT_PROMPT_TOOLKIT = str(ROOT / "tests" / "support" / "without_prompt_toolkit")

UP, TAB, ENTER, CTRL_C, CTRL_D, CTRL_R, ESCAPE = "\x1b[A", "\t", "\r", "\x03", "\x04", "\x12", "\x1b"
CTRL_Z, CTRL_BACKSLASH = "\x1a", "\x1c"


def pasted(text: str) -> str:
    """Lo que envía una terminal moderna al pegar ``text`` en un programa que lo pidió así."""
    return "\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~"


class Screen(Program):
    """Un programa con editor de líneas: se teclea con ``type`` y se mira ``lines``.

    ``editor``: con cuál de ``EDITORS``. ``home``: la carpeta de la persona, donde se guarda el historial.
    """

    def __init__(
        self, command: Sequence[str], editor: str, home: Path, *, env: Mapping[str, str] | None = None
    ) -> None:
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._shown = 0
        super().__init__(command, terminal=True, size=(ROWS, COLUMNS), env={**_settings(editor, home), **(env or {})})

    @staticmethod
    def settings(editor: str, home: Path) -> dict[str, str]:
        """El entorno entero de una persona con ese editor y esa carpeta."""
        return environment(_settings(editor, home))

    @property
    def terminal(self) -> int:
        """El descriptor de su terminal."""
        return self._master

    @property
    def lines(self) -> list[str]:
        """Las líneas de la pantalla, sin los espacios de la derecha ni las vacías del final."""
        self._paint()
        text = "\n".join(line.rstrip() for line in self._screen.display)
        return text.rstrip("\n").split("\n")

    def _paint(self) -> None:
        data = self._bytes[self._shown :]
        self._shown += len(data)
        self._stream.feed(data)

    @property
    def cursor(self) -> tuple[int, int]:
        """La fila y la columna del cursor."""
        self._paint()
        return self._screen.cursor.y, self._screen.cursor.x

    def colour_of(self, text: str) -> str:
        """El color del principio de la última línea que contiene ``text``; ``"default"`` si no tiene."""
        row = max(number for number, line in enumerate(self.lines) if text in line)
        return str(self._screen.buffer[row][self.lines[row].index(text)].fg)

    def shows(self, *lines: str) -> None:
        """Espera a que la pantalla acabe con ``lines``, que van seguidas."""
        wait_until(
            lambda: self.lines[-len(lines) :] == list(lines),
            lambda: f"que acabe en {lines!r}; se ve:\n" + "\n".join(self.lines),
        )

    def wait_for(self, text: str, times: int = 1) -> None:
        """Espera a que ``text`` se vea en la pantalla, ``times`` veces."""
        wait_until(
            lambda: "\n".join(self.lines).count(text) >= times,
            lambda: f"que se vea {text!r}; se ve:\n" + "\n".join(self.lines),
        )

    def __enter__(self) -> Screen:
        return self

    def resize(self, rows: int, columns: int) -> None:
        """Cambia el tamaño de la ventana; el sistema avisa al programa."""
        self._paint()
        self._screen.resize(rows, columns)
        self._set_size(rows, columns)


def _settings(editor: str, home: Path) -> dict[str, str]:
    settings = {"TERM": "xterm-256color", "HOME": str(home), "XDG_STATE_HOME": str(home / "estado")}
    if editor == READLINE:
        settings["PYTHONPATH"] = _WITHOUT_PROMPT_TOOLKIT
    return settings
