"""Lo que da un escenario: sus cifras, que falló, o que aquí no se puede. Aquí no se mide ni se escribe nada."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .scale import Scale


class Failed(Exception):
    """El servidor no hizo lo prometido, y no es cosa de segundos de más o de menos."""


class Unavailable(Exception):
    """Esta máquina no permite el escenario; el texto dice por qué."""


@dataclass(frozen=True)
class Outcome:
    """Las cifras, como frases cortas, y si se cumple lo prometido.

    Que una respuesta falte o sea otra no es un ``met`` falso, sino ``Failed`` o ``WrongReply``: ``met`` habla de
    tiempos y tamaños, que dependen también de la máquina. ``table``: la suya, si la tiene, con su cabecera.
    """

    figures: list[str]
    met: bool
    table: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Scenario:
    """Un escenario: su clave para ``--escenarios``, su fila en ``docs/fiabilidad.md``, qué se le hace al servidor, qué
    se promete y quién lo ejecuta."""

    key: str
    row: int
    title: str
    promise: str
    run: Callable[[Scale], Outcome]


NOTICEABLE = 100.0
"""Milisegundos: lo que una persona nota como espera. Es lo que puede tardar el p99 de quien no tiene culpa de nada."""


def number(value: float, digits: int = 0) -> str:
    """``12345.6`` → ``12 346``: con los miles separados."""
    return f"{value:_.{digits}f}".replace("_", " ")


def ms(value: float) -> str:
    """Milisegundos, con la precisión que se puede creer."""
    return f"{number(value, 1 if value < 100 else 0)} ms"
