"""Esperar sin dormir a ciegas: se mira una condición hasta que se cumple o vence un plazo amplio."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 30.0  # segundos: solo los agota una prueba que va a fallar


def wait_until(
    condition: Callable[[], object], what: str | Callable[[], str] = "la condición", patience: float = PATIENCE
) -> None:
    """Vuelve cuando ``condition()`` se cumple; si no lo hace a tiempo, ``AssertionError`` diciendo qué faltó.

    ``what``: qué es, o una función que lo dice con lo que haya entonces.
    """
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"no llegó a cumplirse: {what() if callable(what) else what}"
        time.sleep(0.005)
