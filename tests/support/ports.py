"""El puerto 5000, el de siempre: solo una prueba a la vez puede tenerlo."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .waiting import wait_until


@contextlib.contextmanager
def default_port() -> Iterator[None]:
    """Reserva el puerto 5000 entre todas las pruebas de esta máquina; si lo tiene otro programa, se dice."""
    with (Path(tempfile.gettempdir()) / f"comunicacion_tcp-5000-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            # Entre estas pruebas queda libre enseguida: si no, es de otro.
            wait_until(_is_free, "que quede libre el puerto 5000", patience=3)
        except AssertionError:
            taken = "otro programa tiene el puerto 5000"
            if os.environ.get("CI") == "true":
                pytest.fail(taken)
            pytest.skip(taken)
        yield


def _is_free() -> bool:
    try:
        socket.create_server(("127.0.0.1", 5000)).close()
    except OSError:
        return False
    return True
