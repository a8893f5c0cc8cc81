"""``check``: cualquier entrada del fuzzer es una conversación, y el protocolo y el modelo deben decir lo mismo de ella.

Aquí no se inventan entradas (``target.py``) ni se guardan (``run.py``). Una entrada se puede escribir a mano:

    00000hola |DESC~ONEXION\\r|\\n

Son cinco cifras (cualquier byte vale: se cuenta desde «0» y se toma el resto) y un guion. Las cifras: servicio (su
puesto en ``SERVICES``), cómo nace la conversación (según el servicio, por líneas, por decidir; de 3 a 5, lo mismo y
puede empezar por HTTP), si los trozos van
como vienen (0), byte a byte (1) o como vienen y preguntando los mensajes (2), cuánto pasa de 16 el máximo por mensaje
(49: sin máximo), y lo que cabe en un turno (``_TURNS``). En el guion ``|`` corta, ``~`` corta y calla 20 ms, y ``*``
(solo el primero) envía de una vez muchas copias del trozo. El fin llega solo.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import cast

from comunicacion_tcp.errors import BadMessage, NotUTF8, ServiceFailed, TooLong
from comunicacion_tcp.limits import MIN_MESSAGE, Limits
from comunicacion_tcp.protocol import ClientProtocol, ServerProtocol
from comunicacion_tcp.services import Service, uppercase
from tests.support import model
from tests.support.driving import play
from tests.support.model import EOF, FAREWELL, SILENCE, Step, answer_lines, answer_steps

OPTIONS = 5
# Máximos de 16 a 64 bytes, que los mensajes de una entrada corta cruzan a menudo, y uno que no cruza ninguno.
_LIMITS = (*range(MIN_MESSAGE, 65), 5000)
# Un trozo repetido puede pasar de lo que cambia de camino en services.py (1024 bytes) y protocol.py (512 y 2048 bytes,
# y 32 mensajes). Con más, el fuzzer pasaría el rato en unas pocas entradas lentas; por lo mismo, solo se repite uno.
_MESSAGES, _REPEATED = 40, 2200
_TURNS = ((1, 10**6), (2, 10**6), (3, 64), (1000, 16), (1000, 10**6))  # mensajes, y bytes de respuestas
_MARKS = re.compile(rb"([|~*])")

# Lo que hace el servicio caprichoso con un mensaje que lleva cada signo, y lo que por el cable se sabe de ello.
FAULTS: dict[str, tuple[object, str]] = {
    "!": (ValueError, "el servicio falló con este mensaje"),
    "?": (None, "el servicio no devolvió texto"),
    "#": ("dos\nlíneas", "el servicio devolvió más de una línea"),
    "$": ("\ud800", "el servicio devolvió texto que no es Unicode válido"),
}


def capricious(message: str) -> str:
    """Las iniciales en mayúsculas, o una de las ``FAULTS``."""
    for sign, (outcome, _) in FAULTS.items():
        if sign in message:
            if outcome is ValueError:
                raise ValueError
            return outcome  # type: ignore[return-value]
    return message.title()


def hasty(block: bytes) -> bytes:
    """El atajo de ``capricious``, que ante cada una de sus faltas falla a su manera."""
    for sign, outcome in ((b"!", SystemExit), (b"?", None), (b"#", "texto"), (b"$", b"")):
        if sign in block:
            if outcome is SystemExit:
                raise SystemExit
            return outcome  # type: ignore[return-value]
    return block.decode().title().encode()


def quote(message: str) -> str:
    """Responde algo hasta a un mensaje vacío: se nota si se le llama de más."""
    return f"<{message}>"


def answer_quote(message: bytes) -> bytes:
    """Lo que por el cable responde ``quote``, según el modelo."""
    upper = model.answer(message)
    return upper if upper == model.NOT_UTF8 else b"<" + message + b">"


def answer_capricious(message: bytes) -> bytes:
    """Lo que por el cable responde ``capricious``, según el modelo."""
    try:
        text = message.decode()
    except UnicodeDecodeError:
        return model.NOT_UTF8
    errors = [error for sign, (_, error) in FAULTS.items() if sign in text]
    return f"ERROR: {errors[0]}".encode() if errors else text.title().encode()


SERVICES: tuple[tuple[Service, Callable[[bytes], bytes]], ...] = (
    (uppercase, model.answer),
    (Service(str.upper, by_character=True), model.answer),
    (Service(str.upper, block=lambda block: b"" if b"!" in block else block.decode().upper().encode()), model.answer),
    (Service(capricious), answer_capricious),
    (Service(capricious, block=hasty), answer_capricious),
    (Service(quote), answer_quote),
)


@functools.cache  # construir unos límites cuesta más que responder
def _limits(max_message: int, messages: int, replies: int) -> Limits:
    return Limits(max_message=max_message, messages_per_turn=messages, high_water=replies)


def read_script(script: bytes, *, byte_by_byte: bool) -> list[Step]:
    """El guion, en pasos."""
    head, star, tail = script.partition(b"*")
    parts = [*_MARKS.split(head + star + tail.replace(b"*", b"|")), b""]  # trozo, marca, trozo, marca...
    steps: list[Step] = []
    for piece, mark in zip(parts[::2], parts[1::2], strict=True):
        if mark == b"*":
            steps.append((piece * max(1, _MESSAGES // (piece.count(b"\n") or 1)))[:_REPEATED])
        elif byte_by_byte:
            steps += [piece[at : at + 1] for at in range(len(piece))]
        else:
            steps.append(piece)
        if mark == b"~":
            steps.append(SILENCE)
    return steps


def check(data: bytes) -> None:
    """Ejecuta la entrada. ``AssertionError`` si el protocolo y el modelo no coinciden; lo que lance el protocolo, si
    lanza."""
    if len(data) < OPTIONS:
        return
    kind, birth, cutting, size, turn = (byte - ord("0") for byte in data[:OPTIONS])
    service, answer = SERVICES[kind % len(SERVICES)]
    limit = _LIMITS[size % len(_LIMITS)]
    limits = _limits(limit, *_TURNS[turn % len(_TURNS)])
    lines_only = (None, True, False)[birth % 3]
    allow_http = birth % 6 > 2
    steps = read_script(data[OPTIONS:], byte_by_byte=cutting % 4 == 1)
    stream = b"".join(step for step in steps if isinstance(step, bytes))

    def conversing(*, deferred: bool = False) -> ServerProtocol:
        return ServerProtocol(service, limits, lines_only=lines_only, deferred=deferred, allow_http=allow_http)

    conversation = conversing(deferred=cutting % 4 == 2)
    function = cast(Callable[[str], str], service.function)  # aquí ninguna es async
    bad: list[BadMessage] = []
    early = play(conversation, steps, function, bad)
    over = conversation.ended
    reply = early + play(conversation, [EOF], function, bad)
    by_lines = not service.by_character if lines_only is None else lines_only
    if by_lines:
        assert reply == answer_lines(stream, limit, answer, http_at_first=not allow_http)
        if len(steps) > 1:  # la propiedad misma, sin pasar por el modelo
            assert reply == play(conversing(), [stream, EOF])
    else:
        assert reply == answer_steps([*steps, EOF], limit, answer, http_at_first=not allow_http)
        if service.by_character and _has_a_good_first_line(steps, limit):
            assert reply == answer_lines(stream, limit, answer)
    # Nada se responde tarde. De una conversación decidida, el fin solo acaba la línea a medias, si cabe.
    if by_lines or b"\n" in stream:
        rest = stream[stream.rfind(b"\n") + 1 :]
        told_already = over or len(rest.removesuffix(b"\r")) > limit
        at_first = not allow_http and b"\n" not in stream
        assert reply == early + (b"" if told_already else answer_lines(rest, limit, answer, http_at_first=at_first))
    else:
        assert early == answer_steps(steps, limit, answer, http_at_first=not allow_http)
    assert conversation.ended
    assert conversation.said_goodbye == (FAREWELL in reply[-len(FAREWELL) - 2 :])
    assert not play(conversation, [b"x\n", SILENCE, EOF])
    assert not conversation.take_bad_messages()  # se contaron al acabar cada paso
    assert all(f"ERROR: {one}".encode() in reply for one in bad)
    told = [type(one) for one in bad if not isinstance(one, ServiceFailed)]
    assert len(set(told)) == len(told)
    if answer is model.answer:  # en mayúsculas nadie puede escribir estos errores: si están, se han contado
        assert (NotUTF8 in told) == (model.NOT_UTF8 in reply)
        assert (TooLong in told) == (model.too_long(limit) in reply)
    check_client(steps)


def _has_a_good_first_line(steps: list[Step], limit: int) -> bool:
    """Si se cumple la condición de la propiedad de docs/protocolo.md, 7."""
    line = b""
    for step in steps:
        if not isinstance(step, bytes):
            break
        line += step
        if b"\n" in step:
            first = line.split(b"\n")[0].removesuffix(b"\r")
            return len(first) <= limit and model.answer(first) != model.NOT_UTF8 and not model.is_http(first)
    return False


def check_client(steps: list[Step]) -> None:
    """Lo mismo, como si lo enviara un servidor a un ``ClientProtocol``."""
    client = ClientProtocol()
    expected: list[bytes] = []
    pending, sends_lines = b"", False
    for step in steps:
        if isinstance(step, bytes):
            client.receive_data(step)
            *lines, pending = (pending + step).split(b"\n")
            expected += [line.removesuffix(b"\r") for line in lines]
            sends_lines |= bool(lines)
        else:
            client.receive_silence()
            if pending and not sends_lines:
                expected.append(pending)
                pending = b""
    client.receive_eof()
    expected += [pending] * bool(pending)
    assert list(iter(client.next_reply, None)) == [reply.decode(errors="backslashreplace") for reply in expected]
    assert not client.has_begun
