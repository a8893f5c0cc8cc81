"""La conversación de siempre, carácter a carácter: en dos terminales, por tuberías y en entornos con otras letras."""

from __future__ import annotations

import re
import signal

import pytest

from ..support.examples import blocks
from ..support.ports import default_port
from ..support.programs import CLIENT, PROMPT, SERVER, Program, run, running_server


def without_port(text: str) -> str:
    """El puerto del cliente cambia cada vez, y ``localhost`` puede ser IPv6."""
    return re.sub(r"\('(127\.0\.0\.1|::1)', \d+\)", "('127.0.0.1', PUERTO)", text)


# Lo que promete el README es lo que se compara.
CLIENT_SAYS, SERVER_SAYS = blocks("README.md", "text")[:2]
SERVER_SAYS = without_port(SERVER_SAYS)


def test_two_terminals() -> None:
    with default_port(), Program(SERVER, terminal=True) as server:
        server.wait_for("Servidor escuchando...\r\n")
        with Program(CLIENT, terminal=True) as client:
            client.wait_for(PROMPT)
            client.type("hola servidor\n")
            client.wait_for(PROMPT, times=2)
            client.type("DESCONEXION\n")
            assert client.wait() == 0
            assert client.output == CLIENT_SAYS.replace("\n", "\r\n")
        server.wait_for("Cerrando la conexión.\r\n")
        assert without_port(server.output) == SERVER_SAYS.replace("\n", "\r\n")
        # Después de que un cliente se va, el servidor sigue sirviendo.
        with Program(CLIENT, terminal=True) as client:
            client.wait_for(PROMPT)
            client.type("DESCONEXION\n")
            assert client.wait() == 0
        server.wait_for("Cerrando la conexión.\r\n", times=2)
        server.type("\x03")
        assert server.wait() == 0
        assert server.output.endswith("^C\r\nServidor detenido.\r\n")


# Una terminal en UTF-8; sin idioma; la de un sistema antiguo, en ASCII; y páginas de códigos de Windows.
ENVIRONMENTS = [
    ({"LANG": "es_ES.UTF-8"}, "utf-8"),
    ({"LANG": "C"}, "utf-8"),
    ({"LC_ALL": "C"}, "utf-8"),
    ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "utf-8"),
    ({"PYTHONIOENCODING": "ascii"}, "utf-8"),
    ({"PYTHONIOENCODING": "cp1252"}, "cp1252"),
    ({"PYTHONIOENCODING": "cp850"}, "cp850"),
]


@pytest.mark.parametrize(("env", "encoding"), ENVIRONMENTS, ids=lambda value: str(value))
def test_through_pipes_in_any_environment(env: dict[str, str], encoding: str) -> None:
    with default_port(), Program(SERVER, env=env, encoding=encoding) as server:
        server.wait_for("Servidor escuchando...\n")
        done = run(CLIENT, "hola servidor\nDESCONEXION\n", env)
        assert (done.returncode, done.stdout.decode(encoding), done.stderr) == (0, CLIENT_SAYS, b"")
        server.wait_for("Cerrando la conexión.\n")
        assert without_port(server.output) == SERVER_SAYS
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.errors == ""


@pytest.mark.parametrize(("env", "encoding"), ENVIRONMENTS, ids=lambda value: str(value))
def test_accents_travel_in_any_environment(env: dict[str, str], encoding: str) -> None:
    with running_server() as (_, port):
        done = run([*CLIENT, "--puerto", str(port)], "señor añejo\n".encode(encoding), env)
        assert "Servidor: SEÑOR AÑEJO\n" in done.stdout.decode(encoding)
        assert done.returncode == 0


def test_what_a_code_page_does_not_know_is_shown_escaped() -> None:
    with running_server() as (_, port):
        env = {"PYTHONIOENCODING": "cp1252:strict"}
        done = run([*CLIENT, "--puerto", str(port)], b"\xb5\xdf\xff\n", env)  # µßÿ → ΜSSŸ
        assert r"Servidor: \u039cSSŸ" in done.stdout.decode("cp1252")
        assert done.returncode == 0


def test_lines_are_flushed_one_by_one() -> None:
    # Cada una se ve antes de que pase lo siguiente, también por una tubería.
    with running_server() as (server, port), Program([*CLIENT, "--puerto", str(port)]) as client:
        server.wait_for("Conexión aceptada")
        client.wait_for(PROMPT)
        client.type("hola\n")
        client.wait_for("Servidor: HOLA\n" + PROMPT)
        client.end_input()
        assert client.wait() == 0
        server.wait_for("Mensaje de desconexión recibido. Cerrando la conexión.\n")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--host", "127.0.0.1"], r"127\.0\.0\.1"),
        (["--host", "0.0.0.0"], r"0\.0\.0\.0"),
        ([], r"127\.0\.0\.1"),
    ],
)
def test_with_other_addresses_the_first_line_says_which(options: list[str], shown: str) -> None:
    with running_server(*options) as (server, _):
        assert re.match(rf"Servidor escuchando en {shown}:\d+( y \[::1\]:\d+)?\.\.\.\n", server.output)
