"""Lo que un servicio hace alrededor de responder (configura ``logging``, crea procesos, cambia de carpeta, escribe) no
cambia lo que hace el servidor. Lo que acaba, o quiere acabar, está en ``test_service_ends.py``.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from ..support.modules import write
from ..support.ports import listening_port
from ..support.programs import SERVER, Program, running_server
from ..support.sockets import ask, connect

ALONE_OR_NOT = pytest.mark.parametrize("processes", [[], ["--procesos", "2"]], ids=["uno", "varios"])

# -- logging ------------------------------------------------------------------------------------------------

CONFIGURED = {
    "dictConfig": "import logging.config\nlogging.config.dictConfig({'version': 1})",
    "dictConfig con todo": "import logging.config\nlogging.config.dictConfig({'version': 1, 'root': {'handlers': ['h']}"
    ", 'handlers': {'h': {'class': 'logging.StreamHandler'}}})",
    "basicConfig": "import logging\nlogging.basicConfig(level=logging.INFO)",
    "basicConfig por fuerza": "import logging\nlogging.basicConfig(force=True)",
    "disable": "import logging\nlogging.disable()",
}
FAILING = "\ndef f(texto):\n    if texto != 'hola': raise ValueError(texto)\n    return texto"
BAD = "el servicio falló con este mensaje (ValueError: a"


@ALONE_OR_NOT
@pytest.mark.parametrize("source", CONFIGURED.values(), ids=CONFIGURED)
def test_its_logging_neither_silences_ours_nor_repeats_it(tmp_path: Path, processes: list[str], source: str) -> None:
    write(tmp_path / "mio.py", source + FAILING)
    with running_server("--servicio", "mio:f", *processes, cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "hola"
        assert ask(sock, "a\x1b[2J").startswith("ERROR: ")
        server.wait_for(BAD)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    lines = [line for line in server.output.splitlines() if not line.startswith("    ")]
    assert len([line for line in lines if "Conexión aceptada" in line]) == 1
    assert len([line for line in lines if BAD in line]) == 1
    assert lines[-1] == "Servidor detenido."
    assert "\x1b" not in server.output
    assert server.errors == ""


@ALONE_OR_NOT
@pytest.mark.parametrize("source", CONFIGURED.values(), ids=CONFIGURED)
def test_nor_when_it_is_reloaded(tmp_path: Path, processes: list[str], source: str) -> None:
    write(tmp_path / "mio.py", "def f(texto): return texto")
    options = ("--servicio", "mio:f", "--recargar", *processes)
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "hola"
        write(tmp_path / "mio.py", source + FAILING)
        server.wait_for("Servicio recargado")
        while ask(sock, "a") == "a":  # con varios, cada uno recarga por su cuenta
            pass
        server.wait_for(BAD)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.output.count(BAD) == server.output.count("in f\n") == 1
        assert server.errors == ""


def test_who_asks_for_our_events_gets_them(tmp_path: Path) -> None:
    source = "import logging\nlogging.getLogger('comunicacion_tcp.servidor').addHandler(logging.StreamHandler())"
    write(tmp_path / "mio.py", source + FAILING)
    with running_server("--servicio", "mio:f", cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "a\x1b[2J").startswith("ERROR: ")
        server.wait_for(BAD)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert BAD + r"\x1b[2J)" in server.errors
        assert "\x1b" not in server.errors


@pytest.mark.parametrize("shape", ["llano", "fecha", "json"])
def test_an_exception_it_logs_keeps_its_trace(tmp_path: Path, shape: str) -> None:
    source = """
import logging
def f(texto):
    try:
        return str(1 / 0)
    except ZeroDivisionError:
        logging.exception("no pude con %s", texto)
        return "nada"
"""
    write(tmp_path / "mio.py", source)
    with (
        Program([*SERVER, "--puerto", "0", "--servicio", "mio:f", "--registro", shape], cwd=tmp_path) as server,
        connect(listening_port(server.process.pid)) as sock,
    ):
        assert ask(sock, "a\x1b[2J") == "nada"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    sentence = r"no pude con a\x1b[2J (ZeroDivisionError: division by zero)"
    trace = [f'File "{tmp_path / "mio.py"}", line 5, in f', "return str(1 / 0)"]
    lines = server.output.splitlines()
    if shape == "json":
        (told,) = [event for event in map(json.loads, lines) if event["event"] == "root"]
        assert told["message"] == sentence
        assert [line.strip() for line in told["traceback"]] == trace
    else:
        (first,) = [number for number, line in enumerate(lines) if line.endswith(sentence)]
        assert [line.strip() for line in lines[first + 1 : first + 3]] == trace
