"""Lo que dice la documentación es verdad: cada ejemplo y cada orden se ejecutan."""

from __future__ import annotations

import pytest

from comunicacion_tcp.protocol import ServerProtocol

from .support.examples import Conversation, documented_conversations
from .support.model import EOF, SILENCE
from .support.programs import running_server
from .support.sockets import connect, receive, receive_all

CONVERSATIONS = documented_conversations()
each_example = pytest.mark.parametrize("example", CONVERSATIONS, ids=lambda example: f"línea {example.line}")


def test_there_are_examples_of_every_section() -> None:
    assert len(CONVERSATIONS) >= 15


@each_example
def test_protocol_examples_against_the_core(example: Conversation) -> None:
    conversation = ServerProtocol()
    for turn in example.turns:
        reply = b""
        for step in turn.sent:
            if step == SILENCE:
                reply += conversation.receive_silence()
            elif step == EOF:
                reply += conversation.receive_eof()
            else:
                assert isinstance(step, bytes)
                reply += conversation.receive_data(step)
        assert reply == turn.received
    assert conversation.ended == example.ends


def test_protocol_examples_against_a_real_server() -> None:
    with running_server() as (_, port):
        for example in CONVERSATIONS:
            with connect(port) as sock:
                for turn in example.turns:
                    for step in turn.sent:
                        if step == EOF:
                            sock.shutdown(1)
                        elif isinstance(step, bytes):
                            sock.sendall(step)
                        # El silencio es la espera de la respuesta que solo él provoca.
                    assert receive(sock, len(turn.received)) == turn.received, example
                if example.ends:
                    assert receive_all(sock) == b"", example
