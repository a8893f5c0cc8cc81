"""``Turns``: una sola cola para quienes tienen trabajo pendiente, y un poco de tiempo para ella en cada vuelta.

Aquí no se sabe quién espera ni qué trabajo es. El bucle es el que se le dé, y la hora viene de fuera.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

_WINDOW = 5  # de cada tantas veces el tiempo de una vuelta, una es para lo que va sin turno
Key = TypeVar("Key", bound=Hashable)


class Loop(Protocol):
    """Lo que se usa de un bucle de asyncio."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """``callback()`` en la vuelta siguiente, después de mirar si ha llegado algo."""


class Turns(Generic[Key]):
    """A cada uno de los que esperan se le da un turno, ``serve(uno)``, por orden de llegada. Cuando los turnos de una
    vuelta del bucle suman ``seconds``, los demás esperan a la vuelta siguiente. Quien tras su turno tiene más trabajo
    pide otro, y va detrás de todos.

    Si cada uno pidiera su turno al bucle, en cada vuelta se darían los de todos, y quien solo tiene un mensaje
    esperaría más cuantos más fueran.

    A quien viene cuando no espera nadie, pedir turno y otra vuelta del bucle le costaría casi tanto como su trabajo: si
    hace poco que no se ha hecho mucho así, va en el acto, entre ``begin`` y ``end``.

    ``clock``: los segundos de un reloj que no retrocede. No puede ser ``loop.time``, que en uvloop no avanza dentro de
    una vuelta.
    """

    def __init__(
        self,
        loop: Loop,
        seconds: float,
        serve: Callable[[Key], object],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._serve = serve
        self._clock = clock
        self._waiting: OrderedDict[Key, None] = OrderedDict()
        self._begun = self._window_end = 0.0  # cuándo empezó lo último sin turno, y hasta cuándo vale _left
        self._left = 0.0  # segundos que quedan para lo que va sin turno
        self._asked = False  # si hay una vuelta pedida, o en marcha

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, key: Key) -> None:
        """``key`` tiene trabajo: se pone a la cola, si no está ya."""
        self._waiting[key] = None
        if not self._asked:
            self._asked = True
            self._loop.call_soon(self._go_round)

    def begin(self) -> bool:
        """Si algo largo se puede hacer en el acto, sin turno. Si sí, al acabarlo se llama a ``end``."""
        if self._waiting:
            return False
        self._begun = self._clock()
        if self._begun >= self._window_end:
            self._window_end, self._left = self._begun + self._seconds * _WINDOW, self._seconds
        return self._left > 0

    def end(self) -> None:
        """Acaba lo que se hacía sin turno."""
        self._left -= self._clock() - self._begun

    def _go_round(self) -> None:
        end = self._clock() + self._seconds
        try:
            while self._waiting:
                key, _ = self._waiting.popitem(last=False)
                self._serve(key)
                if self._clock() >= end:
                    break
        finally:  # pase lo que pase con uno, los demás siguen teniendo turno
            self._asked = bool(self._waiting)
            if self._asked:
                self._loop.call_soon(self._go_round)
