"""Llevar un ``ServerProtocol`` de paso en paso, y los trozos con que se le ataca.

Lo comparten las pruebas que no tocan la red y el fuzzer (``fuzz/check.py``). Qué debe responder lo dice ``model.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from comunicacion_tcp.errors import BadMessage
from comunicacion_tcp.protocol import ServerProtocol

from .model import EOF, SILENCE, Step

LIMIT = 20  # bytes por mensaje: pequeño, para que los mensajes de los ejemplos lo crucen a menudo

# Trozos con mala intención: la despedida y sus imitaciones, terminadores, caracteres de 2, 3 y 4 bytes enteros y
# a medias, bytes que no son UTF-8, y relleno que ronda el límite.
FRAGMENTS = [
    *(b"DESCONEXION", b"DESC", b"ONEXION", b"D", b"\n", b"\r\n", b"\r", b"\n\n", b"DESCONEXION\n", b"DESCONEXION\r\n"),
    *(
        text.encode()
        for text in ("desconexıon", "ſ", "desconexion", "hola ", "a", "ñ€😀ß", "ΰ", "\u2028", "\x85", "\ufeff")
    ),
    *("é".encode()[:1], "€".encode()[:2], "😀".encode()[:3], "é".encode()[1:], "😀".encode()[1:]),  # a medias
    *(b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xe0\x80", b"\xf4\x90\x80\x80", b"\xff\xfd\x03", b"\x00"),
    *(b"x" * (LIMIT - 1), b"x" * LIMIT, b"x" * (LIMIT + 1)),
    *(b"GET / HTTP/1.1\r\n", b"GET /", b"P", b"UT ", b" HTTP/1.", b"0\n", b" "),
]


def settle(conversation: ServerProtocol, reply: bytes, function: Callable[[str], str], told: list[BadMessage]) -> bytes:
    """``reply`` y lo que falte: una llamada puede dejar trabajo para otra vuelta, y va antes que lo siguiente. Lo que
    pregunte lo responde ``function``."""
    while True:
        told += conversation.take_bad_messages()
        if conversation.ended or not conversation.busy:
            return reply
        question = conversation.take_question()
        if question is not None:
            reply += conversation.receive_answer(partial(function, question))
        if conversation.queued and not conversation.ended:
            reply += conversation.resume()


def play(
    conversation: ServerProtocol,
    steps: Iterable[Step],
    function: Callable[[str], str] = str.upper,
    told: list[BadMessage] | None = None,
) -> bytes:
    """Lo que responde a estos pasos, en este orden, llevado como en ``connection.py``: tras recibir, solo se mira si
    hay más que hacer cuando ``unsettled`` dice que puede haberlo. ``function``, como en ``settle``. ``told``: dónde
    quedan los errores que cuenta."""
    reply = b""
    errors = [] if told is None else told
    for step in steps:
        look = conversation.unsettled
        if isinstance(step, bytes):
            said = conversation.receive_data(step)
        else:
            said = {SILENCE: conversation.receive_silence, EOF: conversation.receive_eof}[step]()
            look = True
        if look or conversation.unsettled:
            said = settle(conversation, said, function, errors)
        assert not (said and conversation.awaiting_silence), "espera el silencio con algo que enviar"
        reply += said
    return reply
