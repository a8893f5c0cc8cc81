"""El puerto 5000, el de siempre, que solo una prueba a la vez puede tener; y el de quien no dice cuál es el suyo."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .tools import missing
from .waiting import wait_until


@contextlib.contextmanager
def default_port() -> Iterator[None]:
    """Reserva el puerto 5000 entre todas las pruebas de esta máquina; si lo tiene otro programa, se dice."""
    with lock(Path(tempfile.gettempdir()) / f"comunicacion_tcp-5000-{os.getuid()}.lock"):
        try:
            # Entre estas pruebas queda libre enseguida: si no, es de otro.
            wait_until(_is_free, "que quede libre el puerto 5000", patience=3)
        except AssertionError:
            missing("otro programa tiene el puerto 5000")
        yield


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Espera a ser quien tiene ``path``, un fichero de quien prueba. En la carpeta temporal escribe cualquiera: si lo
    que hay ahí es un enlace, o de otro, no se toca, y se dice."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        pytest.fail(f"no se puede usar {path}, que no es un fichero de quien prueba; bórralo: {error.strerror}")
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            pytest.fail(f"{path} es de otro usuario: bórralo")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def listening_ports(pid: int) -> list[int]:
    """Los puertos IPv4 en que escucha un proceso (Linux, proc(5))."""
    found = []
    with contextlib.suppress(OSError):
        sockets = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:  # 0A es escuchar
                found.append(int(fields[1].rpartition(":")[2], 16))
    return found


def listening_port(pid: int) -> int:
    """El puerto en que escucha un proceso que no puede decirlo; espera a que lo haga."""
    wait_until(lambda: listening_ports(pid), "que escuche")
    return listening_ports(pid)[0]


def _is_free() -> bool:
    try:
        socket.create_server(("127.0.0.1", 5000)).close()
    except OSError:
        return False
    return True
