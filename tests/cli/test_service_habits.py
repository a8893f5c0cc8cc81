"""Lo que un servicio hace alrededor de responder (configura ``logging``, crea procesos, cambia de carpeta, escribe) no
cambia lo que hace el servidor. Lo que acaba, o quiere acabar, está en ``test_service_ends.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.certificates import Certificates
from ..support.modules import write
from ..support.ports import listening_port, listening_ports
from ..support.programs import SERVER, Program, alive, children_of, run, running_server
from ..support.sockets import ask, connect, receive_all
from ..support.waiting import PATIENCE, wait_until

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
        wait_until(lambda: ask(sock, "a") != "a", "que responda el nuevo")  # con varios, cada uno recarga por su cuenta
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


# -- procesos -----------------------------------------------------------------------------------------------

# Cada una deja un proceso en marcha al importarse; los que nacen con fork, sin la salida de errores de la prueba.
CREATED = {
    "os.fork": """
import os, signal
child = os.fork()
if not child: os.closerange(0, 3)
while not child: signal.pause()
""",
    "multiprocessing": """
import multiprocessing, os, signal
def work():
    os.closerange(0, 3)
    while True: signal.pause()
multiprocessing.get_context("fork").Process(target=work).start()
""",
    "ProcessPoolExecutor": """
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
pool = ProcessPoolExecutor(1, multiprocessing.get_context("fork"), os.closerange, (0, 3))
pool.submit(os.getpid).result()
""",
    "subprocess": """
import subprocess, sys
nowhere = subprocess.DEVNULL
subprocess.Popen(
    [sys.executable, "-c", "import signal; signal.pause()"], close_fds=False, stdout=nowhere, stderr=nowhere
)
""",
}
# Lo que hace systemd: un socket que ya escucha, en el descriptor 3.
_GIVE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.closerange(4, 100)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def serving(folder: Path, how: str) -> Iterator[tuple[Program, int]]:
    """El servidor con el servicio de ``folder``: solo, con varios procesos, o con un socket que le dan."""
    command = [*SERVER, "--puerto", "0", "--servicio", "mio:f"]
    if how == "varios":
        command += ["--procesos", "2"]
    if how != "systemd":
        with Program(command, cwd=folder) as program:
            yield program, program.port
        return
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port, number = sock.getsockname()[1], sock.fileno()
        program = Program([sys.executable, "-c", _GIVE, str(number), *command], cwd=folder, pass_fds=[number])
    with program:
        yield program, port


@pytest.mark.skipif(not hasattr(os, "fork"), reason="este sistema no tiene fork")
@pytest.mark.parametrize("how", ["uno", "varios", "systemd"])
@pytest.mark.parametrize("source", CREATED.values(), ids=CREATED)
def test_what_it_creates_while_it_is_imported_keeps_nothing_of_ours(tmp_path: Path, how: str, source: str) -> None:
    write(tmp_path / "mio.py", source + "\ndef f(texto): return texto")
    strangers: set[int] = set()
    with serving(tmp_path, how) as (server, port), connect(port) as sock:
        try:
            assert ask(sock, "hola") == "hola"
            if how == "varios":
                workers = children_of(server.process.pid)
                wait_until(lambda: all(map(children_of, workers)), "que los dos importen")
                strangers |= {stranger for worker in workers for stranger in children_of(worker)}
            else:
                strangers |= children_of(server.process.pid)
            assert strangers
            wait_until(lambda: not any(map(listening_ports, strangers)), "que suelten el puerto")
            server.signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE) == 0
            assert receive_all(sock) == b""
            with pytest.raises(ConnectionRefusedError):
                connect(port)
        finally:
            for stranger in strangers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stranger, signal.SIGTERM)
            wait_until(lambda: not any(map(alive, strangers)), "que acaben")


# -- la salida ----------------------------------------------------------------------------------------------

_WRITING = """
import os, subprocess, sys
def write(when):
    print("print", when, flush=True)
    os.write(1, f"os.write {when}\\n".encode())
    subprocess.run([sys.executable, "-c", f"print('subprocess', {when!r})"], check=True)
    os.system(f"echo system {when}")
    child = os.fork()
    if not child:
        os.write(1, f"fork {when}\\n".encode())
        os._exit(0)
    os.waitpid(child, 0)
write("al importar")
def f(texto):
    write(texto)
    return texto
"""


@ALONE_OR_NOT
def test_only_our_lines_are_in_the_output(tmp_path: Path, processes: list[str]) -> None:
    write(tmp_path / "mio.py", _WRITING)
    options = ("--servicio", "mio:f", "--hilos", "0", *processes)  # sin hilos, bifurcar no tiene riesgo
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "hola"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    ways = ("print", "os.write", "subprocess", "system", "fork")
    lines = server.errors.splitlines()
    for way in ways:
        assert lines.count(f"{way} al importar") == (2 if processes else 1)
        assert lines.count(f"{way} hola") == 1
    assert not [line for line in server.output.splitlines() if line.startswith(ways)]
    assert server.output.endswith("Servidor detenido.\n")


def test_checking_says_only_its_answer(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", _WRITING)
    done = run([*SERVER, "--servicio", "mio:f", "--comprobar"], cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.decode() == "Todo vale: las opciones y lo que nombran.\n"
    assert b"subprocess al importar" in done.stderr


@pytest.mark.parametrize("closed", ["1", "2"])
def test_it_is_served_with_an_output_closed(tmp_path: Path, closed: str) -> None:
    write(tmp_path / "mio.py", _WRITING)
    command = [*SERVER, "--puerto", "0", "--servicio", "mio:f", "--hilos", "0"]
    with (
        Program(["/bin/sh", "-c", f'exec "$@" {closed}>&-', "sh", *command], cwd=tmp_path) as server,
        connect(listening_port(server.process.pid)) as sock,
    ):
        assert ask(sock, "hola") == "hola"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        for line in server.output.splitlines():
            assert not line.startswith(("print", "os.write", "subprocess", "system", "fork"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="este sistema no tiene fork")
def test_what_a_process_of_its_logs_is_not_lost(tmp_path: Path) -> None:
    source = """
import logging, os
def f(texto):
    child = os.fork()
    if not child:
        logging.warning("desde el hijo %s", texto)
        os._exit(0)
    os.waitpid(child, 0)
    return texto
"""
    write(tmp_path / "mio.py", source)
    with running_server("--servicio", "mio:f", "--hilos", "0", cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "hola"
        wait_until(lambda: "desde el hijo hola" in server.errors, "que se vea")


# -- la carpeta ---------------------------------------------------------------------------------------------


@ALONE_OR_NOT
@pytest.mark.parametrize("when", ["al importarse", "al responder"])
def test_paths_are_those_of_the_start_though_it_changes_folder(
    tmp_path: Path, processes: list[str], when: str, certificates: Certificates
) -> None:
    move = "import os\nplace = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'otra')\n"
    moved = "os.chdir(place)\ndef f(texto): return texto"
    write(
        tmp_path / "mio.py",
        move + (moved if when == "al importarse" else "def f(texto):\n    os.chdir(place)\n    return texto"),
    )
    write(tmp_path / "otra" / "mio.py", "def f(texto): return 'el de otra carpeta'")
    cert, unix = tmp_path / "cert.pem", tmp_path / "s"
    shutil.copyfile(certificates.server, cert)
    write(tmp_path / "servidor.conf", "tls-cert = cert.pem\nhost = unix:s\nrecargar = 1")
    trust = certificates.trusting()
    options = ("--configuracion", "servidor.conf", "--servicio", "mio:f", *processes)
    with Program([*SERVER, *options], cwd=tmp_path) as server:
        server.wait_for("Servidor escuchando")
        assert says(unix, trust) == "hola"
        shutil.copyfile(certificates.server, tmp_path / "nuevo.pem")
        os.replace(tmp_path / "nuevo.pem", cert)
        # Se mira cada dos segundos, y cuando llega alguien.
        wait_until(lambda: says(unix, trust) == "hola" and "leído otra vez" in server.output, "que se lea")
        assert "Se sigue con el certificado" not in server.output
        write(tmp_path / "mio.py", "def f(texto): return 'recargado'")
        wait_until(lambda: says(unix, trust) == "recargado", "que se recargue")
        if processes:
            server.signal(signal.SIGHUP)
            server.wait_for("Recargado: sirven procesos nuevos")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not unix.exists()


def says(place: Path, trust: ssl.SSLContext) -> str:
    """Lo que responde a «hola» quien escucha, con TLS, en un socket de Unix."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(PATIENCE)
        raw.connect(str(place))
        with trust.wrap_socket(raw, server_hostname="localhost") as sock:
            return ask(sock, "hola")
