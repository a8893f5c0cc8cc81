"""Un servidor que apunta en la pizarra lo que hace: cuánto entra y sale, cómo acaba cada mensaje y cuánto tarda.

Aquí no se enseña nada (``metrics.py``). Todo son variantes de las piezas de siempre que se eligen al pedir métricas: a
quien no las pide no le cuestan ni una comparación.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, cast

from . import board
from .addresses import Peer
from .board import Row
from .connection import Connection, ImpatientConnection, Owner
from .errors import (
    AddressFull,
    BadMessage,
    BadProxyHeader,
    BadService,
    BadTLSFile,
    HTTPRequest,
    NotUTF8,
    OnlyThroughBalancer,
    Refusal,
    ServerFull,
    ServiceTimedOut,
    TLSFailed,
    TooLong,
    TooSlow,
)
from .limits import Limits
from .observer import Observer
from .protocol import ERROR_START, GOODBYE, ServerProtocol
from .server import Server
from .services import Service
from .tls import ServerTLS

Clock = Callable[[], float]

_OK = board.MESSAGES["ok"]
_RESULTS: dict[type[BadMessage], int] = {
    NotUTF8: board.MESSAGES["not_utf8"],
    TooLong: board.MESSAGES["too_long"],
    TooSlow: board.MESSAGES["too_slow"],
    HTTPRequest: board.MESSAGES["http"],
    ServiceTimedOut: board.MESSAGES["service_timed_out"],
}
_REFUSALS: dict[type[Refusal], str] = {
    ServerFull: "server_full",
    AddressFull: "address_full",
    OnlyThroughBalancer: "not_through_balancer",
}
_SERVICE_FAILED = board.MESSAGES["service_failed"]
_UNASKED = (_RESULTS[NotUTF8], _RESULTS[TooLong])  # no llegan al servicio
_GOODBYE = GOODBYE.encode()
_FIRST_BUCKET = board.BUCKETS[0]
# A mano, lo que se mira con cada mensaje.
_BOUNDS, _SERVICE_SECONDS = board.BOUNDS, board.SERVICE_SECONDS
_RECEIVED_BYTES, _SENT_BYTES = board.RECEIVED_BYTES, board.SENT_BYTES


class MeasuredProtocol(ServerProtocol):
    """Un ``ServerProtocol`` que responde los mismos bytes y los cuenta en ``row``, y lo que tarda el servicio.
    ``clock``: la hora de un reloj que no retrocede, en segundos.

    Cada mensaje cuenta una vez, cuando se sabe su respuesta; sin terminadores, cada trozo respondido es uno. La
    despedida no lo es. De una pregunta cuya respuesta ya no le importa a nadie no se cuenta nada.
    """

    __slots__ = ("_asked", "_cells", "_clock", "_result")

    def __init__(self, row: Row, clock: Clock, service: Service, limits: Limits, **how: Any) -> None:
        super().__init__(service, limits, **how)
        self._cells = row.cells
        self._clock = clock
        self._asked = 0.0  # cuándo se hizo la pregunta que falta por responder
        self._result = _OK  # el del último mensaje

    def receive_data(self, data: bytes, *, at_once: bool = False) -> bytes:
        cells, block = self._cells, self._service.block
        cells[_RECEIVED_BYTES] += len(data)
        if (
            block
            and self._decided
            and not self.unsettled
            and (len(data) <= self._prompt or (at_once and len(data) <= self._limit))
            and data.endswith(b"\n")
            and _GOODBYE not in data
        ):
            # Lo normal, como en ServerProtocol: por el camino largo salen los mismos bytes y las mismas cuentas, y cada
            # mensaje suelto cuesta un 30 % más.
            start = self._clock()
            try:
                reply = self._fitting(block(data))
            except KeyboardInterrupt:
                raise
            except BaseException:
                reply = b""
            if reply:
                seconds = self._clock() - start
                cells[_FIRST_BUCKET + bisect_left(_BOUNDS, seconds)] += 1
                cells[_SERVICE_SECONDS] += seconds
                cells[_OK] += data.count(b"\n")
                cells[_SENT_BYTES] += len(reply)
                return reply
            return self._settle(self._without_shortcut(data))
        return self._settle(self._take(data, at_once=at_once))

    def take_question(self) -> str | None:
        question = super().take_question()
        if question is not None:
            self._asked = self._clock()
        return question

    def receive_answer(self, outcome: Callable[[], object]) -> bytes:
        if self.awaiting_answer and not self.ended:
            self._took(self._clock() - self._asked)
        return super().receive_answer(outcome)

    def _settle(self, reply: bytes) -> bytes:
        if reply:
            self._cells[_SENT_BYTES] += len(reply)
        return super()._settle(reply)

    def _shortcut(self, block: bytes) -> bytes:
        if not self._service.block:
            return b""
        start = self._clock()
        reply = super()._shortcut(block)
        if reply:
            self._took(self._clock() - start)
            self._cells[_OK] += block.count(b"\n") + (not block.endswith(b"\n"))
        return reply

    def _answer_message(self, line: str, newline: str) -> bytes:
        start = self._clock()
        reply = super()._answer_message(line, newline)
        if self._result not in _UNASKED and not self.awaiting_answer:  # se llamó a la función
            self._took(self._clock() - start)
        return reply

    def _fits(self, reply: bytes) -> bytes:
        reply = super()._fits(reply)
        self._count(_OK)  # ya nada puede ir mal
        return reply

    def _error(self, bad: BadMessage) -> bytes:
        self._count(_RESULTS.get(type(bad), _SERVICE_FAILED))
        return super()._error(bad)

    def _not_utf8(self) -> None:
        self._count(_RESULTS[NotUTF8])
        super()._not_utf8()

    def _say_goodbye(self, terminator: bytes) -> bytes:
        self._cells[board.GOODBYES] += 1
        return super()._say_goodbye(terminator)

    def _count(self, result: int) -> None:
        self._result = result
        self._cells[result] += 1

    def _took(self, seconds: float) -> None:
        cells = self._cells
        cells[_FIRST_BUCKET + bisect_left(_BOUNDS, seconds)] += 1
        cells[_SERVICE_SECONDS] += seconds


class MeasuredConnection(Connection):
    """Una ``Connection`` con un ``MeasuredProtocol``."""

    __slots__ = ()

    def __init__(self, row: Row, clock: Clock, server: Owner, peer: Peer) -> None:
        super().__init__(server, peer)
        self._conversation = MeasuredProtocol(
            row,
            clock,
            server._called,
            server.limits,
            lines_only=server.lines_only,
            allow_http=server.allow_http,
            deferred=server._deferred,
        )

    def dismiss(self, why: str) -> None:
        cast(MeasuredProtocol, self._conversation)._cells[board.SENT_BYTES] += len(f"{ERROR_START}{why}\n".encode())
        super().dismiss(why)


class MeasuredImpatientConnection(MeasuredConnection, ImpatientConnection):
    """Lo mismo, la que se cierra si el cliente calla."""

    __slots__ = ()


class Meter(Observer):
    """Apunta en ``row`` lo que cuenta el servidor, y su estado. ``tls``: con qué cifra, si cifra."""

    def __init__(self, row: Row, limits: Limits, tls: ServerTLS | None = None) -> None:
        self._row = row
        self._cells = row.cells
        self._limits = limits
        self._tls = tls

    # -- cómo está -------------------------------------------------------------------------------------------

    def starting(self) -> None:
        """Este proceso va a servir: ocupa su puesto."""
        self._row.take(time.monotonic())
        self._cells[board.CAPACITY] = self._cells[board.WANTED_CAPACITY] = self._limits.max_connections
        self._see_certificate()

    def serving(self, look: Callable[[], None]) -> None:
        """Ya acepta. Desde aquí late, en el bucle en marcha; y a cada latido, mientras acepte, llama a ``look`` por lo
        que sin clientes nadie miraría."""
        self._cells[board.ACCEPTING] = 1
        self._beat(asyncio.get_running_loop(), look)

    def stopping(self) -> None:
        """Deja de aceptar."""
        self._cells[board.ACCEPTING] = 0

    def _beat(self, loop: asyncio.AbstractEventLoop, look: Callable[[], None]) -> None:
        self._cells[board.HEARTBEAT] = time.monotonic()
        if self._cells[board.ACCEPTING]:
            look()
        loop.call_later(board.BEAT, self._beat, loop, look)

    def _see_certificate(self) -> None:
        self._cells[board.CERTIFICATE_EXPIRY] = (self._tls and self._tls.expiry()) or 0

    # -- lo que cuenta el servidor ---------------------------------------------------------------------------

    def accepted(self, peer: Peer) -> None:
        self._cells[board.ACCEPTED] += 1
        self._cells[board.OPEN] += 1

    def closed(self, peer: Peer) -> None:
        # En este orden: quien ve, desde otro hilo o proceso, que se cerró ve también que ya no está abierta.
        self._cells[board.OPEN] -= 1
        self._cells[board.CLOSED] += 1

    def left(self, peer: Peer) -> None:
        self._cells[board.LEFT] += 1

    def lost(self, peer: Peer, cause: Exception) -> None:
        self._cells[board.LOST] += 1

    def undelivered(self, peer: Peer) -> None:
        self._cells[board.UNDELIVERED] += 1

    def idle(self, peer: Peer) -> None:
        self._cells[board.IDLE] += 1

    def refused(self, peer: Peer, why: Refusal) -> None:
        self._cells[board.REFUSED[_REFUSALS[type(why)]]] += 1

    def handshake_failed(self, peer: Peer, cause: TLSFailed) -> None:
        other = board.HANDSHAKES_FAILED["other"]
        self._cells[board.HANDSHAKES_FAILED.get(cause.problem, other)] += 1

    def proxy_header_bad(self, peer: Peer, bad: BadProxyHeader) -> None:
        other = board.PROXY_HEADERS_BAD["other"]
        self._cells[board.PROXY_HEADERS_BAD.get(bad.problem, other)] += 1

    def cannot_accept(self, cause: OSError) -> None:
        self._cells[board.ACCEPT_ERRORS] += 1

    def lowered(self, connections: int, wanted: int) -> None:
        self._cells[board.CAPACITY] = connections

    def certificate_reread(self) -> None:
        self._cells[board.CERTIFICATE_REREADS["ok"]] += 1
        self._cells[board.RELOAD_FAILED["certificate"]] = 0
        self._see_certificate()

    def certificate_unusable(self, bad: BadTLSFile) -> None:
        self._cells[board.CERTIFICATE_REREADS["failed"]] += 1
        self._cells[board.RELOAD_FAILED["certificate"]] = 1

    # -- lo que cuenta quien recarga el servicio --------------------------------------------------------------

    def service_reloaded(self, name: str) -> None:
        """Ya responde el servicio nuevo."""
        self._cells[board.SERVICE_RELOADS["ok"]] += 1
        self._cells[board.RELOAD_FAILED["service"]] = 0

    def service_unusable(self, bad: BadService) -> None:
        """El nuevo no sirve: sigue el de antes."""
        self._cells[board.SERVICE_RELOADS["failed"]] += 1
        self._cells[board.RELOAD_FAILED["service"]] = 1


class Observers(Observer):
    """Varios ``Observer`` como uno: a todos se les cuenta todo, en ese orden."""

    def __init__(self, *observers: Observer) -> None:
        for name in vars(Observer):
            if not name.startswith("_"):
                setattr(self, name, _each([getattr(one, name) for one in observers]))


def _each(methods: list[Callable[..., None]]) -> Callable[..., None]:
    def call(*what: object) -> None:
        for method in methods:
            method(*what)

    return call


def measure(server: Server, row: Row, clock: Clock = time.perf_counter) -> None:
    """Desde su próxima conversación, ``server`` apunta en ``row`` cada mensaje, con los segundos de ``clock``."""
    kind = MeasuredImpatientConnection if server.limits.idle_timeout else MeasuredConnection
    server.new_connection = lambda server, peer: kind(row, clock, server, peer)
