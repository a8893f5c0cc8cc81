"""Las métricas por HTTP, y las dos preguntas de quien vigila: ¿está vivo?, ¿está listo?

Qué métricas son y en qué formato se dan es de ``metrics.py``; aquí, quién las pide, cuántos a la vez y hasta cuándo.
"""

from __future__ import annotations

import contextlib
import io
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

from .addresses import Peer
from .board import Board
from .forks import keep_from_children
from .listener import open_sockets
from .metrics import exposition

_MOST = 8  # peticiones a la vez: un Prometheus, su relevo, las dos preguntas de un orquestador y una persona mirando
_DEADLINE = 10.0  # segundos para pedir y leer la respuesta: lo que Prometheus espera si no se le dice otra cosa
_HEAD = 16 * 1024  # bytes de una petición: las de Prometheus tienen unos cientos
# Segundos entre dos peticiones: cien por segundo son muchas más de las que nadie necesita, y aun en el mismo proceso
# que sirve no le quitan (ni aunque alguien quiera) más de la cuarta parte de su tiempo.
_PAUSE = 0.01
_GLANCE = 1.0  # segundos entre dos miradas a quién tarda demasiado; y, sin descriptores, hasta aceptar otra vez
_BACKLOG = 16  # por aceptar que guarda el sistema: el doble de las que se atienden


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
        self._app = application(exposition(board, loop), board)

    @property
    def addresses(self) -> list[Peer]:
        """Dónde escucha: ``[(ip, puerto), ...]``."""
        return [sock.getsockname()[:2] for sock in self._sockets]

    def get_app(self) -> Callable[..., Iterable[bytes]]:
        """La aplicación WSGI."""
        return self._app

    def start(self) -> None:
        """``run()`` en un hilo, que no impide acabar al programa. ``RuntimeError`` si el sistema no da hilos."""
        keep_from_children(self, lambda server: (sock.fileno() for sock in server._sockets))
        thread = threading.Thread(target=self.run, name="métricas", daemon=True)
        thread.start()
        self._thread = thread

    def run(self, until: socket.socket | None = None, turn: Callable[[], None] | None = None) -> None:
        """Atiende hasta ``close()``, o hasta que se pueda leer ``until``. Un proceso nacido para esto no hace más.
        ``turn``: a qué se llama en cada vuelta, una por segundo como poco."""
        self._running = True
        try:
            if self._closing:
                return
            with selectors.DefaultSelector() as selector:
                for sock in (*self._sockets, self._woken, *([until] if until else [])):
                    selector.register(sock, selectors.EVENT_READ)
                while not self._closing:
                    if turn:
                        turn()
                    ready = selector.select(_GLANCE if self._since or turn else None)
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
