"""La forma del código: los imports van solo hacia abajo, el núcleo es puro y cada fichero dice qué vive en él."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from .support.examples import ROOT

PACKAGE = ROOT / "comunicacion_tcp"
FILES = sorted(PACKAGE.rglob("*.py"))

# De abajo arriba; cada pieza puede importar solo de las que están antes.
ORDER = [
    *(
        "hints",
        "addresses",
        "places",
        "errors",
        "records",
        "backoff",
        "limits",
        "services",
        "protocol",
        "proxy_header",
        "tls",
        "board",
    ),
    *("delivery", "timeouts", "forks", "guard"),
    *("conversation", "client", "relay", "aio"),
    *("deadlines", "turns", "descriptors", "systemd", "loops", "listener", "tls_transport", "workers"),
    *("observer", "admission", "budget", "connection", "server", "measuring", "metrics", "metrics_server"),
    *("supervision", "supervisor", "processors"),
    *("pytest_plugin", "loading", "watch", "fresh_imports", "cli", "__main__"),
]
# Son transportes: ninguno conoce a los clientes, que también lo son, ni los dos clientes el uno al otro.
CLIENTS = ("client", "relay", "aio")
SIDE_BY_SIDE = {
    *(
        (room, client)
        for room in ("server", "connection", "listener", "tls_transport", "loading", "fresh_imports")
        for client in CLIENTS
    ),
    *(("aio", "client"), ("aio", "relay")),
}

# Lo único de fuera que un núcleo puro necesita: ni sockets, ni reloj, ni hilos, ni procesos, ni ficheros.
PURE = {"__future__", "codecs", "re", "collections", "functools", "ipaddress", "pickle", "typing_extensions"}


def room(path: Path) -> str:
    """La pieza a la que pertenece un fichero."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Las piezas de la casa que importa un fichero, y los módulos de fuera."""
    rooms, outside = set(), set()
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            rooms |= {name.partition(".")[0] for name in names}
    return rooms, outside


@pytest.mark.parametrize("path", [file for file in FILES if file.name != "__init__.py"], ids=str)
def test_imports_point_down(path: Path) -> None:
    rooms, _ = imports(path)
    here = room(path)
    allowed = {*ORDER[: ORDER.index(here)], "__version__"}
    forbidden = {there for one, there in SIDE_BY_SIDE if one == here}
    assert rooms <= allowed - forbidden


@pytest.mark.parametrize(
    "name",
    [
        *("protocol", "proxy_header", "services", "errors", "limits", "backoff", "records", "addresses", "watch"),
        "supervision",
    ],
)
def test_the_core_touches_nothing_outside(name: str) -> None:
    _, outside = imports(PACKAGE / f"{name}.py")
    assert outside <= PURE


def test_what_both_clients_share_neither_waits_nor_reads_the_clock() -> None:
    _, outside = imports(PACKAGE / "conversation.py")
    # socket, por los nombres de sus errores y opciones; random, por las esperas, y solo si se vuelve a conectar;
    # os, por el número del proceso.
    assert outside <= PURE | {
        "contextlib",
        "os",
        "socket",
        "random",
        "ssl",
        "typing",
    }  # los dos últimos, solo para mypy


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_the_standard_library(path: Path) -> None:
    _, outside = imports(path)
    # typing_extensions, solo para mypy: no se ejecuta. uvloop es el extra «rapido», y sin él se usa asyncio.
    # prompt_toolkit es el extra «interactivo», y sin él se usa readline; prometheus_client, «metricas», y sin él no hay
    # --metricas; a pytest_plugin.py solo lo importa pytest.
    extras = {
        "prompt_toolkit_editor.py": "prompt_toolkit",
        "metrics.py": "prometheus_client",
        "pytest_plugin.py": "pytest",
    }
    assert outside <= {*sys.stdlib_module_names, "typing_extensions", extras.get(path.name, "uvloop")}


@pytest.mark.parametrize("path", [file for file in FILES if room(file) != "cli"], ids=str)
def test_only_the_cli_prints(path: Path) -> None:
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"print", "input"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_each_file_opens_saying_what_lives_there(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.splitlines()[0].rstrip(".").count(" ") >= 3


@pytest.mark.parametrize(
    "name", ["AsyncClient", "Client", "Server", "ServerTLS", "Limits", "Service", "Observer", "ComunicacionError"]
)
def test_public_names(name: str) -> None:
    import comunicacion_tcp

    assert name in comunicacion_tcp.__all__
    assert getattr(comunicacion_tcp, name).__name__ == name


def test_unknown_names_are_an_attribute_error() -> None:
    import comunicacion_tcp

    with pytest.raises(AttributeError, match="nada"):
        comunicacion_tcp.nada  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("arguments", [[], ["hola"], ["-q"]], ids=str)
def test_the_client_loads_only_what_it_needs(arguments: list[str]) -> None:
    # Cada uno costaba entre 1 y 20 ms de cada `Cliente_TCP.py` (docs/rendimiento.md, «el cliente»).
    heavy = {"asyncio", "dataclasses", "inspect", "typing", "shutil", "encodings.idna", "ssl", "json", "threading"}
    code = """
import socket, sys
before = set(sys.modules)
from comunicacion_tcp.cli.client import main
with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
main(["--host", "127.0.0.1", "--puerto", str(port), *sys.argv[1:]])
print(*set(sys.modules) - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "No hay ningún servidor" in done.stderr
    if arguments == ["-q"]:
        heavy |= {"argparse", "gettext", "locale", "re"}  # sin ellos arranca en tres cuartos del tiempo
    assert not heavy & set(done.stdout.split())
