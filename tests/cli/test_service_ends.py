"""Un servicio que quiere acabar el programa no lo acaba, y uno que no quiere no lo impide."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from ..support.modules import write
from ..support.programs import running_server
from ..support.sockets import ask, connect

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
