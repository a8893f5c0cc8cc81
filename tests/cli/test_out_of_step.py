"""Un servidor que habla sin que se le pregunte, o que no acaba de responder: en ningún modo se da por buena una
respuesta que quizá es de otro mensaje, ni se espera sin fin."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from ..support.programs import CLIENT, PROMPT, Program, environment, fails, run
from ..support.sockets import foreign_server, receive_all
from ..support.waiting import PATIENCE

ONE, JSON, AGAIN, AGAIN_JSON, LINES = (
    ["hola"],
    ["--json", "hola"],
    ["--repetir", "2", "--intervalo", "0", "hola"],
    ["--json", "--repetir", "2", "--intervalo", "0", "hola"],
    ["--json"],
)
EACH = pytest.mark.parametrize("mode", [ONE, JSON, AGAIN, AGAIN_JSON, LINES], ids=" ".join)


def to(port: int, *arguments: str) -> list[str]:
    """El cliente hacia un puerto de esta máquina."""
    return [*CLIENT, "--host", "127.0.0.1", "--puerto", str(port), *arguments]


def echo(sock: socket.socket, first: bytes = b"") -> None:
    """Responde cada línea en mayúsculas; la primera, detrás de ``first``."""
    with sock.makefile("rb") as lines:
        for line in lines:
            sock.sendall(first + line.upper())
            first = b""


def greets(sock: socket.socket) -> None:
    sock.sendall(b"220 hola\n")
    echo(sock)


def greets_late(sock: socket.socket) -> None:
    # Cuando ya ha llegado el primer mensaje: el caso peor de quien tarda en saludar, sin depender de ningún reloj.
    echo(sock, b"220 hola\n")


@EACH
def test_a_greeting_taken_for_a_reply_is_an_error(mode: list[str]) -> None:
    with foreign_server(greets_late) as port:
        done = run(to(port, *mode), "hola\nadiós\n")
    assert done.returncode == 1
    assert "dijo algo que no se le preguntó («" in done.stderr.decode()
    assert "--saludo" in done.stderr.decode()


@EACH
def test_a_greeting_that_is_expected(mode: list[str]) -> None:
    with foreign_server(greets) as port:
        done = run(to(port, "--saludo", *mode), "hola\nadiós\n")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    if mode is ONE:
        assert lines == ["HOLA"]  # la respuesta sola
    elif "--json" in mode:
        records = [json.loads(line) for line in lines]
        assert records[0] == {"greeting": "220 hola"}
        assert records[1]["reply"] == "HOLA"
    else:
        assert lines[0] == "Saludo del servidor: 220 hola"
        assert lines[1].endswith("HOLA")


@pytest.mark.parametrize("mode", [["--saludo", "-q"], ["-q", "--saludo"]], ids=" ".join)
def test_a_greeting_is_not_the_reply_of_any_line_of_a_pipe(mode: list[str]) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"220 ho")
        sock.sendall(b"la\n")
        echo(sock)

    with foreign_server(serve) as port:
        done = run(to(port, *mode), "hola\nadiós\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"HOLA\n" + "ADIóS\n".encode(), b"")


def test_a_greeting_in_the_dialogue() -> None:
    with foreign_server(greets) as port:
        done = run(to(port, "--saludo"), "hola\n")
        assert done.stdout.decode().splitlines()[1] == "Servidor: 220 hola"
        assert f"{PROMPT}hola\nServidor: HOLA\n" in done.stdout.decode()
        with Program(to(port, "--saludo"), terminal=True) as client:
            client.wait_for(f"Servidor: 220 hola\r\n{PROMPT}")
            client.type("DESCONEXION\n")
            assert client.wait() == 0


def test_a_refusal_instead_of_a_greeting() -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"ERROR: completo\n")

    with foreign_server(serve) as port:
        done = run(to(port, "--saludo", "hola"))
    assert (done.returncode, done.stdout) == (3, b"ERROR: completo\n")


def test_a_server_that_does_not_greet() -> None:
    with foreign_server(echo) as port:
        fails(run(to(port, "--saludo", "--espera", "0.3", "hola")), 1, "0.3 s sin recibir nada", "quita --saludo")


def test_replies_of_several_lines_are_not_lost_with_a_0() -> None:
    def serve(sock: socket.socket) -> None:
        with sock.makefile("rb") as lines:
            lines.readline()
            sock.sendall(b"uno\ndos\n")
            receive_all(sock)

    with foreign_server(serve) as port:
        fails(run(to(port, "ayuda")), 1, "dijo algo que no se le preguntó («dos»)", "-q")


# -- sin fin ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def dripping(start: bytes, drop: bytes) -> Iterator[int]:
    """El puerto de un servidor que a lo primero que le llega dice ``start`` y después, sin parar, ``drop``."""
    over = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.recv(1024)
        sock.sendall(start)
        while not over.wait(0.02):
            sock.sendall(drop)

    with foreign_server(serve) as port:
        try:
            yield port
        finally:
            over.set()


@EACH
def test_a_reply_that_drips_ends_by_the_deadline(mode: list[str]) -> None:
    with dripping(b"x", b"x") as port:
        done = run(to(port, "--espera", "0.4", *mode), "hola\nadiós\n")
    assert done.returncode == 1
    assert "no acabó en 0.4 s" in done.stderr.decode()


@pytest.mark.parametrize("mode", [[], ["-q"]], ids=["diálogo", "-q"])
@pytest.mark.parametrize("start", [b"x", b"x\nx"], ids=["primera", "segunda"])
def test_the_dialogue_and_the_pipe_too(start: bytes, mode: list[str]) -> None:
    with dripping(start, b"x") as port:
        done = run(to(port, "--espera", "0.4", *mode), "hola\nadiós\n")
    assert done.returncode == 1
    assert "no acabó en 0.4 s" in done.stderr.decode()


def test_a_pipe_all_answered_and_a_server_that_never_stops() -> None:
    with dripping(b"HOLA\n", b"y\n") as port:
        done = run(to(port, "-q", "--espera", "0.4"), "hola\n")
    assert done.returncode == 1
    assert done.stdout.startswith(b"HOLA\ny\n")
    assert "no acabó en 0.4 s" in done.stderr.decode()


def test_a_pipe_without_input_and_a_server_that_never_stops() -> None:
    over = threading.Event()

    def serve(sock: socket.socket) -> None:
        while not over.wait(0.02):
            sock.sendall(b"y\n")

    with foreign_server(serve) as port:
        done = subprocess.run(
            [*to(port, "-q", "--espera", "0.4")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=PATIENCE,
        )
        over.set()
    assert done.returncode in (0, 1)
    assert not done.stderr or done.returncode
