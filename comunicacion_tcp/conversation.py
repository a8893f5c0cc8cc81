"""``Conversation``: lo que ``Client`` y ``AsyncClient`` hacen igual, que es todo menos esperar y mover bytes.

Aquí se decide qué se envía y qué es respuesta de qué, cuándo se ha esperado bastante, qué puede enviarse otra vez y qué
error es cada fallo. No se abre ningún socket, no se lee ningún reloj y nadie espera: eso lo pone cada cliente en los
métodos del final, que aquí faltan.

Está escrito una vez, con ``async`` y ``await``, que son del lenguaje y no de asyncio. Lo que pone ``Client`` se bloquea
hasta acabar y nunca cede el turno, así que sus corutinas acaban en el primer paso: ``at_once`` es todo su bucle.

Una llamada que falla, vence o se interrumpe cierra la conexión: lo que llegara después parecería la respuesta de la
siguiente. Solo quedan abiertas la que cerró el servidor, para que ``take_unasked()`` diga lo que contó antes, y la que
recibe un texto que no puede ser un mensaje, que no se envía.

Qué puede enviarse otra vez: lo que no se ha empezado a escribir, siempre; lo demás puede haberse atendido ya, y solo
quien usa el cliente sabe si importa (``resend``).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterator

from .addresses import format_address, unix_path
from .backoff import Backoff
from .delivery import arrived, in_transit
from .errors import (
    ConnectionLost,
    NetworkError,
    OutOfStep,
    ServerNotRunning,
    TimedOut,
    TLSFailed,
    TooMuchSaid,
    Truncated,
    UnknownHost,
)
from .hints import ssl, typing
from .limits import DEFAULT_LIMITS, Limits
from .places import host_as_of_now
from .protocol import ClientProtocol

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from .tls import TLSSession

    Result = typing.TypeVar("Result")
else:
    Result = object

WINDOW_MESSAGES = 1024
"""Mensajes de ``send_many`` sin respuesta a la vez: a 1 ms del servidor, un millón por segundo, que es lo que Python
prepara. Con cuatro veces más se ganaba un sexto, y con la cuarta parte se perdía un cuarto."""
WINDOW_BYTES = 256 * 1024
"""Y bytes, sin contar lo que pase el último: con mensajes grandes, unas cuatro lecturas del servidor."""

_RESOLVING = 0.75  # parte del plazo de conectar que puede llevarse el nombre: conectar necesita también la suya
_SHORTEST_WAIT = 0.001  # segundos: con cero o menos, conectar no esperaría nada y fallaría por eso
_TLS_MAY_RECOVER = ("silent", "cut")  # un servidor que arranca o se detiene; lo demás es de los certificados


_here = os.getpid()  # en qué proceso estamos, sin preguntárselo al sistema con cada mensaje


def _be_born() -> None:
    global _here
    _here = os.getpid()


if hasattr(os, "register_at_fork"):  # donde hay fork
    os.register_at_fork(after_in_child=_be_born)


class Flow:
    """Lo que hay en vuelo de un ``send_many``. Puro: ni envía ni recibe.

    ``source``: de dónde salen los mensajes. ``at_hand``: si están ya todos (una lista) y pedirlos no puede esperar.
    """

    __slots__ = (
        "at_hand",
        "delays",
        "failure",
        "finished",
        "fresh",
        "pending",
        "rest",
        "size",
        "source",
        "unanswered",
        "waited",
    )

    def __init__(self, source: typing.Any, *, at_hand: bool) -> None:
        self.source: typing.Any = source
        self.at_hand: bool = at_hand
        self.pending: typing.Any = None  # un mensaje pedido que no ha llegado, en el cliente que espera a dos cosas
        self.unanswered: deque[bytes] = deque()  # en orden; con ``resend`` se envían otra vez
        self.size: int = 0  # sus bytes
        self.fresh: list[bytes] = []  # los últimos de ellos: los que aún no se han empezado a escribir
        self.rest: memoryview[int] = memoryview(b"")  # lo empezado a escribir
        self.finished: bool = False  # no hay más mensajes
        self.failure: Exception | None = None  # por qué, si no fue porque se acabaron
        self.delays: Iterator[float] | None = None  # las esperas de esta racha sin conexión
        self.waited: float = 0.0  # segundos que lleva el servidor sin acabar la respuesta que toca

    @property
    def in_flight(self) -> int:
        """Cuántos mensajes se han empezado a escribir y no tienen respuesta."""
        return len(self.unanswered) - len(self.fresh)

    @property
    def has_room(self) -> bool:
        """Si se puede pedir otro mensaje."""
        return not self.finished and len(self.unanswered) < WINDOW_MESSAGES and self.size < WINDOW_BYTES

    def pull(self, ask: Callable[[], bytes]) -> None:
        """Pide a ``ask`` un mensaje, o los que quepan si están a mano. Si falla, lo anterior tendrá antes sus
        respuestas."""
        try:
            while self.has_room:
                self.add(ask())
                if not self.at_hand:
                    break
        except (StopIteration, StopAsyncIteration):
            self.finished = True
        except Exception as error:
            self.finished, self.failure = True, error

    def add(self, message: bytes) -> None:
        """Un mensaje más que enviar."""
        self.unanswered.append(message)
        self.fresh.append(message)
        self.size += len(message)

    def take_fresh(self) -> bytes:
        """Los mensajes que aún no se han empezado a escribir, que desde ahora sí."""
        data = b"".join(self.fresh)
        self.fresh.clear()
        return data

    def take_again(self) -> bytes:
        """Todos los que no tienen respuesta, para enviarlos por otra conexión."""
        self.fresh = list(self.unanswered)
        return self.take_fresh()

    def answered(self) -> None:
        """El más antiguo tiene ya su respuesta."""
        self.size -= len(self.unanswered.popleft())
        self.delays = None
        self.waited = 0.0


class Conversation:
    """La base de los dos clientes; sus argumentos están contados en ``Client``."""

    def __init__(
        self,
        host: str = "localhost",
        port: int = 5000,
        *,
        limits: Limits = DEFAULT_LIMITS,
        tls: ssl.SSLContext | None = None,
        reconnect: Backoff | None = None,
        resend: bool = False,
        greeting: bool = False,
    ) -> None:
        if not 0 < port <= 65535:
            raise ValueError(f"port debe ser un número de 1 a 65535, no {port}")
        if tls and unix_path(host) is not None:
            raise ValueError("un socket de Unix no sale de la máquina y no tiene nombre que comprobar: va sin tls")
        if resend and reconnect is None:
            raise ValueError("resend es de quien vuelve a conectar: falta reconnect=Backoff()")
        self._host = host_as_of_now(host)
        self._port = port
        self._limits = limits
        self._tls = tls
        self._reconnect = reconnect
        self._resend = resend
        self._expects_greeting = greeting
        self.greeting: str | None = None
        """Lo que dijo el servidor al conectar, si se pidió con ``greeting=True``; si no, ``None``."""
        self._session: TLSSession | None = None
        self._protocol = self._new_protocol()
        self._unasked: list[str] = []
        self._unasked_size = 0  # lo que ocupan
        self._early: int | None = None  # cuántos de ellos se dijeron antes de preguntar nada, si ya se ha preguntado
        self._socket: socket.socket | None = None
        self._server_ended = False
        self._cut_by: Exception | None = None
        # Al cumplirse un plazo, lo que el servidor había recibido y lo que, de lo escrito, debía recibir.
        self._backlog: tuple[int, int] | None = None
        self._flow: Flow | None = None  # el send_many que está a medias
        self._process = _here  # de quién es la conexión
        self._closings = 0  # cuántas veces se ha pedido cerrar: quien esté conectando debe saberlo
        self._set_up()

    @property
    def greeting_due(self) -> bool:
        """Si se espera un saludo que aún no ha llegado."""
        return self._expects_greeting and self.greeting is None

    @property
    def address(self) -> str:
        """``"host:puerto"``, como se le dice a una persona."""
        return format_address(self._host, self._port)

    # -- conectar -------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        self._flow = None
        delays = self._delays()
        closings = self._closings
        while True:
            delay = None
            try:
                await self._start()
            except NetworkError as error:
                if not waiting_helps(error) or (delay := next(delays, None)) is None:
                    raise
            self._check_wanted(closings)
            if delay is None:
                return
            await self._sleep(delay)
            self._check_wanted(closings)

    async def _live(self, delays: Iterator[float]) -> None:
        """Vuelve cuando hay una conexión en que escribir: la que había, o si se perdió, otra.

        ``delays``: lo que se espera antes de cada intento; sin ninguno, ``ConnectionLost``.
        """
        error: NetworkError = ConnectionLost(self.address)
        closings = self._closings
        while True:
            if self._socket:
                await self._read_unasked()
                self._check_unasked()
                if not self._server_ended:
                    return
                error = self._loss()
            if not waiting_helps(error) or (delay := next(delays, None)) is None:
                raise error
            await self._sleep(delay)
            self._check_wanted(closings)
            try:
                await self._start()
            except NetworkError as failure:
                error = failure
            self._check_wanted(closings)

    def _check_wanted(self, closings: int) -> None:
        if self._closings != closings:  # se cerró mientras se conectaba
            self._hang_up()
            raise ConnectionLost(self.address)

    def _delays(self) -> Iterator[float]:
        if self._reconnect is None:
            return iter(())
        from random import random  # tarda en cargarse lo que conectar: que lo pague solo quien vuelve a conectar

        return self._reconnect.delays(random)

    async def _start(self) -> None:
        """Una conexión nueva. Si había otra, la deja."""
        self._hang_up()
        self._session = None
        self._protocol = self._new_protocol()
        self._give_unasked()
        self._early = None
        self.greeting = None
        self._server_ended = False
        self._cut_by = None
        self._backlog = None
        timeout = self._limits.connect_timeout
        try:
            sock = await self._open(self._now() + timeout)
        except (socket.gaierror, UnicodeError) as error:
            raise UnknownHost(self.address, error) from error
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise ServerNotRunning(self.address, error) from error
        except TimeoutError as error:
            raise TimedOut(self.address, timeout, connecting=True) from error
        except OSError as error:
            raise NetworkError(self.address, error) from error
        try:
            itself = sock.getsockname() == sock.getpeername()
            if unix_path(self._host) is None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
        except OSError as error:  # el servidor cortó nada más aceptar
            sock.close()
            raise ConnectionLost(self.address, error) from error
        if itself:
            # TCP permite conectar un puerto efímero consigo mismo (RFC 9293, 3.5: apertura simultánea).
            sock.close()
            raise ServerNotRunning(self.address)
        try:
            if self._tls:  # antes de que pueda llegar nada: si no es TLS, debe verlo quien descifra
                self._session = self._new_session(self._tls)
            await self._adopt(sock)
        except BaseException:
            sock.close()
            raise
        try:
            if self._session:
                await self._greet(self._session)
            if self._expects_greeting:
                self.greeting = await self._reply_to(memoryview(b""))
        except BaseException:
            self._hang_up()
            raise

    def _new_protocol(self) -> ClientProtocol:
        return ClientProtocol(self._limits.max_reply)

    async def _open(self, deadline: float) -> socket.socket:
        """Un socket conectado a la primera dirección que conteste. Errores: los del sistema."""
        path = unix_path(self._host)
        if path is not None:
            if not hasattr(socket, "AF_UNIX"):
                raise OSError("en este sistema Python no tiene sockets de Unix")
            return await self._join(socket.AF_UNIX, path, deadline - self._now())
        # En bytes no pasa por IDNA, cuyas tablas tardan en cargarse más que en conectar (1,5 ms) y aquí sobran.
        host = self._host.encode() if self._host.isascii() else self._host
        found = await self._resolve(host, (deadline - self._now()) * _RESOLVING)
        # Primero IPv4, como escucha el servidor: con localhost, es la dirección que una persona espera ver en él.
        found.sort(key=lambda one: one[0] != socket.AF_INET)
        failure = OSError("sin direcciones")
        for number, (family, *_, place) in enumerate(found):
            # El plazo se reparte: una dirección que no contesta deja tiempo a las siguientes.
            share = (deadline - self._now()) / (len(found) - number)
            try:
                return await self._join(family, place, max(_SHORTEST_WAIT, share))
            except OSError as error:
                # Que nadie escuche dice más que lo que falle en otra dirección (::1 en una máquina sin IPv6).
                if not isinstance(failure, ConnectionRefusedError):
                    failure = error
        raise failure

    def _leave_everything(self) -> None:
        self._closings += 1
        self._flow = None
        self._hang_up()

    # -- un mensaje, una respuesta --------------------------------------------------------------------------

    async def _send(self, message: str) -> str:
        self._refuse_if_busy()
        outgoing = self._protocol.send(message)
        delays = self._delays()
        closings = self._closings
        with self._hanging_up_on_failure():
            while True:
                await self._live(delays)
                try:
                    return await self._exchange(outgoing)
                except ConnectionLost:
                    if not self._resend or self._closings != closings:
                        raise

    async def _exchange(self, outgoing: bytes) -> str:
        self._note_first_message()
        return await self._reply_to(self._for_the_wire(outgoing))

    def _note_first_message(self) -> None:
        if self._early is None:
            self._early = len(self._unasked)

    async def _reply_to(self, rest: memoryview) -> str:
        """Escribe ``rest`` y devuelve lo primero que diga el servidor, que aún no había dicho nada."""
        deadline = self._now() + self._limits.reply_deadline
        reply = self._protocol.next_reply()
        # Se lee mientras se envía porque el servidor puede responder a medio mensaje: si los dos solo escribieran,
        # con mensajes mayores que los búferes del sistema, ninguno avanzaría.
        while (rest or reply is None) and not self._server_ended:
            silence = self._protocol.awaiting_silence and not rest and not self._is_sending()
            left = deadline - self._now()
            patience = self._limits.reply_silence if silence else max(0, min(self._limits.reply_timeout, left))
            rest, moved = await self._wait(rest, patience)
            if silence and not moved:
                self._protocol.receive_silence()
            elif not moved or (silence and left <= 0):
                self._give_up(left, rest, begun=self._protocol.has_begun or reply is not None)
            if reply is None:
                reply = self._protocol.next_reply()
            elif rest:  # a un solo mensaje, una sola respuesta
                self._set_aside()
                self._check_unasked()
        if not self._protocol.ends_replies and not self._cut_by:  # si no, lo que haya a medias no es una respuesta
            self._receive_end()
        if reply is None:
            reply = self._protocol.next_reply()
        if reply is None:
            raise self._loss()
        return reply

    async def _leave(self, timeout: float | None) -> list[str]:
        self._refuse_if_busy()
        patience = self._limits.reply_timeout if timeout is None else timeout
        with self._hanging_up_on_failure():
            if self._socket is None:
                raise ConnectionLost(self.address)
            await self._read_unasked()
            before = len(self._unasked)
            rest = self._for_the_wire(self._protocol.say_goodbye(), last=True)
            deadline = self._now() + patience
            answered = False
            while not self._server_ended:
                if len(self._unasked) > before and not answered:
                    answered = True
                    deadline = self._now() + self._limits.reply_silence
                quiet = self._limits.reply_silence if answered or self._protocol.has_begun else patience
                rest, moved = await self._wait(rest, max(0, min(quiet, deadline - self._now())), last=True)
                self._set_aside()
                self._check_unasked()
                if not moved or self._now() > deadline:
                    break
            self._complain_of_end()
            if self._cut_by and not self._session and self._protocol.half_reply:
                raise self._loss()
            self._protocol.receive_eof()
            self._set_aside()
            if not self._unasked and not self._server_ended:
                self._time_out(patience)
        self._hang_up()
        return self._give_unasked()

    async def _hear(self) -> list[str]:
        self._refuse_if_busy()
        with self._hanging_up_on_failure():
            return await self._take_unasked()

    async def _take_unasked(self) -> list[str]:
        if self._socket is None:
            raise ConnectionLost(self.address)
        await self._read_unasked()
        if not self._unasked and self._protocol.too_long:
            raise self._loss()
        return self._give_unasked()

    def _give_unasked(self) -> list[str]:
        unasked, self._unasked, self._unasked_size = self._unasked, [], 0
        self._early = self._early and 0
        return unasked

    async def _raise_if_out_of_step(self) -> None:
        """``OutOfStep`` si desde el primer mensaje ha dicho algo que no es la respuesta de ninguno."""
        self._refuse_if_busy()
        with self._hanging_up_on_failure():
            if self._socket is None:
                raise ConnectionLost(self.address)
            await self._read_unasked()
            if self._early is not None and len(self._unasked) > self._early:
                raise OutOfStep(self.address, self._unasked[self._early])

    async def _read_unasked(self) -> None:
        """Lo que ya haya llegado no es respuesta de lo que se envíe ahora."""
        await self._look()
        if self._server_ended:
            self._receive_end()
        else:
            self._protocol.receive_silence()
        self._set_aside()

    def _set_aside(self) -> None:
        """Las respuestas que hay no son de nadie: quedan para ``take_unasked``."""
        while (reply := self._protocol.next_reply()) is not None:
            self._unasked.append(reply)
            self._unasked_size += reply.__sizeof__()

    def _check_unasked(self) -> None:
        if self._unasked_size > self._limits.max_unasked:
            raise TooMuchSaid(self.address, self._limits.max_unasked, unasked=True)

    # -- muchos mensajes ------------------------------------------------------------------------------------

    def _begin(self, flow: Flow) -> None:
        self._refuse_if_busy()
        self._flow = flow

    async def _advance(self, flow: Flow) -> bool:
        """Adelanta ``flow`` hasta que tenga alguna respuesta por dar; falso si ya no las tendrá."""
        self._check_own(flow)
        with self._hanging_up_on_failure():
            try:
                while not (flow.in_flight and self._protocol.has_reply):
                    if self._server_ended and flow.in_flight:
                        await self._recover(flow)
                    elif flow.rest:
                        flow.rest = await self._move_on(flow, flow.rest)
                    elif flow.fresh:
                        if not flow.in_flight:  # lo llegado hasta aquí no es respuesta, y se puede cambiar de conexión
                            await self._live(self._delays_of(flow))
                        elif await self._has_news():  # pedirlo tardó: el servidor pudo responder, y cerrar
                            continue
                        self._note_first_message()
                        flow.rest = self._for_the_wire(flow.take_fresh())
                    elif flow.has_room and await self._ask(flow):
                        pass
                    elif flow.in_flight:
                        await self._move_on(flow, memoryview(b""))
                    else:
                        await self._has_news()
                        self._check_in_step(flow)
                        return False
                    self._check_own(flow)
                self._check_in_step(flow)
            except ConnectionLost as error:
                error.unanswered = len(flow.unanswered)
                raise
        return True

    def _check_in_step(self, flow: Flow) -> None:
        """Más respuestas que mensajes: alguna de las dadas quizá no era la de su mensaje."""
        if self._protocol.ready > flow.in_flight:
            self._set_aside()
            raise OutOfStep(self.address, self._unasked[-1])

    def _reply_of(self, flow: Flow) -> str | None:
        """Una respuesta de ``flow`` que ya haya llegado."""
        self._check_own(flow)
        reply = self._protocol.next_reply() if flow.in_flight else None
        if reply is not None:
            flow.answered()
        return reply

    def _end(self, flow: Flow) -> None:
        """``flow`` no seguirá: las respuestas que le falten no deben parecer de otro."""
        if self._flow is flow:
            self._flow = None
            if flow.unanswered and not self._server_ended:
                self._hang_up()

    async def _ask(self, flow: Flow) -> bool:
        """Pide el mensaje siguiente, salvo que antes haya algo que atender. Falso si aún no hay ninguno."""
        if flow.in_flight and not flow.at_hand and await self._has_news():
            return True  # pedirlo puede tardar: antes se da lo que haya llegado
        self._pull(flow)
        return True

    def _pull(self, flow: Flow) -> None:
        flow.pull(lambda: self._protocol.send(next(flow.source)))

    async def _has_news(self) -> bool:
        """Si ha llegado ya alguna respuesta, o el final."""
        await self._look()
        return self._protocol.has_reply or self._server_ended

    async def _recover(self, flow: Flow) -> None:
        """El servidor acabó con mensajes en vuelo, y lo que dijo ya se ha dado."""
        if not self._resend:
            raise self._loss()
        await self._live(self._delays_of(flow))
        self._note_first_message()
        flow.rest = self._for_the_wire(flow.take_again())

    def _delays_of(self, flow: Flow) -> Iterator[float]:
        if flow.delays is None:
            flow.delays = self._delays()
        return flow.delays

    async def _move_on(self, flow: Flow, rest: memoryview) -> memoryview:
        start = self._now()
        patience, left = self._limits.reply_timeout, self._limits.reply_deadline - flow.waited
        rest, moved = await self._wait(rest, max(0, min(patience, left)))
        flow.waited += self._now() - start
        if not moved:
            self._give_up(left, rest, begun=self._protocol.has_begun)
        return rest

    def _check_own(self, flow: Flow) -> None:
        if self._process != _here:
            self._check_process()
        if self._flow is not flow:  # se cerró, o se conectó otra vez
            lost = ConnectionLost(self.address)
            lost.unanswered = len(flow.unanswered)
            raise lost

    def _check_process(self) -> None:
        """Una conexión es del proceso que la abrió: si la usan dos, cada uno recibe respuestas del otro. Un cliente que
        nace conectado (``os.fork``) no puede usarla; uno que no lo está empieza de nuevo, sin turnos a medias."""
        if self._is_inherited:
            if self._socket is not None:
                raise RuntimeError("esta conexión es de otro proceso, el que hizo fork: abre otra con connect()")
            self._forget()

    @property
    def _is_inherited(self) -> bool:
        return self._process != _here

    def _forget(self) -> None:
        """Suelta nuestra copia de la conexión de otro proceso. Él ni lo nota: no se escribe, ni se corta, ni se avisa
        al bucle, que comparte con él lo que mira."""
        from .forks import release  # solo la paga quien la usa

        if self._socket is not None:
            release((self._socket.fileno(),))
            self._socket.close()
        self._process = _here
        self._socket = self._session = self._flow = None
        self._set_up()

    def _hang_up(self) -> None:
        """Deja la conexión, si la hay, sin esperar. Lo que quedara a medio escribir no debe parecer entero."""
        if self._is_inherited:
            self._forget()
        else:
            self._drop()

    def _refuse_if_busy(self) -> None:
        self._check_process()
        if self._flow is not None:
            raise RuntimeError("hay un send_many a medias: acábalo antes, o close()")

    # -- lo que entra y lo que sale -------------------------------------------------------------------------

    def _for_the_wire(self, text: bytes, *, last: bool = False) -> memoryview:
        """Lo que hay que escribir para enviar ``text``, y nada más si es lo último."""
        if self._session is None:
            return memoryview(text)
        self._session.send(text)
        if last:
            self._session.close()
        return memoryview(self._session.take_outgoing())

    def _arrived(self, data: bytes) -> None:
        """Entran ``data``, bytes del cable; ninguno, si el servidor no enviará más."""
        ended = not data
        self._backlog = None
        if self._session:
            data = self._session.receive(data)
            ended = ended or self._session.peer_closed or bool(self._session.failure)
        if data:
            self._protocol.receive_data(data)
        if ended or self._protocol.too_long:
            self._server_ended = True

    def _receive_end(self) -> None:
        """El fin de la entrada acaba lo último que dijo el servidor. Con TLS, solo si avisó: si no, quizá lo cortó
        otro. Sin TLS, un corte no dice más que el silencio."""
        if not self._server_ended or (self._session and not self._session.peer_closed):
            return
        if self._cut_by and not self._session:
            self._protocol.receive_silence()
        else:
            self._protocol.receive_eof()

    # -- lo que va mal --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _hanging_up_on_failure(self) -> Iterator[None]:
        try:
            yield
        except (TooMuchSaid, OutOfStep):
            self._hang_up()
            raise
        except BaseException:
            if not self._server_ended:
                self._hang_up()
            raise

    def _give_up(self, left: float, rest: memoryview, *, begun: bool) -> None:
        """No llega lo que se esperaba de una respuesta. ``left``: los segundos que le quedaban de su plazo entero.
        ``rest``: lo que falta por escribir."""
        if left <= self._limits.reply_timeout:
            self._time_out(self._limits.reply_deadline, unfinished=begun)
        if not self._still_receives(rest):
            self._time_out(self._limits.reply_timeout)

    def _still_receives(self, rest: memoryview) -> bool:
        """Al cumplirse ``reply_timeout`` sin novedad, y con ``rest`` por escribir: si al servidor le ha ido llegando lo
        enviado, que espera en el sistema (megabytes) y por una línea lenta tarda. Se le da entonces otro tanto, y otro
        cuando le ha llegado todo. Lo que se escriba después no cuenta: no dice nada de lo que ya debe."""
        now = arrived(self._socket)
        if now is None:
            return False
        before, due = self._backlog or (None, 0)
        if before is None or rest or self._is_sending():
            due = now + in_transit(self._socket)
        self._backlog = now, due
        return now < due if before is None else before < due and before != now

    def _time_out(self, seconds: float, *, unfinished: bool = False) -> typing.NoReturn:
        self._hang_up()  # una respuesta que llegara tarde parecería la del mensaje siguiente
        raise TimedOut(self.address, seconds, connecting=False, unfinished=unfinished)

    def _loss(self) -> NetworkError:
        """Por qué ya no hay conexión. Las respuestas enteras que queden las da ``take_unasked``."""
        if self._protocol.too_long:
            return TooMuchSaid(self.address, self._limits.max_reply, unasked=False)
        session = self._session
        if session is None or session.peer_closed or not self._server_ended:
            return ConnectionLost(self.address, self._cut_by)
        from .tls import tls_error

        if session.failure or not session.established:
            cause = self._cut_by if isinstance(self._cut_by, OSError) else None
            return tls_error(self.address, session.failure or cause, "cut")
        return Truncated(self.address, self._cut_by)

    def _complain_of_end(self) -> None:
        """Si el servidor acabó como no se acaba en TLS, o con una respuesta demasiado larga, lo lanza."""
        if self._server_ended and (self._protocol.too_long or (self._session and not self._session.peer_closed)):
            raise self._loss()

    # -- TLS ------------------------------------------------------------------------------------------------

    def _new_session(self, context: ssl.SSLContext) -> TLSSession:
        from .tls import TLSSession

        try:
            # Un punto final es de la manera de escribir un nombre, y %eth0 de esta máquina: no son del certificado.
            return TLSSession(context, self._host.rstrip(".").partition("%")[0])
        except ValueError as error:
            raise UnknownHost(self.address, error) from error

    async def _greet(self, session: TLSSession) -> None:
        deadline = self._now() + self._limits.handshake_timeout
        rest = memoryview(session.take_outgoing())
        while rest or not session.established:
            rest, moved = await self._wait(rest, max(0, deadline - self._now()))
            if self._server_ended:
                self._complain_of_end()
                break  # acabó bien: quizá con una negativa, que se leerá
            if not moved or self._now() > deadline:
                raise TLSFailed(self.address, problem="silent")

    # -- lo que pone cada cliente ---------------------------------------------------------------------------

    def _set_up(self) -> None:
        """Sus propios campos, al construirlo."""
        raise NotImplementedError

    def _now(self) -> float:
        """La hora, en segundos de un reloj que no retrocede."""
        raise NotImplementedError

    async def _sleep(self, seconds: float) -> None:
        """Espera ``seconds`` segundos."""
        raise NotImplementedError

    async def _resolve(self, host: str | bytes, timeout: float) -> list[typing.Any]:
        """Las direcciones de ``host``, como las da ``socket.getaddrinfo``, en ``timeout`` segundos como mucho. Errores:
        los del sistema."""
        raise NotImplementedError

    async def _join(self, family: int, place: typing.Any, timeout: float) -> socket.socket:
        """Un socket conectado a ``place``. Errores: los del sistema."""
        raise NotImplementedError

    async def _adopt(self, sock: socket.socket) -> None:
        """``sock`` es desde ahora el de la conversación. Error: ``ConnectionLost``."""
        raise NotImplementedError

    async def _wait(self, rest: memoryview, timeout: float, *, last: bool = False) -> tuple[memoryview, bool]:
        """Espera hasta ``timeout`` segundos a poder leer, o escribir ``rest``, y lo hace.

        Devuelve lo que falta por escribir y si hubo algo que hacer. ``last``: escrito todo, cierra nuestro lado.
        Error: ``ConnectionLost`` si ya no hay conexión.
        """
        raise NotImplementedError

    def _is_sending(self) -> bool:
        """Si lo que ya no falta por escribir aún no ha salido del todo."""
        return False

    async def _look(self) -> None:
        """Lee lo que haya llegado ya, sin esperar."""
        raise NotImplementedError

    def _drop(self) -> None:
        """Lo que hace ``_hang_up`` con una conexión nuestra."""
        raise NotImplementedError


def waiting_helps(error: NetworkError) -> bool:
    """Si lo que falló puede ir bien más tarde sin que nadie toque nada."""
    cause = error.cause
    if isinstance(error, UnknownHost):  # el servidor de nombres dice si es que no existe o que ahora no lo sabe
        return isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
    if isinstance(error, TLSFailed):
        return error.problem in _TLS_MAY_RECOVER
    if isinstance(error, (TooMuchSaid, OutOfStep)):
        return False
    if type(error) is NetworkError:  # sin número no es del sistema: es que la dirección no puede ser
        return isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, PermissionError)
    return True


def at_once(coroutine: Coroutine[typing.Any, None, Result]) -> Result:
    """El resultado de una corutina que no cede el turno."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("esta corutina no debía esperar a nadie")
