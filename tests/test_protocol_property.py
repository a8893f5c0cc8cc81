"""Las propiedades sobre las que descansa todo: el protocolo y el modelo de referencia dicen lo mismo, se corte
el flujo por donde se corte.

El tiempo no pasa: los 20 ms de silencio son un paso más de la entrada.
"""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from comunicacion_tcp.limits import Limits
from comunicacion_tcp.protocol import ClientProtocol, ServerProtocol
from comunicacion_tcp.services import Service

from .support.driving import FRAGMENTS, LIMIT, play
from .support.model import EOF, GOODBYE, SILENCE, Step, answer_lines, answer_steps

pieces = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=6), max_size=8).map(b"".join)
steps = st.lists(pieces.filter(bool) | st.just(SILENCE), max_size=10)
bare_steps = st.lists(pieces.map(lambda piece: piece.replace(b"\n", b"")).filter(bool) | st.just(SILENCE), max_size=10)
good_text = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=8)


def serve(steps: list[Step], *, lines_only: bool | None = None) -> bytes:
    """Lo que responde ``ServerProtocol`` a estos pasos."""
    conversation = ServerProtocol(limits=Limits(max_message=LIMIT), lines_only=lines_only)
    return play(conversation, steps)


def cut(stream: bytes, places: list[int]) -> list[Step]:
    """``stream`` en trozos, cortado en ``places`` (posiciones cualesquiera)."""
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


places = st.lists(st.integers(min_value=0, max_value=200), max_size=30)


@given(steps)
@example([b"DESC", b"ONEXION", EOF])
@example([b"DESC", SILENCE, b"ONEXION\n"])
@example([b"x" * LIMIT + b"\r", b"\n"])
@example([b"P", b"UT /", b"x" * LIMIT, b" HTTP/1.", b"1\r", b"\na\n"])
def test_any_bytes_in_any_steps_equal_the_reference_model(steps: list[Step]) -> None:
    assert serve([*steps, EOF]) == answer_steps([*steps, EOF], LIMIT, http_at_first=True)


@given(steps)
def test_where_http_is_allowed_it_is_like_anything_else(steps: list[Step]) -> None:
    conversation = ServerProtocol(limits=Limits(max_message=LIMIT), allow_http=True)
    assert play(conversation, [*steps, EOF]) == answer_steps([*steps, EOF], LIMIT)


@given(bare_steps)
def test_while_undecided_nothing_is_answered_late(steps: list[Step]) -> None:
    assert serve(steps) == answer_steps(steps, LIMIT)


@given(pieces, places)
def test_a_conversation_of_lines_answers_the_same_bytes_in_every_cut(stream: bytes, places: list[int]) -> None:
    # Decidida por una línea vacía, o nacida así: da igual.
    assert serve([b"\n", *cut(stream, places), EOF]) == b"\n" + answer_lines(stream, LIMIT)
    assert serve([*cut(stream, places), EOF], lines_only=True) == answer_lines(stream, LIMIT, http_at_first=True)


@given(good_text.filter(lambda text: len(text.encode()) <= LIMIT) | st.just(GOODBYE.decode()), pieces, places)
def test_a_good_first_line_answers_the_same_bytes_in_every_cut(first: str, rest: bytes, places: list[int]) -> None:
    stream = first.encode() + b"\n" + rest
    assert serve([*cut(stream, places), EOF]) == answer_lines(stream, LIMIT)


@given(pieces)
def test_whole_equals_byte_by_byte(stream: bytes) -> None:
    assert serve([b"\n", *(bytes([byte]) for byte in stream), EOF]) == serve([b"\n", stream, EOF])


@given(pieces, places)
def test_a_service_without_a_shortcut_answers_the_same(stream: bytes, places: list[int]) -> None:
    slow = ServerProtocol(Service(str.upper), Limits(max_message=LIMIT))
    assert play(slow, [*cut(stream, places), EOF]) == answer_lines(stream, LIMIT, http_at_first=True)


@given(pieces, places, places)
def test_answers_that_come_late_keep_their_order(stream: bytes, places: list[int], moments: list[int]) -> None:
    # Cada respuesta llega cuando quiere: tras otro trozo, tras dos, o al final.
    conversation = ServerProtocol(Service(str.upper), Limits(max_message=LIMIT), deferred=True)
    reply, late = b"", itertools.cycle([*moments, 0])
    for step in cut(stream, places):
        assert isinstance(step, bytes)
        reply += conversation.receive_data(step)
        for _ in range(next(late) % 3):
            question = conversation.take_question()
            if question is not None:
                reply += conversation.receive_answer(question.upper)
            reply += conversation.resume() if conversation.queued else b""
    assert reply + play(conversation, [EOF]) == answer_lines(stream, LIMIT, http_at_first=True)
    assert conversation.ended


@given(st.lists(good_text.map(lambda text: text.rstrip("\r")), max_size=6), places, places)
def test_two_real_ends_and_a_fake_wire(messages: list[str], there: list[int], back: list[int]) -> None:
    messages = [message for message in messages if message != GOODBYE.decode()]
    client, server = ClientProtocol(), ServerProtocol()
    stream = b"".join(client.send(message) for message in messages) + client.say_goodbye()
    answer = play(server, [*cut(stream, there), EOF])
    for piece in cut(answer, back):
        assert isinstance(piece, bytes)
        client.receive_data(piece)
    client.receive_eof()
    replies = iter(client.next_reply, None)
    expected = [message.upper().removesuffix("\r") for message in messages]
    assert list(replies) == [*expected, "Conexión cerrada"]
    assert server.said_goodbye
