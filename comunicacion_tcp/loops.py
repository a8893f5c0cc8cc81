"""El bucle de asyncio: cuál se usa, y cómo tener uno en un hilo para quien no trabaja con asyncio.

Aquí no se sabe qué hace el bucle: eso es de ``server.py``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

try:
    from uvloop import new_event_loop, run  # el extra «rapido»: el mismo asyncio, sobre libuv

    NAME = "uvloop"
except ImportError:
    from asyncio import new_event_loop, run  # type: ignore[assignment]  # run, con otras opciones que aquí no se usan

    NAME = "asyncio"

__all__ = ["NAME", "LoopThread", "run"]

_LAST_WAIT = 2.0  # segundos que se espera, al acabar, a una tarea ya cancelada: la de un servicio puede no dejarse
Result = TypeVar("Result")


class LoopThread:
    """Un bucle en marcha en un hilo suyo, hasta ``stop()``.

    Errores al crearlo: ``OSError`` si no hay descriptores para el bucle, y ``RuntimeError`` si el sistema no da hilos.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop = new_event_loop()
        # Un hilo «daemon»: a quien olvide detenerlo no le impide acabar el programa.
        self._thread = threading.Thread(target=self._work, name="comunicacion_tcp", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._loop.close()
            raise

    @property
    def alive(self) -> bool:
        """Si el hilo existe: en un proceso hijo (``os.fork``) no está."""
        return self._thread.is_alive()

    def wait_for(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Da ``coroutine`` al bucle y espera su resultado, o su error."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        """Detiene el bucle y espera a que su hilo acabe; no quedan ni el uno ni el otro."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _work(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._clean())
        finally:
            self._loop.close()

    async def _clean(self) -> None:
        """Lo que hace ``asyncio.run`` al acabar, sin esperar para siempre."""
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_LAST_WAIT)
        await self._loop.shutdown_asyncgens()
