"""Las métricas por HTTP, y las dos preguntas de quien vigila: ¿está vivo?, ¿está listo?

Qué métricas son y en qué formato se dan es de ``metrics.py``; aquí, quién las pide, cuántos a la vez y hasta cuándo.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from .addresses import Peer
from .board import Board
from .forks import keep_from_children
from .listener import open_sockets
from .metrics import Exposition, exposition

_MOST = 8  # peticiones a la vez: un Prometheus, su relevo, las dos preguntas de un orquestador y una persona mirando
_DEADLINE = 10.0  # segundos para pedir y leer la respuesta: lo que Prometheus espera si no se le dice otra cosa
_HEAD = 128 * 1024  # bytes de una petición: más que una sola línea de las que http.server ya da por largas
# Segundos entre dos peticiones: cien por segundo son muchas más de las que nadie necesita, y aun en el mismo proceso
# que sirve no le quitan (ni aunque alguien quiera) más de la cuarta parte de su tiempo.
_PAUSE = 0.01
_GLANCE = 1.0  # segundos entre dos miradas a quién tarda demasiado; y, sin descriptores, hasta aceptar otra vez
_LONG = "la petición es demasiado larga"
_ERRORS: dict[int, str] = {414: _LONG, 431: _LONG, 505: "esa versión de HTTP no se admite"}
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
        self._spare: list[int] = []  # un descriptor, para cuando no queden
        self._keep_spare()
        self.board = board
        """De quién son."""
        self.exposition: Exposition = exposition(board, loop)
        """Las métricas."""

    @property
    def addresses(self) -> list[Peer]:
        """Dónde escucha: ``[(ip, puerto), ...]``."""
        return [sock.getsockname()[:2] for sock in self._sockets]

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
        self._closing = True
        for sock in (*self._sockets, self._wake, self._woken):
            sock.close()
        while self._spare:
            os.close(self._spare.pop())

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # Sin descriptores se atiende con el guardado: /salud debe decir que el servidor vive. Si lo usa ya otra
            # petición, se espera: volver a intentarlo enseguida ocuparía un procesador.
            if not self._spare:
                time.sleep(_GLANCE)
                self._keep_spare()
                return
            os.close(self._spare.pop())
            self._accept(listener)
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
            _Request(sock, address, self)  # type: ignore[arg-type]
            # Cerrar con entrada sin leer sería un RST, y podría llevarse la respuesta.
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(_HEAD):
                pass
        except (OSError, ValueError):  # se fue, o no acabó a tiempo
            pass
        finally:
            self._since.pop(sock, None)
            sock.close()
            self._keep_spare()

    def _keep_spare(self) -> None:
        """Guarda un descriptor, si no hay ya uno guardado y el sistema lo da."""
        with contextlib.suppress(OSError):
            if not self._spare and not self._closing:
                self._spare.append(os.open(os.devnull, os.O_RDONLY))

    def _cut_since_before(self, moment: float) -> None:
        for sock, since in list(self._since.items()):
            if since <= moment:
                self._cut(sock)

    def _cut(self, sock: socket.socket) -> None:
        self._since.pop(sock, None)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # su hilo lo cierra


class _Request(BaseHTTPRequestHandler):
    """Una petición. Del registro ni una línea: las hay cada pocos segundos. En la respuesta, nada de quién la da."""

    server: MetricsServer  # type: ignore[assignment]  # no le hace falta más de un servidor

    def setup(self) -> None:
        super().setup()
        head = b""
        while len(head) < _HEAD and not head.endswith((b"\r\n\r\n", b"\n\n")):
            line = self.rfile.readline(_HEAD - len(head))
            if not line:
                break
            head += line
        self.rfile = io.BytesIO(head)

    def do_GET(self) -> None:
        # A un intermediario se le pide la dirección entera, y puede pasarla así: http://host/metrics.
        path, _, query = re.sub(r"(?i)^https?://[^/?]*", "", self.path).partition("?")
        path, board = unquote(path), self.server.board
        if path == "/metrics":
            headers, body = self.server.exposition(self.headers, query)
            self._send(HTTPStatus.OK, body, *headers)
        elif path in ("/salud", "/lista"):
            now = time.monotonic()
            trouble = board.sickness(now) if path == "/salud" else board.unreadiness(now)
            status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
            self._say(status, trouble or "bien", ("Cache-Control", "no-store"))
        else:
            self._say(HTTPStatus.NOT_FOUND, "aquí hay /metrics, /salud y /lista")

    do_HEAD = do_GET  # noqa: N815

    def send_error(self, code: int, *_: object) -> None:
        if code == HTTPStatus.NOT_IMPLEMENTED:  # un método que no es de los de arriba
            self._say(HTTPStatus.METHOD_NOT_ALLOWED, "solo se puede leer", ("Allow", "GET, HEAD"))
        else:
            self._say(HTTPStatus(code), _ERRORS.get(code, "no se entiende la petición"))

    def log_message(self, *_: object) -> None:
        pass

    def _say(self, status: HTTPStatus, text: str, *headers: tuple[str, str]) -> None:
        self._send(status, f"{text}\n".encode(), ("Content-Type", "text/plain; charset=utf-8"), *headers)

    def _send(self, status: HTTPStatus, body: bytes, *headers: tuple[str, str]) -> None:
        self.request_version = self.protocol_version  # con cabeceras, aun a quien no se entiende
        self.send_response_only(status)
        for name, value in (("Date", self.date_time_string()), *headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def open_metrics(host: str, port: int, board: Board, loop: str) -> MetricsServer:
    """Abre dónde se piden las métricas de ``board`` (el puerto 0 toma uno libre); falta ``run()`` o ``start()``.
    ``loop``: con qué bucle trabaja el servidor. Errores: los de ``Server.start``."""
    return MetricsServer(open_sockets(host, port, _BACKLOG), board, loop)
