"""El bucle de asyncio: cuál se usa, y cómo tener uno en un hilo para quien no trabaja con asyncio.

Aquí no se sabe qué hace el bucle: eso es de ``server.py``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

try:
    from uvloop import new_event_loop  # el extra «rapido»: el mismo asyncio, sobre libuv

    NAME = "uvloop"
except ImportError:
    from asyncio import new_event_loop  # type: ignore[assignment]

    NAME = "asyncio"

__all__ = ["EXITS", "NAME", "LoopThread", "call_in", "is_typed", "run"]

EXITS = (SystemExit, KeyboardInterrupt)
"""Lo que, lanzado en una tarea o en una función que llama el bucle, detiene el bucle."""

_LAST_WAIT = 2.0  # segundos que se espera, al acabar, a una tarea ya cancelada: la de un servicio puede no dejarse
_LOOK_EVERY = 0.5  # segundos, mientras se espera a otro hilo, entre dos miradas a si sigue ahí
Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result], resumed: Callable[[], object] = lambda: None) -> Result:
    """Como ``asyncio.run``: lo que devuelve ``work``, o lanza, en un bucle nuevo. Pero lo acaba ``work``, o un Ctrl-C
    que nadie atiende, y no el ``sys.exit()`` de una tarea cualquiera. ``resumed``: se llama en el bucle cada vez que
    vuelve a girar después de uno."""
    loop = new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return _finish(loop, loop.create_task(work), resumed)
    finally:
        try:
            _finish(loop, loop.create_task(_clean()))
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _finish(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Result], resumed: Callable[[], object] = lambda: None
) -> Result:
    """Gira hasta que acabe ``future``. Si otro lanza un ``SystemExit``, el bucle se detiene: se cuenta como cualquier
    fallo de una tarea, y se sigue. No se pierde nada: lo que el bucle iba a hacer, espera."""
    while True:
        try:
            return loop.run_until_complete(future)
        except EXITS as error:
            own = future.done() and not future.cancelled() and future.exception() is error
            if own or (isinstance(error, KeyboardInterrupt) and is_typed()):
                raise
            loop.call_exception_handler({"message": "alguien quiso acabar el programa", "exception": error})
            loop.call_soon(resumed)


def is_typed() -> bool:
    """Si un ``KeyboardInterrupt`` puede ser de quien pulsa Ctrl-C: solo llega al hilo principal, y si nadie atiende la
    señal."""
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def call_in(loop: asyncio.AbstractEventLoop, work: Callable[[], Result]) -> Result:
    """Lo que dé ``work()``, o lance, hecho en ``loop``, que gira en otro hilo; se espera a que esté. Error:
    ``RuntimeError`` si el bucle acaba antes."""
    done: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def do() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    loop.call_soon_threadsafe(do)
    while loop.is_running() and not done.done():
        concurrent.futures.wait([done], _LOOK_EVERY)
    if not done.done():
        raise RuntimeError("el bucle acabó antes")
    return done.result()


async def _clean() -> None:
    """Lo que hace ``asyncio.run`` al acabar, sin esperar para siempre."""
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_LAST_WAIT)
    await asyncio.get_running_loop().shutdown_asyncgens()


class LoopThread:
    """Un bucle en marcha en un hilo suyo, hasta ``stop()``.

    Errores al crearlo: ``OSError`` si no hay descriptores para el bucle, y ``RuntimeError`` si el sistema no da hilos.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop = new_event_loop()
        self._end: asyncio.Future[None] = self._loop.create_future()
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
        self._loop.call_soon_threadsafe(self._end.set_result, None)
        self._thread.join()

    def _work(self) -> None:
        try:
            _finish(self._loop, self._end)
            _finish(self._loop, self._loop.create_task(_clean()))
        finally:
            self._loop.close()
