"""Lo apuntado en la pizarra, como lo quiere Prometheus, y las dos preguntas de quien vigila: ¿está vivo?, ¿está listo?

Es el único fichero que importa prometheus_client, el extra ``metricas``: de él son los formatos y cuál se elige. No se
usan sus contadores, que son de un proceso (y los que comparte por ficheros se amontonan con cada uno que muere), sino
los de la pizarra. Qué se apunta y cuándo, en ``measuring.py``.
"""

from __future__ import annotations

import contextlib
import io
import platform
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import make_wsgi_app

from . import __version__, board
from .addresses import Peer
from .board import Board
from .listener import open_sockets

PREFIX = "comunicacion_tcp_"

_MOST = 8  # peticiones a la vez: un Prometheus, su relevo, las dos preguntas de un orquestador y una persona mirando
_DEADLINE = 10.0  # segundos para pedir y leer la respuesta: lo que Prometheus espera si no se le dice otra cosa
_HEAD = 16 * 1024  # bytes de una petición: las de Prometheus tienen unos cientos
# Segundos entre dos peticiones: cien por segundo son muchas más de las que nadie necesita, y aun en el mismo proceso
# que sirve no le quitan (ni aunque alguien quiera) más de la cuarta parte de su tiempo.
_PAUSE = 0.01
_GLANCE = 1.0  # segundos entre dos miradas a quién tarda demasiado; y, sin descriptores, hasta aceptar otra vez
_BACKLOG = 16  # por aceptar que guarda el sistema: el doble de las que se atienden


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
        "Mensajes respondidos: ok, con su respuesta; los demás, con un error. Sin fin de línea, cada trozo que se "
        "responde es uno.",
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
FAMILIES = [*COUNTERS, SERVICE_TIME, OPEN, CAPACITY, WANTED_CAPACITY, SERVING, WANTED, STARTED, EXPIRY, BUILD]
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
        yield _measured(STARTED, self._board.started)
        expiries = [expiry for row in serving if (expiry := row.cells[board.CERTIFICATE_EXPIRY])]
        if expiries:
            yield _measured(EXPIRY, min(expiries))
        build = GaugeMetricFamily(PREFIX + BUILD.name, BUILD.help, labels=_labels(BUILD))
        build.add_metric(self._build, 1)
        yield build

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


# -- por HTTP ---------------------------------------------------------------------------------------------------


class MetricsServer:
    """Las métricas por HTTP: ``/metrics``, ``/salud`` (¿está vivo?) y ``/lista`` (¿se le pueden enviar clientes?).

    Atiende pocas peticiones a la vez y ninguna más de ``_DEADLINE`` segundos, ni en cuanto no cabe otra: quien la haga
    despacio, o muchas, no estorba a los clientes del servidor ni a quien pregunta bien. ``sockets``: a la escucha, y
    desde aquí suyos.
    """

    def __init__(self, sockets: list[socket.socket], board: Board, loop: str) -> None:
        self._sockets = sockets
        self._wake, self._woken = socket.socketpair()
        self._running = self._closing = False
        self._since: dict[socket.socket, float] = {}  # desde cuándo se atiende cada petición; primero, la más antigua
        self._thread: threading.Thread | None = None
        self.base_environ: dict[str, str] = {}  # lo que WSGIRequestHandler espera de su servidor
        registry = CollectorRegistry()
        registry.register(BoardCollector(board, loop))
        self._app = application(make_wsgi_app(registry), board)

    @property
    def addresses(self) -> list[Peer]:
        """Dónde escucha: ``[(ip, puerto), ...]``."""
        return [sock.getsockname()[:2] for sock in self._sockets]

    def get_app(self) -> Callable[..., Iterable[bytes]]:
        """La aplicación WSGI."""
        return self._app

    def start(self) -> None:
        """``run()`` en un hilo, que no impide acabar al programa. ``RuntimeError`` si el sistema no da hilos."""
        thread = threading.Thread(target=self.run, name="métricas", daemon=True)
        thread.start()
        self._thread = thread

    def run(self, until: socket.socket | None = None) -> None:
        """Atiende hasta ``close()``, o hasta que se pueda leer ``until``. Un proceso nacido para esto no hace más."""
        self._running = True
        try:
            with selectors.DefaultSelector() as selector:
                if not self._closing:  # si close() llegó antes, ya no están abiertos
                    for sock in (*self._sockets, self._woken, *([until] if until else [])):
                        selector.register(sock, selectors.EVENT_READ)
                while not self._closing:
                    ready = selector.select(_GLANCE if self._since else None)
                    for key, _ in ready:
                        if key.fileobj in self._sockets:
                            self._accept(key.fileobj)
                        elif key.fileobj is until:
                            self._closing = True
                    self._cut_since_before(time.monotonic() - _DEADLINE)
                    if ready:
                        time.sleep(_PAUSE)
        finally:
            self._cut_since_before(time.monotonic())
            self.release()

    def close(self) -> None:
        """Acaba ``run()``, o impide que empiece. Se puede llamar desde una señal."""
        self._closing = True
        if self._running or self._thread:
            with contextlib.suppress(OSError):  # ya había acabado
                self._wake.send(b"\n")
        else:
            self.release()
        if self._thread:
            self._thread.join()

    def release(self) -> None:
        """Suelta los sockets sin atender a nadie: lo que hacen los procesos que los heredaron y no son el suyo."""
        for sock in (*self._sockets, self._wake, self._woken):
            sock.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            return
        except OSError:  # sin descriptores: volver a intentarlo enseguida ocuparía un procesador
            time.sleep(_GLANCE)
            return
        if len(self._since) >= _MOST:
            # Fuera la que más lleva: si el que no cabe fuera el último, ocho que no acaban de preguntar (y vuelven)
            # dejarían al programa sin métricas, y a un orquestador creyendo que está muerto.
            for oldest in list(self._since)[:1]:
                self._cut(oldest)
        self._since[sock] = time.monotonic()
        try:
            threading.Thread(target=self._answer, args=(sock, address), name="métricas", daemon=True).start()
        except RuntimeError:  # el sistema no da más hilos
            del self._since[sock]
            sock.close()

    def _answer(self, sock: socket.socket, address: Any) -> None:
        try:
            sock.settimeout(_DEADLINE)
            _Request(sock, address, self)  # type: ignore[arg-type]  # de un servidor le basta lo que hay aquí
        except (OSError, ValueError):  # se fue, o no acabó a tiempo
            pass
        finally:
            self._since.pop(sock, None)
            sock.close()

    def _cut_since_before(self, moment: float) -> None:
        for sock, since in list(self._since.items()):
            if since <= moment:
                self._cut(sock)

    def _cut(self, sock: socket.socket) -> None:
        self._since.pop(sock, None)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # su hilo lo cierra


class _Request(WSGIRequestHandler):
    """Una petición. Del registro ni una línea: las hay cada pocos segundos."""

    def setup(self) -> None:
        super().setup()
        head = b""
        while len(head) < _HEAD and not head.endswith((b"\r\n\r\n", b"\n\n")):
            line = self.rfile.readline(_HEAD - len(head))
            if not line:
                break
            head += line
        self.rfile = io.BytesIO(head)

    def log_message(self, *_: object) -> None:
        pass

    def get_stderr(self) -> Any:
        return io.StringIO()  # donde wsgiref cuenta los errores de una respuesta


def application(metrics: Callable[..., Iterable[bytes]], board: Board) -> Callable[..., Iterable[bytes]]:
    """La aplicación WSGI. ``metrics``: la que enseña las métricas."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        said: list[tuple[str, list[tuple[str, str]]]] = []
        body = b"".join(route(environ, lambda status, headers: said.append((status, headers))))
        [(status, headers)] = said
        start_response(status, [*headers, ("Content-Length", str(len(body))), ("Server", "comunicacion_tcp")])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def route(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _say(start, HTTPStatus.METHOD_NOT_ALLOWED, "solo se puede leer", ("Allow", "GET, HEAD"))
        if path == "/metrics":
            return metrics({**environ, "REQUEST_METHOD": "GET"}, start)
        if path in ("/salud", "/lista"):
            now = time.monotonic()
            trouble = board.sickness(now) if path == "/salud" else board.unreadiness(now)
            status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
            return _say(start, status, trouble or "bien", ("Cache-Control", "no-store"))
        return _say(start, HTTPStatus.NOT_FOUND, "aquí hay /metrics, /salud y /lista")

    return answer


def _say(start: Callable[..., Any], status: HTTPStatus, text: str, *headers: tuple[str, str]) -> list[bytes]:
    start(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [f"{text}\n".encode()]


def open_metrics(host: str, port: int, board: Board, loop: str) -> MetricsServer:
    """Abre dónde se piden las métricas de ``board`` (el puerto 0 toma uno libre); falta ``run()`` o ``start()``.
    ``loop``: con qué bucle trabaja el servidor. Errores: los de ``Server.start``."""
    return MetricsServer(open_sockets(host, port, _BACKLOG), board, loop)
