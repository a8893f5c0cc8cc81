"""El servidor sobre asyncio: pasa bytes entre cada socket y su ``ServerProtocol``, y sabe cerrar.

Aquí no se abre ningún puerto (``listener.py``), no se decide qué es un mensaje (``protocol.py``) ni qué se le dice a
una persona: eso lo hace el ``Observer`` que se le dé (``cli/report.py``).

La vida de una conexión: *conversando* → *despidiéndose* (enviado lo debido y nuestro FIN, se lee y se tira lo
que llegue) → *cerrada*. Se pasa por el medio siempre: cerrar un socket con entrada sin leer hace que el núcleo
mande RST y tire la respuesta que iba de camino.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections.abc import Callable
from types import TracebackType
from typing import cast

from .addresses import Peer, format_address, unix_path
from .deadlines import Deadlines
from .descriptors import room
from .errors import AddressFull, BadMessage, BadTLSFile, Refusal, ServerFull, ServiceTimedOut, TLSFailed
from .limits import DEFAULT_LIMITS, Limits
from .listener import Listener, open_sockets
from .loops import LoopThread
from .protocol import ERROR_START, ServerProtocol
from .services import Function, Service, as_service, uppercase
from .tls import ServerTLS, tls_error
from .tls_transport import TLSTransport
from .workers import Job, Outcome, Tasks, Threads, Workers, raising

__all__ = ["Connection", "Observer", "Peer", "Server"]

_READ_SIZE = 64 * 1024  # bytes por lectura: lo que un socket suele tener listo; la mitad del umbral de glibc
# Antes de detenerse, vueltas del bucle para leer de los recién aceptados: crear el transporte, presentarlo, empezar a
# leer, leer; y una de sobra. Quien ya había enviado megabytes se queda sin respuesta a los últimos.
_TURNS_TO_READ = 5
THREADS = 32  # hilos para el servicio: como concurrent.futures con muchos procesadores; callados, apenas ocupan


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

    def closed(self, peer: Peer) -> None:
        """Acabó del todo una conversación, como fuera: una vez por cada ``accepted``."""

    def refused(self, peer: Peer, why: Refusal) -> None:
        """No se le atiende, y se le dijo por qué."""

    def idle(self, peer: Peer) -> None:
        """Calló ``limits.idle_timeout`` segundos, y se le cierra."""

    def bad_message(self, peer: Peer, bad: BadMessage) -> None:
        """Un mensaje recibió ``ERROR: ...``. Se cuentan todos los fallos del servicio (``ServiceFailed``), y de los del
        cliente el primero de cada clase en cada conversación."""

    def undelivered(self, peer: Peer) -> None:
        """El cliente no leyó a tiempo lo que se le debía, y se cortó."""

    def cannot_accept(self, cause: OSError) -> None:
        """No se pudo aceptar una conexión (sin descriptores, casi siempre); se volverá a intentar enseguida."""

    def lowered(self, connections: int, wanted: int) -> None:
        """El sistema no da descriptores para ``wanted`` conversaciones: serán ``connections`` como mucho."""

    def handshake_failed(self, peer: Peer, cause: TLSFailed) -> None:
        """No se completó un saludo de TLS: no hubo conversación."""

    def certificate_reread(self) -> None:
        """Cambiaron los ficheros de TLS: desde ahora valen los nuevos."""

    def certificate_unusable(self, bad: BadTLSFile) -> None:
        """Cambiaron los ficheros de TLS y no sirven: siguen valiendo los de antes."""


class Connection(asyncio.Protocol):
    """Una conexión: el puente entre un transporte de asyncio y un ``ServerProtocol``."""

    # Cada campo son 8 bytes en cada conexión callada: lo que solo hace falta al despedirse va aparte, en _Farewell.
    __slots__ = (
        "_conversation",
        "_farewell",
        "_peer",
        "_question",
        "_server",
        "_timer",
        "_transport",
    )

    _transport: asyncio.Transport  # desde connection_made

    def __init__(self, server: Server, peer: Peer) -> None:
        self._server = server
        self._conversation = ServerProtocol(
            server.service, server.limits, lines_only=server.lines_only, deferred=server._workers is not None
        )
        self._peer = peer
        self._timer: asyncio.TimerHandle | None = None  # el del silencio o, despidiéndose, el del cierre
        self._farewell: _Farewell | None = None  # despidiéndose
        self._question: _Question | None = None  # la que está sin responder

    @property
    def peer(self) -> Peer:
        """Quién es."""
        return self._peer

    @property
    def introduced(self) -> bool:
        """Si llegó a empezar."""
        return hasattr(self, "_transport")

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
        if self._conversation.ended:  # cortada antes de empezar
            self._transport.abort()
        elif refusal := self._server._refusal(self):
            self._server.observer.refused(self._peer, refusal)
            self.dismiss(str(refusal))
        else:
            self._server.observer.accepted(self._peer)

    def data_received(self, data: bytes) -> None:
        if self._farewell:
            self._farewell.heard = True  # se lee solo para tirarlo
            return
        conversation = self._conversation
        unsettled = conversation.unsettled
        reply = conversation.receive_data(data)
        if reply:
            self._transport.write(reply)
        if unsettled or conversation.unsettled:
            self._look_after(reply)

    def eof_received(self) -> bool:
        if self._conversation.ended:
            self._transport.close()
        else:
            self._answer(self._conversation.receive_eof())
        return True  # es decir: no lo hagas tú, asyncio

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clocks()
        if exc and not self._conversation.ended:
            self._server.observer.lost(self._peer, exc)
        self._conversation.ended = True
        self._server._forget(self)

    def pause_writing(self) -> None:
        # No lee lo que se le responde: no se le acepta más que responder. Y si no se le lee, no se le mete prisa.
        if not self._conversation.ended:
            self._pause_reading()
            self._server._unread.start(self, self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        if not self._conversation.ended:
            self._server._unread.stop(self)
            self._go_on()

    # -- lo que pide el servidor ----------------------------------------------------------------------------

    def drain(self) -> None:
        """Se detiene el servidor: lo leído se responde; se entrega y se cierra."""
        if self._conversation.ended or self._conversation.busy:
            return  # ocupada: lo hará al acabar
        reply = self._conversation.receive_silence()
        self._conversation.ended = not self._conversation.busy  # lo retenido puede ser una pregunta
        self._answer(reply)

    def cut(self) -> None:
        """Se corta ya, con lo que quede sin entregar."""
        self._stop_clocks()
        owed = self._conversation.busy or (self.introduced and self._transport.get_write_buffer_size())
        if owed:
            self._server._count_cut()
            self._server.observer.undelivered(self._peer)
        self._conversation.ended = True
        # Desde ya, y no cuando asyncio lo confirme: cortada dos veces se contaría dos.
        self._server._forget(self)
        if self.introduced:  # si no ha empezado, ya no lo hará
            self._transport.abort()

    def dismiss(self, why: str) -> None:
        """Se le dice por qué no se la atiende, o no más, y se cierra."""
        self._conversation.ended = True
        self._transport.write(f"{ERROR_START}{why}\n".encode())
        self._finish()

    def message_late(self) -> None:
        """El mensaje a medias no ha llegado a tiempo."""
        reply = self._conversation.receive_deadline()
        if reply:
            self._answer(reply)

    def output_late(self, owed: object) -> None:
        """No ha leído a tiempo todo lo que se le debe. ``owed``: los bytes que eran."""
        left = self._transport.get_write_buffer_size()
        if left == owed:
            self.cut()
        else:  # lee despacio, pero lee
            self._server._unread.start(self, left)

    def change_service(self, service: Service, *, deferred: bool) -> None:
        """Desde el mensaje siguiente responde ``service``."""
        self._conversation.change_service(service, deferred=deferred)

    def answered(self, outcome: Outcome) -> None:
        """Hay respuesta a la pregunta."""
        self._question = None
        self._server._answering.stop(self)
        if self._conversation.ended:
            return
        reply = self._conversation.receive_answer(outcome)
        if reply:
            self._transport.write(reply)
        if self._conversation.ended or self._transport.get_write_buffer_size():
            self._look_after(reply)  # lo que falte, cuando lea lo que ya tiene
        else:
            self._go_on()

    def service_late(self) -> None:
        """El servicio no ha respondido a tiempo."""
        if self._question:
            seconds, where = self._server.limits.service_timeout, self._question.where()
            self._question.drop()
            self.answered(raising(ServiceTimedOut(seconds).with_traceback(where)))

    # -- por dentro -----------------------------------------------------------------------------------------

    def _answer(self, reply: bytes) -> None:
        if reply:
            self._transport.write(reply)
        self._look_after(reply)

    def _look_after(self, reply: bytes) -> None:
        """Tras algo que no fue solo recibir mensajes enteros y responderlos. ``reply``: lo recién respondido."""
        conversation = self._conversation
        for bad in conversation.take_bad_messages():
            self._server.observer.bad_message(self._peer, bad)
        if conversation.ended:
            if conversation.said_goodbye:
                self._server.observer.said_goodbye(self._peer)
            elif conversation.input_over:
                self._server.observer.left(self._peer)
            self._finish()
            if conversation.input_over:
                self._transport.close()  # no queda nada por leer: cerrar entrega lo pendiente y no pierde nada
        elif conversation.busy:
            self._server._unfinished.stop(self)
            if conversation.queued:
                self._pause_reading()
            question = conversation.take_question()
            if question is not None:
                self._ask(question)
            elif not conversation.awaiting_answer and not self._transport.get_write_buffer_size():
                # Tiene más que responder: en otra vuelta del bucle, y cuando lea lo que ya tiene.
                self._server._loop.call_soon(self._go_on)
        else:
            if conversation.awaiting_silence:
                self._await_silence()
            if not conversation.unfinished or not self._transport.is_reading():
                self._server._unfinished.stop(self)
            elif b"\n" in reply or (reply and not conversation.skipping):  # acabó un mensaje, y este es otro
                self._server._unfinished.restart(self)
            else:
                self._server._unfinished.start(self)

    def _go_on(self) -> None:
        """Sigue con lo recibido que falte por responder; después, con lo que llegue."""
        conversation = self._conversation
        if conversation.ended:
            return
        reply = b""
        if conversation.queued:
            reply = conversation.resume()
            if reply:
                self._transport.write(reply)
        if not conversation.busy and not conversation.ended:
            if self._server.stopping:
                self.drain()
                return
            if not self._transport.get_write_buffer_size():
                self._resume_reading()
        self._look_after(reply)

    def _ask(self, message: str) -> None:
        """Pregunta al servicio. Mientras, se sigue leyendo: así se sabe si el cliente se va."""
        self._question = _Question(self)
        self._server._answering.start(self)
        try:
            self._question.job = self._server._ask(message, self._question.answered)
        except RuntimeError as error:  # el sistema no da más hilos
            self._server._loop.call_soon(self._question.answered, raising(error))

    def _pause_reading(self) -> None:
        self._transport.pause_reading()
        self._server._unfinished.stop(self)  # si no se le lee, no se le mete prisa

    def _resume_reading(self) -> None:
        self._transport.resume_reading()

    def _await_silence(self) -> None:
        self._cancel_timer()
        self._timer = self._server._loop.call_later(self._server.limits.goodbye_silence, self._silence)

    def _silence(self) -> None:
        if not self._conversation.awaiting_silence or not self._transport.is_reading():
            return  # sin leer no se sabe si calla: se empezará a contar al leer de nuevo
        self._answer(self._conversation.receive_silence())

    def _finish(self) -> None:
        """Entrega lo que falte y nuestro FIN, y se queda leyendo y tirando hasta que sea seguro cerrar."""
        self._stop_clocks()
        try:
            self._transport.write_eof()
        except OSError:  # el otro extremo ya cortó: no hay a quién entregar
            self._transport.abort()
            return
        self._transport.resume_reading()
        self._farewell = _Farewell(
            self._server.limits, self._transport.get_write_buffer_size(), self._server._loop.time()
        )
        self._look_again()

    def _look_again(self) -> None:
        self._timer = self._server._loop.call_later(self._server.limits.linger_quiet, self._check_closing)

    def _check_closing(self) -> None:
        owed = self._transport.get_write_buffer_size()
        if self._farewell and not self._farewell.is_over(owed, self._server._loop.time(), self._server.stopping):
            self._look_again()
        elif owed:
            self.cut()
        else:
            self._transport.close()

    def _stop_clocks(self) -> None:
        self._cancel_timer()
        self._server._unfinished.stop(self)
        self._server._unread.stop(self)
        if self._question:
            self._server._answering.stop(self)
            self._question.drop()
            self._question = None

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


class _Question:
    """Una pregunta al servicio, y quién la hizo mientras le importe la respuesta."""

    __slots__ = ("_connection", "job")

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self.job: Job | None = None

    def answered(self, outcome: Outcome) -> None:
        """La respuesta; si ya no se espera, no hace nada."""
        connection, self._connection = self._connection, None
        self.job = None  # él guarda a quién responder: serían un círculo, con el mensaje dentro
        if connection:
            connection.answered(outcome)

    def where(self) -> TracebackType | None:
        """Por dónde va el servicio, si ha empezado."""
        return self.job.where() if self.job else None

    def drop(self) -> None:
        """Ya no se espera la respuesta."""
        self._connection = None
        if self.job:
            self.job.cancel()
            self.job = None


class _ImpatientConnection(Connection):
    """La que se cierra si el cliente calla ``limits.idle_timeout`` segundos: aparte, y así a la otra no le cuesta."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._conversation.ended:
            self._server._idle.start(self)

    def data_received(self, data: bytes) -> None:
        if not self._conversation.ended:
            self._server._idle.restart(self)
        super().data_received(data)

    def idle(self) -> None:
        """El plazo ha vencido."""
        self._server.observer.idle(self._peer)
        self.dismiss(f"{self._server.limits.idle_timeout:g} s sin recibir nada; se cierra la conexión")

    def _ask(self, message: str) -> None:
        super()._ask(message)
        self._server._idle.stop(self)  # no calla él: se le hace esperar

    def _pause_reading(self) -> None:
        super()._pause_reading()
        self._server._idle.stop(self)

    def _resume_reading(self) -> None:
        super()._resume_reading()
        self._server._idle.restart(self)

    def _stop_clocks(self) -> None:
        super()._stop_clocks()
        self._server._idle.stop(self)


class _Handshake:
    """Un saludo de TLS a medias: ocupa sitio como una conversación, tiene plazo y no se espera a que acabe."""

    __slots__ = ("_server", "_timer", "_transport", "peer")

    _transport: TLSTransport  # desde begun

    def __init__(self, server: Server, peer: Peer) -> None:
        self._server = server
        self.peer = peer
        self._timer: asyncio.TimerHandle | None = None

    def begun(self, transport: TLSTransport) -> None:
        self._transport = transport
        if self._server._knows(self):
            self._server._greeting.start(self)
        else:  # cortada antes de empezar
            transport.abort()

    def succeeded(self) -> Connection:
        self._stop_clocks()
        return self._server._introduce(self)  # si no cabía, es ahora, ya cifrado, cuando se le dice

    def failed(self, cause: OSError | None, problem: str = "cut") -> None:
        self._server.observer.handshake_failed(self.peer, tls_error(format_address(*self.peer), cause, problem))
        self._stop_clocks()
        # Lo que tiene para leer por qué, antes de que un RST se lo quite.
        self._timer = self._server._loop.call_later(self._server.limits.linger, self.cut)

    def late(self) -> None:
        """El saludo no ha acabado a tiempo."""
        self.failed(None, "silent")
        self.cut()

    def gone(self) -> None:
        self._stop_clocks()
        self._server._forget(self)

    def drain(self) -> None:
        """Se detiene el servidor: a quien aún no ha dicho nada no se le debe nada."""
        self.cut()

    def cut(self) -> None:
        """Se corta ya."""
        self.gone()
        if hasattr(self, "_transport"):
            self._transport.abort()

    def _stop_clocks(self) -> None:
        self._server._greeting.stop(self)
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
    """Un servidor de mensajes, en el bucle de asyncio en marcha o en un hilo suyo.

    Con ``async with``, escucha al entrar y al salir se detiene como ``drain()``::

        async with Server(str.title, port=0) as server:
            print(server.addresses)

    Con ``with``, lo mismo sin asyncio: el bucle va en un hilo, desde el que se llama también al ``observer``; al salir
    no queda ni el hilo. Otro Ctrl-C mientras se detiene lo corta todo ya::

        with Server(str.title, port=0) as server, Client(server.host, server.port) as client:
            print(client.send("hola"))

    Detenido, se puede volver a poner en marcha; ``RuntimeError`` si ya lo está.

    ``service``: un ``Service`` o una función ``str -> str``, corriente o ``async``. ``host`` y ``port``: dónde escuchar
    (un nombre puede ser varias direcciones; el puerto 0 toma uno libre, el mismo en todas; ``ValueError`` fuera de 0 a
    65535). ``threads``: en cuántos hilos a la vez se ejecuta el servicio, para que si espera no haga esperar a los
    demás. Con 1 va de uno en uno; con 0, en el hilo del bucle: lo más rápido si solo calcula un momento. A uno
    ``async``, o con atajo (``Service.block``), no le hacen falta (``ValueError`` con menos de 0). ``observer``:
    a quién se le cuenta lo que pasa. ``lines_only``: si solo se atiende por líneas; por defecto, cuando el servicio no
    trabaja carácter a carácter. ``tls``: con qué cifrar; por defecto, no se cifra.
    """

    _loop: asyncio.AbstractEventLoop
    _thread: LoopThread  # dentro de ``with``

    def __init__(
        self,
        service: Service | Function = uppercase,
        host: str = "localhost",
        port: int = 5000,
        *,
        threads: int = THREADS,
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
        if threads < 0:
            raise ValueError(f"threads debe ser cero o más, no {threads}")
        self._most_threads = threads
        self._threads: Threads | None = None
        self._workers: Workers | None = None  # a quién se pregunta, si el servicio espera
        self._host = host
        self._port = port
        self._listeners: list[Listener] = []
        self._handovers: set[asyncio.Task[None]] = set()
        # Y, si se la está rechazando, por qué.
        self._connections: dict[Connection | _Handshake, Refusal | None] = {}
        self._from: dict[object, int] = {}  # conversaciones desde cada dirección, si se limitan
        self._capacity = limits.max_connections
        self.new_connection: Callable[[Server, Peer], Connection]
        """Con quién conversa cada cliente nuevo (``measuring.py`` pone otros)."""
        self.new_connection = _ImpatientConnection if limits.idle_timeout else Connection
        self._most_refused = 0  # rechazados a la vez a los que se espera; a los demás se les cierra en el acto
        self.conversations = 0
        """Cuántas conversaciones siguen abiertas (las rechazadas que aún se están cerrando no lo son)."""
        self.stopping = False
        """Si se está deteniendo."""
        self._cut_count = 0

    @property
    def addresses(self) -> list[Peer]:
        """Las direcciones en que escucha: ``[(ip, puerto), ...]``, o ``[("unix:/ruta", 0)]``; vacía antes de empezar y
        después de acabar."""
        return [listener.address for listener in self._listeners]

    @property
    def host(self) -> str:
        """La primera dirección en que escucha, como la quiere ``Client``. ``RuntimeError`` si no está en marcha."""
        return self._first_address()[0]

    @property
    def port(self) -> int:
        """El puerto en que escucha (0 en un socket de Unix). ``RuntimeError`` si no está en marcha."""
        return self._first_address()[1]

    def _first_address(self) -> Peer:
        if not self._listeners:
            raise RuntimeError("este servidor no está en marcha: se pone con «with» o «async with»")
        return self._listeners[0].address

    async def start(self) -> None:
        """Empieza a escuchar.

        Errores: ``UnknownHost``, ``AddressInUse``, ``PortNotAllowed``, ``AddressNotOurs`` o ``NetworkError``.
        """
        self._check_stopped()
        self._use_loop(asyncio.get_running_loop())
        self.stopping = False
        limits = self.limits
        for sock in open_sockets(self._host, self._port, limits.backlog, limits.keepalive):
            self._listeners.append(Listener(sock, self._serve, self.observer.cannot_accept, limits.accept_pause))
        left = room()
        self._capacity = min(limits.max_connections, max(1, left - limits.reserve, left // 2))
        self._most_refused = min(limits.reserve, left - self._capacity) // 2  # la otra mitad, para lo demás
        if self._capacity < limits.max_connections:
            self.observer.lowered(self._capacity, limits.max_connections)
        for listener in self._listeners:
            listener.start()

    def _use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """El reloj y los temporizadores serán los de ``loop``."""
        self._loop = loop
        self._all_gone = asyncio.Event()  # desde que alguien la espera, es de un solo bucle
        self._unfinished: Deadlines[Connection] = Deadlines(
            loop, self.limits.message_timeout, lambda connection, _: connection.message_late()
        )
        """Con un mensaje a medias."""
        self._unread: Deadlines[Connection] = Deadlines(
            loop, self.limits.output_timeout, lambda connection, owed: connection.output_late(owed)
        )
        """Con respuestas sin leer."""
        self._idle: Deadlines[_ImpatientConnection] = Deadlines(
            loop, self.limits.idle_timeout, lambda connection, _: connection.idle()
        )
        """Calladas; solo se miran si hay plazo."""
        self._greeting: Deadlines[_Handshake] = Deadlines(
            loop, self.limits.handshake_timeout, lambda handshake, _: handshake.late()
        )
        """En el saludo de TLS."""
        self._answering: Deadlines[Connection] = Deadlines(
            loop, self.limits.service_timeout, lambda connection, _: connection.service_late()
        )
        """Esperando al servicio."""
        self._threads = Threads(loop, self._most_threads) if self._most_threads else None
        self._workers = self._workers_for(self.service)

    def change_service(self, service: Service | Function) -> None:
        """Desde el mensaje siguiente de cada conversación responde ``service``; lo que ya se preguntó lo responde el de
        antes. Se llama en el hilo del bucle. Error: ``TypeError`` si no es un servicio."""
        self.service = as_service(service)
        self._workers = self._workers_for(self.service)
        for connection in self._connections:
            if isinstance(connection, Connection):
                connection.change_service(self.service, deferred=self._workers is not None)

    async def drain(self, patience: float | None = None) -> int:
        """Deja de aceptar, entrega lo debido y cierra. Devuelve cuántas conversaciones hubo que cortar porque el
        cliente no leyó lo suyo en ``patience`` segundos (por defecto, ``limits.drain``; lo normal: 0)."""
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
                await asyncio.wait_for(self._all_gone.wait(), self.limits.drain if patience is None else patience)
        self.cut()
        self._unfinished.close()
        self._unread.close()
        self._idle.close()
        self._greeting.close()
        self._answering.close()
        if self._threads:
            self._threads.close()
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

    def __enter__(self) -> Server:
        self._check_stopped()
        self._thread = LoopThread()
        try:
            self._thread.wait_for(self.start())
        except BaseException:
            self._leave(0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.alive:  # un hijo (os.fork) no tiene nada que detener: es de su padre
            self._leave()

    def _leave(self, patience: float | None = None) -> None:
        try:
            self._thread.wait_for(self.drain(patience))
        except BaseException:  # Ctrl-C
            self._thread.wait_for(self.drain(0))
            raise
        finally:
            self._thread.stop()

    def _check_stopped(self) -> None:
        if self._listeners:
            raise RuntimeError("este servidor ya está en marcha: para tener dos a la vez, crea otro Server")

    # -- para Listener --------------------------------------------------------------------------------------

    def _serve(self, sock: socket.socket, peer: Peer) -> None:
        refusal = self._why_not(peer)
        if refusal and len(self._connections) - self.conversations >= self._most_refused:
            self.observer.refused(peer, refusal)
            _turn_away(sock, b"" if self._tls else f"{ERROR_START}{refusal}\n".encode())
            return
        connection = _Handshake(self, peer) if self._tls else self.new_connection(self, peer)
        self._all_gone.clear()
        self._connections[connection] = refusal
        if not refusal:
            self.conversations += 1
            self._count(peer, 1)
        task = self._loop.create_task(self._hand_over(sock, connection))
        self._handovers.add(task)  # asyncio solo guarda de las tareas una referencia débil
        task.add_done_callback(self._handovers.discard)

    async def _hand_over(self, sock: socket.socket, connection: Connection | _Handshake) -> None:
        try:
            protocol: asyncio.Protocol
            if self._tls and isinstance(connection, _Handshake):
                protocol = self._encrypt(self._tls, connection)
            else:
                protocol = cast(Connection, connection)
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except BaseException as error:
            sock.close()
            self._forget(connection)
            if not isinstance(error, OSError):  # el cliente cortó antes de que hubiera con quién hablar
                raise

    def _why_not(self, peer: Peer) -> Refusal | None:
        if self.conversations >= self._capacity:
            return ServerFull()
        most = self.limits.max_per_address
        if most and self._from.get(_network(peer), 0) >= most:
            return AddressFull()
        return None

    def _encrypt(self, tls: ServerTLS, handshake: _Handshake) -> TLSTransport:
        try:
            if tls.reread(self._loop.time()):
                self.observer.certificate_reread()
        except BadTLSFile as bad:
            self.observer.certificate_unusable(bad)
        return TLSTransport(tls.session(), handshake, handshake.peer)

    def _count(self, peer: Peer, more: int) -> None:
        if self.limits.max_per_address and (network := _network(peer)) is not None:
            self._from[network] = self._from.get(network, 0) + more
            if not self._from[network]:
                del self._from[network]  # la tabla no guarda más direcciones que conversaciones hay

    def _workers_for(self, service: Service) -> Workers | None:
        return Tasks(self._loop) if _is_async(service.function) else self._threads

    # -- para Connection ------------------------------------------------------------------------------------

    def _ask(self, message: str, answered: Callable[[Outcome], object]) -> Job:
        """Pregunta al servicio."""
        return cast(Workers, self._workers).ask(self.service.function, message, answered)

    def _refusal(self, connection: Connection) -> Refusal | None:
        """Por qué no se atiende a ``connection``, si no se la atiende."""
        return self._connections.get(connection)

    def _knows(self, connection: Connection | _Handshake) -> bool:
        """Si sigue siendo una de las suyas: cortada, ya no lo es."""
        return connection in self._connections

    def _introduce(self, handshake: _Handshake) -> Connection:
        """El saludo acabó bien: la conversación ocupa su sitio."""
        connection = self.new_connection(self, handshake.peer)
        self._connections[connection] = self._connections.pop(handshake)
        return connection

    def _count_cut(self) -> None:
        """Una conversación se cortó con algo por entregar."""
        self._cut_count += 1

    def _forget(self, connection: Connection | _Handshake) -> None:
        """Una conexión se cerró."""
        if connection not in self._connections:
            return
        if not self._connections.pop(connection):
            self.conversations -= 1
            if isinstance(connection, Connection) and connection.introduced:
                self.observer.closed(connection.peer)
            self._count(connection.peer, -1)
        if not self._connections:
            self._all_gone.set()


def _is_async(function: Function) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _network(peer: Peer) -> object | None:
    """A quién se cuenta una conversación: su dirección; en IPv6 su red /64, cuyas direcciones son de uno. A nadie,
    si viene de esta misma máquina por un socket de Unix."""
    host, _ = peer
    if unix_path(host) is not None:
        return None
    if ":" not in host:
        return host
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8]


def _turn_away(sock: socket.socket, line: bytes) -> None:
    """Dice que no y cierra sin esperar: para cuando ya hay bastantes rechazados despidiéndose. A quien espera TLS no se
    le dice nada: no lo entendería."""
    with sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.send(line)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(_READ_SIZE)  # con entrada sin leer, cerrar sería un RST y podría llevarse la línea
