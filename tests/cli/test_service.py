"""``servidor-tcp --servicio``: una función de otro, servida, y lo que se le cuenta a quien la escribe."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.modules import write
from ..support.ports import listening_ports
from ..support.programs import SERVER, Program, alive, children_of, environment, fails, run, running_server
from ..support.sockets import ask, connect, fill_pipe, receive, receive_all
from ..support.waiting import PATIENCE, wait_until

# -- qué se sirve -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "reply"),
    [
        ("def responder(texto): return texto[::-1]", "mio:responder", "aloh"),
        ("async def responder(texto): return texto.title()", "mio:responder", "Hola"),
        ("class A:\n    def buscar(self, texto): return f'no hay {texto}'\na = A()", "mio:a.buscar", "no hay hola"),
    ],
)
def test_any_function_is_served_as_upper_case_is(tmp_path: Path, source: str, name: str, reply: str) -> None:
    write(tmp_path / "mio.py", source)
    with running_server("--servicio", name, cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == reply
        sock.sendall(b"\xff\r\n")
        error = "ERROR: el mensaje no es UTF-8 válido\r\n".encode()
        assert receive(sock, len(error)) == error
        sock.sendall(b"hola\nDESCONEXION\n")
        assert receive_all(sock).decode() == f"{reply}\nConexión cerrada\n"
        server.wait_for("Mensaje de desconexión recibido")


def test_it_can_be_in_the_environment(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def responder(texto): return texto + '!'")
    env = {"SERVIDOR_TCP_SERVICIO": "mio:responder", "SERVIDOR_TCP_HILOS": "0"}
    with running_server(env=env, cwd=tmp_path) as (_, port), connect(port) as sock:
        assert ask(sock, "hola") == "hola!"


# -- qué no se puede servir ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        ("", "mio", ["«mio» no es MODULO:FUNCION", "--servicio mio:responder"]),
        ("", "", ["«» no es MODULO:FUNCION"]),
        ("", "mio.py:f", ["el de un fichero", "--servicio mio:f"]),
        ("", "nada:f", ["No hay ningún módulo «nada»", "Revisa --servicio"]),
        ("import numpi", "mio:f", ["«mio» importa «numpi» (mio.py:1)", "Instálalo"]),
        ("def f(", "mio:f", ["«mio» tiene algo que no es Python (mio.py:1)", "Corrígelo"]),
        ("x = 1 / 0", "mio:f", ["«mio» falló al importarse (mio.py:1): ZeroDivisionError: division by zero"]),
        ("raise ValueError('a\\n\\x1b[2Jb')", "mio:f", [r"ValueError: a\n\x1b[2Jb."]),
        ("raise SystemExit(7)", "mio:f", ["SystemExit: 7", "if __name__ =="]),
        ("def responder(t): return t", "mio:reponder", ["no hay ningún «reponder»", "Quizá es «responder»"]),
        ("def a(t): return t\ndef b(t): return t", "mio:zzz", ["(mio.py)", "Hay «a», «b»."]),
        ("", "mio:zzz", ["no hay ninguna función"]),
        ("n = 3", "mio:n", ["«mio:n» no es una función, sino de tipo int"]),
        ("class A: pass", "mio:A", ["es una clase"]),
        ("def f(t): yield t", "mio:f", ["responde con yield", "return"]),
        ("def f(a, b): return a", "mio:f", ["«mio:f» recibe (a, b)", "con un texto y nada más"]),
    ],
)
@pytest.mark.parametrize("options", [[], ["--recargar"]], ids=str)
def test_what_cannot_be_served_is_a_sentence(
    tmp_path: Path, source: str, name: str, words: list[str], options: list[str]
) -> None:
    write(tmp_path / "mio.py", source)
    fails(run([*SERVER, "--puerto", "0", "--servicio", name, *options], cwd=tmp_path), 1, *words)


def test_reloading_needs_a_service() -> None:
    fails(run([*SERVER, "--recargar"]), 2, "--recargar necesita --servicio")
    fails(run([*SERVER, "--hilos", "1001"]), 2, "--hilos debe ser un número de 0 a 1000")


def test_an_interrupt_while_importing_is_not_an_error(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "import threading\nprint('importando', flush=True)\nthreading.Event().wait()")
    with Program([*SERVER, "--puerto", "0", "--servicio", "mio:f"], cwd=tmp_path) as server:
        wait_until(lambda: server.errors == "importando\n", "que se importe")
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert (server.output, server.errors) == ("", "importando\n")


# -- un servicio que falla ----------------------------------------------------------------------------------

FAILING = """
def responder(texto):
    if texto == "mal":
        return dividir(texto)
    return texto

def dividir(texto):
    return 1 / 0  # \x1b[2J\u202e
"""
TAME = r"      return 1 / 0  # \x1b[2J\u202e"
FAILED = "ERROR: el servicio falló con este mensaje"


@pytest.mark.parametrize("shape", ["llano", "fecha"])
def test_a_failure_costs_a_message_and_says_where_it_was(tmp_path: Path, shape: str) -> None:
    write(tmp_path / "mio.py", FAILING)
    options = ("--servicio", "mio:responder", "--registro", shape)
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock, connect(port) as other:
        assert [ask(sock, text) for text in ("hola", "mal", "sigo")] == ["hola", FAILED, "sigo"]
        server.wait_for(TAME + "\n")
        assert ask(other, "mal") == FAILED
        server.wait_for("(ZeroDivisionError: division by zero).\n", times=2)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        lines = server.output.splitlines()
        (first,) = [number for number, line in enumerate(lines) if line.startswith("    File ")][:1]
        assert "falló con este mensaje (ZeroDivisionError: division by zero)." in lines[first - 1]
        path = tmp_path / "mio.py"
        assert lines[first : first + 4] == [
            f'    File "{path}", line 4, in responder',
            "      return dividir(texto)",
            f'    File "{path}", line 8, in dividir',
            TAME,
        ]
        assert server.output.count("in dividir") == 1  # el mismo camino no se repite
        assert not re.search(r"[\0-\x09\x0b-\x1f\x7f-\x9f\u202e]", server.output)
        assert server.errors == ""


def test_in_json_the_trace_is_a_field_of_the_same_line(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", FAILING)
    with Program(
        [*SERVER, "--puerto", "0", "--servicio", "mio:responder", "--registro", "json"], cwd=tmp_path
    ) as server:
        server.wait_for("\n")
        with connect(json.loads(server.output.split("\n")[0])["addresses"][0]["port"]) as sock:
            assert ask(sock, "mal") == FAILED
            server.wait_for("bad_message")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        told = {event["event"]: event for event in map(json.loads, server.output.splitlines())}
        assert told["bad_message"]["cause"] == {"type": "ZeroDivisionError", "message": "division by zero"}
        assert [line.strip() for line in told["bad_message"]["traceback"]] == [
            f'File "{tmp_path / "mio.py"}", line 4, in responder',
            "return dividir(texto)",
            f'File "{tmp_path / "mio.py"}", line 8, in dividir',
            TAME.strip(),
        ]
        assert "\n" not in told["bad_message"]["message"]


@pytest.mark.parametrize(
    ("source", "reply", "words"),
    [
        ("def f(t): return 3", "ERROR: el servicio no devolvió texto", "devolvió int, y no str; hazlo texto"),
        ("def f(t): return 'a\\nb'", "ERROR: el servicio devolvió más de una línea", "lleva un salto de línea"),
        ("def f(t): raise SystemExit", FAILED, "(SystemExit)."),
        ("def f(t): return f(t)", FAILED, "pasos más ..."),
        ("def f(t): raise ValueError('x' * 1_000_000)", FAILED, "xxx...)."),
        ("class E(Exception):\n    def __str__(self): raise self\ndef f(t): raise E", FAILED, "(E: no se sabe decir)."),
        ("async def f(t): return 1 / 0", FAILED, "async def f(t): return 1 / 0"),
    ],
)
def test_whatever_it_does_wrong_the_conversation_goes_on(tmp_path: Path, source: str, reply: str, words: str) -> None:
    write(tmp_path / "mio.py", source)
    with running_server("--servicio", "mio:f", cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "a") == reply
        assert ask(sock, "b") == reply
        server.wait_for(words)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert len(server.output) < 10_000
        assert server.errors == ""


# -- que espera ---------------------------------------------------------------------------------------------

# --plazo-servicio en las pruebas que lo agotan: el mensaje siguiente lo responde otro hilo, que en una máquina ocupada
# puede tardar una décima en empezar.
DEADLINE = "0.5"
# Cada mensaje espera a que esté el fichero que nombra.
WAITING = """
import os, time
def responder(texto):
    while texto and not os.path.exists(texto):
        time.sleep(0.01)
    return f"estaba {texto}"
"""


def test_a_function_that_waits_does_not_hold_up_the_others(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", WAITING)
    options = ("--servicio", "mio:responder", "--hilos", "2")
    with running_server(*options, cwd=tmp_path) as (_, port), connect(port) as slow, connect(port) as quick:
        slow.sendall(b"a\n\n")
        assert ask(quick, "") == "estaba "
        (tmp_path / "a").touch()
        assert receive(slow, 17) == b"estaba a\nestaba \n"  # cada conexión, en su orden


def test_who_closes_its_side_before_the_reply_gets_it_and_the_end(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", WAITING)
    with running_server("--servicio", "mio:responder", cwd=tmp_path) as (server, port):
        with connect(port) as early, connect(port) as other:
            early.sendall(b"a\n")
            early.shutdown(socket.SHUT_WR)
            for _ in range(3):  # mientras, el servidor ve el fin de la otra
                assert ask(other, "") == "estaba "
            (tmp_path / "a").touch()
            assert receive_all(early) == b"estaba a\n"
        server.wait_for("se fue sin despedirse", times=2)


def test_one_that_takes_too_long_is_an_error_and_the_conversation_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", WAITING)
    options = ("--servicio", "mio:responder", "--plazo-servicio", DEADLINE)
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "nunca").startswith("ERROR: ")
        assert ask(sock, "") == "estaba "
        server.wait_for(f"el servicio no respondió en {DEADLINE} s.\n    File ")
        server.wait_for("in responder\n      ")  # por dónde iba
        assert "threading.py" not in server.output
        server.signal(signal.SIGTERM)  # el hilo que sigue esperando no impide acabar
        assert server.wait() == 0


# -- que no deja acabar -------------------------------------------------------------------------------------

STUBBORN = {
    "una tarea que no se deja cancelar": """
import asyncio
async def responder(texto):
    while texto:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
    return "libre"
""",
    "un hilo de asyncio": """
import asyncio, threading
async def responder(texto):
    if texto:
        await asyncio.to_thread(threading.Event().wait)
    return "libre"
""",
    "un hilo suyo": """
import threading
def responder(texto):
    if texto:
        threading.Thread(target=threading.Event().wait).start()
    return "libre"
""",
}


@pytest.mark.parametrize("processes", [[], ["--procesos", "2"]], ids=["uno", "varios"])
@pytest.mark.parametrize("what", ["service", "certificate", "port"])
def test_what_it_leaves_behind_does_not_hide_that_it_cannot_be_served(
    tmp_path: Path, what: str, processes: list[str]
) -> None:
    trouble = "falta_algo" if what == "service" else ""
    thread = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    write(tmp_path / "mio.py", f"{thread}{trouble}\ndef f(texto): return texto")
    with running_server() as (_, port):
        options = {"service": (), "certificate": ("--tls-cert", "mio.py"), "port": ("--puerto", str(port))}[what]
        done = run([*SERVER, "--puerto", "0", "--servicio", "mio:f", *options, *processes], cwd=tmp_path)
    fails(done, 1, {"service": "falta_algo", "certificate": "mio.py", "port": str(port)}[what])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="este sistema no tiene fork")
@pytest.mark.parametrize("threads", ["0", "5"])
@pytest.mark.parametrize("processes", [[], ["--procesos", "1"]], ids=["uno", "varios"])
def test_a_process_it_creates_keeps_nothing_of_ours(tmp_path: Path, processes: list[str], threads: str) -> None:
    # Como los de multiprocessing, que en Linux nacen así.
    write(
        tmp_path / "mio.py",
        "import os, signal\n"
        "def f(texto):\n"
        "    child = os.fork()\n"
        "    if not child: os.closerange(1, 3)\n"  # que no se espere por él para leer la salida
        "    while not child: signal.pause()\n"
        "    return str(child)",
    )
    options = ("--servicio", "mio:f", "--hilos", threads, "--metricas", "127.0.0.1:0", *processes)
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        server.wait_for("/metrics\n")
        child = int(ask(sock, ""))
        try:
            wait_until(lambda: not listening_ports(child), "que suelte los puertos")
            for pid in {server.process.pid, *children_of(server.process.pid)} - {child}:
                os.kill(pid, signal.SIGKILL)
            server.wait()
            assert receive_all(sock) == b""
            assert alive(child)
            os.kill(child, signal.SIGTERM)
            wait_until(lambda: not alive(child), "que acabe")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_one_that_cannot_be_served_ends_though_nobody_reads_why(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "falta")
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb"):
        fill_pipe(writer)
        command = [*SERVER, "--servicio", "mio:f"]
        done = subprocess.run(command, stderr=writer, cwd=tmp_path, env=environment(), timeout=PATIENCE)
    assert done.returncode == 1


@pytest.mark.parametrize("source", STUBBORN.values(), ids=STUBBORN)
def test_what_it_leaves_behind_does_not_stop_the_end(tmp_path: Path, source: str) -> None:
    write(tmp_path / "mio.py", source)
    options = ("--servicio", "mio:responder", "--plazo-servicio", DEADLINE)
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        ask(sock, "nunca")
        assert ask(sock, "") == "libre"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.output.endswith("Servidor detenido.\n")
        assert server.errors == ""


@pytest.mark.parametrize(
    "source", ["async def f(t): dentro() or time.sleep(3600)", "def f(t):\n    dentro()\n    while t: pass"]
)
def test_one_that_takes_the_loop_can_be_stopped(tmp_path: Path, source: str) -> None:
    write(tmp_path / "mio.py", f"import time\ndef dentro(): print('dentro', flush=True)\n{source}")
    with running_server("--servicio", "mio:f", "--hilos", "0", cwd=tmp_path) as (server, port), connect(port) as sock:
        sock.sendall(b"nunca\n")
        wait_until(lambda: "dentro" in server.errors, "que entre")
        server.insist(signal.SIGINT)
        assert server.wait() == 3
        assert server.errors.startswith("dentro\nEl servicio tiene ocupado el servidor")


# Nada de Python se ejecuta mientras: ni el plazo, ni lo que atiende la señal. Solo, con un SIGTERM, en
# test_service_ends.py.
HOLDING = """
import re
def f(texto):
    open("dentro", "w").close()
    re.match(r"(a+)+$", "a" * 60 + "b")
"""


@pytest.mark.parametrize("processes", [[], ["--procesos", "1"]], ids=["uno", "varios"])
def test_insisting_stops_even_one_that_never_lets_go_of_the_interpreter(tmp_path: Path, processes: list[str]) -> None:
    write(tmp_path / "mio.py", HOLDING)
    options = ("--servicio", "mio:f", "--plazo-parada", "3600", *processes)
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        sock.sendall(b"nunca\n")
        wait_until((tmp_path / "dentro").exists, "que entre")
        others = children_of(server.process.pid)
        assert len(others) == 1  # quien vigila, o quien sirve: con varios, vigila el padre
        server.insist(signal.SIGINT)
        assert server.wait() == (3 if processes else -signal.SIGKILL)
        wait_until(lambda: not any(map(alive, others)), "que acaben")


def test_one_that_takes_the_loop_can_be_stopped_though_nobody_reads_the_errors(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "import os\ndef f(t):\n    while True: os.write(2, b'x' * 4096)")
    reader, writer = os.pipe()
    redirect = "import os, sys; os.dup2(int(sys.argv[1]), 2); os.execv(sys.argv[2], sys.argv[2:])"
    command = [sys.executable, "-c", redirect, str(writer), *SERVER, "--puerto", "0"]
    options = ["--servicio", "mio:f", "--hilos", "0"]
    with (
        open(reader, "rb"),
        open(writer, "wb"),
        Program([*command, *options], cwd=tmp_path, pass_fds=[writer]) as server,
        connect(server.port) as sock,
    ):
        sock.sendall(b"nunca\n")
        wait_until(lambda: not select.select([], [writer], [], 0)[1], "que no quepan más errores")
        server.insist(signal.SIGINT)
        assert server.wait() == 3


def test_one_that_closes_the_output_does_not_stop_anything(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "import sys\ndef f(t):\n    sys.stdout.close()\n    return t.title()")
    with running_server("--servicio", "mio:f", cwd=tmp_path) as (server, port), connect(port) as sock:
        assert [ask(sock, "hola"), ask(sock, "mundo")] == ["Hola", "Mundo"]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.errors == ""


def test_the_keyboard_and_the_log_are_not_of_the_service(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def f(t):\n    print('por aquí')\n    return input(t)")
    with Program([*SERVER, "--puerto", "0", "--servicio", "mio:f", "--registro", "json"], cwd=tmp_path) as server:
        server.wait_for("\n")
        with connect(json.loads(server.output.split("\n")[0])["addresses"][0]["port"]) as sock:
            assert ask(sock, "hola") == FAILED
            server.wait_for("EOFError")
        wait_until(lambda: "por aquí" in server.errors, "que lo escriba aparte")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert all(json.loads(line) for line in server.output.splitlines())


def test_a_module_that_asks_by_the_keyboard_is_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "nombre = input()\ndef f(t): return nombre")
    fails(run([*SERVER, "--puerto", "0", "--servicio", "mio:f"], "ana\n", cwd=tmp_path), 1, "mio.py:1", "EOFError")
