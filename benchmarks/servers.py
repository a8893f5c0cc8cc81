"""Los servidores que se comparan: cómo se arranca cada uno y, si no se puede, qué le falta.

El nuestro se mide con todo puesto, como lo ejecuta una persona. Los demás, en ``peers/``, son los programas que la
documentación de cada uno llevaría a escribir.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
_PEERS = HERE / "peers"

_ANYWHERE = ["--host", "127.0.0.1", "--puerto", "0"]
_PROGRAM = str(HERE.parent / "Servidor_TCP.py")
# El mismo programa donde no está instalado uvloop: None en sys.modules es un import que falla.
_WITHOUT_UVLOOP = (
    f"import runpy, sys; sys.modules['uvloop'] = None; sys.argv[0] = {_PROGRAM!r}; "
    f"sys.path.insert(0, {str(HERE.parent)!r}); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def ours(*, fast: bool) -> list[str]:
    """La orden de nuestro programa, sin opciones: con uvloop (``fast``), o como donde no está instalado."""
    return [sys.executable, _PROGRAM] if fast else [sys.executable, "-c", _WITHOUT_UVLOOP]


def our_server() -> Competitor:
    """Nuestro servidor como lo ejecuta una persona, con lo que haya instalado."""
    return Competitor("comunicacion_tcp", [*ours(fast=True), *_ANYWHERE], ours=True)


@dataclass
class Competitor:
    """Un servidor: su nombre en la tabla, su orden, y qué le falta si no se puede ejecutar aquí.

    ``bare``: si responde a clientes sin terminador (los demás se quedarían esperando un salto de línea). ``ours``: si
    es el nuestro.
    """

    name: str
    command: list[str] = field(default_factory=list)
    version: str = ""
    missing: str = ""
    bare: bool = False
    ours: bool = False


def competitors(folder: Path) -> list[Competitor]:
    """Todos, en el orden de la tabla; ``folder`` es donde se compila lo que haga falta."""
    python = f"Python {sys.version.split()[0]}"
    return [
        _compiled(folder),
        Competitor("comunicacion_tcp", [*ours(fast=False), *_ANYWHERE], python, bare=True, ours=True),
        _with_module("comunicacion_tcp[rapido]", "uvloop", [_PROGRAM, *_ANYWHERE], ours=True),
        Competitor("socketserver, hilos", [sys.executable, str(_PEERS / "socketserver_threads.py")], version=python),
        Competitor("asyncio, streams", [sys.executable, str(_PEERS / "asyncio_streams.py")], version=python),
        _with_module("uvloop, streams", "uvloop", [str(_PEERS / "asyncio_streams.py"), "uvloop"]),
        _with_module("Twisted", "twisted", [str(_PEERS / "twisted_lines.py")]),
        _with_module("gevent", "gevent", [str(_PEERS / "gevent_stream.py")]),
        _with_module("trio", "trio", [str(_PEERS / "trio_tcp.py")]),
        _go(folder),
        _node(),
    ]


def own_services() -> list[Competitor]:
    """Nuestro servidor con una función propia, de cada manera en que la ejecuta; el primero, como viene."""

    def serving(name: str, function: str, *options: str) -> Competitor:
        command = [*ours(fast=True), *_ANYWHERE, "--servicio", f"benchmarks.own_services:{function}", *options]
        return Competitor(name, command, ours=True)

    return [
        our_server(),
        serving("una función, `--hilos 0`", "upper", "--hilos", "0"),
        serving("una función `async`", "upper_later"),
        serving("una función, en hilos", "upper"),
    ]


def compile_c(source: str, folder: Path) -> Path:
    """Compila un fichero de esta carpeta con ``cc -O2``; devuelve el ejecutable. ``RuntimeError`` si no hay."""
    compiler = shutil.which("cc")
    if not compiler:
        raise RuntimeError("falta un compilador de C: instala cc (gcc o clang)")
    program = folder / Path(source).stem
    subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / source)], check=True)
    return program


def _compiled(folder: Path) -> Competitor:
    version = subprocess.run(["cc", "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    return Competitor("C, epoll (el límite)", [str(compile_c("reference.c", folder))], version=version, bare=True)


def _with_module(name: str, module: str, arguments: list[str], *, ours: bool = False) -> Competitor:
    if importlib.util.find_spec(module) is None:
        return Competitor(name, missing=f"no está instalado {module}")
    version = f"{module} {importlib.metadata.version(module)}"
    return Competitor(name, [sys.executable, *arguments], version=version, bare=ours, ours=ours)


def _go(folder: Path) -> Competitor:
    name, program = "Go, net y bufio", folder / "net_bufio"
    if not shutil.which("go"):
        return Competitor(name, missing="no está instalado go")
    build = ["go", "build", "-o", str(program), str(_PEERS / "net_bufio.go")]
    subprocess.run(build, check=True, env={**os.environ, "GOCACHE": str(folder / "go")})
    version = subprocess.run(["go", "version"], capture_output=True, text=True).stdout.split()[2]
    return Competitor(name, [str(program)], version=version)


def _node() -> Competitor:
    name = "Node, net"
    if not shutil.which("node"):
        return Competitor(name, missing="no está instalado node")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    return Competitor(name, ["node", str(_PEERS / "net.mjs")], version=f"node {version}")
