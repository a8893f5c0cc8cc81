"""``cliente-tcp -q < entrada > salida``: las respuestas, solas y enteras, y en una terminal cuánto falta.

Enviar, contar y esperar es de ``comunicacion_tcp/relay.py``; los códigos de salida, de ``client.py``.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable

from ..relay import Relay
from .terminal import escape, is_terminal, say

_INPUT, _OUTPUT = 0, 1  # los descriptores de siempre: los bytes no pasan por la codificación de sys.stdin
_REDRAW = 0.25  # segundos: más a menudo no se lee mejor
_MOST_CELLS = 40  # casillas de la barra: en una terminal ancha, más no dicen más


def pour(relay: Relay) -> None:
    """Envía toda la entrada y escribe sus respuestas. Errores: los de ``Relay.relay``."""
    if hasattr(os, "set_blocking"):
        # Quien nos lanzó pudo dejar la salida sin bloqueo: «ahora no cabe» parecería un fallo.
        with contextlib.suppress(OSError):
            os.set_blocking(_OUTPUT, True)
    write: Callable[[memoryview], object] = Screen().write if is_terminal(sys.stdout) else _write_all
    size = _input_size()
    if not size or not is_terminal(sys.stderr) or is_terminal(sys.stdout):
        relay.relay(_INPUT, write)
        return
    bar = Bar(size, os.get_terminal_size(sys.stderr.fileno()).columns)
    try:
        relay.relay(_INPUT, write, lambda done: _draw(bar.at(done, time.monotonic())))
    finally:
        _draw(bar.end())


def unanswered(relay: Relay) -> str:
    """La frase que falta cuando no se acabó, o nada."""
    count = relay.tally.unanswered
    return f" Mensajes enviados sin respuesta: {count}." if count else ""


class Bar:
    """Una barra de progreso de una línea. Pura: la hora se recibe, y devuelve lo que hay que escribir, quizá nada.

    ``size``: cuánto es todo. ``columns``: lo ancha que es la terminal.
    """

    def __init__(self, size: int, columns: int) -> None:
        self._size = size
        self._cells = max(0, min(_MOST_CELLS, columns - len("\r[] 100 %") - 1))
        self._next = 0.0
        self._shown = False

    def at(self, done: int, now: float) -> str:
        """Van ``done``, y son las ``now``, en segundos de un reloj que no retrocede."""
        if now < self._next:
            return ""
        self._next = now + _REDRAW
        self._shown = True
        part = min(1.0, done / self._size)
        full = int(part * self._cells)
        return f"\r[{'#' * full}{'.' * (self._cells - full)}] {int(part * 100):3} %"

    def end(self) -> str:
        """Para borrarla, si se llegó a ver."""
        return f"\r{' ' * (self._cells + len('[] 100 %'))}\r" if self._shown else ""


class Screen:
    """Las respuestas en una terminal, según llegan y escapadas, aunque un carácter o un terminador llegue partido."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""

    def write(self, data: memoryview) -> None:
        """Escribe ``data``."""
        text = self._held + self._decoder.decode(data)
        self._held = "\r" if text.endswith("\r") else ""  # quizá es de un CRLF
        lines = text[: len(text) - len(self._held)].replace("\r\n", "\n").split("\n")
        say("\n".join(map(escape, lines)), end="")


def _write_all(rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(_OUTPUT, rest) :]


def _draw(text: str) -> None:
    if text and sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


def _input_size() -> int:
    """Los bytes que quedan por leer de la entrada, o 0 si no se sabe."""
    try:
        status = os.fstat(_INPUT)
        return status.st_size - os.lseek(_INPUT, 0, os.SEEK_CUR) if stat.S_ISREG(status.st_mode) else 0
    except OSError:
        return 0
