"""``within``: esperar en asyncio a algo, con plazo, sin que se pierda ninguna cancelación.

Aquí no hay ningún plazo (``limits.py``) ni se sabe a qué se espera.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def within(seconds: float | None, awaitable: Awaitable[Result]) -> Result:
    """El resultado de ``awaitable``, o su error; ``TimeoutError`` si no acaba en ``seconds`` segundos (``None``: sin
    plazo).

    Al volver, ``awaitable`` ha acabado: si no le dio tiempo, o si se cancela a quien espera, cancelado.

    Hace lo que ``asyncio.wait_for`` desde Python 3.12. Antes, ``wait_for`` se tragaba la cancelación que llega cuando
    lo esperado acaba de acabar (bpo-37658), y lo cancelado seguía trabajando.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait((task,), timeout=seconds)
    finally:
        await _end(task)
    if task.cancelled():
        raise TimeoutError
    return task.result()


async def _end(task: asyncio.Future[Result]) -> None:
    """Cancela ``task``, si no ha acabado, y la espera pase lo que pase: quien espera va a cerrar lo que ella usa."""
    interruption = None
    task.cancel()
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            interruption = error
    if not task.cancelled():
        task.exception()  # si nadie la mira, asyncio la cuenta como un error sin atender
    if interruption:
        raise interruption
