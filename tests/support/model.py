"""El modelo de referencia: qué debe responder el servidor, escrito para leerlo y no para que sea rápido.

No comparte código con ``protocol.py``: si los dos coinciden con cualquier entrada, es que la norma se entiende igual
dos veces. Un paso es un trozo de bytes, ``SILENCE`` (20 ms callado) o ``EOF`` (fin de la entrada).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable

SILENCE, EOF = "silencio", "fin"
Step = bytes | str

Answer = Callable[[bytes], bytes]
"""Lo que un servicio responde a un mensaje que cabe, o el error que lo sustituye."""

GOODBYE = b"DESCONEXION"
FAREWELL = "Conexión cerrada".encode()
NOT_UTF8 = "ERROR: el mensaje no es UTF-8 válido".encode()
HTTP = "ERROR: esto es HTTP, y este servidor no lo habla; se cierra la conexión".encode()

_Decoder = codecs.getincrementaldecoder("utf-8")


def too_long(limit: int) -> bytes:
    """La respuesta a un mensaje de más de ``limit`` bytes."""
    return f"ERROR: el mensaje pasa de {limit} bytes".encode()


def answer(message: bytes) -> bytes:
    """La respuesta del servicio que viene puesto, las mayúsculas."""
    try:
        return message.decode().upper().encode()
    except UnicodeDecodeError:
        return NOT_UTF8


def split_terminator(line: bytes) -> tuple[bytes, bytes]:
    """Un mensaje y su terminador; sin ``\\n`` al final, todo es mensaje."""
    match = re.fullmatch(rb"(.*?)(\r?\n|)", line, re.DOTALL)
    assert match
    return match[1], match[2]


def is_http(line: bytes) -> bool:
    """Si ``line``, sin su terminador, es la primera línea de una petición de HTTP."""
    words = line.split(b" ")
    return (
        len(words) == 3
        and re.fullmatch(rb"[A-Z-]{1,20}", words[0]) is not None
        and words[1] != b""
        and re.fullmatch(rb"HTTP/[0-9]\.[0-9]", words[2]) is not None
    )


def answer_lines(stream: bytes, limit: int, answer: Answer = answer, *, http_at_first: bool = False) -> bytes:
    """Lo que responde una conversación de líneas a ``stream`` y el fin de la entrada, se corte como se corte.
    ``http_at_first``: si ``stream`` es su principio, y no puede empezar por una petición de HTTP."""
    reply = b""
    for line in re.findall(rb"[^\n]*\n|[^\n]+", stream):
        message, terminator = split_terminator(line)
        if message == GOODBYE:
            return reply + FAREWELL + terminator
        size = len(message) - (not terminator and message.endswith(b"\r"))
        if http_at_first and is_http(message[:size]):
            # De la que no cabe y no acaba se supo antes que no cabía.
            return (too_long(limit) if size > limit else HTTP) + terminator
        http_at_first = False
        reply += (too_long(limit) if size > limit else answer(message)) + terminator
    return reply


def answer_steps(steps: Iterable[Step], limit: int, answer: Answer = answer, *, http_at_first: bool = False) -> bytes:
    """Lo que responde una conversación por decidir a estos pasos, en este orden. ``http_at_first``: si no puede empezar
    por una petición de HTTP."""
    reply = line = held = b""  # line: la primera línea hasta aquí; held: su final, aún sin responder
    steps = iter(steps)
    for step in steps:
        if step == EOF:
            return reply + (FAREWELL if GOODBYE in (held, line) else answer_lines(held, limit, answer))
        if step == SILENCE and held == GOODBYE:
            return reply + FAREWELL
        if step == SILENCE and (GOODBYE + b"\r").startswith(held):
            reply, held = reply + answer_lines(held, limit, answer), b""
        if step == SILENCE:
            continue
        assert isinstance(step, bytes)
        piece, newline, after = step.partition(b"\n")
        line, rest = line + piece, held + piece
        if newline:  # decidida: lo que venga detrás es una conversación de líneas
            whole, terminator = split_terminator(line + newline)
            if whole == GOODBYE:
                return reply + FAREWELL + terminator
            # Lo que quede de esta línea es su continuación, no una línea que pudiera ser la despedida.
            body, end = split_terminator(rest + newline)
            size = len(body)
            if http_at_first and is_http(whole):
                return reply + (too_long(limit) if size > limit else HTTP) + end
            reply += (too_long(limit) if size > limit else answer(body)) + end
            after += b"".join(step for step in steps if isinstance(step, bytes))
            return reply + answer_lines(after, limit, answer)
        held = b""
        if (GOODBYE + b"\r").startswith(rest):
            held = rest
        else:
            decoder = _Decoder("ignore")
            decoder.decode(rest)
            held = decoder.getstate()[0]
            done = rest[: len(rest) - len(held)]
            size = len(done) - done.endswith(b"\r")
            if done:
                reply += too_long(limit) if size > limit else answer(done)
    return reply
