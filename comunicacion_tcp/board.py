"""La pizarra: lo que cada proceso que sirve ha contado y cómo está, en memoria que comparten todos.

Aquí no se sabe qué es un mensaje (``measuring.py`` apunta) ni en qué forma se enseña (``metrics.py`` lee).

Es un ``mmap`` anónimo de números de 8 bytes, hecho antes de que nazca ningún otro proceso: una fila por cada uno que
sirve a la vez (un *puesto*), y una más para quien los lanza. Cada uno escribe solo en la suya, y quien lee las suma.
Cuando un proceso muere, quien ocupa su puesto sigue sumando donde iba: las sumas no retroceden, aunque fuera con un
``kill -9``, y no hay ficheros que limpiar.

Un ``double`` cuenta de uno en uno sin perder ninguno hasta 2**53: con un millón por segundo, 285 años.
"""

from __future__ import annotations

import itertools
import mmap
import os

# Límites de los tramos en que se reparte lo que tarda el servicio, en segundos. De 5 ms a 10 s, los que todo el mundo
# usa con Prometheus: de ellos salen los percentiles de quien espera a un disco o a otra máquina. Por debajo, tres para
# quien solo calcula. El último es el plazo que un servicio tiene si nadie lo cambia (Limits.service_timeout).
BOUNDS = (1e-5, 1e-4, 1e-3, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)

# -- las columnas ---------------------------------------------------------------------------------------------

_next = itertools.count().__next__

# Lo que solo crece; de un puesto a su sucesor, se sigue contando.
ACCEPTED = _next()
CLOSED = _next()
LEFT = _next()
LOST = _next()
UNDELIVERED = _next()
IDLE = _next()
GOODBYES = _next()
REFUSED = {reason: _next() for reason in ("server_full", "address_full", "not_through_balancer")}
HANDSHAKES_FAILED = {
    problem: _next()
    for problem in (  # los de TLSFailed
        *("not_tls", "versions", "nothing_shared", "needs_certificate", "ours_rejected", "silent", "cut"),
        *("expired", "not_yet_valid", "unknown_ca", "self_signed", "wrong_name", "other"),
    )
}
PROXY_HEADERS_BAD = {
    problem: _next()
    for problem in (  # los de BadProxyHeader
        *("absent", "cut", "late", "too_long", "syntax", "address", "port"),
        *("version", "command", "family", "length", "field", "checksum", "other"),
    )
}
ACCEPT_ERRORS = _next()
MESSAGES = {
    result: _next()
    for result in ("ok", "not_utf8", "too_long", "too_slow", "http", "service_failed", "service_timed_out")
}
RECEIVED_BYTES = _next()
SENT_BYTES = _next()
SERVICE_SECONDS = _next()
BUCKETS = [_next() for _ in range(len(BOUNDS) + 1)]  # el último, lo que pasa de todos
CERTIFICATE_REREADS = {result: _next() for result in ("ok", "failed")}
SERVICE_RELOADS = {result: _next() for result in ("ok", "failed")}
CONFIGURATION_RELOADS = {result: _next() for result in ("ok", "failed")}  # de quien lanza a los demás
RESTARTS = _next()  # suyo también: procesos que murieron y hubo que sustituir

# Cómo está el proceso ahora; el que ocupa un puesto empieza de cero.
_FIRST_STATE = _next()
PROCESS = _FIRST_STATE  # su número; 0, puesto libre
HEARTBEAT = _next()  # cuándo giró por última vez su bucle, en el reloj que no retrocede de la máquina
ACCEPTING = _next()  # si acepta
OPEN = _next()  # conversaciones abiertas
CAPACITY = _next()  # cuántas admite
WANTED_CAPACITY = _next()  # cuántas se le pidió que admitiera
CERTIFICATE_EXPIRY = _next()  # cuándo caduca su certificado, en segundos desde 1970; 0, no cifra o no se sabe
# Si lo último que leyó otra vez no servía, y sigue con lo de antes. La configuración es de quien lanza a los demás.
RELOAD_FAILED = {what: _next() for what in ("configuration", "service", "certificate")}
WANTED_PROCESSES = _next()  # de quien lanza a los demás: cuántos deben servir
STOPPING = _next()  # suyo también: si se está deteniendo todo
_WIDTH = _next()

_CELL = 8  # bytes: los de un double
BEAT = 1.0
"""Segundos entre dos latidos."""
_STALE = 10.0  # segundos sin latir con que un bucle no está ocupado sino atascado: nada nuestro lo retiene ni uno


TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    Cells = memoryview[float]
else:
    Cells = memoryview  # hasta Python 3.14 no admite que se diga de qué


class Row:
    """La fila de un proceso; solo él escribe en ella, y desde un solo hilo. ``cells``: sus números, uno por columna."""

    __slots__ = ("cells",)

    def __init__(self, cells: Cells) -> None:
        self.cells: Cells = cells

    def take(self, now: float) -> None:
        """Este proceso ocupa el puesto: lo que el anterior contó se queda, y cómo estaba, no. ``now``: la hora del
        reloj que no retrocede (``time.monotonic``)."""
        self.leave()
        self.cells[HEARTBEAT] = now
        self.cells[PROCESS] = os.getpid()  # lo último: desde aquí se cuenta con él

    def leave(self) -> None:
        """El puesto queda libre: su proceso acabó, y con él las conversaciones que tuviera. Puede decirlo también quien
        lo lanzó, que es quien lo ve morir."""
        self.cells[CLOSED] += self.cells[OPEN]
        for column in range(_FIRST_STATE, _WIDTH):
            self.cells[column] = 0

    def is_stuck(self, now: float) -> bool:
        """Si hace mucho que su bucle no gira."""
        return now - self.cells[HEARTBEAT] > _STALE

    def serves(self, now: float) -> bool:
        """Si acepta y no está atascado."""
        return bool(self.cells[ACCEPTING]) and not self.is_stuck(now)


class Board:
    """La pizarra. ``seats``: cuántos procesos pueden servir a la vez, contando los que aún acaban mientras ya sirven
    los que los relevan. ``wanted``: cuántos deben servir. ``started``: cuándo empezó el programa, en segundos desde
    1970."""

    def __init__(self, seats: int = 1, *, wanted: int = 1, started: float = 0.0) -> None:
        self.started = started
        self._seats = seats
        self._cells: memoryview[float] = memoryview(mmap.mmap(-1, (seats + 1) * _WIDTH * _CELL)).cast("d")
        self.launcher: Row = self._row(seats)
        """La fila de quien lanza a los demás."""
        self.launcher.cells[WANTED_PROCESSES] = wanted

    def seat(self, number: int) -> Row:
        """La fila del puesto ``number``, desde 0. Si no hay tantos, una que nadie lee: quien sobra sirve igual."""
        return self._row(number) if number < self._seats else Board().seat(0)

    def total(self, column: int) -> float:
        """La suma de una columna."""
        return sum(self._cells[column::_WIDTH].tolist())

    @property
    def present(self) -> list[Row]:
        """Las filas de los procesos que sirven, o van a servir."""
        processes = self._cells[PROCESS::_WIDTH].tolist()[: self._seats]
        return [self._row(number) for number, process in enumerate(processes) if process]

    def _row(self, number: int) -> Row:
        return Row(self._cells[number * _WIDTH : (number + 1) * _WIDTH])

    def serving(self, now: float) -> list[Row]:
        """Las de los que aceptan y no están atascados."""
        return [row for row in self.present if row.serves(now)]

    def sickness(self, now: float) -> str:
        """Por qué no está sano el programa, en una palabra; vacía si lo está. Si alguien lanza a los demás basta con
        que él lo esté, aunque no haya nadie sirviendo: del que muere o se atasca ya se ocupa él."""
        launched = self.launcher.cells[PROCESS]
        return "atascado" if any(row.is_stuck(now) for row in ([self.launcher] if launched else self.present)) else ""

    def unreadiness(self, now: float) -> str:
        """Por qué no conviene enviarle clientes nuevos, en una palabra; vacía si se le pueden enviar. Lleno no está
        listo: al que llegara le diría que no."""
        if self.launcher.cells[STOPPING]:
            return "deteniendo"
        serving = self.serving(now)
        if any(row.cells[OPEN] < row.cells[CAPACITY] for row in serving):
            return ""
        if serving:
            return "completo"
        return "atascado" if any(row.is_stuck(now) for row in self.present) else "arrancando"
