"""Un servicio que quiere acabar el programa no lo acaba, y uno que no quiere no lo impide."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from ..support.modules import write
from ..support.ports import listening_ports
from ..support.programs import alive, children_of, running_server
from ..support.sockets import ask, connect
from ..support.waiting import wait_until

ALONE_OR_NOT = pytest.mark.parametrize("processes", [[], ["--procesos", "2"]], ids=["uno", "varios"])

# -- que quiere acabar --------------------------------------------------------------------------------------

# Cada mensaje es lo que se lanza, fuera de la función que lo recibe.
LEAVING = """
import asyncio, sys
tasks = set()
def leave(what):
    raise {"exit": SystemExit(3), "bien": SystemExit, "ctrl-c": KeyboardInterrupt, "otro": LookupError("mal")}[what]
async def leave_later(what):
    await asyncio.sleep(0)
    leave(what)
async def f(texto):
    if texto != "hola":
        how, what = texto.split()
        if how == "tarea":
            task = asyncio.ensure_future(leave_later(what))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        elif how == "esperada":
            await asyncio.ensure_future(leave_later(what))
        elif how == "aviso":
            asyncio.get_running_loop().call_soon(leave, what)
        else:
            asyncio.get_running_loop().call_later(0, leave, what)
    return texto
"""
NAMES = {"exit": "SystemExit: 3", "bien": "SystemExit", "ctrl-c": "KeyboardInterrupt", "otro": "LookupError: mal"}


@ALONE_OR_NOT
@pytest.mark.parametrize(
    ("how", "what"),
    [
        *(("tarea", "exit"), ("aviso", "exit"), ("luego", "exit"), ("tarea", "bien"), ("aviso", "ctrl-c")),
        *(("tarea", "otro"), ("luego", "otro")),
    ],
)
def test_what_it_leaves_running_cannot_end_the_program(
    tmp_path: Path, processes: list[str], how: str, what: str
) -> None:
    write(tmp_path / "mio.py", LEAVING)
    with running_server("--servicio", "mio:f", *processes, cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, f"{how} {what}") == f"{how} {what}"
        server.wait_for(NAMES[what])
        server.wait_for("in leave\n")
        assert ask(sock, "hola") == "hola"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    told = [line for line in server.output.splitlines() if "se sigue sirviendo" in line]
    assert len(told) == 1
    assert NAMES[what] in told[0]
    assert ("quiso acabar el programa" in told[0]) == (what != "otro")
    assert "... y " not in server.output  # ni se cuenta dos veces
    assert server.output.endswith("Servidor detenido.\n")
    assert server.errors == ""


def test_nor_what_it_waits_for(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", LEAVING)
    with running_server("--servicio", "mio:f", cwd=tmp_path) as (server, port), connect(port) as sock:
        for what in ("exit", "ctrl-c"):
            assert ask(sock, f"esperada {what}").startswith("ERROR: ")
        assert ask(sock, "hola") == "hola"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_who_is_asked_to_end_ends_all_the_same(tmp_path: Path, number: signal.Signals) -> None:
    # Lo último que hace, cancelado, es otra vez querer acabar el programa, con su código.
    source = """
import asyncio, sys
tasks = set()
async def stay():
    try:
        await asyncio.Event().wait()
    finally:
        sys.exit(7)
async def f(texto):
    tasks.add(asyncio.ensure_future(stay()))
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    return texto
"""
    write(tmp_path / "mio.py", source)
    with running_server("--servicio", "mio:f", cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "hola"
        server.wait_for("SystemExit: 3")
        server.signal(number)
        assert server.wait() == 0
        assert re.search("^Servidor detenido.$", server.output, re.MULTILINE)
        assert server.errors == ""


# -- que no deja acabar -------------------------------------------------------------------------------------

# Nada de Python se ejecuta mientras: ni el plazo, ni lo que atiende la señal.
HOLDING = """
import re
def f(texto):
    if texto == "nunca":
        open("dentro", "w").close()
        re.match(r"(a+)+$", "a" * 60 + "b")
    return texto
"""


def test_one_that_never_lets_go_of_the_interpreter_is_stopped(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", HOLDING)
    options = ("--servicio", "mio:f", "--plazo-parada", "0.1")
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "hola"
        sock.sendall(b"nunca\n")
        wait_until((tmp_path / "dentro").exists, "que entre")
        guards = children_of(server.process.pid)
        server.signal(signal.SIGTERM)
        assert server.wait() == -signal.SIGKILL
        assert "no se puede detener con cuidado: se corta todo." in server.errors
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        wait_until(lambda: not any(map(alive, guards)), "que acabe el guarda")


def test_who_watches_over_it_keeps_nothing_and_goes_with_it(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def f(texto): return texto")
    with running_server("--servicio", "mio:f", cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "hola"
        (guard,) = children_of(server.process.pid)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # systemd, y una terminal, la envían a todos
            os.kill(guard, number)
        assert not listening_ports(guard)
        kept = [os.readlink(link) for link in Path(f"/proc/{guard}/fd").iterdir()]
        assert kept.count("/dev/null") == 2
        assert len(kept) <= 6  # ni la salida, ni el puerto: sus dos canales, el proceso y los errores
        assert os.readlink(f"/proc/{guard}/cwd") == "/"
        assert ask(sock, "sigo") == "sigo"
        server.process.kill()
        assert server.wait() == -signal.SIGKILL  # y nadie retiene su salida
        wait_until(lambda: not alive(guard), "que se vaya")


def test_without_who_watches_over_it_it_serves_and_ends(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def f(texto): return texto")
    with running_server("--servicio", "mio:f", cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "hola"
        (guard,) = children_of(server.process.pid)
        os.kill(guard, signal.SIGKILL)
        assert ask(sock, "sigo") == "sigo"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.errors == ""
    with running_server() as (server, _):  # mayúsculas no retiene nada
        assert not children_of(server.process.pid)


def test_signals_still_reach_the_loop_that_a_service_listens_to(tmp_path: Path) -> None:
    source = """
import asyncio, os, signal
got = []
async def f(texto):
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, lambda: done.done() or done.set_result(texto))
    os.kill(os.getpid(), signal.SIGUSR1)
    return await done
"""
    write(tmp_path / "mio.py", source)
    with running_server("--servicio", "mio:f", cwd=tmp_path) as (server, port), connect(port) as sock:
        assert [ask(sock, text) for text in ("a", "b")] == ["a", "b"]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
