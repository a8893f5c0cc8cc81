"""Un transporte y un bucle falsos: una ``Connection`` sin red, y un reloj que solo avanza cuando se le dice."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from comunicacion_tcp.connection import Connection, ImpatientConnection
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.server import Server
from comunicacion_tcp.turns import Turns

from .serving import Recorder


class FakeTimer:
    """Lo que devuelve ``call_at``: se puede cancelar."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """No sonará."""
        self.cancelled = True


class FakeLoop:
    """El reloj de un bucle de asyncio y sus temporizadores."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        """La hora."""
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> FakeTimer:
        """``callback()`` a la hora ``when``."""
        timer = FakeTimer(when, callback)
        self.timers.append(timer)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> FakeTimer:
        """``callback()`` en la vuelta siguiente."""
        return self.call_at(self.now, callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        """``callback()`` dentro de ``delay`` segundos."""
        return self.call_at(self.now + delay, callback)

    def turn(self) -> None:
        """Una vuelta del bucle: lo que ya estaba pedido para ahora, y no lo que eso pida."""
        due = [timer for timer in self.timers if timer.when <= self.now]
        for timer in due:
            self.timers.remove(timer)
            if not timer.cancelled:
                timer.callback()

    def advance(self, seconds: float) -> None:
        """Pasa el tiempo, y suena lo que tenga que sonar, en orden."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if not timer.cancelled and timer.when <= end]:
            timer = min(due, key=lambda timer: timer.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.callback()
        self.now = end


class FakeTransport:
    """Un transporte que apunta lo que se le pide. ``owed``: bytes que el cliente aún no ha leído."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None  # el de verdad, si la prueba quiere que haya uno debajo
        self.written = b""
        self.owed = 0
        self.high = -1
        self.reading = True
        self.state = "abierto"
        self.on_write: Callable[[bytes], None] | None = None
        self.write_eof_error: OSError | None = None

    def set_write_buffer_limits(self, high: int) -> None:
        """Apunta el umbral; aquí quien decide pausar es la prueba."""
        self.high = high

    def get_extra_info(self, name: str) -> object:
        """El socket que haya debajo."""
        return getattr(self, name)

    def get_write_buffer_size(self) -> int:
        """Lo que falta por entregar."""
        return self.owed

    def write(self, data: bytes) -> None:
        """Apunta lo escrito."""
        assert self.state == "abierto"
        self.written += data
        if self.on_write:
            self.on_write(data)

    def write_eof(self) -> None:
        """El FIN, o el error que la prueba quiera."""
        if self.write_eof_error:
            raise self.write_eof_error
        if not self.is_closing():
            self.state = "FIN enviado"

    def pause_reading(self) -> None:
        """Deja de leer."""
        self.reading = False

    def resume_reading(self) -> None:
        """Vuelve a leer."""
        self.reading = True

    def is_reading(self) -> bool:
        """Si lee."""
        return self.reading

    def is_closing(self) -> bool:
        """Si ya se cerró o cortó."""
        return self.state in ("cerrado", "cortado")

    def close(self) -> None:
        """Cierra."""
        self.state = "cerrado"

    def abort(self) -> None:
        """Corta."""
        self.state = "cortado"


def fake_connection(
    limits: Limits | None = None, transport: FakeTransport | None = None
) -> tuple[Connection, FakeTransport, FakeLoop, Recorder]:
    """Una conexión recién aceptada, con todo lo que la rodea."""
    recorder = Recorder()
    server = Server(limits=limits or Limits(), observer=recorder)
    loop: Any = FakeLoop()
    server._use_loop(loop)
    server._turns = Turns(loop, 0, Connection.go_on, clock=loop.time)  # en cada vuelta, uno
    kind = ImpatientConnection if server.limits.idle_timeout else Connection
    connection = kind(server, ("192.0.2.7", 4000))
    wire: Any = transport or FakeTransport()
    connection.connection_made(wire)
    return connection, wire, loop, recorder
