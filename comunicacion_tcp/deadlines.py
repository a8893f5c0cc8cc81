"""``Deadlines``: muchos plazos iguales con un solo temporizador; y mirar de trecho en trecho, sin ocupar el bucle.

Aquí no se sabe qué vence ni qué hacer entonces. El reloj y el temporizador son los del bucle que se le dé.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar, cast

_LATE = 0.05  # segundos: un temporizador que suena así de tarde es que el bucle no giraba
_GRACE = 0.01  # segundos: una vuelta del bucle, para que lea lo que haya
_LOOKS = 8  # veces que se mira un plazo que puede volver a empezar: de más, dura como mucho la octava parte
_SLICE = 200  # a cuántos se mira sin ceder el turno: medio milisegundo
Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """Plazos de ``seconds`` segundos; al vencer uno se llama a ``expire(clave, nota)``. Con 0 no vence ninguno.

    Como todos duran lo mismo, vencen en el orden en que empezaron: empezar y acabar uno es poner y quitar una entrada
    de un diccionario, unas cinco veces menos que un ``call_later`` por conexión.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, expire: Callable[[Key, object], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._expire = expire
        self._running: OrderedDict[Key, tuple[float, object]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = False

    def __contains__(self, key: Key) -> bool:
        return key in self._running

    def start(self, key: Key, note: object = None) -> None:
        """Empieza el plazo de ``key``, si no corre ya."""
        if key not in self._running and self._seconds:
            self._running[key] = (self._loop.time() + self._seconds, note)
            if not self._timer:
                self._timer = self._loop.call_later(self._seconds, self._ring)

    def restart(self, key: Key, note: object = None) -> None:
        """Empieza el plazo de ``key`` desde ahora, corra ya o no."""
        self.stop(key)
        self.start(key, note)

    def stop(self, key: Key) -> None:
        """El plazo de ``key``, si corre, ya no vencerá."""
        self._running.pop(key, None)

    def close(self) -> None:
        """Ya no vencerá ninguno."""
        self._running.clear()
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        if not self._running:
            self._timer = None
            return
        now = self._loop.time()
        _, (due, _) = self._first()
        if now - due > _LATE and not self._waiting:
            # El bucle ha estado parado, y lo que llegó a tiempo quizá está sin leer: uvloop mira antes el reloj.
            self._waiting = True
            self._timer = self._loop.call_later(_GRACE, self._ring)
            return
        self._waiting = False
        try:
            while self._running:
                key, (due, note) = self._first()
                if due > now:
                    break
                del self._running[key]
                self._expire(key, note)
        finally:  # pase lo que pase con uno, los demás siguen teniendo plazo
            self._timer = self._loop.call_at(self._first()[1][0], self._ring) if self._running else None

    def _first(self) -> tuple[Key, tuple[float, object]]:
        return next(iter(self._running.items()))


class PatientDeadlines(Deadlines[Key]):
    """Como ``Deadlines``, pero mientras corre un plazo se mira ``look(clave)`` cada poco: si da otra cosa que la vez
    anterior, el plazo vuelve a empezar; si da ``OVER``, ya no corre. ``expire(clave)``, al vencer."""

    OVER = object()

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        look: Callable[[Key], object],
        expire: Callable[[Key], None],
    ) -> None:
        super().__init__(loop, seconds / _LOOKS, self._look)
        self._see = look
        self._end = expire

    def start(self, key: Key, note: object = None) -> None:
        """Empieza el plazo de ``key``, si no corre ya. ``note``: lo que daría ahora ``look``."""
        super().start(key, (note, _LOOKS))

    def _look(self, key: Key, note: object) -> None:
        before, left = cast(tuple[object, int], note)
        now = self._see(key)
        if now is self.OVER:
            return
        left = _LOOKS if now != before else left - 1
        if left:
            super().start(key, (now, left))
        else:
            self._end(key)


class Rounds(Generic[Key]):
    """Mira cada ``seconds`` segundos a todos los que haya en ``everyone``, unos pocos en cada vuelta del bucle."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        everyone: Iterable[Key],
        look: Callable[[Key], None],
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._everyone = everyone
        self._look = look
        self._rest: Iterator[Key] = iter(())
        self._timer: asyncio.Handle = loop.call_later(seconds, self._begin)

    def close(self) -> None:
        """No mirará a nadie más."""
        self._timer.cancel()

    def _begin(self) -> None:
        self._rest = iter(self._everyone)
        self._go_on()

    def _go_on(self) -> None:
        some = list(itertools.islice(self._rest, _SLICE))
        # Antes de mirar: pase lo que pase con uno, los demás tienen quien los mire.
        if len(some) < _SLICE:
            self._timer = self._loop.call_later(self._seconds, self._begin)
        else:
            self._timer = self._loop.call_soon(self._go_on)
        for one in some:
            self._look(one)
