"""``Budget``: lo que guardan entre todas las conexiones, y a quién se suelta si es demasiado. Puro.

Aquí no se sabe qué guardan ni se corta a nadie: eso lo hace ``connection.py``. Lo que puede guardar una sola tiene su
máximo en ``limits.py``; pero muchas a la vez, cada una dentro del suyo, pueden llenar la memoria, y entonces el sistema
mata al proceso, con todas.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

LEAST = 4096
"""Bytes que no se cuentan: los tiene cualquiera que habla, y así a quien envía mensajes cortos no le cuesta nada."""

Holder = TypeVar("Holder", bound=Hashable)


class Budget(Generic[Holder]):
    """Lo que guarda cada una. ``most``: bytes que caben entre todas; 0, los que sean."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[Holder, int] = {}
        self.total: int = 0
        """Bytes que guardan entre todas."""

    def __contains__(self, holder: Holder) -> bool:
        return holder in self._held

    def weigh(self, holder: Holder, size: int) -> list[Holder]:
        """``holder`` guarda ahora ``size`` bytes. Devuelve a quienes hay que soltar para que quepan, que ya no se
        cuentan: primero, la que más guarda, que es la que menos lee."""
        self.forget(holder)
        if size < LEAST or not self._most:
            return []
        self._held[holder] = size
        self.total += size
        excess = []
        while self.total > self._most:
            excess.append(max(self._held, key=self._held.__getitem__))
            self.forget(excess[-1])
        return excess

    def forget(self, holder: Holder) -> None:
        """``holder`` ya no guarda nada."""
        self.total -= self._held.pop(holder, 0)
