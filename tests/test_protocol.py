"""``protocol.py`` por casos: cada rama, y las que las propiedades encuentran solo por suerte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from comunicacion_tcp.errors import (
    BadMessage,
    HTTPRequest,
    MessageError,
    NotUTF8,
    ServiceFailed,
    ServiceTimedOut,
    TooLong,
    TooSlow,
)
from comunicacion_tcp.limits import PROMPT_BYTES, PROMPT_MESSAGES, Limits
from comunicacion_tcp.protocol import ClientProtocol, ServerProtocol
from comunicacion_tcp.services import Service, uppercase

from .support.driving import play
from .support.model import EOF, HTTP, SILENCE, Step, answer_lines

SMALL = Limits(max_message=16)


def replies(conversation: ServerProtocol, *steps: Step) -> list[bytes]:
    """Lo que responde a cada paso."""
    return [play(conversation, [step]) for step in steps]


def in_turns(conversation: ServerProtocol, data: bytes) -> list[bytes]:
    """Lo que responde a ``data`` en cada turno."""
    turns = [conversation.receive_data(data)]
    while conversation.busy:
        turns.append(conversation.resume())
    return turns


def in_turns_asking(conversation: ServerProtocol, data: bytes) -> list[bytes]:
    """Lo mismo, de una que pregunta."""
    turns = [conversation.receive_data(data)]
    while conversation.busy:
        question = conversation.take_question()
        turns.append(conversation.resume() if question is None else conversation.receive_answer(question.upper))
    return turns


BYE = "Conexión cerrada".encode()


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # La despedida, cortada por donde más duele.
        ([b"DESCONEXION\r", b"\n"], [b"", BYE + b"\r\n"]),
        ([b"DESCONEXION\r", SILENCE, b"x"], [b"", b"DESCONEXION\r", b"X"]),
        ([b"DESCONEXION\r", EOF], [b"", b"DESCONEXION\r"]),
        ([b"DESCONEXION", EOF], [b"", BYE]),
        ([b"DESC", SILENCE, b"ONEXION", EOF], [b"", b"DESC", b"ONEXION", BYE]),
        ([b"DESC", SILENCE, b"ONEXION", b"\r\n"], [b"", b"DESC", b"ONEXION", BYE + b"\r\n"]),
        ([b"DESC", SILENCE, b"\n", b"ONEXION", EOF], [b"", b"DESC", b"\n", b"", b"ONEXION"]),
        ([b"hola", b"DESCONEXION", SILENCE], [b"HOLA", b"", BYE]),
        ([b"hola", b"DESCONEXION", EOF], [b"HOLA", b"", BYE]),
        ([b"hola ", b"DESCONEXION", b"\n"], [b"HOLA ", b"", b"DESCONEXION\n"]),
        ([b"DESCONEXIONES"], [b"DESCONEXIONES"]),
        ([b"DESCONEXION\nDESCONEXION\n", b"mas\n"], [BYE + b"\n", b""]),
        ([b"\n", b"DESCONEXION", SILENCE, b"\n"], [b"\n", b"", b"", BYE + b"\n"]),
        # Bytes que no llegan a ser un carácter.
        ([b"\xc3", SILENCE, b"\xb1"], [b"", b"", "Ñ".encode()]),
        ([b"a\xc3", EOF], [b"A", "ERROR: el mensaje no es UTF-8 válido".encode()]),
        ([b"\n\xc3", EOF], [b"\n", "ERROR: el mensaje no es UTF-8 válido".encode()]),
        ([b"", EOF, b"x", SILENCE, EOF], [b"", b"", b"", b"", b""]),
        # El tamaño: 16 caben, 17 no; un "\r" al final puede ser del terminador.
        ([b"x" * 16 + b"\n", b"x" * 16 + b"\r\n"], [b"X" * 16 + b"\n", b"X" * 16 + b"\r\n"]),
        ([b"\n", b"x" * 16 + b"\r", b"\n"], [b"\n", b"", b"X" * 16 + b"\r\n"]),
        ([b"x" * 16 + b"\r", b"\n"], [b"X" * 16 + b"\r", b"\n"]),
        ([b"\n" + b"x" * 17], [b"\nERROR: el mensaje pasa de 16 bytes"]),
        ([b"\n" + b"x" * 17, b"xx\r", b"\na\n"], [b"\nERROR: el mensaje pasa de 16 bytes", b"", b"\r\nA\n"]),
        ([b"\n" + b"x" * 16 + b"\r\r", b"\n"], [b"\nERROR: el mensaje pasa de 16 bytes", b"\r\n"]),
        # Por decidir cada trozo es un mensaje: el tamaño es el suyo, y no se guarda nada de los anteriores.
        ([b"x" * 17, b"z"], [b"ERROR: el mensaje pasa de 16 bytes", b"Z"]),
        ([b"x" * 10] * 5 + [b"\n"], [b"X" * 10] * 5 + [b"\n"]),
        ([b"x" * 10, b"x" * 17 + b"\r\n"], [b"X" * 10, b"ERROR: el mensaje pasa de 16 bytes\r\n"]),
        ([b"\n" + b"x" * 17, EOF], [b"\nERROR: el mensaje pasa de 16 bytes", b""]),
    ],
)
def test_replies_step_by_step(steps: list[Step], expected: list[bytes]) -> None:
    assert replies(ServerProtocol(limits=SMALL), *steps) == expected


def test_waits_for_silence_only_while_it_can_matter() -> None:
    conversation = ServerProtocol()
    seen = []
    for data in (b"\xc3", b"\xb1", b"DESC", b"ANSO", b"\n", b"DESC"):
        conversation.receive_data(data)
        seen.append(conversation.awaiting_silence)
    assert seen == [False, False, True, False, False, False]


def test_a_bare_client_may_go_on_for_ever_without_pausing() -> None:
    conversation = ServerProtocol(limits=SMALL)
    for _ in range(1000):
        assert conversation.receive_data(b"hola") == b"HOLA"


def test_nothing_is_answered_after_the_goodbye() -> None:
    conversation = ServerProtocol()
    assert replies(conversation, b"DESCONEXION\n", b"x\n", SILENCE, EOF) == [BYE + b"\n", b"", b"", b""]
    assert conversation.ended
    assert conversation.said_goodbye


def test_the_end_without_goodbye_is_not_a_goodbye() -> None:
    conversation = ServerProtocol()
    conversation.receive_eof()
    assert conversation.ended
    assert not conversation.said_goodbye


def test_a_thousand_complete_lines_cost_the_service_one_call() -> None:
    blocks: list[bytes] = []

    def count(block: bytes) -> bytes:
        blocks.append(block)
        return block

    conversation = ServerProtocol(Service(str, block=count, by_character=True))
    lines = b"hola\n" * 1000
    assert in_turns(conversation, lines) == [b"", lines]
    assert b"".join(in_turns(conversation, lines[:-2]) + in_turns(conversation, lines[-2:])) == lines
    assert blocks == [lines, lines[:-5], lines[-5:]]


def test_one_bad_message_does_not_cost_its_neighbours_theirs() -> None:
    conversation = ServerProtocol()
    expected = "AÑO\nERROR: el mensaje no es UTF-8 válido\r\nSEÑAL\n".encode()
    assert conversation.receive_data("año\n".encode() + b"\xff\r\n" + "señal\n".encode()) == expected


def test_blocks_larger_than_a_message_are_not_messages_too_long() -> None:
    conversation = ServerProtocol(limits=SMALL)
    assert conversation.receive_data(b"hola mundo\n" * 10) == b"HOLA MUNDO\n" * 10
    assert conversation.receive_data(b"a\n" + b"x" * 17 + b"\nb\n") == b"A\nERROR: el mensaje pasa de 16 bytes\nB\n"


def explode(message: str) -> str:
    raise ValueError("detalles privados")


def leave(message: str) -> str:
    raise SystemExit(3)


def cancel(message: str) -> str:
    raise GeneratorExit


class Odd(str):
    """Un texto que no se porta como los demás."""

    def __contains__(self, part: object) -> bool:
        return False

    def encode(self, *_: object) -> bytes:
        raise SystemExit(3)


class Disguised:
    """Ni siquiera es un texto: solo lo dice."""

    __class__ = str  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (explode, "el servicio falló con este mensaje"),
        (leave, "el servicio falló con este mensaje"),
        (cancel, "el servicio falló con este mensaje"),
        (lambda message: None, "el servicio no devolvió texto"),
        (lambda message: message.encode(), "el servicio no devolvió texto"),
        (lambda message: "dos\nlíneas", "el servicio devolvió más de una línea"),
        (lambda message: "\ud800", "el servicio devolvió texto que no es Unicode válido"),
        (lambda message: Odd("dos\nlíneas"), "el servicio devolvió más de una línea"),
        (lambda message: Disguised(), "el servicio no devolvió texto"),
    ],
)
def test_a_service_that_misbehaves_costs_only_its_message(function: object, error: str) -> None:
    def service(message: str) -> str:
        return function(message) if message == "mal" else message.title()  # type: ignore[operator]

    conversation = ServerProtocol(service)
    assert conversation.receive_data(b"uno\nmal\r\ndos\n") == f"Uno\nERROR: {error}\r\nDos\n".encode()
    assert [type(bad) for bad in conversation.take_bad_messages()] == [ServiceFailed]


def test_a_kind_of_text_is_text() -> None:
    assert ServerProtocol(Odd).receive_data("año\n".encode()) == "año\n".encode()


@pytest.mark.parametrize("deferred", [False, True])
def test_a_goodbye_alone_asks_nothing_of_the_service(deferred: bool) -> None:
    conversation = ServerProtocol(lambda message: f"<{message}>", deferred=deferred)
    assert play(conversation, [b"DESCONEXION\n"], lambda message: f"<{message}>") == BYE + b"\n"


def test_any_other_service_speaks_only_lines_unless_told() -> None:
    assert replies(ServerProtocol(str.title), b"hola ", b"mundo\n") == [b"", b"Hola Mundo\n"]
    assert replies(ServerProtocol(str.title, lines_only=False), b"hola") == [b"Hola"]
    assert replies(ServerProtocol(lines_only=True), b"hola", b"\n") == [b"", b"HOLA\n"]


@pytest.mark.parametrize("outcome", [RuntimeError("no sé"), SystemExit(1), None, "texto"], ids=repr)
def test_a_shortcut_that_fails_falls_back_to_the_function(outcome: object) -> None:
    def shortcut(block: bytes) -> bytes:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[return-value]

    for data in (b"Hola\n", b"Hola\nAd"):  # con todo entero y con algo a medias son dos caminos
        assert ServerProtocol(Service(str.swapcase, block=shortcut)).receive_data(data) == b"hOLA\n"


def test_ctrl_c_is_not_a_failure_of_the_service() -> None:
    def interrupted(message: object) -> Any:
        if "hola" in str(message):
            raise KeyboardInterrupt
        return ""

    for service in (Service(interrupted), Service(str, block=interrupted)):
        for data in (b"hola\n", b"hola\nad"):
            for before in (b"", b"\xff\n"):
                conversation = ServerProtocol(service, lines_only=True)
                conversation.receive_data(before)
                conversation.take_bad_messages()
                with pytest.raises(KeyboardInterrupt):
                    conversation.receive_data(data)


def test_a_reply_larger_than_any_message_is_as_good_as_any() -> None:
    conversation = ServerProtocol(limits=SMALL)
    assert replies(conversation, b"\n", "ΰΰΰ\n".encode()) == [b"\n", "ΰΰΰ\n".upper().encode()]


def test_one_bad_message_among_many_does_not_make_the_rest_pay_one_by_one() -> None:
    calls: list[str] = []

    def function(message: str) -> str:
        calls.append(message)
        return message.upper()

    conversation = ServerProtocol(Service(function, block=lambda block: block.decode().upper().encode()))
    lines = b"hola\n" * 50_000
    expected = b"HOLA\n" * 50_000 + NotUTF8().args[0].encode().join([b"ERROR: ", b"\n"]) + b"HOLA\n" * 50_000
    assert b"".join(in_turns(conversation, lines + b"\xff\n" + lines)) == expected
    assert len(calls) < 200  # solo las vecinas


def test_bad_messages_are_told_once_of_each_kind() -> None:
    conversation = ServerProtocol(limits=SMALL)
    conversation.receive_data(b"\xff\n\xff\n" + b"x" * 17 + b"\n")
    assert [type(bad) for bad in conversation.take_bad_messages()] == [NotUTF8, TooLong]
    conversation.receive_data(b"\xff\n")
    assert conversation.take_bad_messages() == ()


def test_a_message_too_long_is_not_kept() -> None:
    conversation = ServerProtocol(limits=SMALL)
    conversation.receive_data(b"\n")
    for _ in range(1000):
        conversation.receive_data(b"x" * 1000)
        assert len(conversation._pending) <= SMALL.max_message
    assert conversation.receive_data(b"\nhola\n") == b"\nHOLA\n"


def test_the_rest_of_a_message_too_long_is_not_one_though_its_error_was_told() -> None:
    for service in (uppercase, Service(str.upper)):
        conversation = ServerProtocol(service, SMALL)
        assert conversation.receive_data(b"\n" + b"x" * 17) == b"\nERROR: el mensaje pasa de 16 bytes"
        assert len(conversation.take_bad_messages()) == 1
        assert conversation.unsettled
        assert conversation.receive_data(b"resto\n") == b"\n"
        assert not conversation.unsettled
        assert conversation.receive_data(b"hola\n") == b"HOLA\n"


# -- por turnos ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", [Service(str.upper), uppercase], ids=["sin atajo", "con atajo"])
def test_what_is_answered_one_by_one_takes_turns(service: Service) -> None:
    conversation = ServerProtocol(service, Limits(messages_per_turn=3), lines_only=True)
    bad = b"\xff\n"
    turns = in_turns(conversation, bad * 10 + b"hola\r\nDESCONEXION\nbasura")
    error = "ERROR: el mensaje no es UTF-8 válido\n".encode()
    assert turns[0] == error * 3
    assert b"".join(turns) == error * 10 + b"HOLA\r\n" + BYE + b"\n"
    assert conversation.said_goodbye


def test_a_turn_is_of_as_many_messages_as_it_says_if_they_are_short() -> None:
    conversation = ServerProtocol(Service(str.upper), Limits(messages_per_turn=100))
    turns = in_turns(conversation, b"mensaje de 20 bytes\n" * 300)
    assert [turn.count(b"\n") for turn in turns] == [0, 100, 100, 100]


def test_what_follows_waits_for_its_turn() -> None:
    conversation = ServerProtocol(str.upper, Limits(messages_per_turn=2))
    assert conversation.receive_data(b"a\nb\nc\nd") == b"A\nB\n"
    assert conversation.unsettled
    assert not conversation.unfinished  # lo que falta por responder no es culpa del cliente
    assert conversation.receive_data(b"e\nf\n") == b""  # va detrás
    assert conversation.resume() == b"C\nDE\n"
    assert conversation.resume() == b"F\n"
    assert not conversation.unsettled
    assert conversation.receive_data(b"g\nh\ni\nj") == b"G\nH\n"
    assert conversation.receive_eof() == b""
    assert not conversation.ended
    assert conversation.resume() == b"I\nJ"
    assert conversation.ended


ERROR = "ERROR: el mensaje no es UTF-8 válido\n".encode()


@pytest.mark.parametrize("service", [Service(str.upper), uppercase], ids=["sin atajo", "con atajo"])
@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"a\n\xff\n" * PROMPT_MESSAGES, (b"A\n" + ERROR) * PROMPT_MESSAGES),
        (b"\xff\n" * (PROMPT_MESSAGES + 1), ERROR * (PROMPT_MESSAGES + 1)),
        (b"a" * PROMPT_BYTES + b"\n", b"A" * PROMPT_BYTES + b"\n"),
        (b"a" * PROMPT_BYTES + b"\nDESCONEXION\n", b"A" * PROMPT_BYTES + b"\n" + BYE + b"\n"),
    ],
    ids=["muchos y malos", "muchos malos", "largo", "y despedida"],
)
def test_what_arrives_is_answered_at_once_only_if_it_is_little(service: Service, data: bytes, reply: bytes) -> None:
    # Si no, quinientos que envían mucho a la vez tendrían todos su turno en la misma vuelta del bucle.
    conversation = ServerProtocol(service, lines_only=True)
    conversation.receive_data(b"\n")
    assert conversation.receive_data(data) == b""
    assert conversation.queued == len(data)
    assert not conversation.unfinished
    conversation.receive_data(b"b\n")
    assert conversation.resume() + conversation.resume() == reply + (b"" if BYE in reply else b"B\n")
    assert not conversation.busy
    assert conversation.receive_data(data) == b""
    assert conversation.busy != conversation.ended


@pytest.mark.parametrize("service", [Service(str.upper), uppercase], ids=["sin atajo", "con atajo"])
def test_little_is_answered_at_once(service: Service) -> None:
    conversation = ServerProtocol(service, lines_only=True)
    for message in (b"a\n", b"\xff\n"):
        assert not in_turns(conversation, message * PROMPT_MESSAGES)[1:]
    assert not in_turns(conversation, b"a" * (PROMPT_BYTES - 1) + b"\n")[1:]


def test_many_that_go_in_a_block_are_answered_at_once_and_one_by_one_they_wait() -> None:
    many = b"a\n" * (PROMPT_MESSAGES + 1)
    conversation = ServerProtocol(uppercase)
    conversation.receive_data(b"\n")
    assert in_turns(conversation, many) == [many.upper()]
    assert in_turns(ServerProtocol(str.upper), many) == [b"", many.upper()]


@pytest.mark.parametrize("service", [Service(str.upper), uppercase], ids=["sin atajo", "con atajo"])
def test_when_it_is_its_turn_already_it_does_not_wait(service: Service) -> None:
    conversation = ServerProtocol(service, Limits(max_message=5000), lines_only=True)
    lines = b"a" * 2999 + b"\n"
    for data in (lines, lines, lines * 3, b"\xff\n" + lines, lines):
        expected = data.upper().replace(b"\xff\n", ERROR)
        assert conversation.receive_data(data, at_once=True) == expected
        assert not conversation.busy
        conversation.take_bad_messages()


def test_half_a_line_is_only_kept_and_its_end_makes_it_wait() -> None:
    conversation = ServerProtocol()
    assert in_turns(conversation, b"\n" + b"a" * PROMPT_BYTES) == [b"", b"\n"]
    assert in_turns(conversation, b"b" * PROMPT_BYTES) == [b""]
    assert in_turns(conversation, b"\n") == [b"", b"A" * PROMPT_BYTES + b"B" * PROMPT_BYTES + b"\n"]


def test_a_large_piece_waits_its_turn_whole() -> None:
    conversation = ServerProtocol(uppercase)
    piece = b"a" * (PROMPT_BYTES + 1)
    assert conversation.receive_data(piece) == b""
    assert conversation.receive_data(b"DESCONEXION") == b""
    assert not conversation.awaiting_silence
    assert conversation.resume() == piece.upper() + b"DESCONEXION"
    assert not conversation.busy


def test_what_waits_is_looked_at_by_slices_and_loses_nothing() -> None:
    # Más de lo que se mira de una vez, con algo a medias delante y los malos repartidos.
    conversation = ServerProtocol(Service(str.upper), Limits(messages_per_turn=20))
    stream = b"".join(b"%d \xc3\xb1\n\xff\r\n" % number for number in range(2000)) + b"a medias"
    first, rest = stream[:1], stream[1:]
    turns = [conversation.receive_data(first), *in_turns(conversation, rest)]
    assert b"".join(turns) == answer_lines(stream[: -len(b"a medias")], 10**6)
    assert max(turn.count(b"\n") for turn in turns) == 20
    assert conversation.unfinished


def test_among_questions_the_bad_ones_do_not_wait_one_turn_each() -> None:
    conversation = ServerProtocol(Service(str.upper), deferred=True)
    turns = in_turns_asking(conversation, b"\xff\n" * 200 + b"a\n" + b"\xff\r\n" * 200 + b"b\n")
    assert len(turns) < 20
    assert b"".join(turns) == ERROR * 200 + b"A\n" + ERROR.replace(b"\n", b"\r\n") * 200 + b"B\n"


def test_the_replies_of_a_turn_are_bounded() -> None:
    limits = Limits(high_water=1000, max_output=5000, max_message=1000)
    conversation = ServerProtocol(lambda message: message * 100, limits)
    turns = in_turns(conversation, b"0123456789\n" * 20)
    assert [len(turn) for turn in turns] == [1001] * 20
    conversation.receive_data(b"a\n" * 20)
    assert conversation.busy
    assert conversation.receive_data(b"x" * 51 + b"\n") == b""
    assert conversation.resume() == (b"a" * 100 + b"\n") * 10
    assert conversation.resume() == b"ERROR: la respuesta pasa de 5000 bytes\n"
    assert [type(bad) for bad in conversation.take_bad_messages()] == [ServiceFailed]


@pytest.mark.parametrize("begun", [b"", b"ho"])
@pytest.mark.parametrize("service", [uppercase, Service(str.upper), Service(str.upper, block=lambda block: b"")])
@pytest.mark.parametrize("bad", [b"", b"\xff\n"])
def test_much_behind_half_a_message_is_answered_whole(service: Service, begun: bytes, bad: bytes) -> None:
    conversation = ServerProtocol(service, Limits(max_output=2**20), lines_only=True)
    assert conversation.receive_data(b"\n" + begun) == b"\n"
    rest = b"la\n" + bad + b"hola mundo\n" * 20_000 + bad
    assert conversation.held == len(begun)
    reply = conversation.receive_data(rest)
    assert reply or conversation.held == len(begun) + conversation.queued  # lo que espera, y lo empezado
    turns = [reply]
    while conversation.busy:
        waited = conversation.queued
        turns.append(conversation.resume())
        assert conversation.queued < waited or turns[-1] == b""
    assert b"".join(turns) == answer_lines(begun + rest, 2**20)
    assert conversation.held == 0
    # Cada turno, una lectura como mucho, y lo que le falte a su última línea.
    assert max(map(len, turns)) < 64 * 1024 + 100


class Stubborn:
    """Un atajo que nunca puede. ``KeyboardInterrupt``, que es lo único que sale de ahí, si se le pide sin acabar."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, block: bytes) -> bytes:
        self.calls += 1
        if self.calls > 100:
            raise KeyboardInterrupt
        return b""


@pytest.mark.parametrize("last", [b"", b"y\n"])
@pytest.mark.parametrize("messages", [1, 3, 1000])
def test_long_messages_that_go_one_by_one_end(messages: int, last: bytes) -> None:
    # La mitad de un bloque, y lo que se mira en un turno, caen dentro del mensaje: se parte por sus finales.
    service = Service(str.upper, block=Stubborn(), by_character=True)
    conversation = ServerProtocol(service, Limits(messages_per_turn=messages), lines_only=True)
    stream = b"a\n" + (b"x" * 600 + b"\n") * 3 + last
    try:
        assert b"".join(in_turns(conversation, stream)) == stream.upper()
    except KeyboardInterrupt:
        pytest.fail("no acaba")


def test_a_shortcut_whose_reply_is_too_long_is_not_used() -> None:
    limits = Limits(max_output=100, max_message=100)
    service = Service(lambda message: "bien", block=lambda block: b"x" * 101)
    assert ServerProtocol(service, limits).receive_data(b"a\nb\n") == b"bien\nbien\n"
    assert ServerProtocol(service, limits).receive_data(b"a\nb\nc") == b"bien\nbien\n"


# -- preguntar en vez de llamar -----------------------------------------------------------------------------


def asking(**limits: int) -> ServerProtocol:
    return ServerProtocol(str.title, Limits(**limits), deferred=True)


def test_a_deferred_conversation_asks_one_message_at_a_time() -> None:
    conversation = asking()
    assert conversation.receive_data(b"uno\r\ndos\ntr") == b""
    assert conversation.unsettled
    assert conversation.awaiting_answer
    assert conversation.queued
    assert not conversation.unfinished
    assert conversation.take_question() == "uno"
    assert conversation.take_question() is None
    assert conversation.resume() == b""  # antes va la respuesta
    assert conversation.receive_data(b"es\nDESCONEXION\n") == b""
    assert conversation.receive_answer(lambda: "Uno") == b"Uno\r\n"
    assert conversation.receive_answer(lambda: "de más") == b""
    assert conversation.resume() == b""
    assert conversation.take_question() == "dos"
    assert conversation.receive_answer(lambda: "Dos") == b"Dos\n"
    assert conversation.resume() == b""
    assert conversation.take_question() == "tres"
    assert not conversation.ended
    assert conversation.receive_answer(lambda: "Tres") == b"Tres\n"
    assert conversation.resume() == BYE + b"\n"
    assert conversation.said_goodbye


def test_the_end_of_input_waits_for_the_answers() -> None:
    conversation = asking()
    conversation.receive_data(b"uno\ndos")
    assert conversation.receive_eof() == b""
    assert conversation.take_question() == "uno"
    assert conversation.receive_answer(lambda: "Uno") == b"Uno\n"
    assert not conversation.ended
    assert conversation.resume() == b""
    assert conversation.take_question() == "dos"
    assert conversation.receive_answer(lambda: "Dos") == b"Dos"
    assert conversation.ended
    assert not conversation.said_goodbye


def test_the_end_of_input_behind_a_goodbye_that_waits() -> None:
    conversation = asking()
    conversation.receive_data(b"uno\nDESCONEXION")
    conversation.receive_eof()
    assert conversation.receive_answer(lambda: "Uno") == b"Uno\n"
    assert conversation.resume() == BYE
    assert conversation.said_goodbye


def test_the_errors_of_others_are_not_asked_and_keep_their_place() -> None:
    conversation = asking(max_message=16)
    assert play(conversation, [b"\xff\nhola\n" + b"x" * 17 + b"\ny\n" + b"x" * 40, EOF], str.title) == (
        "ERROR: el mensaje no es UTF-8 válido\nHola\nERROR: el mensaje pasa de 16 bytes\nY\n"
        "ERROR: el mensaje pasa de 16 bytes".encode()
    )


def test_a_message_too_long_behind_a_question_waits_for_it() -> None:
    conversation = asking(max_message=16)
    assert conversation.receive_data(b"hola\n" + b"x" * 40) == b""
    assert conversation.receive_answer(lambda: "Hola") == b"Hola\n"
    assert conversation.resume() == b"ERROR: el mensaje pasa de 16 bytes"


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (explode, "el servicio falló con este mensaje"),
        (leave, "el servicio falló con este mensaje"),
        (lambda _: 5, "el servicio no devolvió texto"),
        (lambda _: "x" * 5001, "la respuesta pasa de 5000 bytes"),
    ],
)
def test_a_bad_answer_costs_only_its_message(outcome: Callable[[str], object], error: str) -> None:
    conversation = asking(max_output=5000, max_message=1000)
    for _ in range(2):
        conversation.receive_data(b"mal\n")
        assert conversation.receive_answer(lambda: outcome("mal")) == f"ERROR: {error}\n".encode()
    # Los fallos del servicio se cuentan todos: son de quien opera.
    assert [type(bad) for bad in conversation.take_bad_messages()] == [ServiceFailed] * 2


def test_an_answer_that_does_not_come() -> None:
    conversation = asking()
    conversation.receive_data(b"hola\n")

    def late() -> NoReturn:
        raise ServiceTimedOut(3)

    assert conversation.receive_answer(late) == "ERROR: el servicio no respondió en 3 s\n".encode()
    assert [type(bad) for bad in conversation.take_bad_messages()] == [ServiceTimedOut]


def test_a_bare_client_is_asked_by_pieces() -> None:
    conversation = ServerProtocol(Service(str.upper, by_character=True), deferred=True)
    assert conversation.receive_data("ñandú".encode()[:-1]) == b""
    assert conversation.take_question() == "ñand"
    assert not conversation.awaiting_silence
    assert conversation.receive_data("ú".encode()[1:] + b"\nDESC") == b""
    assert conversation.receive_silence() == conversation.receive_deadline() == b""
    assert conversation.receive_answer(lambda: "ÑAND") == "ÑAND".encode()
    assert conversation.resume() == b""
    assert conversation.take_question() == "ú"
    assert conversation.receive_answer(lambda: "Ú") == "Ú\n".encode()
    assert conversation.resume() == b""
    assert conversation.unfinished


def test_a_service_with_a_shortcut_is_never_asked() -> None:
    assert ServerProtocol(uppercase, deferred=True).receive_data(b"hola\n") == b"HOLA\n"


def test_the_service_changes_from_the_next_message() -> None:
    conversation = ServerProtocol()
    assert conversation.receive_data(b"hola") == b"HOLA"
    conversation.change_service(Service(str.title), deferred=True)
    assert conversation.receive_data(b"hola") == b""  # el nuevo, solo por líneas
    assert conversation.receive_data(b"\n") == b""
    assert conversation.take_question() == "hola"
    conversation.change_service(uppercase, deferred=True)
    assert conversation.receive_answer(lambda: "del de antes") == b"del de antes\n"
    assert conversation.receive_data(b"hola\n") == b"HOLA\n"
    assert conversation.receive_data(b"hola\n\xff\n").startswith(b"HOLA\nERROR: ")  # ni uno a uno se pregunta
    conversation.change_service(Service(str.title), deferred=False)
    assert conversation.receive_data(b"hola\n") == b"Hola\n"


# -- quien habla HTTP ---------------------------------------------------------------------------------------

POST = b"POST /x HTTP/1.1\r\nHost: localhost\r\n\r\nVOLT:RANG 1000\n"
LONG = b"POST /" + b"x" * 100 + b" HTTP/1.1\r\nVOLT:RANG 1000\n"


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 500])
@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (POST, HTTP + b"\r\n"),
        (b"GET / HTTP/1.0\nhola\n", HTTP + b"\n"),
        (b"OPTIONS * HTTP/1.1\r\n", HTTP + b"\r\n"),
        (b"M-SEARCH * HTTP/1.1\r\n", HTTP + b"\r\n"),
        (b"CONNECT a:1 HTTP/1.1\r\n", HTTP + b"\r\n"),
        (b"GET http://a/ HTTP/1.1\r\n", HTTP + b"\r\n"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", HTTP + b"\r\n"),
        (b"GET /\xff HTTP/1.1\r\n", HTTP + b"\r\n"),
        (b"GET / HTTP/1.1", HTTP),
        (b"GET / HTTP/1.1\r", HTTP),
        # Una ruta tan larga que no cabe en un mensaje no es una manera de entrar.
        (LONG, b"ERROR: el mensaje pasa de 64 bytes\r\n"),
    ],
)
def test_who_begins_as_http_reaches_no_service(stream: bytes, expected: bytes, size: int, deferred: bool) -> None:
    heard: list[str] = []
    conversation = ServerProtocol(
        lambda message: heard.append(message) or message,  # type: ignore[func-returns-value]
        Limits(max_message=64),
        deferred=deferred,
    )
    pieces: list[Step] = [stream[at : at + size] for at in range(0, len(stream), size)]
    told: list[BadMessage] = []
    assert play(conversation, [*pieces, EOF], lambda message: heard.append(message) or message, told) == expected  # type: ignore[func-returns-value]
    assert (heard, conversation.ended, conversation.said_goodbye) == ([], True, False)
    if expected.startswith(HTTP):
        assert [type(bad) for bad in told] == [HTTPRequest]


@pytest.mark.parametrize(
    "line",
    [
        *(b"get / HTTP/1.1", b"GET /", b"GET  HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"GET / HTTP/11"),
        *(b"GET / a HTTP/1.1", b"GET / http/1.1", b"A" * 21 + b" / HTTP/1.1", b"Uso el HTTP/1.1", b"GET / HTTP/1.1\r"),
    ],
)
def test_what_is_not_an_http_request_is_a_message(line: bytes) -> None:
    for conversation in (ServerProtocol(lines_only=True), ServerProtocol()):
        assert play(conversation, [line + b"\r\nhola\n"]) == line.upper() + b"\r\nHOLA\n"


def test_only_the_first_line_is_looked_at() -> None:
    for first in (b"\n", b"hola\n", b"x" * 17 + b"\n"):
        conversation = ServerProtocol(limits=SMALL)
        assert play(conversation, [first, b"GET / HTTP/1.1\r\n"]).endswith(b"\nGET / HTTP/1.1\r\n")


def test_where_http_is_allowed_a_goodbye_in_pieces_is_one() -> None:
    conversation = ServerProtocol(allow_http=True)
    assert replies(conversation, b"DESC", SILENCE, b"ONEXION", b"\r\n") == [b"", b"DESC", b"ONEXION", BYE + b"\r\n"]


def test_http_can_be_allowed() -> None:
    for lines_only in (True, False):
        conversation = ServerProtocol(lines_only=lines_only, allow_http=True)
        assert play(conversation, [POST]) == POST.upper()


def test_undecided_what_came_in_pieces_is_answered_and_nothing_else_is() -> None:
    # Un servicio que trabaja carácter a carácter no sabe de órdenes: lo que ya se respondió no pudo hacer nada.
    conversation = ServerProtocol()
    assert replies(conversation, b"PO", b"ST /x", b"x" * 100, b" HTTP/1.", b"1\r\nVOLT:RANG 1000\n") == [
        *(b"PO", b"ST /X", b"X" * 100, b" HTTP/1.", HTTP + b"\r\n")
    ]
    assert conversation.ended
    conversation = ServerProtocol(limits=SMALL)
    assert replies(conversation, b"PUT ", b"x" * 17 + b" HTTP/1.1\na\n") == [
        *(b"PUT ", b"ERROR: el mensaje pasa de 16 bytes\n")
    ]
    assert conversation.ended


def test_a_service_that_changes_does_not_open_the_door() -> None:
    conversation = ServerProtocol()
    assert conversation.receive_data(b"PO") == b"PO"
    conversation.change_service(Service(str.title), deferred=False)
    assert play(conversation, [POST[2:]]) == HTTP + b"\r\n"
    assert conversation.ended


# -- el plazo de un mensaje ---------------------------------------------------------------------------------


def test_a_message_that_never_ends_is_an_error_and_the_end() -> None:
    conversation = ServerProtocol(limits=Limits(message_timeout=7))
    assert conversation.receive_deadline() == b""
    assert conversation.receive_data(b"hola\nad") == b"HOLA\n"
    assert conversation.unfinished
    assert conversation.receive_deadline() == "ERROR: el mensaje no acabó en 7 s; se cierra la conexión\n".encode()
    assert conversation.ended
    assert not conversation.said_goodbye
    assert [type(bad) for bad in conversation.take_bad_messages()] == [TooSlow]


def test_a_message_too_long_that_never_ends_already_has_its_error() -> None:
    conversation = ServerProtocol(limits=SMALL, lines_only=True)
    assert conversation.receive_data(b"x" * 17) == b"ERROR: el mensaje pasa de 16 bytes"
    assert conversation.unfinished
    assert conversation.receive_deadline() == b"\n"
    assert conversation.ended


def test_a_bare_half_character_that_never_ends_is_an_error_and_the_conversation_goes_on() -> None:
    conversation = ServerProtocol()
    assert conversation.receive_data("así".encode("latin-1")) == b"AS"
    assert conversation.unfinished
    assert conversation.receive_deadline() == "ERROR: el mensaje no es UTF-8 válido".encode()
    assert conversation.receive_data(b"hola") == b"HOLA"


# -- el cliente ---------------------------------------------------------------------------------------------


def test_client_sends_lines_and_a_bare_goodbye() -> None:
    client = ClientProtocol()
    assert client.send("hola señor") == "hola señor\n".encode()
    assert client.say_goodbye() == b"DESCONEXION"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("dos\nlíneas", "un mensaje no puede llevar saltos de línea"),
        ("acaba en retorno\r", "un mensaje no puede acabar en retorno de carro: sería parte del terminador"),
        ("\ud800", "el mensaje no es Unicode válido"),
        ("DESCONEXION", r"DESCONEXION no es un mensaje: es la despedida, say_goodbye\(\)"),
    ],
)
def test_client_refuses_what_cannot_be_a_message(message: str, why: str) -> None:
    with pytest.raises(MessageError, match=f"^{why}$"):
        ClientProtocol().send(message)


def test_client_reads_replies_in_any_cut() -> None:
    client = ClientProtocol()
    for byte in "UNO\nDOS AÑOS\r\n\n".encode():
        client.receive_data(bytes([byte]))
    assert client.has_reply
    assert [client.next_reply() for _ in range(4)] == ["UNO", "DOS AÑOS", "", None]
    assert not client.has_reply


def test_client_takes_silence_as_the_end_of_a_bare_reply() -> None:
    client = ClientProtocol()
    client.receive_silence()
    client.receive_data(b"HO")
    assert client.awaiting_silence
    client.receive_data(b"LA")
    client.receive_silence()
    assert client.next_reply() == "HOLA"
    assert not client.awaiting_silence


def test_client_does_not_once_the_server_ends_its_replies() -> None:
    client = ClientProtocol()
    client.receive_data(b"HOLA\nA MEDI")
    client.receive_silence()
    assert not client.awaiting_silence
    client.receive_data(b"AS\n")
    assert [client.next_reply(), client.next_reply()] == ["HOLA", "A MEDIAS"]
    assert not client.has_begun
    client.receive_data(b"otra")
    assert (client.has_reply, client.has_begun) == (False, True)


def test_the_client_knows_how_the_server_ends_its_replies() -> None:
    client = ClientProtocol()
    client.receive_data(b"HOLA")
    assert not client.ends_replies
    client.receive_data(b"\n")
    assert client.ends_replies


def test_client_ends_the_last_reply_at_the_end_of_input() -> None:
    client = ClientProtocol()
    client.receive_data(b"UNO\nDOS")
    client.receive_eof()
    client.receive_eof()
    assert [client.next_reply(), client.next_reply(), client.next_reply()] == ["UNO", "DOS", None]


def test_client_shows_what_is_not_utf8() -> None:
    client = ClientProtocol()
    client.receive_data(b"a\xffb\n")
    assert client.next_reply() == r"a\xffb"


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nTRES\n"])
def test_a_reply_too_long_is_nobodys_and_neither_is_what_follows(end: bytes, size: int) -> None:
    protocol = ClientProtocol(max_reply=10)
    stream = b"UNO\n" + b"x" * 10 + b"\n" + b"x" * 12 + end
    for start in range(0, len(stream), size):
        protocol.receive_data(stream[start : start + size])
    protocol.receive_eof()
    assert protocol.too_long
    assert protocol.ready == 2
    assert [protocol.next_reply(), protocol.next_reply(), protocol.next_reply()] == ["UNO", "x" * 10, None]


def test_many_replies_together_may_be_longer_than_one() -> None:
    protocol = ClientProtocol(max_reply=3)
    protocol.receive_data(b"UNO\nDOS\n" * 10 + b"TR")
    assert not protocol.too_long
    assert protocol.ready == 20
