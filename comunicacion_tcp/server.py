"""``Server``: un servidor de mensajes sobre asyncio, desde que escucha hasta que se detiene.

Aquí no se abre ningún puerto (``listener.py``), no se conversa (``connection.py``) ni se decide quién cabe
(``admission.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

from .addresses import Peer
from .admission import Admission
from .budget import Budget
from .connection import (
    Clocks,
    Connection,
    DiscreetConnection,
    Handshake,
    ImpatientConnection,
    Introduction,
    Member,
    descriptor_of,
)
from .descriptors import room
from .errors import BadTLSFile, OnlyThroughBalancer, Refusal
from .forks import keep_from_children
from .limits import DEFAULT_LIMITS, TURN, Limits
from .listener import Listener, adopt_sockets, open_sockets
from .loops import LoopThread, call_in
from .observer import Observer
from .places import host_as_of_now
from .protocol import ERROR_START
from .proxy_header import ProxyHeader, Trusted
from .services import Function, Service, as_service, uppercase
from .timeouts import within
from .tls import ServerTLS
from .tls_transport import TLSTransport
from .turns import Turns
from .workers import Contexts, Job, Outcome, Tasks, Threads, Workers, direct

TYPE_CHECKING = False  # como la de typing
if TYPE_CHECKING:
    from typing_extensions import Self
else:
    Self = "Server"

# Antes de detenerse, vueltas del bucle para leer de los recién aceptados: crear el transporte, presentarlo, empezar a
# leer, leer; y una de sobra. Quien ya había enviado megabytes se queda sin respuesta a los últimos.
_TURNS_TO_READ = 5
_MOST_SWALLOWED = 64 * 1024  # bytes que se leen, para tirarlos, de quien se rechaza sin esperarlo
_LOOKS = (
    4  # veces, en lo que dura un plazo, que se mira si a alguien no le llega lo suyo: es lo que se tarda en notarlo
)
THREADS = 32  # hilos para el servicio: como concurrent.futures con muchos procesadores; callados, apenas ocupan


Method = TypeVar("Method", bound=Callable[..., Any])


def _anywhere(method: Method) -> Method:
    """``method`` trabaja en el bucle del servidor. Llamado allí, o si no gira, se hace en el acto; desde otro hilo, u
    otro bucle, se hace en el suyo y se espera a que acabe. ``RuntimeError`` en otro proceso: no es su servidor."""

    def elsewhere(server: Server) -> asyncio.AbstractEventLoop | None:
        """El bucle del servidor, si gira y no es el de quien llama."""
        loop: asyncio.AbstractEventLoop | None = getattr(server, "_loop", None)
        if loop is None or loop is asyncio._get_running_loop() or not loop.is_running():
            return None
        if server._process != os.getpid():
            raise RuntimeError("este servidor es de otro proceso (os.fork): se detiene, o se cambia, en él")
        return loop

    @functools.wraps(method)
    def call(self: Server, *args: Any, **options: Any) -> Any:
        loop = elsewhere(self)
        return call_in(loop, lambda: method(self, *args, **options)) if loop else method(self, *args, **options)

    @functools.wraps(method)
    async def wait(self: Server, *args: Any, **options: Any) -> Any:
        loop = elsewhere(self)
        work = method(self, *args, **options)
        return await (asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop)) if loop else work)

    return cast(Method, wait if inspect.iscoroutinefunction(method) else call)


class Server:
    """Un servidor de mensajes, en el bucle de asyncio en marcha o en un hilo suyo.

    Con ``async with``, escucha al entrar y al salir se detiene como ``drain()``::

        async with Server(str.title, port=0) as server:
            print(server.addresses)

    Con ``with``, lo mismo sin asyncio: el bucle va en un hilo, desde el que se llama también al ``observer``; al salir
    no queda ni el hilo. Otro Ctrl-C mientras se detiene lo corta todo ya::

        with Server(str.title, port=0) as server, Client(server.host, server.port) as client:
            print(client.send("hola"))

    Detenido, se puede volver a poner en marcha; ``RuntimeError`` si ya lo está. Sus métodos y sus datos se pueden usar
    desde cualquier hilo, y desde otro bucle; ``start()``, solo en el bucle que será el suyo. El ``service`` en hilos, y
    el ``observer`` en el del bucle, son quienes se ejecutan donde dice el servidor.

    ``service``: un ``Service`` o una función ``str -> str``, corriente o ``async``. ``host`` y ``port``: dónde escuchar
    (un nombre puede ser varias direcciones; el puerto 0 toma uno libre, el mismo en todas; ``ValueError`` fuera de 0 a
    65535). ``threads``: en cuántos hilos a la vez se ejecuta el servicio, para que si espera no haga esperar a los
    demás. Con 1 va de uno en uno; con 0, en el hilo del bucle: lo más rápido si solo calcula un momento. A uno
    ``async``, o con atajo (``Service.block``), no le hacen falta (``ValueError`` con menos de 0). ``observer``: a quién
    se le cuenta lo que pasa. ``lines_only``: si solo se atiende por líneas; por defecto, cuando el servicio no trabaja
    carácter a carácter. ``allow_http``: si se atiende también a quien empieza por una petición de HTTP; por defecto se
    le dice que no y se le cierra, porque una página web puede hacer que el navegador de quien la mira envíe una, con
    mensajes detrás, a esta máquina. ``tls``: con qué cifrar; por defecto, no se cifra. ``sockets``: en vez de ``host``
    y ``port``, unos que ya escuchan (los abrió systemd, o un proceso padre, y quizá los comparten otros); al detenerse
    se cierran, y con ellos no hay una segunda vez. ``proxy_from``: direcciones y redes (``"10.0.0.0/8"``; ``"unix"``,
    por un socket de Unix) de los balanceadores que están delante. Toda conexión empieza entonces por una cabecera
    PROXY, que solo se les cree a ellos y dice de qué cliente es; a quien viene de otra parte se le dice que no.
    ``ValueError`` si alguna no lo es.
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
        allow_http: bool = False,
        tls: ServerTLS | None = None,
        sockets: Sequence[socket.socket] | None = None,
        proxy_from: Iterable[str] | None = None,
    ) -> None:
        self.lines_only = lines_only
        self.allow_http = allow_http
        self._tls = tls
        self._trusted = None if proxy_from is None else Trusted(proxy_from)
        self.service: Service = as_service(service)
        self.limits = limits
        self.observer: Observer = observer or Observer()
        if not 0 <= port <= 65535:
            raise ValueError(f"port debe ser un número de 0 a 65535, no {port}")
        if threads < 0:
            raise ValueError(f"threads debe ser cero o más, no {threads}")
        self._most_threads = threads
        self._threads: Threads | None = None
        self._workers: Workers | None = None  # a quién se pregunta, si el servicio espera
        self._host = host_as_of_now(host)
        self._port = port
        self._sockets = sockets
        self._listeners: list[Listener] = []
        self._handovers: set[asyncio.Task[None]] = set()
        self._connections: Admission[Member] = Admission(limits)
        self._budget: Budget[Connection] = Budget(limits.max_held)
        self.new_connection: Callable[[Server, Peer], Connection]
        """Quién conversa con cada cliente nuevo (``measuring.py`` pone otros, que cuentan)."""
        self.new_connection = ImpatientConnection if limits.idle_timeout else Connection
        self.stopping: bool = False
        """Si se está deteniendo."""
        self._draining = False  # si, además, ya no se lee más
        self._cut_count = 0

    @property
    def conversations(self) -> int:
        """Cuántas conversaciones siguen abiertas (las rechazadas que aún se están cerrando no lo son). Desde cualquier
        hilo."""
        return self._connections.admitted

    @property
    def addresses(self) -> list[Peer]:
        """Las direcciones en que escucha: ``[(ip, puerto), ...]``, o ``[("unix:/ruta", 0)]``; vacía antes de empezar y
        después de acabar. Desde cualquier hilo."""
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
        """Empieza a escuchar, en el bucle en marcha.

        Errores: ``UnknownHost``, ``AddressInUse``, ``PortNotAllowed``, ``AddressNotOurs`` o ``NetworkError``;
        ``ValueError`` si uno de los ``sockets`` no escucha.
        """
        self._check_stopped()
        self._use_loop(asyncio.get_running_loop())
        self.stopping = self._draining = False
        limits = self.limits
        shared = self._sockets is not None
        sockets = (
            open_sockets(self._host, self._port, limits.backlog, limits.keepalive)
            if self._sockets is None
            else adopt_sockets(self._sockets, limits.keepalive)
        )
        keep_from_children(self, Server._descriptors)
        trouble = self.observer.cannot_accept
        for sock in sockets:
            self._listeners.append(Listener(sock, self._serve, trouble, limits.accept_pause, shared=shared))
        self._connections.fit(room())
        if self._connections.capacity < limits.max_connections:
            self.observer.lowered(self._connections.capacity, limits.max_connections)
        for listener in self._listeners:
            listener.start()
        self._clocks.watch(self._connections)

    def _use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """El reloj y los temporizadores serán los de ``loop``."""
        self._loop = loop
        self._process = os.getpid()
        self._all_gone = asyncio.Event()  # desde que alguien la espera, es de un solo bucle
        self._clocks = Clocks(loop, self.limits)
        self._turns = Turns(loop, TURN, Connection.go_on)
        self._contexts = Contexts()
        self._threads = Threads(loop, self._most_threads, self._contexts) if self._most_threads else None
        self._set_service()

    @_anywhere
    def change_service(self, service: Service | Function) -> None:
        """Desde el mensaje siguiente de cada conversación responde ``service``; lo que ya se preguntó lo responde el de
        antes. Desde cualquier hilo. Error: ``TypeError`` si no es un servicio."""
        self.service = as_service(service)
        if hasattr(self, "_loop"):  # si no, lo hará start()
            self._set_service()

    @_anywhere
    def reread_certificate(self) -> None:
        """Si los ficheros de TLS cambiaron, desde ahora valen los nuevos. Ya se mira con cada cliente que llega: esto
        es para saberlo antes. Desde cualquier hilo."""
        try:
            if self._tls and self._tls.reread(time.monotonic()):
                self.observer.certificate_reread()
        except BadTLSFile as bad:
            self.observer.certificate_unusable(bad)

    @_anywhere
    async def retire(self, patience: float | None = None) -> None:
        """Deja de aceptar, y espera a que las conversaciones acaben por sí solas, ``patience`` segundos como mucho (por
        defecto, lo que haga falta). Para cuando otro proceso escucha ya en los mismos ``sockets``: quien esté en su
        cola es para él. Después, ``drain()``. En cualquier bucle."""
        for listener in self._listeners:
            listener.close(0)
        self._listeners.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await within(patience, self._all_gone.wait())

    @_anywhere
    async def drain(self, patience: float | None = None) -> int:
        """Deja de aceptar, entrega lo debido y cierra. Devuelve cuántas conversaciones hubo que cortar porque el
        cliente no leyó lo suyo en ``patience`` segundos (por defecto, ``limits.drain``; lo normal: 0). En
        cualquier bucle; si no se puso en marcha, no hace nada."""
        if not hasattr(self, "_loop"):
            return 0
        before = self._cut_count
        self.stopping = True
        for listener in self._listeners:
            listener.close(self.limits.backlog + 1)  # Linux guarda en cola uno más de los que se le dicen
        self._listeners.clear()
        for _ in range(_TURNS_TO_READ):
            await asyncio.sleep(0)
        self._draining = True
        for connection in self._connections:
            connection.drain()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await within(self.limits.drain if patience is None else patience, self._all_gone.wait())
        for connection in self._connections:
            connection.give_up()
        self._clocks.close()
        if self._threads:
            self._threads.close()
        return self._cut_count - before

    @_anywhere
    def cut(self) -> None:
        """Corta todas las conversaciones sin entregar nada más. Desde cualquier hilo; al volver, están cortadas."""
        for connection in self._connections:
            connection.cut()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain()

    def __enter__(self) -> Self:
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

    def _descriptors(self) -> Iterator[int]:
        """Los de sus sockets, salvo los que le dieron, que son de quien se los dio."""
        if self._sockets is None:
            for listener in self._listeners:
                yield listener.descriptor
        for connection in self._connections:
            yield descriptor_of(connection)

    # -- para Listener --------------------------------------------------------------------------------------

    def _serve(self, sock: socket.socket, peer: Peer) -> None:
        introduced = self._trusted is not None and peer in self._trusted
        if introduced:
            refusal = self._connections.full()  # si cabe desde su dirección, cuando diga cuál es
        elif self._trusted is not None:
            refusal = OnlyThroughBalancer()
        else:
            refusal = self._connections.why_not(peer)
        if refusal and self._connections.overwhelmed:
            self.observer.refused(peer, refusal)
            _turn_away(sock, self._last_words(refusal))
            return
        connection: Member
        if introduced:
            connection = Introduction(self, peer)
        else:
            connection = Handshake(self, peer) if self._tls else self._new_connection(peer)
        self._all_gone.clear()
        self._connections.enter(connection, refusal, somebodys=not introduced)
        task = self._loop.create_task(self._hand_over(sock, connection))
        self._handovers.add(task)  # asyncio solo guarda de las tareas una referencia débil
        task.add_done_callback(self._handovers.discard)

    async def _hand_over(self, sock: socket.socket, connection: Member) -> None:
        try:
            protocol = self._protocol_for(connection)
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except BaseException as error:
            sock.close()
            self._forget(connection)
            if not isinstance(error, OSError):  # el cliente cortó antes de que hubiera con quién hablar
                raise

    def _protocol_for(self, connection: Member) -> asyncio.Protocol:
        """Con qué habla el transporte de verdad."""
        if not isinstance(connection, Handshake):
            return connection
        self.reread_certificate()
        return TLSTransport(cast(ServerTLS, self._tls).session(), connection, connection.peer)

    def _last_words(self, refusal: Refusal) -> bytes:
        """Lo que se dice a quien no se espera. A quien quiere TLS, nada: no lo entendería."""
        return b"" if self._tls else f"{ERROR_START}{refusal}\n".encode()

    def _new_connection(self, peer: Peer, *, discreet: bool = False) -> Connection:
        return DiscreetConnection(self, peer) if discreet else self.new_connection(self, peer)

    def _set_service(self) -> None:
        service = self.service
        if _is_async(service.function):
            self._workers = Tasks(self._loop, self._contexts)
        elif self._threads or service.block:
            self._workers = self._threads
        else:
            # Sin hilos, y no se sabe si lo que devuelve habrá que esperarlo: lo dirá su primera respuesta.
            self._workers = Tasks(self._loop, self._contexts, functools.partial(self._answer_directly, service))
        self._called = service
        self._tell_connections()

    def _answer_directly(self, service: Service) -> None:
        if service is self.service and self._deferred:
            self._workers = None
            self._called = Service(direct(service.function, self._contexts), None, service.by_character)
            self._tell_connections()

    def _tell_connections(self) -> None:
        for connection in self._connections:
            if isinstance(connection, Connection):
                connection.change_service(self._called, deferred=self._deferred)

    # -- para connection.py (Owner) ------------------------------------------------------------------------------------

    @property
    def _deferred(self) -> bool:
        return self._workers is not None

    def _ask(self, message: str, answered: Callable[[Outcome], object], *, more: bool) -> Job:
        """Pregunta al servicio."""
        return cast(Workers, self._workers).ask(self.service.function, message, answered, more=more)

    def _introduce(self, handshake: Handshake) -> Connection:
        """El saludo acabó bien: la conversación ocupa su sitio."""
        connection = self._new_connection(handshake.peer, discreet=handshake.discreet)
        self._connections.replace(handshake, connection)
        return connection

    def _welcome(self, introduction: Introduction, header: ProxyHeader) -> asyncio.Protocol | bytes:
        """Ya se sabe a quién trae: quién sigue con él, en su sitio; o, si no se le espera, lo último que se le dice."""
        peer = header.peer or introduction.peer
        heir: Member
        if self._tls:
            heir = Handshake(self, peer, discreet=header.local)
        else:
            heir = self._new_connection(peer, discreet=header.local)
        if header.local:  # el balanceador no es un cliente: sus preguntas no cuentan como los de su máquina
            self._connections.replace(introduction, heir)
        else:
            overwhelmed = self._connections.overwhelmed
            refusal = self._connections.identify(introduction, heir)
            if refusal and overwhelmed:
                self.observer.refused(peer, refusal)
                self._forget(heir)
                return self._last_words(refusal)
        return self._protocol_for(heir)

    def _count_cut(self) -> None:
        """Una conversación se cortó con algo por entregar."""
        self._cut_count += 1

    def _forget(self, connection: Member) -> None:
        """Una conexión se cerró."""
        if self._connections.leave(connection) and isinstance(connection, Connection) and connection.introduced:
            connection.observer.closed(connection.peer)
        if not self._connections:
            self._all_gone.set()


def _is_async(function: Function) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _turn_away(sock: socket.socket, line: bytes) -> None:
    """Dice que no y cierra sin esperar: para cuando ya hay bastantes rechazados despidiéndose. A quien espera TLS no se
    le dice nada: no lo entendería."""
    with sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.send(line)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(_MOST_SWALLOWED)  # con entrada sin leer, cerrar sería un RST y podría llevarse la línea
