"""Los clientes que se comparan enviando líneas por una tubería: cómo se ejecuta cada uno y qué cuesta.

Todos hablan con nuestro servidor, salvo redis-cli, que habla con un redis de verdad y envía ``ECHO``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .results import PipeSample
from .servers import HERE

_SIZE = 32  # bytes de cada línea, como en los demás trabajos
_REDIS_START = 10.0  # segundos como mucho para que redis escuche


class WrongOutput(Exception):
    """Un cliente falló, o perdió o cambió una respuesta: no hay coste que contar."""


@dataclass
class PipeClient:
    """Un cliente: su nombre en la tabla, su orden según el puerto, y qué le falta si no se puede ejecutar aquí."""

    name: str
    command: Callable[[int], list[str]]
    missing: str = ""
    redis: bool = False


def pipe_clients() -> list[PipeClient]:
    """Todos, en el orden de la tabla. El primero es el nuestro."""
    program = str(HERE.parent / "Cliente_TCP.py")
    return [
        PipeClient(
            "cliente-tcp -q", lambda port: [sys.executable, program, "--host", "127.0.0.1", "--puerto", str(port), "-q"]
        ),
        _found("ncat", lambda port: ["ncat", "127.0.0.1", str(port)]),
        # -t: lo que aguanta callado el servidor cuando su entrada acaba; sin él, medio segundo, y tira lo que falte.
        _found("socat", lambda port: ["socat", "-t", "60", "-", f"TCP:127.0.0.1:{port}"]),
        # -b: lo que lee de una vez. Suyo son 8 KiB; así, lo mismo que el nuestro, y es lo menos que puede costar.
        _found("socat -b 262144", lambda port: ["socat", "-b", "262144", "-t", "60", "-", f"TCP:127.0.0.1:{port}"]),
        # -N: al acabar su entrada lo dice; sin él no acabaría nunca. Otros nc no la tienen.
        _found("nc.openbsd", lambda port: ["nc.openbsd", "-N", "127.0.0.1", str(port)]),
        _redis(),
    ]


def _found(name: str, command: Callable[[int], list[str]]) -> PipeClient:
    program = name.split()[0]
    return PipeClient(name, command, missing="" if shutil.which(program) else f"no está instalado {program}")


def _redis() -> PipeClient:
    absent = [program for program in ("redis-cli", "redis-server") if not shutil.which(program)]
    return PipeClient(
        "redis-cli --pipe",
        lambda port: ["redis-cli", "-p", str(port), "--pipe"],
        missing=f"no está instalado {' ni '.join(absent)}" if absent else "",
        redis=True,
    )


def write_lines(folder: Path, lines: int) -> tuple[Path, Path]:
    """Los ficheros que se envían: las líneas, y las mismas como órdenes de redis."""
    plain, orders = folder / "lineas", folder / "lineas.redis"
    with plain.open("wb") as text, orders.open("wb") as redis:
        for number in range(lines):
            line = b"%07d hola servidor de mensajes" % number
            line = line[: _SIZE - 1].ljust(_SIZE - 1, b"x")
            text.write(line + b"\n")
            redis.write(b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(line), line))
    return plain, orders


@contextlib.contextmanager
def redis_serving(cpu: int, folder: Path) -> Iterator[int]:
    """Un redis sin disco en un puerto libre: su puerto. Al acabar lo para a él y a nadie más."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = ["taskset", "-c", str(cpu), "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    try:
        deadline = time.monotonic() + _REDIS_START
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.01)
        yield port
    finally:
        process.kill()
        process.wait()


def pour(client: PipeClient, port: int, entry: Path, lines: int, cpu: int, env: dict[str, str]) -> PipeSample:
    """Una ronda: todas las líneas de ``entry``, y lo que costó. Error: ``WrongOutput``."""
    output = entry.with_suffix(".salida")
    command = ["taskset", "-c", str(cpu), *client.command(port)]
    with entry.open("rb") as source, output.open("wb") as target:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=source, stdout=target, stderr=subprocess.PIPE, env=env)
        assert process.stderr
        errors = process.stderr.read()  # hasta que acabe
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
    replies = output.read_bytes()
    good = (
        f"errors: 0, replies: {lines}\n".encode() in replies if client.redis else replies == entry.read_bytes().upper()
    )
    if process.returncode or not good:
        raise WrongOutput(f"{client.name}: código {process.returncode}, {len(replies)} bytes. {errors.decode()}")
    return PipeSample((used.ru_utime + used.ru_stime) / lines * 1e6, lines / took)
