"""Una pizarra con algo en cada columna, y sus métricas servidas por HTTP."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from comunicacion_tcp import board
from comunicacion_tcp.board import Board
from comunicacion_tcp.metrics_server import MetricsServer, open_metrics

from .waiting import wait_until


class Web:
    """Las métricas de ``board`` servidas en ``url``."""

    def __init__(self, server: MetricsServer, made: Board) -> None:
        self.server = server
        self.board = made
        self.port = server.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"


def full_board() -> Board:
    """Una pizarra de dos puestos con algo en cada columna; el primero lo ocupa un proceso que sirve."""
    made = Board(2, wanted=2, started=1.7e9)
    for place, row in enumerate((made.seat(0), made.seat(1), made.launcher)):
        for column in range(board._FIRST_STATE):
            row.cells[column] = column + 1 + place
    row = made.seat(0)
    row.take(time.monotonic())
    row.cells[board.ACCEPTING], row.cells[board.OPEN], row.cells[board.CAPACITY] = 1, 3, 10
    row.cells[board.CERTIFICATE_EXPIRY] = 2e9
    return made


@contextlib.contextmanager
def web(made: Board) -> Iterator[Web]:
    """Las métricas de ``made``, por HTTP; al acabar no queda nada."""
    before = set(threading.enumerate())
    server = open_metrics("127.0.0.1", 0, made, "asyncio")
    server.start()
    try:
        yield Web(server, made)
    finally:
        server.close()
    wait_until(lambda: set(threading.enumerate()) <= before, "que acaben los hilos de las métricas")
