"""``cliente-tcp --json`` por una tubería: una línea, un objeto."""

from __future__ import annotations

import json

from ..support.programs import CLIENT, Program, run, running_server


def to(port: int) -> list[str]:
    """El cliente en JSON hacia un puerto de esta máquina."""
    return [*CLIENT, "--host", "127.0.0.1", "--puerto", str(port), "--json"]


def test_each_line_has_its_object_in_order() -> None:
    with running_server() as (server, port):
        done = run(to(port), "uno\r\n\ndos")
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(one["message"], one["reply"]) for one in answers] == [("uno", "UNO"), ("", ""), ("dos", "DOS")]
        assert (done.returncode, done.stderr) == (0, b"")
        server.wait_for("Mensaje de desconexión recibido.")


def test_each_one_is_seen_as_soon_as_it_is_answered() -> None:
    with running_server() as (_, port), Program(to(port)) as client:
        client.type("uno\n")
        client.wait_for('"reply": "UNO"')
        client.type("dos\n")
        client.wait_for('"reply": "DOS"')
        client.end_input()
        assert client.wait() == 0


def test_the_goodbye_is_the_last() -> None:
    with running_server() as (_, port):
        done = run(to(port), "uno\nDESCONEXION\ndos\n")
        assert [json.loads(line)["reply"] for line in done.stdout.splitlines()] == ["UNO", "Conexión cerrada"]
        assert done.returncode == 0


def test_a_line_that_cannot_be_sent_or_gets_an_error_stops_nothing_and_is_told_at_the_end() -> None:
    with running_server("--max-mensaje", "16") as (_, port):
        for bad, word in ((b"\xff", "no se envi\u00f3"), (b"x" * 17, "pasa de 16")):
            done = run(to(port), b"uno\n" + bad + b"\ndos\n")
            first, wrong, last = (json.loads(line) for line in done.stdout.splitlines())
            assert (first["reply"], last["reply"]) == ("UNO", "DOS")
            assert word in wrong.get("error", wrong.get("reply"))
            assert done.returncode == 3


def test_no_input_is_no_output() -> None:
    with running_server() as (_, port):
        done = run(to(port))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
