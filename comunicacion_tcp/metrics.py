"""Lo apuntado en la pizarra, como lo quiere Prometheus: qué métricas hay y cómo sale cada una de las columnas.

Es el único fichero que usa prometheus_client, el extra ``metricas`` (``cli/metrics.py`` solo mira si está): de él son
los formatos y cuál se elige. No se usan sus contadores, que son de un proceso (y los que comparte por ficheros se
amontonan con cada uno que muere), sino los de la pizarra. Qué se apunta y cuándo, en ``measuring.py``; dónde se piden,
en ``metrics_server.py``.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from email.message import Message
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import make_wsgi_app

from . import __version__, board
from .board import Board, Row

PREFIX = "comunicacion_tcp_"
_VERSIONS = ("0.0.1", "0.0.4", "1.0.0")  # del formato de texto de Prometheus y de OpenMetrics


Exposition = Callable[[Message, str], tuple[list[tuple[str, str]], bytes]]
"""Lo que enseña las métricas. Recibe las cabeceras de una petición y su consulta, lo que sigue a ``?``, y da las
cabeceras de la respuesta y su cuerpo."""


class Family(NamedTuple):
    """Una métrica. ``columns``: la columna de la pizarra de cada valor de ``label``; sin ``label``, la del único."""

    kind: type[Metric]
    name: str
    help: str
    columns: dict[str, int]
    label: str = ""
    unit: str = ""

    @property
    def full_name(self) -> str:
        """Como se pide a Prometheus."""
        return PREFIX + self.name + "_total" * (self.kind is CounterMetricFamily)


def _counter(name: str, text: str, column: int | dict[str, int], label: str = "", unit: str = "") -> Family:
    return Family(CounterMetricFamily, name, text, column if isinstance(column, dict) else {"": column}, label, unit)


def _gauge(name: str, text: str, unit: str = "") -> Family:
    return Family(GaugeMetricFamily, name, text, {}, "", unit)


COUNTERS = [
    _counter("connections_accepted", "Conversaciones empezadas.", board.ACCEPTED),
    _counter("connections_closed", "Conversaciones acabadas, como fuera.", board.CLOSED),
    _counter("connections_left", "Clientes que cerraron su lado sin despedirse.", board.LEFT),
    _counter("connections_lost", "Conexiones que se cortaron.", board.LOST),
    _counter(
        "connections_undelivered",
        "Conexiones cortadas con respuestas por entregar, porque el cliente no las leía.",
        board.UNDELIVERED,
    ),
    _counter("connections_idle", "Conexiones cerradas porque el cliente callaba.", board.IDLE),
    _counter(
        "connections_refused",
        "Conexiones a las que se dijo que no: server_full, no cabían más; address_full, ni más desde su dirección; "
        "not_through_balancer, no venían de él.",
        board.REFUSED,
        "reason",
    ),
    _counter(
        "tls_handshakes_failed",
        "Saludos de TLS que no se completaron, por lo que pasó.",
        board.HANDSHAKES_FAILED,
        "problem",
    ),
    _counter(
        "proxy_headers_bad",
        "Conexiones de un balanceador que no empezaron por una cabecera PROXY buena, por lo que pasó.",
        board.PROXY_HEADERS_BAD,
        "problem",
    ),
    _counter(
        "accept_errors",
        "Veces que no se pudo aceptar una conexión (sin descriptores, casi siempre).",
        board.ACCEPT_ERRORS,
    ),
    _counter(
        "messages",
        "Mensajes respondidos: ok, con su respuesta; los demás, con un error (http, de quien empezó por una petición "
        "de HTTP). Sin fin de línea, cada trozo que se responde es uno.",
        board.MESSAGES,
        "result",
    ),
    _counter("goodbyes", "Despedidas recibidas (DESCONEXION).", board.GOODBYES),
    _counter(
        "received_bytes",
        "Bytes de texto recibidos en las conversaciones; con TLS, ya descifrados.",
        board.RECEIVED_BYTES,
        unit="bytes",
    ),
    _counter(
        "sent_bytes",
        "Bytes de texto enviados, errores incluidos; con TLS, antes de cifrarlos.",
        board.SENT_BYTES,
        unit="bytes",
    ),
    _counter(
        "certificate_rereads",
        "Veces que un proceso vio cambiar los ficheros de TLS: ok, valen los nuevos; failed, no servían.",
        board.CERTIFICATE_REREADS,
        "result",
    ),
    _counter(
        "service_reloads",
        "Veces que un proceso vio cambiar el servicio: ok, responde el nuevo; failed, no servía.",
        board.SERVICE_RELOADS,
        "result",
    ),
    _counter(
        "configuration_reloads",
        "Veces que se leyó otra vez la configuración (SIGHUP): ok, sirven procesos nuevos; failed, los de antes.",
        board.CONFIGURATION_RELOADS,
        "result",
    ),
    _counter(
        "process_restarts",
        "Procesos que murieron, se atascaron o no llegaron a servir, y se sustituyen.",
        board.RESTARTS,
    ),
]
SERVICE_TIME = Family(
    HistogramMetricFamily,
    "service_duration_seconds",
    "Lo que tarda el servicio. En hilos o tareas, cada mensaje, desde que se le pregunta hasta que responde, y lo que "
    "espera a un hilo libre; sin ellos, cada llamada, y un bloque de mensajes respondido de una vez es una.",
    {},
    unit="seconds",
)
OPEN = _gauge("connections_open", "Conversaciones abiertas.")
CAPACITY = _gauge(
    "connections_capacity", "Conversaciones que caben; en los procesos que ya no aceptan, las que les quedan."
)
WANTED_CAPACITY = _gauge("connections_capacity_wanted", "Las que se pidió que cupieran; más, si faltan descriptores.")
SERVING = _gauge("processes_serving", "Procesos que aceptan conexiones y no están atascados.")
WANTED = _gauge("processes_wanted", "Procesos que deben servir.")
RELOADED = Family(
    GaugeMetricFamily,
    "last_reload_successful",
    "1, se usa lo último que hay; 0, lo último que se leyó otra vez no servía, y alguien sigue con lo de antes.",
    board.RELOAD_FAILED,
    "what",
)
STARTED = _gauge("start_time_seconds", "Cuándo empezó el programa, en segundos desde 1970.", "seconds")
EXPIRY = _gauge(
    "certificate_expiry_timestamp_seconds",
    "Cuándo caduca el certificado que se enseña, en segundos desde 1970; el que antes, si hay varios. Solo con TLS.",
    "seconds",
)
BUILD = Family(
    GaugeMetricFamily,
    "build_info",
    "Siempre 1: la versión del programa, la de Python y el bucle de asyncio.",
    {},
    "version, python, loop",
)
FAMILIES = [*COUNTERS, SERVICE_TIME, OPEN, CAPACITY, WANTED_CAPACITY, SERVING, WANTED, RELOADED, STARTED, EXPIRY, BUILD]
"""Todas, en el orden en que se enseñan."""


class BoardCollector:
    """Lee la pizarra cada vez que se le piden las métricas. ``loop``: qué bucle se usa. ``now``: el reloj de los
    latidos."""

    def __init__(self, board: Board, loop: str, now: Callable[[], float] = time.monotonic) -> None:
        self._board = board
        self._build = [__version__, platform.python_version(), loop]
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Lo que pide prometheus_client."""
        for family in COUNTERS:
            metric = CounterMetricFamily(PREFIX + family.name, family.help, labels=_labels(family), unit=family.unit)
            for value, column in family.columns.items():
                metric.add_metric([value] if family.label else [], self._board.total(column))
            yield metric
        yield self._service_time()
        now, present = self._now(), self._board.present
        serving = [row for row in present if row.serves(now)]
        yield _measured(OPEN, sum(row.cells[board.OPEN] for row in present))
        # En quien ya no acepta caben las que le quedan: al recargar, los de antes no hacen parecer llenos a los nuevos.
        left = sum(row.cells[board.OPEN] for row in present if row not in serving)
        yield _measured(CAPACITY, left + sum(row.cells[board.CAPACITY] for row in serving))
        yield _measured(WANTED_CAPACITY, left + sum(row.cells[board.WANTED_CAPACITY] for row in serving))
        yield _measured(SERVING, len(serving))
        yield _measured(WANTED, self._board.launcher.cells[board.WANTED_PROCESSES])
        yield self._reloaded([*serving, self._board.launcher])
        yield _measured(STARTED, self._board.started)
        expiries = [expiry for row in serving if (expiry := row.cells[board.CERTIFICATE_EXPIRY])]
        if expiries:
            yield _measured(EXPIRY, min(expiries))
        build = GaugeMetricFamily(PREFIX + BUILD.name, BUILD.help, labels=_labels(BUILD))
        build.add_metric(self._build, 1)
        yield build

    def _reloaded(self, rows: list[Row]) -> Metric:
        metric = GaugeMetricFamily(PREFIX + RELOADED.name, RELOADED.help, labels=_labels(RELOADED))
        for what, column in RELOADED.columns.items():
            metric.add_metric([what], not any(row.cells[column] for row in rows))
        return metric

    def _service_time(self) -> Metric:
        metric = HistogramMetricFamily(PREFIX + SERVICE_TIME.name, SERVICE_TIME.help, unit=SERVICE_TIME.unit)
        count = 0.0
        buckets = []
        for bound, column in zip([*map(_short, board.BOUNDS), "+Inf"], board.BUCKETS, strict=True):
            count += self._board.total(column)
            buckets.append((bound, count))
        metric.add_metric([], buckets, self._board.total(board.SERVICE_SECONDS))
        return metric


def _labels(family: Family) -> list[str]:
    return family.label.split(", ") if family.label else []


def _measured(family: Family, value: float) -> Metric:
    metric = GaugeMetricFamily(PREFIX + family.name, family.help, unit=family.unit)
    metric.add_metric([], value)
    return metric


def _short(bound: float) -> str:
    return str(bound)


def exposition(board: Board, loop: str) -> Exposition:
    """Las métricas de ``board``, en el formato y con la compresión que se pidan. ``loop``: con qué bucle trabaja el
    servidor."""
    registry = CollectorRegistry()
    registry.register(BoardCollector(board, loop))
    app = make_wsgi_app(registry)

    def answer(asked: Message, query: str) -> tuple[list[tuple[str, str]], bytes]:
        headers: list[tuple[str, str]] = []
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/metrics",
            "QUERY_STRING": query,
            "HTTP_ACCEPT": _known(asked.get_all("Accept", [])),
            "HTTP_ACCEPT_ENCODING": ",".join(asked.get_all("Accept-Encoding", [])),
        }
        return headers, b"".join(app(environ, lambda _, given: headers.extend(given)))

    return answer


def _known(accepted: list[str]) -> str:
    """De los formatos que se aceptan, aquellos cuya versión se conoce: con las demás prometheus_client falla, o dice
    que da lo que no da."""
    kinds = ",".join(accepted).replace('"', "").split(",")
    return ",".join(
        kind
        for kind in kinds
        if all(
            version in _VERSIONS
            for name, _, version in (part.strip().partition("=") for part in kind.split(";"))
            if name == "version"
        )
    )
