"""``Backoff``: cuánto se espera antes de cada intento de volver a conectar. Aquí no se espera ni se conecta.

Las esperas crecen al doble y se echan a suertes enteras («full jitter»: Marc Brooker, «Exponential Backoff And
Jitter», AWS, 2015): si un servidor vuelve y lo esperaban mil clientes, no llaman todos a la vez.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .records import Record


class Backoff(Record):
    """Con qué paciencia se vuelve a conectar. Errores: ``ValueError`` si un número no es posible.

    ``first``: la mayor espera antes del primer intento, en segundos. ``most``: la mayor de todas. ``attempts``: cuántos
    intentos, o 0 si no se deja de intentar.
    """

    first: float = 0.1
    """Lo que tarda en volver a escuchar un servidor que se reinicia enseguida."""

    most: float = 30.0
    """Una persona que mira cree que ya no se intenta si tarda más; y a un servidor caído no le cuesta nada."""

    attempts: int = 0

    def check(self) -> None:
        if not 0 < self.first <= self.most < float("inf"):
            raise ValueError("first debe ser mayor que cero y como mucho most")
        if self.attempts < 0:
            raise ValueError("attempts debe ser cero o más")

    def delays(self, random: Callable[[], float]) -> Iterator[float]:
        """La espera antes de cada intento, en segundos. ``random`` da un número de 0 a 1 (``random.random``)."""
        ceiling = self.first
        number = 0
        while not self.attempts or number < self.attempts:
            yield ceiling * random()
            ceiling = min(self.most, ceiling * 2)
            number += 1
