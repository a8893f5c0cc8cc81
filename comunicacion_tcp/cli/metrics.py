"""``--metricas``: dónde se piden, y qué se dice si no se puede.

Qué se cuenta lo dice ``comunicacion_tcp/measuring.py``; cómo se enseña, ``comunicacion_tcp/metrics.py``, que aquí solo
se carga si se piden: prometheus_client es un extra.
"""

from __future__ import annotations

import time

from .. import loops
from ..addresses import Peer
from ..board import STOPPING, Board
from ..errors import NetworkError
from ..measuring import Meter, Observers, measure
from ..server import Server
from ..tls import ServerTLS
from .sentences import metrics_failed

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from ..metrics import MetricsServer

_MISSING = (
    "--metricas necesita prometheus-client, que no está instalado. Instálalo con «pip install "
    "'comunicacion-tcp[metricas]'», o solo: «pip install prometheus-client»."
)


class CannotMeasure(Exception):
    """No se pueden dar métricas. ``str(error)``: la frase que lo dice."""


def open_metrics(place: Peer, board: Board) -> MetricsServer:
    """Abre en ``place`` dónde se piden las métricas de ``board``, sin atender aún a nadie. Error: ``CannotMeasure``."""
    try:
        from .. import metrics
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise CannotMeasure(_MISSING) from error
    try:
        return metrics.open_metrics(*place, board, loops.NAME)
    except NetworkError as error:
        raise CannotMeasure(metrics_failed(error)) from error


class Metrics:
    """Las de un servidor de un solo proceso, que las da en un hilo suyo. Error: ``CannotMeasure``."""

    def __init__(self, place: Peer, server: Server, tls: ServerTLS | None) -> None:
        self._board = Board(started=time.time())
        self._web = open_metrics(place, self._board)
        self.meter = Meter(self._board.seats[0], server.limits, tls)
        server.observer = Observers(server.observer, self.meter)
        measure(server, self._board.seats[0])
        self.meter.starting()

    @property
    def addresses(self) -> list[Peer]:
        """Dónde se piden."""
        return self._web.addresses

    def serving(self) -> None:
        """El servidor ya acepta."""
        self.meter.serving()
        self._web.start()

    def stopping(self) -> None:
        """Deja de aceptar."""
        self.meter.stopping()
        self._board.launcher.cells[STOPPING] = 1

    def close(self) -> None:
        """Deja de darlas."""
        self._web.close()
