"""``examples/``: cada uno se arranca como dice su página y responde lo que dice su página."""

from __future__ import annotations

import re
import shlex
import socket
import threading
from pathlib import Path

import pytest

from .support.examples import ROOT, blocks
from .support.programs import SERVER, running_server
from .support.sockets import connect, receive_all

PAGE = "examples/README.md"
COMMANDS = [block.strip() for block in blocks(PAGE, "sh")]
CONVERSATIONS = blocks(PAGE, "conversacion")


def options(command: str) -> list[str]:
    """Las de una orden ``python3 Servidor_TCP.py ...``."""
    program, script, *rest = shlex.split(command)
    assert (program, script) == ("python3", Path(SERVER[1]).name)
    return rest


def turns(conversation: str) -> list[tuple[str, str]]:
    """Lo que se escribe y lo que se responde, por parejas."""
    found = re.findall(r"C: (.*)\nS: ?(.*)\n", conversation)
    assert len(found) * 2 == len(conversation.splitlines())
    return found


def talk(port: int, messages: list[str]) -> list[str]:
    """Las respuestas a unos mensajes."""
    with connect(port) as sock:
        sock.sendall("".join(message + "\n" for message in messages).encode())
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock).decode().split("\n")[:-1]


def test_every_example_is_in_its_page() -> None:
    files = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert files == {re.findall(r"examples\.(\w+):responder", command)[0] for command in COMMANDS}
    assert len(CONVERSATIONS) == len(COMMANDS)


@pytest.mark.parametrize(("command", "conversation"), list(zip(COMMANDS, CONVERSATIONS, strict=True)))
def test_the_conversation_shown_is_the_real_one(tmp_path: Path, command: str, conversation: str) -> None:
    with running_server(*options(command), env={"AGENDA": str(tmp_path / "agenda.sqlite")}) as (server, port):
        messages, replies = zip(*turns(conversation), strict=True)
        assert talk(port, list(messages)) == list(replies)
        assert server.errors == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_each_example_says_how_it_is_run(command: str) -> None:
    (name,) = re.findall(r"examples\.(\w+):responder", command)
    assert command in (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")


def test_the_instrument_is_one_for_all() -> None:
    with running_server("--servicio", "examples.instrumento:responder") as (_, port):
        assert talk(port, ["VOLT:RANG 1", "MAL"]) == ["", ""]
        assert talk(port, ["VOLT:RANG?", "SYST:ERR?"]) == ["+1.00000000E+00", '-113,"Undefined header"']


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("VOLT:RANG", '-109,"Missing parameter"'),
        ("VOLT:RANG mucho", '-104,"Data type error"'),
        ("VOLT:RANG 1e9", '-222,"Data out of range"'),
        ("VOLT:RANG -1", '-222,"Data out of range"'),
        ("*RST ya", '-108,"Parameter not allowed"'),
        ("MEASU:VOLT?", '-113,"Undefined header"'),  # ni entera ni abreviada
        ("MEAſ:VOLT?", '-113,"Undefined header"'),
        ("*CLS", '0,"No error"'),
    ],
)
def test_the_errors_of_the_instrument(line: str, reply: str) -> None:
    with running_server("--servicio", "examples.instrumento:responder", "--hilos", "0") as (_, port):
        assert talk(port, [line, "SYST:ERR?", "SYST:ERR?"]) == ["", reply, '0,"No error"']
        many = ["MAL"] * 30 + ["SYST:ERR?"] * 21
        assert talk(port, many)[-21:] == [
            *['-113,"Undefined header"'] * 19,
            '-350,"Queue overflow"',
            '0,"No error"',
        ]


def test_the_phone_book_for_many_at_once_and_never_written(tmp_path: Path) -> None:
    path = tmp_path / "con espacio & ?.sqlite"
    with running_server("--servicio", "examples.agenda_sqlite:responder", env={"AGENDA": str(path)}) as (_, port):
        before = path.read_bytes()
        replies: list[list[str]] = []
        crowd = [
            threading.Thread(target=lambda: replies.append(talk(port, ["ada", "'; DROP TABLE people; --", ""] * 10)))
            for _ in range(8)
        ]
        for one in crowd:
            one.start()
        for one in crowd:
            one.join()
        assert (
            replies
            == [
                [
                    "Ada Lovelace: 600 100 101",
                    "Nadie se llama así: '; DROP TABLE people; --",
                    "¿De quién quieres el teléfono?",
                ]
                * 10
            ]
            * 8
        )
        assert path.read_bytes() == before
        assert [one.name for one in tmp_path.iterdir()] == [path.name]
        path.unlink()
        assert talk(port, ["ada"]) == ["ERROR: el servicio falló con este mensaje"]
