"""``--metricas``: dónde se piden, y qué se dice si no se puede.

Qué se cuenta lo dice ``comunicacion_tcp/measuring.py``; cómo se enseña, ``metrics.py`` y ``metrics_server.py``, que
solo se cargan si se piden: prometheus_client es un extra.
"""

from __future__ import annotations

import time

from .. import loops
from ..addresses import Peer
from ..board import STOPPING, Board, Row
from ..errors import NetworkError
from ..measuring import Meter, Observers, measure
from ..server import Server
from ..tls import ServerTLS
from .sentences import metrics_failed

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from ..metrics_server import MetricsServer

_MISSING = (
    "--metricas necesita prometheus-client, que no está instalado. En el mismo entorno, «pip install "
    "prometheus-client»; o desde una copia del repositorio, «pip install '.[metricas]'»."
)
_NO_THREAD = "El sistema no deja crear el hilo que da las métricas. Sube el límite de procesos con «ulimit -u»."


class CannotMeasure(Exception):
    """No se pueden dar métricas. ``str(error)``: la frase que lo dice."""


def need_prometheus() -> None:
    """Sin prometheus_client, ``CannotMeasure``."""
    try:
        import prometheus_client  # noqa: F401  # el extra «metricas»
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise CannotMeasure(_MISSING) from error


def open_metrics(place: Peer, board: Board) -> MetricsServer:
    """Abre en ``place`` dónde se piden las métricas de ``board``, sin atender aún a nadie. Error: ``CannotMeasure``."""
    need_prometheus()
    from .. import metrics_server

    try:
        return metrics_server.open_metrics(*place, board, loops.NAME)
    except NetworkError as error:
        raise CannotMeasure(metrics_failed(error)) from error


class Metrics:
    """Lo que apunta ``server`` en la fila ``row``. ``tls``: con qué cifra, si cifra."""

    def __init__(self, server: Server, tls: ServerTLS | None, row: Row) -> None:
        self._server = server
        self.meter: Meter = Meter(row, server.limits, tls)
        server.observer = Observers(server.observer, self.meter)
        measure(server, row)
        self.meter.starting()

    @property
    def addresses(self) -> list[Peer]:
        """Dónde las da este proceso, si las da él."""
        return []

    def serving(self) -> None:
        """El servidor ya acepta."""
        # Sin clientes, el certificado renovado no se leería, y se avisaría de que caduca el de antes.
        self.meter.serving(self._server.reread_certificate)

    def stopping(self) -> None:
        """Deja de aceptar."""
        self.meter.stopping()

    def close(self) -> None:
        """Deja de darlas."""


class MetricsAlone(Metrics):
    """Las del único proceso que hay, que las da en un hilo suyo. ``place``: dónde. Error: ``CannotMeasure``."""

    def __init__(self, server: Server, tls: ServerTLS | None, place: Peer) -> None:
        self._board = Board(started=time.time())
        self._web = open_metrics(place, self._board)
        try:
            self._web.start()
        except RuntimeError as error:
            self._web.close()
            raise CannotMeasure(_NO_THREAD) from error
        super().__init__(server, tls, self._board.seat(0))

    @property
    def addresses(self) -> list[Peer]:
        return self._web.addresses

    def stopping(self) -> None:
        super().stopping()
        self._board.launcher.cells[STOPPING] = 1

    def close(self) -> None:
        self._web.close()
