"""El servidor sobre asyncio: pasa bytes entre cada socket y su ``ServerProtocol``, y sabe cerrar.

Aquí no se abre ningún puerto (``listener.py``), no se decide qué es un mensaje (``protocol.py``) ni qué se le dice a
una persona: eso lo hace el ``Observer`` que se le dé (``cli/server.py``).

La vida de una conexión: *conversando* → *despidiéndose* (enviado lo debido y nuestro FIN, se lee y se tira lo
que llegue) → *cerrada*. Se pasa por el medio siempre: cerrar un socket con entrada sin leer hace que el núcleo
mande RST y tire la respuesta que iba de camino.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import TracebackType
from typing import cast

from .errors import BadMessage, BadTLSFile, TLSFailed, format_address
from .limits import DEFAULT_LIMITS, Limits
from .listener import Listener, open_sockets
from .protocol import ServerProtocol
from .services import Service, as_service, uppercase
from .tls import ServerTLS, tls_error
from .tls_transport import TLSTransport

Peer = tuple[str, int]
"""Un cliente: su dirección IP y su puerto."""

_FULL = "ERROR: el servidor está completo; inténtalo más tarde\n"
_READ_SIZE = 64 * 1024  # bytes por lectura: lo que un socket suele tener listo; la mitad del umbral de glibc
# Antes de detenerse, vueltas del bucle para leer de los recién aceptados: crear el transporte, presentarlo, empezar a
# leer, leer; y una de sobra. Quien ya había enviado megabytes se queda sin respuesta a los últimos.
_TURNS_TO_READ = 5


class Observer:
    """Lo que el servidor cuenta de sí mientras trabaja. Aquí no hace nada; se hereda lo que interese.

    Sus métodos se llaman desde el bucle de asyncio: no deben bloquear ni lanzar.
    """

    def accepted(self, peer: Peer) -> None:
        """Empieza una conversación."""

    def said_goodbye(self, peer: Peer) -> None:
        """El cliente envió ``DESCONEXION``."""

    def left(self, peer: Peer) -> None:
        """El cliente cerró su lado sin despedirse."""

    def lost(self, peer: Peer, cause: Exception) -> None:
        """La conexión se cortó."""

    def refused(self, peer: Peer) -> None:
        """No cabía una conversación más y se le dijo que no."""

    def bad_message(self, peer: Peer, bad: BadMessage) -> None:
        """Un mensaje recibió ``ERROR: ...``; se cuenta el primero de cada clase en cada conversación."""

    def undelivered(self, peer: Peer) -> None:
        """El cliente no leyó a tiempo lo que se le debía, y se cortó."""

    def cannot_accept(self, cause: OSError) -> None:
        """No se pudo aceptar una conexión (sin descriptores, casi siempre); se volverá a intentar enseguida."""

    def handshake_failed(self, peer: Peer, cause: TLSFailed) -> None:
        """No se completó un saludo de TLS: no hubo conversación."""

    def certificate_reread(self, bad: BadTLSFile | None) -> None:
        """Cambiaron los ficheros de TLS: desde ahora valen los nuevos o, con ``bad``, siguen valiendo los de antes."""


class Connection(asyncio.Protocol):
    """Una conexión: el puente entre un transporte de asyncio y un ``ServerProtocol``."""

    # Cada campo son 8 bytes en cada conexión callada: lo que solo hace falta al despedirse va aparte, en _Farewell.
    __slots__ = (
        "_conversation",
        "_farewell",
        "_peer",
        "_server",
        "_timer",
        "_transport",
    )

    _transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self._server = server
        self._conversation = ServerProtocol(server.service, server.limits, lines_only=server.lines_only)
        self._peer: Peer = ("?", 0)
        self._timer: asyncio.TimerHandle | None = None  # el del silencio o, despidiéndose, el del cierre
        self._farewell: _Farewell | None = None  # despidiéndose

    # -- lo que avisa asyncio -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # A quien no lee lo que se le responde no se le lee más: ya tiene lleno el búfer del sistema (megabytes), y
        # desde Python 3.12 cada escritura que asyncio guarda le cuesta recorrer todas las guardadas antes.
        self._transport.set_write_buffer_limits(high=0)
        # asyncio lee de 256 KiB en 256 KiB: más de lo que glibc reparte sin ir al núcleo (128 KiB), y cada lectura
        # costaba mmap, mremap y munmap (make bench, 16 encadenados: 1,8 us por mensaje; así, 0,7). Con menos, además,
        # nadie ocupa el bucle tanto rato de una vez.
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_SIZE
        # Sin nombre, si el cliente se fue antes de que el sistema lo diera.
        self._peer = (transport.get_extra_info("peername") or self._peer)[:2]
        if not self._server.admit(self):
            self._conversation.ended = True
            self._transport.write(_FULL.encode())
            self._server.observer.refused(self._peer)
            self._finish()
        else:
            self._server.observer.accepted(self._peer)

    def data_received(self, data: bytes) -> None:
        if self._farewell:
            self._farewell.heard = True  # se lee solo para tirarlo
            return
        conversation = self._conversation
        reply = conversation.receive_data(data)
        if reply:
            self._transport.write(reply)
        elif conversation.awaiting_silence:
            self._await_silence()
        if conversation.bad_messages or conversation.ended:
            self._after_input()

    def eof_received(self) -> bool:
        if not self._conversation.ended:
            reply = self._conversation.receive_eof()
            if reply:
                self._transport.write(reply)
            if not self._conversation.said_goodbye:
                self._server.observer.left(self._peer)
            self._after_input()
        self._transport.close()  # no queda nada por leer: cerrar entrega lo pendiente y no pierde nada
        return True  # es decir: no lo hagas tú, asyncio

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        if exc and not self._conversation.ended:
            self._server.observer.lost(self._peer, exc)
        self._conversation.ended = True
        self._server.forget(self)

    def pause_writing(self) -> None:
        # No lee lo que se le responde: no se le acepta más que responder.
        if not self._conversation.ended:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._conversation.ended:
            self._transport.resume_reading()
            if self._conversation.awaiting_silence:
                self._await_silence()

    # -- lo que pide el servidor ----------------------------------------------------------------------------

    def drain(self) -> None:
        """Se detiene el servidor: lo leído ya está respondido; se entrega y se cierra."""
        if not self._conversation.ended:
            reply = self._conversation.receive_silence()
            if reply:
                self._transport.write(reply)
            self._conversation.ended = True
            self._after_input()

    def cut(self) -> None:
        """Se corta ya, con lo que quede sin entregar."""
        self._cancel_timer()
        if self._transport.get_write_buffer_size():
            self._server.count_cut()
            self._server.observer.undelivered(self._peer)
        # Desde ya, y no cuando asyncio lo confirme: cortada dos veces se contaría dos.
        self._server.forget(self)
        self._transport.abort()

    # -- por dentro -----------------------------------------------------------------------------------------

    def _after_input(self) -> None:
        for bad in self._conversation.take_bad_messages():
            self._server.observer.bad_message(self._peer, bad)
        if self._conversation.ended:
            if self._conversation.said_goodbye:
                self._server.observer.said_goodbye(self._peer)
            self._finish()

    def _await_silence(self) -> None:
        self._cancel_timer()
        self._timer = self._server.loop.call_later(self._server.limits.goodbye_silence, self._silence)

    def _silence(self) -> None:
        if not self._conversation.awaiting_silence or not self._transport.is_reading():
            return  # sin leer no se sabe si calla: se empezará a contar al leer de nuevo
        reply = self._conversation.receive_silence()
        if reply:
            self._transport.write(reply)
        self._after_input()

    def _finish(self) -> None:
        """Entrega lo que falte y nuestro FIN, y se queda leyendo y tirando hasta que sea seguro cerrar."""
        self._cancel_timer()
        try:
            self._transport.write_eof()
        except OSError:  # el otro extremo ya cortó: no hay a quién entregar
            self._transport.abort()
            return
        self._transport.resume_reading()
        self._farewell = _Farewell(
            self._server.limits, self._transport.get_write_buffer_size(), self._server.loop.time()
        )
        self._look_again()

    def _look_again(self) -> None:
        self._timer = self._server.loop.call_later(self._server.limits.linger_quiet, self._check_closing)

    def _check_closing(self) -> None:
        owed = self._transport.get_write_buffer_size()
        if self._farewell and not self._farewell.is_over(owed, self._server.loop.time(), self._server.stopping):
            self._look_again()
        elif owed:
            self.cut()
        else:
            self._transport.close()

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


class _Handshake:
    """Un saludo de TLS a medias: ocupa sitio como una conversación, tiene plazo y no se espera a que acabe."""

    __slots__ = ("_peer", "_server", "_timer", "_transport")

    _transport: TLSTransport

    def __init__(self, server: Server) -> None:
        self._server = server
        self._peer: Peer = ("?", 0)
        self._timer: asyncio.TimerHandle | None = None

    def begun(self, transport: TLSTransport) -> None:
        self._transport = transport
        self._peer = (transport.get_extra_info("peername") or self._peer)[:2]
        self._server.admit(self)  # quepa o no: si al acabar sigue sin caber, se le dirá cifrado
        self._set_timer(self._server.limits.handshake_timeout, self._expire)

    def succeeded(self) -> Connection:
        self.gone()
        return Connection(self._server)

    def failed(self, cause: OSError | None, problem: str = "cut") -> None:
        self._server.observer.handshake_failed(self._peer, tls_error(format_address(*self._peer), cause, problem))
        # Lo que tiene para leer por qué, antes de que un RST se lo quite.
        self._set_timer(self._server.limits.linger, self.cut)

    def gone(self) -> None:
        self._cancel_timer()
        self._server.forget(self)

    def drain(self) -> None:
        self.cut()

    def cut(self) -> None:
        self.gone()
        self._transport.abort()

    def _expire(self) -> None:
        self.failed(None, "silent")
        self.cut()

    def _set_timer(self, delay: float, callback: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._server.loop.call_later(delay, callback)

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


class _Farewell:
    """Hasta cuándo se espera a quien ya tiene nuestro FIN, o le falta por leer. La hora entra de fuera."""

    __slots__ = ("_deadline", "_last_resort", "_limits", "_owed", "heard")

    def __init__(self, limits: Limits, owed: int, now: float) -> None:
        self._limits = limits
        self.heard = False  # si desde la última vez que se miró ha llegado algo
        self._restart(owed, now)

    def is_over(self, owed: int, now: float, stopping: bool) -> bool:
        """Si ya no se espera más: quedan ``owed`` bytes por entregar, y ``stopping`` dice si se detiene el servidor."""
        heard, self.heard = self.heard, False
        if owed < self._owed:  # avanza: el plazo vuelve a empezar, y el de tirar entrada cuando ya no falte nada
            self._restart(owed, now)
            return False
        if heard and not owed and now < self._last_resort:
            # Sigue hablando, y quizá no ha leído aún lo que le dio el sistema: un RST se lo quitaría.
            self._deadline = now + self._limits.linger
            return False
        return now >= self._deadline or (stopping and not owed and not heard)

    def _restart(self, owed: int, now: float) -> None:
        self._owed = owed
        self._deadline = now + (self._limits.drain if owed else self._limits.linger)
        self._last_resort: float = now + self._limits.drain  # y esta, aunque el cliente no calle


class Server:
    """Un servidor de mensajes en el bucle de asyncio en marcha.

    Con ``async with``, escucha al entrar y al salir se detiene como ``drain()``::

        async with Server(str.title, port=0) as server:
            print(server.addresses)

    ``service``: un ``Service`` o una función ``str -> str``. ``host`` y ``port``: dónde escuchar (un nombre puede ser
    varias direcciones; el puerto 0 toma uno libre, el mismo en todas; ``ValueError`` fuera de 0 a 65535). ``observer``:
    a quién se le cuenta lo que pasa. ``lines_only``: si solo se atiende por líneas; por defecto, cuando el servicio no
    trabaja carácter a carácter. ``tls``: con qué cifrar; por defecto, no se cifra.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        service: Service | Callable[[str], str] = uppercase,
        host: str = "localhost",
        port: int = 5000,
        *,
        limits: Limits = DEFAULT_LIMITS,
        observer: Observer | None = None,
        lines_only: bool | None = None,
        tls: ServerTLS | None = None,
    ) -> None:
        self.lines_only = lines_only
        self._tls = tls
        self.service = as_service(service)
        self.limits = limits
        self.observer = observer or Observer()
        if not 0 <= port <= 65535:
            raise ValueError(f"port debe ser un número de 0 a 65535, no {port}")
        self._host = host
        self._port = port
        self._listeners: list[Listener] = []
        self._handovers: set[asyncio.Task[None]] = set()
        self._connections: dict[Connection | _Handshake, bool] = {}  # y si se le admitió o se le está rechazando
        self.conversations = 0
        """Cuántas conversaciones siguen abiertas (las rechazadas que aún se están cerrando no lo son)."""
        self.stopping = False
        """Si se está deteniendo."""
        self._all_gone = asyncio.Event()
        self._cut_count = 0

    @property
    def addresses(self) -> list[Peer]:
        """Las direcciones en que escucha: ``[(ip, puerto), ...]``; vacía antes de empezar y después de acabar."""
        return [listener.address for listener in self._listeners]

    async def start(self) -> None:
        """Empieza a escuchar.

        Errores: ``UnknownHost``, ``AddressInUse``, ``PortNotAllowed``, ``AddressNotOurs`` o ``NetworkError``.
        """
        self.loop = asyncio.get_running_loop()
        self.stopping = False
        for sock in open_sockets(self._host, self._port, self.limits.backlog):
            listener = Listener(sock, self._serve, self.observer.cannot_accept, self.limits.accept_pause)
            self._listeners.append(listener)
            listener.start()

    async def drain(self) -> int:
        """Deja de aceptar, entrega lo debido y cierra. Devuelve cuántas conversaciones hubo que cortar porque el
        cliente no leyó lo suyo en ``limits.drain`` segundos (lo normal: 0)."""
        before = self._cut_count
        self.stopping = True
        for listener in self._listeners:
            listener.close(self.limits.backlog + 1)  # Linux guarda en cola uno más de los que se le dicen
        self._listeners.clear()
        for _ in range(_TURNS_TO_READ):
            await asyncio.sleep(0)
        for connection in list(self._connections):
            connection.drain()
        if self._connections:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), self.limits.drain)
        self.cut()
        return self._cut_count - before

    def cut(self) -> None:
        """Corta todas las conversaciones sin entregar nada más."""
        for connection in list(self._connections):
            connection.cut()

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain()

    # -- para Listener --------------------------------------------------------------------------------------

    def _serve(self, sock: socket.socket) -> None:
        task = self.loop.create_task(self._hand_over(sock))
        self._handovers.add(task)  # asyncio solo guarda de las tareas una referencia débil
        task.add_done_callback(self._handovers.discard)

    async def _hand_over(self, sock: socket.socket) -> None:
        try:
            tls = self._tls
            make = (lambda: self._greet(tls)) if tls else (lambda: Connection(self))
            await self.loop.connect_accepted_socket(make, sock)
        except OSError:  # el cliente cortó antes de que hubiera con quién hablar
            sock.close()

    def _greet(self, tls: ServerTLS) -> TLSTransport:
        try:
            if tls.reread(self.loop.time()):
                self.observer.certificate_reread(None)
        except BadTLSFile as bad:
            self.observer.certificate_reread(bad)
        return TLSTransport(tls.session(), _Handshake(self))

    # -- para Connection ------------------------------------------------------------------------------------

    def admit(self, connection: Connection | _Handshake) -> bool:
        """Apunta una conexión más; devuelve si cabe como conversación."""
        fits = self.conversations < self.limits.max_connections
        self._connections[connection] = fits
        self.conversations += fits
        self._all_gone.clear()
        return fits

    def count_cut(self) -> None:
        """Una conversación se cortó con algo por entregar."""
        self._cut_count += 1

    def forget(self, connection: Connection | _Handshake) -> None:
        """Una conexión se cerró."""
        self.conversations -= self._connections.pop(connection, False)
        if not self._connections:
            self._all_gone.set()
