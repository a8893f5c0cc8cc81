"""``cliente-tcp -q < entrada > salida``: las respuestas, solas y enteras, y en una terminal cuánto falta.

Enviar, contar y esperar es de ``comunicacion_tcp/relay.py``; los códigos de salida, de ``client.py``.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import socket
import stat
import sys
import time
from collections.abc import Callable
from io import FileIO

from ..relay import Relay
from .terminal import escape, is_terminal, say

_INPUT, _OUTPUT = 0, 1  # los descriptores de siempre: los bytes no pasan por la codificación de sys.stdin
_REDRAW = 0.25  # segundos: más a menudo no se lee mejor
_MOST_CELLS = 40  # casillas de la barra: en una terminal ancha, más no dicen más


def pour(relay: Relay) -> None:
    """Envía toda la entrada y escribe sus respuestas. Errores: los de ``Relay.relay``."""
    with Output(_OUTPUT) as output:
        write = _on_screen(output) if is_terminal(sys.stdout) else output.write
        size = _input_size()
        if not size or not is_terminal(sys.stderr) or is_terminal(sys.stdout):
            relay.relay(_INPUT, write, output=_OUTPUT)
            return
        bar = Bar(size, os.get_terminal_size(sys.stderr.fileno()).columns)
        try:
            relay.relay(_INPUT, write, lambda done: _draw(bar.at(done, time.monotonic())), output=_OUTPUT)
        finally:
            _draw(bar.end())


def unanswered(relay: Relay) -> str:
    """Las frases que faltan cuando no se acabó, o nada."""
    tally = relay.tally
    if tally.uncountable:
        return " Ninguna respuesta acabó en salto de línea: no se sabe cuáles faltan."
    if tally.excess:
        return " Llegaron más líneas que mensajes: no se sabe si faltaba alguna."
    count = f" Mensajes enviados sin respuesta: {tally.unanswered}." if tally.unanswered else ""
    return count + " La última respuesta llegó a medias." * tally.half_reply


class Output:
    """La salida, sin esperar por ella: lo que ahora no cabe se guarda, y se escribe cuando quepa. ``descriptor``: suyo.

    No se le quita el bloqueo, que lo perderían también los demás programas que la tienen abierta: una tubería o una
    terminal se abren otra vez (Linux, proc(5), ``/proc/self/fd``), y a un socket se le dice en cada escritura. Donde no
    se puede, se pregunta antes y se escribe lo que el sistema asegura que cabe.
    """

    def __init__(self, descriptor: int) -> None:
        self._kept = memoryview(b"")
        self._descriptor = descriptor
        self._again: FileIO | socket.socket | None = None
        self._put = self._choose()

    def write(self, data: memoryview) -> bool:
        """Escribe ``data``, o si es nada lo guardado; devuelve si queda algo guardado. Error: ``OSError``."""
        rest = data or self._kept
        while rest and (size := self._put(rest)):
            rest = rest[size:]
        self._kept = memoryview(bytes(rest)) if data else rest
        return bool(rest)

    def _choose(self) -> Callable[[memoryview], int | None]:
        kind = os.fstat(self._descriptor).st_mode
        if os.name == "nt" or not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(self._descriptor)):
            return lambda data: os.write(self._descriptor, data)  # un fichero nunca dice que ahora no
        if stat.S_ISSOCK(kind):
            self._again = sock = socket.socket(fileno=os.dup(self._descriptor))
            return lambda data: _send_now(sock, data)
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            self._again = FileIO(os.open(f"/proc/self/fd/{self._descriptor}", flags), "w")
            return self._again.write
        return self._write_if_free

    def _write_if_free(self, data: memoryview) -> int:
        free = select.select([], [self._descriptor], [], 0)[1]
        return os.write(self._descriptor, data[: select.PIPE_BUF]) if free else 0

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *error: object) -> None:
        if self._again:
            self._again.close()


def _send_now(sock: socket.socket, data: memoryview) -> int:
    try:
        return sock.send(data, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0


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

    def show(self, data: memoryview) -> str:
        """``data``, como se debe ver."""
        text = self._held + self._decoder.decode(data)
        self._held = "\r" if text.endswith("\r") else ""  # quizá es de un CRLF
        lines = text[: len(text) - len(self._held)].replace("\r\n", "\n").split("\n")
        return "\n".join(map(escape, lines))


def _on_screen(output: Output) -> Callable[[memoryview], object]:
    """Cómo escribir las respuestas en la terminal."""
    screen = Screen()
    if os.name == "nt":  # allí la consola solo entiende los acentos por sys.stdout
        return lambda data: say(screen.show(data), end="")

    def write(data: memoryview) -> bool:
        text = screen.show(data).encode(sys.stdout.encoding, sys.stdout.errors or "strict")
        return output.write(memoryview(text))

    return write


def _draw(text: str) -> None:
    # A una terminal parada (Ctrl-S) no se la espera: mientras, el servidor creería que el parado es este programa.
    if text and sys.stderr is not None and (os.name == "nt" or select.select([], [sys.stderr], [], 0)[1]):
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
