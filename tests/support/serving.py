"""Un ``Server`` de la biblioteca en un hilo, para hablarle desde la prueba con sockets corrientes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from comunicacion_tcp.addresses import Peer
from comunicacion_tcp.errors import BadMessage, BadProxyHeader, BadTLSFile, Refusal, TLSFailed
from comunicacion_tcp.limits import DEFAULT_LIMITS, Limits
from comunicacion_tcp.observer import Observer
from comunicacion_tcp.server import Server
from comunicacion_tcp.services import Function, Service, uppercase
from comunicacion_tcp.tls import ServerTLS

from .loops import new_event_loop
from .waiting import PATIENCE


class Recorder(Observer):
    """Apunta lo que el servidor cuenta: ``[("accepted", peer), ...]``."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Peer, object]] = []
        self.gone: list[Peer] = []  # los de ``closed``

    @property
    def names(self) -> list[str]:
        """Solo qué pasó, en orden."""
        return [name for name, _, _ in self.events]

    def accepted(self, peer: Peer) -> None:
        self.events.append(("accepted", peer, None))

    def said_goodbye(self, peer: Peer) -> None:
        self.events.append(("said_goodbye", peer, None))

    def left(self, peer: Peer) -> None:
        self.events.append(("left", peer, None))

    def lost(self, peer: Peer, cause: Exception) -> None:
        self.events.append(("lost", peer, cause))

    def refused(self, peer: Peer, why: Refusal) -> None:
        self.events.append(("refused", peer, why))

    def bad_message(self, peer: Peer, bad: BadMessage) -> None:
        self.events.append(("bad_message", peer, bad))

    def undelivered(self, peer: Peer) -> None:
        self.events.append(("undelivered", peer, None))

    def handshake_failed(self, peer: Peer, cause: TLSFailed) -> None:
        self.events.append(("handshake_failed", peer, cause.problem))

    def proxy_header_bad(self, peer: Peer, bad: BadProxyHeader) -> None:
        self.events.append(("proxy_header_bad", peer, bad.problem))

    def idle(self, peer: Peer) -> None:
        self.events.append(("idle", peer, None))

    def closed(self, peer: Peer) -> None:
        self.gone.append(peer)

    def certificate_reread(self) -> None:
        self.events.append(("certificate_reread", ("", 0), None))

    def certificate_unusable(self, bad: BadTLSFile) -> None:
        self.events.append(("certificate_unusable", ("", 0), bad.problem))


class Served:
    """Un servidor en marcha y cómo detenerlo."""

    def __init__(self, server: Server, recorder: Recorder) -> None:
        self.server = server
        self.events = recorder
        self.port = 0
        self.failures: list[object] = []  # lo que asyncio no supo a quién contar: siempre debe estar vacía
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        """Arranca el hilo y el servidor; los errores de ``Server.start`` salen aquí."""
        self._loop.set_exception_handler(lambda loop, context: self.failures.append(context))
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.server.start(), self._loop).result(PATIENCE)
        self.port = self.server.addresses[0][1]

    def run(self, call: Callable[[], object]) -> None:
        """Ejecuta ``call`` en el hilo del servidor, y espera a que acabe."""

        async def calling() -> None:
            call()

        asyncio.run_coroutine_threadsafe(calling(), self._loop).result(PATIENCE)

    def drain(self) -> int:
        """``Server.drain`` desde fuera de su hilo."""
        return asyncio.run_coroutine_threadsafe(self.server.drain(), self._loop).result(PATIENCE)

    def retire(self, patience: float | None = None) -> Future[None]:
        """Empieza ``Server.retire`` en el hilo del servidor."""
        return asyncio.run_coroutine_threadsafe(self.server.retire(patience), self._loop)

    def stop(self) -> None:
        """Detiene el servidor y su hilo."""
        self.drain()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


@contextlib.contextmanager
def served(
    service: Service | Function = uppercase,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    threads: int = 32,
    limits: Limits = DEFAULT_LIMITS,
    tls: ServerTLS | None = None,
    sockets: Sequence[socket.socket] | None = None,
    proxy_from: Sequence[str] | None = None,
    allow_http: bool = False,
) -> Iterator[Served]:
    """Un servidor en marcha; al salir lo detiene y comprueba que no dejó nada ni se quejó asyncio."""
    recorder = Recorder()
    server = Server(
        service,
        host,
        port,
        threads=threads,
        limits=limits,
        observer=recorder,
        tls=tls,
        sockets=sockets,
        proxy_from=proxy_from,
        allow_http=allow_http,
    )
    running = Served(server, recorder)
    running.start()
    try:
        yield running
    finally:
        running.stop()
    assert not running.failures
    assert running.server.conversations == 0
    # Cada conversación que empezó acabó, y una sola vez; nadie se quedó con su sitio.
    assert sorted(running.events.gone) == sorted(peer for name, peer, _ in running.events.events if name == "accepted")
    assert not running.server._connections
    assert not running.server._connections._from
    assert not running.server._connections._nobodys
