"""La vida de una conexión: pasa bytes entre su socket y su ``ServerProtocol``, y sabe cerrar.

Aquí no se acepta ni se cuenta a nadie (``server.py``, ``admission.py``), no se decide qué es un mensaje
(``protocol.py``) ni qué se le dice a una persona: eso lo hace el ``Observer`` que se dé (``cli/report.py``).

Una conexión va de *conversando* a *despidiéndose* (enviado lo debido y nuestro FIN, se lee y se tira lo que llegue) y
a *cerrada*. Se pasa por el medio siempre: cerrar un socket con entrada sin leer hace que el núcleo mande RST y tire la
respuesta que iba de camino. Cifrada, antes hay un saludo (``Handshake``); y detrás de un balanceador, antes de todo, lo
que él dice de a quién trae (``Introduction``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, cast

from .addresses import Peer, format_address
from .admission import Admission
from .budget import LEAST, Budget
from .deadlines import Deadlines, PatientDeadlines, Rounds
from .delivery import BLINDNESS, arrived, cut_if_closed, in_transit, silence
from .errors import BadProxyHeader, HeldTooMuch, ServiceTimedOut
from .limits import PROMPT_BYTES, Limits
from .observer import Observer, OnlyTrouble
from .protocol import ERROR_START, ServerProtocol
from .proxy_header import ProxyHeader, ProxyHeaderParser
from .services import Service
from .tls import tls_error
from .tls_transport import TLSTransport
from .turns import Turns
from .workers import Job, Outcome, raising

_READ_SIZE = 64 * 1024  # bytes por lectura: lo que un socket suele tener listo; la mitad del umbral de glibc
_ROUNDS = 4  # veces, en lo que dura un plazo, que se mira a todos: lo que se puede tardar de más en ver que no avanzan
_LOST = 2  # veces Limits.keepalive sin que la máquina de un cliente responda: la primera, se le empieza a preguntar


class Owner(Protocol):
    """Lo que una conexión usa de su servidor. Lo que empieza por ``_`` es solo para ellas."""

    limits: Limits
    lines_only: bool | None
    allow_http: bool
    observer: Observer
    stopping: bool
    _draining: bool
    _loop: asyncio.AbstractEventLoop
    _clocks: Clocks
    _turns: Turns[Connection]
    _connections: Admission[Member]
    _budget: Budget[Connection]
    _called: Service  # el servicio, como se le llama si no se le pregunta

    @property
    def _deferred(self) -> bool:
        """Si al servicio se le pregunta, porque puede esperar."""

    def _ask(self, message: str, answered: Callable[[Outcome], object], *, more: bool) -> Job:
        """Pregunta al servicio. ``more``: si quien pregunta tiene más preguntas detrás."""

    def _introduce(self, handshake: Handshake) -> Connection:
        """El saludo acabó bien: la conversación ocupa su sitio."""

    def _welcome(self, introduction: Introduction, header: ProxyHeader) -> asyncio.Protocol | bytes:
        """Ya se sabe a quién trae: quién sigue con él, en su sitio; o, si no se le espera, lo último que se le dice."""

    def _count_cut(self) -> None:
        """Una conversación se cortó con algo por entregar."""

    def _forget(self, connection: Member) -> None:
        """Una conexión se cerró."""


class Clocks:
    """Los plazos de todas las conexiones de un servidor."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self.unfinished: PatientDeadlines[Connection] = PatientDeadlines(
            loop, limits.message_timeout, Connection.see_input, Connection.message_late
        )
        """Con un mensaje a medias."""
        self.unread: PatientDeadlines[Connection] = PatientDeadlines(
            loop, limits.output_timeout * BLINDNESS, Connection.see_output, Connection.output_late
        )
        """Con respuestas sin leer."""
        self.idle: PatientDeadlines[ImpatientConnection] = PatientDeadlines(
            loop, limits.idle_timeout, Connection.see_input, ImpatientConnection.idle
        )
        """Calladas; solo se miran si hay plazo."""
        self.greeting: Deadlines[Handshake | Introduction] = Deadlines(
            loop, limits.handshake_timeout, lambda handshake, _: handshake.late()
        )
        """En el saludo de TLS, o diciendo un balanceador a quién trae."""
        self.answering: Deadlines[Connection] = Deadlines(
            loop, limits.service_timeout, lambda connection, _: connection.service_late()
        )
        """Esperando al servicio."""
        self._loop = loop
        self._round_time = min(limits.output_timeout, limits.keepalive or limits.output_timeout) / _ROUNDS
        self._rounds: Rounds[Member] | None = None

    def watch(self, everyone: Iterable[Member]) -> None:
        """Desde ahora se mira cada tanto a ``everyone``, los que haya entonces."""
        self._rounds = Rounds(self._loop, self._round_time, everyone, lambda member: member.look())

    def close(self) -> None:
        """Ya no vencerá ninguno."""
        for clock in (self.unfinished, self.unread, self.idle, self.greeting, self.answering):
            clock.close()
        if self._rounds:
            self._rounds.close()


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

    def __init__(self, server: Owner, peer: Peer) -> None:
        self._server = server
        self._conversation = ServerProtocol(
            server._called,
            server.limits,
            lines_only=server.lines_only,
            deferred=server._deferred,
            allow_http=server.allow_http,
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
    def observer(self) -> Observer:
        """A quién se cuenta lo que le pasa."""
        return self._server.observer

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
        elif refusal := self._server._connections.refusal(self):
            self.observer.refused(self._peer, refusal)
            self.dismiss(str(refusal))
        else:
            self.observer.accepted(self._peer)

    def data_received(self, data: bytes) -> None:
        if self._farewell:
            self._farewell.heard = True  # se lee solo para tirarlo
            return
        conversation = self._conversation
        unsettled = conversation.unsettled
        if len(data) > PROMPT_BYTES and self._server._turns.begin():
            reply = conversation.receive_data(data, at_once=True)
            self._server._turns.end()
        else:
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
            self.observer.lost(self._peer, exc)
        self._conversation.ended = True
        self._server._budget.forget(self)
        self._server._forget(self)

    def pause_writing(self) -> None:
        # Lo que no le cabe al sistema se perdería si este proceso muere: que no parezca un final en orden.
        cut_if_closed(self._socket)
        # No lee lo que se le responde: no se le acepta más que responder. Y si no se le lee, no se le mete prisa.
        if not self._conversation.ended:
            self._pause_reading()
            self._server._clocks.unread.start(self, self.see_output())
        self._weigh()

    def resume_writing(self) -> None:
        cut_if_closed(self._socket, False)
        self._weigh()
        if not self._conversation.ended:
            self._server._clocks.unread.stop(self)
            if self._conversation.queued:
                self._look_after(b"")
            else:
                self.go_on()

    # -- lo que pide el servidor ----------------------------------------------------------------------------

    def drain(self) -> None:
        """Se detiene el servidor: lo leído se responde; se entrega y se cierra."""
        if self._conversation.ended or self._conversation.busy:
            return  # ocupada: lo hará al acabar
        reply = self._conversation.receive_silence()
        self._conversation.ended = not self._conversation.busy  # lo retenido puede ser una pregunta
        self._answer(reply)

    def cut(self, cause: OSError | None = None) -> None:
        """Se corta ya, con lo que quede sin entregar; a quien se le deba algo, con un RST. ``cause``: si se perdió."""
        self._stop_clocks()
        owed = self._conversation.busy or (self.introduced and self._owed())
        if owed:
            self._server._count_cut()
            if cause:
                self.observer.lost(self._peer, cause)
            else:
                self.observer.undelivered(self._peer)
        self._leave(reset=bool(owed))

    def give_up(self) -> None:
        """Ya no se espera más a que lea: lo que guarda el sistema, él lo entrega; si hay más, se corta."""
        if self._farewell and not self._transport.get_write_buffer_size():
            self._stop_clocks()
            self._leave(reset=False)
        else:
            self.cut()

    def make_room(self) -> None:
        """Entre todas guardan demasiado, y esta es la que más: se corta, si no se fue ya."""
        if self in self._server._connections:
            self._stop_clocks()
            self._server._count_cut()
            self.observer.lost(self._peer, HeldTooMuch(self._server.limits.max_held))
            self._leave(reset=True)

    def look(self) -> None:
        """Cada tanto, por si no avanza lo que ya guarda el sistema, que de eso no avisa."""
        if self in self._server._budget:
            self._weigh()  # lo que el cliente va leyendo no se sabe hasta que acaba
        if not self.introduced or not in_transit(self._socket):
            return
        keepalive = self._server.limits.keepalive
        if keepalive and silence(self._socket) >= _LOST * keepalive:
            self.cut(_gone())
        elif not self._farewell and arrived(self._socket) is not None:  # si no, no se sabe si avanza
            self._server._clocks.unread.start(self, self.see_output())

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

    def see_input(self) -> object:
        """Lo que ve quien espera que envíe: mientras le falte algo nuestro, el plazo empieza cada vez, porque quizá no
        puede ni enviar hasta que lo lea."""
        return object() if self._owed() else None

    def see_output(self) -> object:
        """Lo que ve quien espera que lea: cuánto ha recibido."""
        owed = self._owed()
        if not owed:
            return PatientDeadlines.OVER
        received = arrived(self._socket)
        return -owed if received is None else received

    def output_late(self) -> None:
        """No ha leído a tiempo nada de lo que se le debe."""
        unanswered = silence(self._socket) > self._server.limits.output_timeout / 2
        self.cut(_gone() if unanswered else None)

    def go_on(self) -> None:
        """Es su turno: sigue con lo recibido que falte por responder; después, con lo que llegue."""
        conversation = self._conversation
        if conversation.ended:
            return
        reply = b""
        if conversation.queued:
            reply = conversation.resume()
            if reply:
                self._transport.write(reply)
        if not conversation.busy and not conversation.ended:
            if self._server._draining:
                self.drain()
                return
            if not self._transport.get_write_buffer_size():
                self._resume_reading()
        self._look_after(reply)

    def change_service(self, service: Service, *, deferred: bool) -> None:
        """Desde el mensaje siguiente responde ``service``."""
        self._conversation.change_service(service, deferred=deferred)

    def answered(self, outcome: Outcome) -> None:
        """Hay respuesta a la pregunta."""
        self._question = None
        self._server._clocks.answering.stop(self)
        if self._conversation.ended:
            return
        reply = self._conversation.receive_answer(outcome)
        if reply:
            self._transport.write(reply)
        if self._conversation.ended or self._conversation.queued or self._transport.get_write_buffer_size():
            self._look_after(reply)  # lo que falte, en otro turno, y cuando lea lo que ya tiene
        else:
            self.go_on()

    def service_late(self) -> None:
        """El servicio no ha respondido a tiempo."""
        if self._question:
            seconds, where = self._server.limits.service_timeout, self._question.where()
            self._question.drop()
            self.answered(raising(ServiceTimedOut(seconds).with_traceback(where)))

    # -- por dentro -----------------------------------------------------------------------------------------

    @property
    def _socket(self) -> Any:
        try:
            return self._transport.get_extra_info("socket")
        except RuntimeError:  # así dice uvloop que se cerró
            return None

    def _owed(self) -> int:
        """Bytes suyos que no le han llegado: los que esperan aquí y los que guarda el sistema."""
        in_system = in_transit(self._socket)
        # Despidiéndose, uno es el FIN.
        return self._transport.get_write_buffer_size() + (max(0, in_system - 1) if self._farewell else in_system)

    def _leave(self, *, reset: bool) -> None:
        self._conversation.ended = True
        self._server._budget.forget(self)
        # Desde ya, y no cuando asyncio lo confirme: cortada dos veces se contaría dos.
        self._server._forget(self)
        if self.introduced:  # si no ha empezado, ya no lo hará
            if reset:
                cut_if_closed(self._socket)
            self._transport.abort()

    def _answer(self, reply: bytes) -> None:
        if reply:
            self._transport.write(reply)
        self._look_after(reply)

    def _look_after(self, reply: bytes) -> None:
        """Tras algo que no fue solo recibir mensajes enteros y responderlos. ``reply``: lo recién respondido."""
        conversation = self._conversation
        if conversation.held >= LEAST or self in self._server._budget:
            self._weigh()
        for bad in conversation.take_bad_messages():
            self.observer.bad_message(self._peer, bad)
        if conversation.ended:
            if conversation.said_goodbye:
                self.observer.said_goodbye(self._peer)
            elif conversation.input_over:
                self.observer.left(self._peer)
            self._finish()
            if conversation.input_over:
                self._transport.close()  # no queda nada por leer: cerrar entrega lo pendiente y no pierde nada
        elif conversation.busy:
            self._server._clocks.unfinished.stop(self)
            if conversation.queued > _READ_SIZE:
                self._pause_reading()
            question = conversation.take_question()
            if question is not None:
                self._ask(question)
            elif not conversation.awaiting_answer and not self._transport.get_write_buffer_size():
                self._server._turns.ask(self)  # tiene más que responder, y ha leído lo que ya tenía
        else:
            if conversation.awaiting_silence:
                self._await_silence()
            if not conversation.unfinished or not self._transport.is_reading():
                self._server._clocks.unfinished.stop(self)
            elif b"\n" in reply or (reply and not conversation.skipping):  # acabó un mensaje, y este es otro
                self._server._clocks.unfinished.restart(self)
            else:
                self._server._clocks.unfinished.start(self)

    def _weigh(self) -> None:
        held = self._conversation.held + self._transport.get_write_buffer_size()
        for excess in self._server._budget.weigh(self, held):
            self._server._loop.call_soon(excess.make_room)  # puede ser esta misma, y está a medias

    def _ask(self, message: str) -> None:
        """Pregunta al servicio. Mientras, se sigue leyendo: así se sabe si el cliente se va."""
        self._question = _Question(self)
        self._server._clocks.answering.start(self)
        try:
            self._question.job = self._server._ask(message, self._question.answered, more=self._conversation.queued > 0)
        except RuntimeError as error:  # el sistema no da más hilos
            self._server._loop.call_soon(self._question.answered, raising(error))

    def _pause_reading(self) -> None:
        self._transport.pause_reading()
        self._server._clocks.unfinished.stop(self)  # si no se le lee, no se le mete prisa

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
        # Lo que ya tiene el sistema, casi siempre, está llegando ahora mismo.
        buffered = self._transport.get_write_buffer_size()
        self._farewell = _Farewell(self._server.limits, buffered, self.see_output(), self._server._loop.time())
        self._look_again()

    def _look_again(self) -> None:
        self._timer = self._server._loop.call_later(self._server.limits.linger_quiet, self._check_closing)

    def _check_closing(self) -> None:
        if not self._farewell:
            return
        owed, stopping = self._owed(), self._server.stopping
        # Al detenerse, lo que ya guarda el sistema lo entrega él: solo se espera a ver si avanza.
        left = self._transport.get_write_buffer_size() if stopping else owed
        if not self._farewell.is_over(
            owed, self.see_output(), self._server._loop.time(), leave_now=stopping and not left
        ):
            self._look_again()
        elif left:
            self.output_late()
        else:
            self._transport.close()

    def _stop_clocks(self) -> None:
        self._cancel_timer()
        self._server._clocks.unfinished.stop(self)
        self._server._clocks.unread.stop(self)
        if self._question:
            self._server._clocks.answering.stop(self)
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


class ImpatientConnection(Connection):
    """La que se cierra si el cliente calla ``limits.idle_timeout`` segundos: aparte, y así a la otra no le cuesta."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._conversation.ended:
            self._server._clocks.idle.start(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._conversation.busy:
            self._server._clocks.idle.stop(self)
        elif not self._conversation.ended:
            self._server._clocks.idle.restart(self)

    def idle(self) -> None:
        """El plazo ha vencido."""
        self.observer.idle(self._peer)
        self.dismiss(f"{self._server.limits.idle_timeout:g} s sin recibir nada; se cierra la conexión")

    def _ask(self, message: str) -> None:
        super()._ask(message)
        self._server._clocks.idle.stop(self)  # no calla él: se le hace esperar

    def _pause_reading(self) -> None:
        super()._pause_reading()
        self._server._clocks.idle.stop(self)

    def _resume_reading(self) -> None:
        super()._resume_reading()
        self._server._clocks.idle.restart(self)

    def _stop_clocks(self) -> None:
        super()._stop_clocks()
        self._server._clocks.idle.stop(self)


class DiscreetConnection(ImpatientConnection):
    """La de un balanceador que mira si el servidor vive: son muchas y todas iguales, y solo se cuenta lo que va mal.
    Si hay plazo para quien calla, también es para él."""

    __slots__ = ()

    @property
    def observer(self) -> Observer:
        return OnlyTrouble(super().observer)


class Introduction(asyncio.Protocol):
    """La cabecera PROXY a medias: ocupa sitio como una conversación, tiene plazo, y detrás vienen la conversación o el
    saludo de TLS. Quien no la da bien se encuentra un RST: con un FIN, el balanceador daría a su cliente un final en
    orden a una conversación que no ha empezado."""

    __slots__ = ("_parser", "_server", "_transport", "peer")

    _transport: asyncio.Transport  # desde connection_made

    def __init__(self, server: Owner, peer: Peer) -> None:
        self._server = server
        self._parser = ProxyHeaderParser()
        self.peer: Peer = peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self in self._server._connections:
            self._server._clocks.greeting.start(self)
        else:  # cortada antes de empezar
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            header = self._parser.receive(data)
        except BadProxyHeader as bad:
            self._reject(bad)
            return
        if header:
            self._server._clocks.greeting.stop(self)
            self._hand_on(header)

    def eof_received(self) -> bool:
        self._hung_up()
        return True  # es decir: no lo hagas tú, asyncio

    def connection_lost(self, exc: Exception | None) -> None:
        self._hung_up()

    def late(self) -> None:
        """La cabecera no ha acabado a tiempo."""
        self._reject(BadProxyHeader("late"))

    def drain(self) -> None:
        """Se detiene el servidor: a quien aún no ha dicho quién es no se le debe nada."""
        self.cut()

    def cut(self) -> None:
        """Se corta ya."""
        self._server._clocks.greeting.stop(self)
        self._server._forget(self)
        if hasattr(self, "_transport"):
            self._transport.abort()

    give_up = cut

    def look(self) -> None:
        """Lo mira su plazo."""

    def _hand_on(self, header: ProxyHeader) -> None:
        heir = self._server._welcome(self, header)
        if isinstance(heir, bytes):
            self._transport.write(heir)
            self._transport.close()
            return
        self._transport.set_protocol(heir)
        heir.connection_made(self._transport)
        if header.rest and not self._transport.is_closing():
            heir.data_received(header.rest)

    def _hung_up(self) -> None:
        # Quien conecta y cuelga sin decir nada solo miraba si aquí se escucha.
        if self in self._server._connections:
            self._reject(BadProxyHeader("cut")) if self._parser.begun else self.cut()

    def _reject(self, bad: BadProxyHeader) -> None:
        self._server.observer.proxy_header_bad(self.peer, bad)
        if not self._transport.is_closing():  # cerrado ya, su número puede ser de otro
            cut_if_closed(self._transport.get_extra_info("socket"))
        self.cut()


class Handshake:
    """Un saludo de TLS a medias: ocupa sitio como una conversación, tiene plazo y no se espera a que acabe."""

    __slots__ = ("_server", "_timer", "_transport", "discreet", "peer")

    _transport: TLSTransport  # desde begun

    def __init__(self, server: Owner, peer: Peer, *, discreet: bool = False) -> None:
        self._server = server
        self.peer: Peer = peer
        self.discreet: bool = discreet  # un balanceador que mira si el servidor vive, y quizá con eso le baste
        self._timer: asyncio.TimerHandle | None = None

    def begun(self, transport: TLSTransport) -> None:
        self._transport = transport
        if self in self._server._connections:
            self._server._clocks.greeting.start(self)
        else:  # cortada antes de empezar
            transport.abort()

    def succeeded(self) -> Connection:
        self._stop_clocks()
        return self._server._introduce(self)  # si no cabía, es ahora, ya cifrado, cuando se le dice

    def failed(self, cause: OSError | None, problem: str = "cut") -> None:
        error = tls_error(format_address(*self.peer), cause, problem)
        if not (self.discreet and error.problem == "cut"):
            self._server.observer.handshake_failed(self.peer, error)
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

    give_up = cut

    def look(self) -> None:
        """Lo mira su plazo."""

    def _stop_clocks(self) -> None:
        self._server._clocks.greeting.stop(self)
        if self._timer:
            self._timer.cancel()
            self._timer = None


def descriptor_of(member: Connection | Introduction | Handshake) -> int:
    """El descriptor de su conexión; -1 si aún no la tiene, o ya se cerró."""
    transport = getattr(member, "_transport", None)
    with contextlib.suppress(RuntimeError):  # así dice uvloop que se cerró
        if transport and (sock := transport.get_extra_info("socket")):
            return int(sock.fileno())
    return -1


class _Farewell:
    """Hasta cuándo se espera a quien ya tiene nuestro FIN, o le falta por leer. La hora entra de fuera."""

    __slots__ = ("_deadline", "_last_resort", "_limits", "_owed", "_seen", "heard")

    def __init__(self, limits: Limits, owed: int, seen: object, now: float) -> None:
        self._limits = limits
        self.heard = False  # si desde la última vez que se miró ha llegado algo
        self._restart(owed, seen, now)

    def is_over(self, owed: int, seen: object, now: float, *, leave_now: bool) -> bool:
        """Si ya no se espera más: quedan ``owed`` bytes por entregar, y de lo que ha recibido se ve ``seen``.
        ``leave_now``: si calla y no avanza, basta."""
        heard, self.heard = self.heard, False
        if bool(owed) != self._owed or (owed and seen != self._seen):
            # Avanza: el plazo vuelve a empezar, y el de tirar entrada cuando ya no falte nada.
            self._restart(owed, seen, now)
            return False
        if heard and not owed and now < self._last_resort:
            # Sigue hablando, y quizá no ha leído aún lo que le dio el sistema: un RST se lo quitaría.
            self._deadline = now + self._limits.linger
            return False
        return now >= self._deadline or (leave_now and not heard)

    def _restart(self, owed: int, seen: object, now: float) -> None:
        self._owed = bool(owed)
        self._seen = seen
        self._deadline = now + (self._limits.output_timeout * BLINDNESS if owed else self._limits.linger)
        self._last_resort: float = now + self._limits.drain  # y esta, aunque el cliente no calle


def _gone() -> OSError:
    """Lo que dice el sistema de quien ya no responde."""
    return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


Member = Connection | Handshake | Introduction
"""Lo que ocupa un sitio en el servidor."""
