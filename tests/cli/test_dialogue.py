"""El diálogo en una terminal como lo ve una persona, con cada editor: se teclea, se mira y se rompe todo."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from ..support.examples import ROOT, blocks
from ..support.programs import (
    CLIENT,
    PROMPT,
    SERVER,
    SILENT,
    Program,
    children_of,
    environment,
    run,
    running_server,
    state,
)
from ..support.screen import (
    COLUMNS,
    CTRL_BACKSLASH,
    CTRL_C,
    CTRL_D,
    CTRL_R,
    CTRL_Z,
    EDITORS,
    PROMPT_TOOLKIT,
    READLINE,
    ROWS,
    TAB,
    UP,
    Screen,
    pasted,
)
from ..support.serving import served
from ..support.sockets import foreign_server, free_port, receive_all
from ..support.tools import need
from ..support.waiting import PATIENCE, wait_until

BARE = PROMPT.rstrip()  # en la pantalla no se ve el espacio del final
KEPT = Path("estado") / "comunicacion_tcp" / "historial"

both = pytest.mark.parametrize("editor", EDITORS)


def to(port: int, *options: str) -> list[str]:
    """El cliente hacia un puerto de esta máquina."""
    return [*CLIENT, "--host", "127.0.0.1", "--puerto", str(port), *options]


def connected(port: int) -> str:
    return f"Conectado al servidor en 127.0.0.1:{port}"


def lost(port: int, why: str = "el servidor la cerró") -> str:
    return f"Se perdió la conexión con 127.0.0.1:{port}: {why}."


RETRYING = "Volviendo a conectar... (Ctrl-C para dejarlo)"
UNKNOWN = "No se sabe si el servidor lo recibió: envíalo otra vez si hace falta."


def back(port: int) -> str:
    return f"Conectado otra vez al servidor en 127.0.0.1:{port}"


# -- la conversación de siempre, más cómoda


@both
@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}], ids=["en color", "sin color"])
def test_the_conversation_of_always(tmp_path: Path, editor: str, env: dict[str, str]) -> None:
    says = blocks("README.md", "text")[0]
    with running_server() as (_, port), Screen(to(port), editor, tmp_path, env=env) as client:
        client.wait_for(BARE)
        client.type("hola servidor\r")
        client.wait_for(BARE, times=2)
        client.type("DESCONEXION\r")
        assert client.wait() == 0
        assert client.lines == says.replace("localhost:5000", f"127.0.0.1:{port}").splitlines()
        plain = bool(env)
        assert client.colour_of("Servidor: HOLA") == ("default" if plain else "cyan")
        assert client.colour_of("Conectado al") == client.colour_of("Ingresa") == "default"


def test_readline_without_colour_writes_the_very_same_bytes(tmp_path: Path) -> None:
    with running_server() as (_, port), Screen(to(port), READLINE, tmp_path, env={"NO_COLOR": "1"}) as client:
        client.wait_for(BARE)
        client.type("hola\r")
        client.wait_for(BARE, times=2)
        client.type(CTRL_D)
        assert client.wait() == 0
        said = f"{connected(port)}\n{PROMPT}hola\nServidor: HOLA\n{PROMPT}\nServidor: Conexión cerrada\n"
        assert client.output == said.replace("\n", "\r\n")


@both
def test_an_error_has_its_colour(tmp_path: Path, editor: str) -> None:
    with served(lambda text: "ERROR: no") as running, Screen(to(running.port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("hola\r")
        client.shows("Servidor: ERROR: no", BARE)
        assert client.colour_of("Servidor: ERROR") == "red"


@both
def test_what_comes_from_the_server_does_not_rule_the_screen(tmp_path: Path, editor: str) -> None:
    with served(lambda text: "\x1b[2J\x1b[41m\x07") as running, Screen(to(running.port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("hola\r")
        client.shows(connected(running.port), f"{PROMPT}hola", r"Servidor: \x1b[2J\x1b[41m\x07", BARE)


@both
def test_a_message_is_edited_before_it_is_sent(tmp_path: Path, editor: str) -> None:
    with running_server() as (_, port), Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("señoox\x7f\x7fr\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x01¡")  # retroceso, flechas y Ctrl-A
        client.shows(f"{PROMPT}¡señor")
        client.type("\x05!\r")
        client.shows("Servidor: ¡SEÑOR!", BARE)


@both
def test_a_colour_that_is_pasted_is_nothing(tmp_path: Path, editor: str) -> None:
    with running_server() as (_, port), Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("\x1b[31mhola\x1b[0m\r")
        client.wait_for("Servidor: ")
        client.type(CTRL_D)
        assert client.wait() == 0
        assert not SILENT.search("\n".join(client.lines))
        assert editor == READLINE or "Servidor: HOLA" in client.lines  # readline la toma por una tecla, y escribe «31m»


@both
def test_longer_than_what_a_terminal_lets_write(tmp_path: Path, editor: str) -> None:
    with served(lambda text: str(len(text))) as running, Screen(to(running.port), editor, tmp_path) as client:
        client.wait_for(BARE)
        for end in ("", "\r"):  # en total, más de 4095 (termios(3), modo canónico)
            client.type("x" * 2100 + end)
        client.wait_for("Servidor: 4200")


@both
@pytest.mark.parametrize("env", [{}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "cp1252"}], ids=str)
def test_odd_bytes_and_letters_of_anywhere(tmp_path: Path, editor: str, env: dict[str, str]) -> None:
    (tmp_path / KEPT).parent.mkdir(parents=True)
    (tmp_path / KEPT).write_text("日本 señor\n")
    with running_server() as (_, port), Screen(to(port), editor, tmp_path, env=env) as client:
        client.wait_for(BARE)
        os.write(client.terminal, "señor\r".encode(env.get("PYTHONIOENCODING", "utf-8")))
        client.wait_for(BARE, times=2)
        os.write(client.terminal, b"a\x81b\r")  # no es nada, ni en UTF-8 ni en cp1252
        client.wait_for(BARE, times=3)
        client.type("hola\r")
        client.wait_for("Servidor: HOLA")
        client.type(CTRL_D)
        assert client.wait() == 0
        assert not SILENT.search("\n".join(client.lines))
        assert ("Servidor: SEÑOR" in client.lines) == ("PYTHONIOENCODING" not in env)  # la pantalla habla UTF-8


# -- los mensajes de otras veces


@both
def test_earlier_messages_come_back_in_a_second_run(tmp_path: Path, editor: str) -> None:
    with running_server() as (_, port):
        with Screen(to(port), editor, tmp_path) as client:
            client.wait_for(BARE)
            for number, message in enumerate(["hola señor", "buenas tardes", " un secreto"], 2):
                client.type(f"{message}\r")
                client.wait_for(BARE, times=number)
            client.type("DESCONEXION\r")
            assert client.wait() == 0
        assert (tmp_path / KEPT).read_text() == "hola señor\nbuenas tardes\n"
        assert stat.S_IMODE((tmp_path / KEPT).stat().st_mode) == 0o600
        with Screen(to(port), editor, tmp_path) as client:
            client.wait_for(BARE)
            client.type(UP)
            client.shows(f"{PROMPT}buenas tardes")
            client.type(UP)
            client.shows(f"{PROMPT}hola señor")
            client.type("\r")
            client.shows("Servidor: HOLA SEÑOR", BARE)
            client.type(f"{CTRL_R}tard")
            client.wait_for("(reverse-i-search)`tard': buenas tardes")
            client.type("\r")
            client.shows("Servidor: BUENAS TARDES", BARE)
            client.type(f"ho{TAB}")
            client.shows(f"{PROMPT}hola señor")
            client.type("es\r")
            client.shows(f"{PROMPT}hola señores", "Servidor: HOLA SEÑORES", BARE)


@both
def test_two_at_once_keep_what_both_said(tmp_path: Path, editor: str) -> None:
    with (
        running_server() as (_, port),
        Screen(to(port), editor, tmp_path) as one,
        Screen(to(port), editor, tmp_path) as other,
    ):
        for client, message in ((one, "uno"), (other, "dos"), (one, "tres")):
            client.wait_for(BARE)
            client.type(f"{message}\r")
            client.shows(f"Servidor: {message.upper()}", BARE)
        assert (tmp_path / KEPT).read_text() == "uno\ndos\ntres\n"


@both
def test_nothing_is_kept_if_so_asked(tmp_path: Path, editor: str) -> None:
    with running_server() as (_, port), Screen(to(port, "--sin-historial"), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("hola\r")
        client.shows("Servidor: HOLA", BARE)
        client.type(UP)  # mientras dura, sí
        client.shows(f"{PROMPT}hola")
    assert not list(tmp_path.iterdir())


@both
def test_a_history_that_others_could_read_is_closed_to_them(tmp_path: Path, editor: str) -> None:
    file = tmp_path / KEPT
    file.parent.mkdir(parents=True)
    file.write_text("de antes\n")
    file.chmod(0o644)
    with running_server() as (_, port), Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type(UP)
        client.shows(f"{PROMPT}de antes")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@both
def test_a_history_that_cannot_be_written_bothers_nobody(tmp_path: Path, editor: str) -> None:
    (tmp_path / "estado").write_text("aquí no cabe una carpeta")
    with running_server() as (_, port), Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("hola\r")
        client.shows(f"{PROMPT}hola", "Servidor: HOLA", BARE)


# -- pegar


@both
def test_several_lines_pasted_are_several_messages(tmp_path: Path, editor: str) -> None:
    with running_server() as (_, port), Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        # readline no pide a la terminal que marque lo pegado: le llega como si se tecleara.
        text = "uno\n\tdos\ntres"
        client.type(pasted(text) if "\x1b[?2004h" in client.output else text.replace("\n", "\r"))
        wait_until(lambda: client.lines[-1] == f"{PROMPT}tres")
        assert [line for line in client.lines if "Servidor" in line] == ["Servidor: UNO", "Servidor:       DOS"]
        client.type(" y medio\r")
        client.shows(f"{PROMPT}tres y medio", "Servidor: TRES Y MEDIO", BARE)
        assert (tmp_path / KEPT).read_text() == "uno\n\tdos\ntres y medio\n"


# -- lo que llega mientras se escribe


def test_what_arrives_while_typing_is_shown_above(tmp_path: Path) -> None:
    speak = threading.Event()

    def serve(sock: socket.socket) -> None:
        assert speak.wait(PATIENCE)
        sock.sendall("una noticia\notra ñ\n".encode())
        receive_all(sock)

    with foreign_server(serve) as port, Screen(to(port), PROMPT_TOOLKIT, tmp_path) as client:
        client.wait_for(BARE)
        client.type("a medio")
        client.shows(f"{PROMPT}a medio")
        speak.set()
        client.shows(connected(port), "Servidor: una noticia", "Servidor: otra ñ", f"{PROMPT}a medio")
        assert client.cursor == (3, len(f"{PROMPT}a medio"))
        client.type(" escribir")
        client.shows(f"{PROMPT}a medio escribir")


def test_with_readline_what_arrives_waits_for_the_message_to_be_sent(tmp_path: Path) -> None:
    speak, spoken = threading.Event(), threading.Event()

    def serve(sock: socket.socket) -> None:
        assert speak.wait(PATIENCE)
        sock.sendall(b"una noticia\n")
        spoken.set()
        sock.sendall(sock.recv(1024).upper())
        receive_all(sock)

    with foreign_server(serve) as port, Screen(to(port), READLINE, tmp_path) as client:
        client.wait_for(BARE)
        client.type("a medio")
        speak.set()
        assert spoken.wait(PATIENCE)
        client.type(" escribir")
        client.shows(connected(port), f"{PROMPT}a medio escribir")
        client.type("\r")
        client.shows(f"{PROMPT}a medio escribir", "Servidor: una noticia", "Servidor: A MEDIO ESCRIBIR", BARE)


@both
def test_what_is_typed_while_a_reply_is_due_does_not_mix_with_it(tmp_path: Path, editor: str) -> None:
    asked, answer = threading.Event(), threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        asked.set()
        assert answer.wait(PATIENCE)
        sock.sendall(b"HOLA\n")
        receive_all(sock)

    with foreign_server(serve) as port, Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("hola\r")
        assert asked.wait(PATIENCE)
        wait_until(lambda: not termios.tcgetattr(client.terminal)[3] & termios.ECHO)
        client.type("y después")
        answer.set()
        client.shows(connected(port), f"{PROMPT}hola", "Servidor: HOLA", f"{PROMPT}y después")


# -- la conexión se pierde


def test_a_server_that_comes_back_while_typing(tmp_path: Path) -> None:
    server = Program([*SERVER, "--host", "127.0.0.1", "--puerto", str(free_port())])
    with server:
        port = server.port
        client = Screen(to(port), PROMPT_TOOLKIT, tmp_path)
        client.wait_for(BARE)
        client.type("a medio")
        client.shows(f"{PROMPT}a medio")
        server.wait_for("Conexión aceptada")  # si muere antes de aceptarla no la cierra: la corta
        server.signal(signal.SIGKILL)
        client.shows(connected(port), lost(port), RETRYING, f"{PROMPT}a medio")
        client.type(" escribir")
        client.shows(f"{PROMPT}a medio escribir")
    with client, Program([*SERVER, "--host", "127.0.0.1", "--puerto", str(port)]):
        client.shows(lost(port), RETRYING, back(port), f"{PROMPT}a medio escribir")
        assert client.colour_of(RETRYING) == client.colour_of(back(port)) == "brown"  # el amarillo de ocho colores
        client.type("\r")
        client.shows(f"{PROMPT}a medio escribir", "Servidor: A MEDIO ESCRIBIR", BARE)
        client.type(CTRL_D)
        assert client.wait() == 0


@both
def test_a_message_waits_for_the_server_to_come_back(tmp_path: Path, editor: str) -> None:
    server = Program([*SERVER, "--host", "127.0.0.1", "--puerto", str(free_port())])
    with server:
        port = server.port
        client = Screen(to(port), editor, tmp_path)
        client.wait_for(BARE)
        server.wait_for("Conexión aceptada")  # si muere antes de aceptarla no la cierra: la corta
    client.type("aún estoy\r")
    client.wait_for(RETRYING)
    with client, Program([*SERVER, "--host", "127.0.0.1", "--puerto", str(port)]):
        client.wait_for("Servidor: AÚN ESTOY")
        assert client.lines.index(back(port)) < client.lines.index("Servidor: AÚN ESTOY")
        assert client.lines.count(lost(port)) == client.lines.count(RETRYING) == 1


def test_on_a_terminal_that_knows_nothing_it_comes_back_too() -> None:
    server = Program([*SERVER, "--host", "127.0.0.1", "--puerto", str(free_port())])
    with server:
        port = server.port
        client = Program(to(port), terminal=True)
        client.wait_for(PROMPT)
        server.wait_for("Conexión aceptada")
    client.type("aún estoy\n")
    client.wait_for(RETRYING)
    with client, Program([*SERVER, "--host", "127.0.0.1", "--puerto", str(port)]):
        client.wait_for(f"{back(port)}\r\nServidor: AÚN ESTOY\r\n{PROMPT}")
        assert "\x1b" not in client.output


@both
def test_a_message_lost_on_the_way_is_not_sent_again(tmp_path: Path, editor: str) -> None:
    received: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        while data := sock.recv(1024):
            received.append(data)
            if b"cobrar" in data:
                return
            sock.sendall(data.upper())

    with foreign_server(serve) as port, Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("cobrar\r")
        client.wait_for(back(port))
        wait_until(lambda: client.lines[-1] == BARE)
        assert [line for line in client.lines if not line.startswith("Ingresa")] == [
            *(connected(port), lost(port), UNKNOWN, RETRYING, back(port))
        ]
        client.type("hola\r")
        client.shows(f"{PROMPT}hola", "Servidor: HOLA", BARE)
        assert received == [b"cobrar\n", b"hola\n"]


@both
def test_a_server_that_does_not_answer(tmp_path: Path, editor: str) -> None:
    def serve(sock: socket.socket) -> None:
        receive_all(sock)

    with foreign_server(serve) as port, Screen(to(port, "--espera", "0.3"), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("hola\r")
        client.wait_for(back(port))
        shown = client.lines
        assert shown[2:5] == [
            f"El servidor de 127.0.0.1:{port} no responde: 0.3 s sin recibir nada.",
            UNKNOWN,
            RETRYING,
        ]


@both
def test_control_c_while_waiting_for_the_server(tmp_path: Path, editor: str) -> None:
    with running_server("--host", "127.0.0.1") as (_, port):
        client = Screen(to(port), editor, tmp_path)
        client.wait_for(BARE)
    with client:
        client.type("hola\r")
        client.wait_for(RETRYING)
        # Otra vez, si hace falta: prompt_toolkit no atiende la que llega mientras acaba de leer una línea.
        while client.process.poll() is None:
            client.type(CTRL_C)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: client.process.poll() is not None, patience=2)
        assert client.wait() == 130
        client.wait_for("Interrumpido")
        assert not SILENT.search(client.output)


# -- donde la terminal no lo es


# La entrada y la salida de IDLE: dicen ser una terminal, no tienen descriptor y solo admiten texto.
IDLE = """
import io, sys

class Typed(io.TextIOBase):
    encoding, errors = "utf-8", "strict"
    lines = ["hola servidor\\n", "DESCONEXION\\n"]
    def isatty(self): return True
    def readline(self, size=-1): return self.lines.pop(0) if self.lines else ""

class Window(io.TextIOBase):
    encoding, errors = "utf-8", "strict"
    def isatty(self): return True
    def write(self, text): real.write(text); real.flush(); return len(text)

real = sys.stdout
sys.stdin, sys.stdout, sys.stderr = Typed(), Window(), Window()
from comunicacion_tcp.cli.client import main
sys.exit(main(sys.argv[1:]))
"""


@both
def test_in_idle_there_is_no_editor_and_no_escape_code(tmp_path: Path, editor: str) -> None:
    settings = Screen.settings(editor, tmp_path)
    with running_server() as (_, port):
        command = [sys.executable, "-c", IDLE, "--host", "127.0.0.1", "--puerto", str(port)]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, cwd=ROOT, env=settings)
    shown = [connected(port), f"{PROMPT}Servidor: HOLA SERVIDOR", f"{PROMPT}Servidor: Conexión cerrada"]
    assert (done.stdout.decode().splitlines(), done.stderr, done.returncode) == (shown, b"", 0)


# -- irse


@both
@pytest.mark.parametrize("message", ["desconexion", "DESCONEXION ", "salir"])
def test_who_does_not_manage_to_leave_is_told_how(tmp_path: Path, editor: str, message: str) -> None:
    hint = "Para salir, escribe DESCONEXION, en mayúsculas y sin nada más."
    with running_server() as (server, port), Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type(f"{message}\r")
        client.shows(f"{PROMPT}{message}".rstrip(), f"Servidor: {message.upper()}".rstrip(), hint, BARE)
        client.type("DESCONEXION\r")
        assert client.wait() == 0
        server.wait_for("Mensaje de desconexión recibido.")
        done = run(to(port), f"{message}\n")  # por una tubería, nada más
        assert done.stdout.decode().splitlines()[1:3] == [f"{PROMPT}{message}", f"Servidor: {message.upper()}"]
        assert hint not in done.stdout.decode()


@both
def test_control_c(tmp_path: Path, editor: str) -> None:
    with running_server() as (server, port), Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("a medio")
        client.shows(f"{PROMPT}a medio")
        client.type(CTRL_C)
        assert client.wait() == 130
        said = "Interrumpido: la conversación se dejó sin despedida."
        assert next(line for line in client.lines[2:] if line).startswith(said)
        assert not SILENT.search(client.output)
        server.wait_for("se fue sin despedirse")
        assert is_usual(client)


@both
def test_control_d(tmp_path: Path, editor: str) -> None:
    with running_server() as (server, port), Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type(CTRL_D)
        assert client.wait() == 0
        assert client.lines == [connected(port), BARE, "Servidor: Conexión cerrada"]
        server.wait_for("Mensaje de desconexión recibido.")
        assert is_usual(client)


@both
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_it_leaves_the_terminal_as_it_was(tmp_path: Path, editor: str, number: signal.Signals) -> None:
    with running_server() as (_, port), Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        wait_until(lambda: not is_usual(client) and state(client.process.pid) == "S")  # como en ``waits``
        client.signal(number)
        assert client.wait() == 128 + number
        assert is_usual(client)
        assert not SILENT.search(client.output)


SHELLS = {"dash": ["dash", "-i"], "bash": ["bash", "--norc", "--noediting", "-i"]}


@both
@pytest.mark.parametrize("shell", SHELLS)
def test_stopped_or_killed_from_the_keyboard_while_a_reply_is_due(tmp_path: Path, editor: str, shell: str) -> None:
    asked, answer = threading.Event(), threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        asked.set()
        assert answer.wait(PATIENCE)
        sock.sendall(b"HOLA\n")
        sock.recv(1024)
        asked.set()
        receive_all(sock)

    program, *options = SHELLS[shell]
    with foreign_server(serve) as port, Screen([need(program), *options], editor, tmp_path) as client:
        client.type(f"ulimit -c 0; {shlex.join(to(port))}\n")
        client.wait_for(BARE)
        client.type("hola\r")
        assert asked.wait(PATIENCE)
        asked.clear()
        wait_until(lambda: is_held(client) and waits(client))
        client.type(CTRL_Z)
        wait_until(lambda: is_usual(client), "que la shell tenga la terminal como estaba")
        client.type("fg\n")
        wait_until(lambda: is_held(client), "que el cliente siga como estaba")
        answer.set()
        client.wait_for("Servidor: HOLA")
        client.type("otra\r")
        assert asked.wait(PATIENCE)
        wait_until(lambda: is_held(client) and waits(client))
        client.type(CTRL_BACKSLASH)
        wait_until(lambda: is_usual(client), "que la shell tenga la terminal como estaba")
        client.type("exit\n")
        client.wait()


@both
def test_stopped_from_the_keyboard_while_writing(tmp_path: Path, editor: str) -> None:
    with running_server() as (_, port), Screen([need("dash"), "-i"], editor, tmp_path) as client:
        client.type(f"{shlex.join(to(port))}\n")
        client.wait_for(BARE)
        wait_until(lambda: not is_usual(client) and waits(client))
        client.type(CTRL_Z)
        wait_until(lambda: is_usual(client), "que la shell tenga la terminal como estaba")
        client.type("fg\n")
        wait_until(lambda: not is_usual(client))
        client.type("hola\r")
        client.wait_for("Servidor: HOLA")
        client.type(CTRL_D)
        wait_until(lambda: is_usual(client))
        client.type("exit\n")
        client.wait()


def waits(client: Screen) -> bool:
    """Si el programa que lanzó la shell está esperando a algo. Una señal que llega justo antes de esperar se atiende
    después."""
    return [state(child) for child in children_of(client.process.pid)] == ["S"]


def is_held(client: Screen) -> bool:
    """Si las teclas se guardan sin repetirlas, pero las de parar y acabar valen: se espera al servidor."""
    flags: int = termios.tcgetattr(client.terminal)[3]
    return bool(not flags & termios.ECHO and flags & termios.ISIG)


def is_usual(client: Screen) -> bool:
    """Si la terminal está como la encontró: junta líneas y repite las teclas."""
    flags: int = termios.tcgetattr(client.terminal)[3]
    return bool(flags & termios.ECHO and flags & termios.ICANON and flags & termios.ISIG)


# -- la ventana


@both
def test_the_window_changes_while_typing(tmp_path: Path, editor: str) -> None:
    with running_server() as (_, port), Screen(to(port), editor, tmp_path) as client:
        client.wait_for(BARE)
        client.type("hola")
        client.shows(f"{PROMPT}hola")
        client.resize(ROWS, 60)
        client.type(" y unas cuantas letras")
        wrapped = f"{PROMPT}hola y unas cuantas letras"
        client.shows(wrapped[:60].rstrip(), wrapped[60:])
        client.resize(ROWS, 100)
        client.type(" más\r")
        client.shows("Servidor: HOLA Y UNAS CUANTAS LETRAS MÁS", BARE)
        client.type("otra\r")
        client.shows(f"{PROMPT}otra", "Servidor: OTRA", BARE)


# -- cuando no es una terminal, como antes


def test_with_its_output_in_a_pipe_nothing_is_edited(tmp_path: Path) -> None:
    with running_server() as (server, port):
        command = shlex.join(to(port))
        with Screen([need("bash"), "-c", f"{command} | cat; echo fin"], PROMPT_TOOLKIT, tmp_path) as shell:
            shell.wait_for(BARE)
            shell.type("hola\r")
            shell.shows("Servidor: HOLA", BARE)
            server.signal(signal.SIGKILL)
            server.wait()
            shell.type("adiós\r")
            shell.wait_for("Se perdió la conexión con")
            shell.wait_for("fin")
            assert "\x1b" not in shell.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("entry", [b"hola\n", b""])
def test_without_a_terminal_nothing_of_this_is_loaded(entry: bytes) -> None:
    heavy = {"readline", "prompt_toolkit", "threading", "random", "comunicacion_tcp.cli.line_editor", "termios"}
    code = """
import sys
before = set(sys.modules)
from comunicacion_tcp.cli.client import main
code = main(sys.argv[1:])
sys.stderr.write(" ".join(set(sys.modules) - before))
sys.exit(code)
"""
    with running_server() as (_, port):
        done = subprocess.run(
            [sys.executable, "-c", code, "--puerto", str(port)],
            input=entry,
            capture_output=True,
            timeout=PATIENCE,
            cwd=ROOT,
            env={**environment(), "TERM": "xterm"},
        )
    assert done.returncode == 0
    assert not heavy & set(done.stderr.decode().split())


# -- en una terminal de verdad


@both
def test_in_tmux(tmp_path: Path, editor: str) -> None:
    tmux = [need("tmux"), "-S", str(tmp_path / "tmux"), "-f", os.devnull]
    env = Screen.settings(editor, tmp_path)

    def run(*words: str) -> str:
        return subprocess.run(
            [*tmux, *words], check=True, capture_output=True, text=True, timeout=PATIENCE, env=env
        ).stdout

    def screen() -> list[str]:
        return [line.rstrip() for line in run("capture-pane", "-p").rstrip().split("\n")]

    def shows(*lines: str) -> None:
        wait_until(lambda: screen()[-len(lines) :] == list(lines), f"{lines!r} en tmux")

    with running_server() as (server, port):
        run("new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), shlex.join([*to(port)]))
        try:
            run("set-option", "-g", "remain-on-exit", "on")
            shows(connected(port), BARE)
            run("send-keys", "-l", "hola señor")
            run("send-keys", "Enter")
            shows(f"{PROMPT}hola señor", "Servidor: HOLA SEÑOR", BARE)
            run("send-keys", "Up")
            shows(f"{PROMPT}hola señor")
            run("resize-window", "-x", "100", "-y", "30")
            run("send-keys", "Enter")
            shows(f"{PROMPT}hola señor", "Servidor: HOLA SEÑOR", BARE)
            run("set-buffer", "uno\ndos\n")
            run("paste-buffer", "-p")
            shows(f"{PROMPT}uno", "Servidor: UNO", f"{PROMPT}dos", "Servidor: DOS", BARE)
            run("send-keys", "C-d")
            wait_until(lambda: "Servidor: Conexión cerrada" in screen())
            server.wait_for("Mensaje de desconexión recibido.")
        finally:
            run("kill-server")
