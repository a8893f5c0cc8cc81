"""Cancelar una corutina en cada uno de los pasos en que cede el turno, sin suerte: ni uno se escapa."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

WAITING, DONE = "espera", "acaba de acabar"
"""Cuándo se cancela: en cuanto empieza a esperar, o cuando lo esperado ya ha acabado y aún no se ha enterado."""


class CancelledAt:
    """Un esperable que es ``coroutine`` y que, en el paso ``step`` (desde 0), cancela a la tarea que lo espera.

    ``reached``: si hubo tantos pasos.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, object], step: int, when: str) -> None:
        self._coroutine = coroutine
        self._step = step
        self._when = when
        self.reached = False

    def __await__(self) -> Generator[Any, Any, object]:
        step = 0
        error: BaseException | None = None
        task = asyncio.current_task()
        assert task
        while True:
            try:
                future = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            except StopIteration as done:
                return done.value
            if step == self._step:
                self.reached = True
                if future is None or self._when == WAITING:
                    task.cancel()
                else:
                    # Se apunta antes que la tarea: cuando ella despierte, ya estará cancelada.
                    future.add_done_callback(lambda _: task.cancel())
            step += 1
            error = None
            try:
                yield future
            except BaseException as thrown:
                error = thrown


async def cancel_at_each_step(make: Any, when: str) -> int:
    """Cancela lo que da ``make()`` en cada paso, una vez en cada uno. Devuelve cuántos tiene.

    Falla si en alguno siguió trabajando. ``make``: una función, que puede ser asíncrona, que da otra corutina cada vez.
    """
    for step in range(10_000):
        coroutine = await make()
        cancelled = CancelledAt(coroutine, step, when)
        try:
            await asyncio.ensure_future(_hold(cancelled))
        except asyncio.CancelledError:
            assert cancelled.reached, f"se canceló sin llegar al paso {step}"
        else:
            assert not cancelled.reached, f"cancelada en el paso {step}, siguió trabajando"
            return step
    raise AssertionError("no acaba")


async def _hold(awaitable: CancelledAt) -> object:
    return await awaitable
