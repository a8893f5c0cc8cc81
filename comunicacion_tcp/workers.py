"""Dónde se ejecuta un servicio: si espera, donde nadie más espere con él (``Threads`` si es una función corriente,
``Tasks`` si es ``async``); si no, en el acto (``direct``). Y con qué contexto: cada llamada empieza con el que había al
arrancar, y lo que cambie en él no lo ve otra.

Aquí no se sabe quién pregunta ni qué se hace con la respuesta, y nadie cuenta el tiempo: quien se cansa, lo dice.
Los hilos no son los de ``concurrent.futures``: un hilo no se puede interrumpir, y una función que no vuelve nunca lo
dejaría con uno menos para siempre, y al programa sin poder acabar.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any, NoReturn, Protocol

from .loops import is_typed

Outcome = Callable[[], object]
"""Lo que hizo una función: al llamarlo devuelve lo que ella devolvió, o lanza lo que ella lanzó."""

_WAITING, _RUNNING, _DONE, _LOST = range(4)
# Hilos que se dan por perdidos y se sustituyen: unas decenas de KiB cada uno. Con más no es un accidente: la función no
# vuelve casi nunca, y en otro hilo tampoco volvería.
_MOST_LOST = 256


class Job(Protocol):
    """Una pregunta hecha."""

    def cancel(self) -> object:
        """Ya no se espera la respuesta (que, si llegaba justo ahora, puede llegar)."""

    def where(self) -> TracebackType | None:
        """Por dónde va la función, en el hilo del bucle y sin detenerla; ``None`` si no ha empezado, o ya acabó."""


class Workers(Protocol):
    """A quien se le pregunta."""

    def ask(
        self, function: Callable[[str], Any], message: str, answered: Callable[[Outcome], object], *, more: bool = False
    ) -> Job:
        """Ejecuta ``function(message)`` cuando toque y da lo que hizo a ``answered``, en el hilo del bucle. ``more``:
        si quien pregunta tiene más preguntas detrás. Error: ``RuntimeError`` si el sistema no da dónde ejecutarla."""


class Contexts:
    """Los contextos (``contextvars``) de las llamadas: cada uno, una copia del que había al crear este objeto."""

    fresh: Callable[[], contextvars.Context]
    """Uno para una llamada."""

    def __init__(self) -> None:
        self._start = contextvars.copy_context()
        # Si nadie lo ha cargado aún, en el de partida no está; y cada copia tendrá el suyo.
        self.fresh = self._with_decimal if "decimal" in sys.modules else self._start.copy

    def _with_decimal(self) -> contextvars.Context:
        context = self._start.copy()
        context.run(_own_decimal)
        return context


def _own_decimal() -> None:
    """El contexto de ``decimal`` es un objeto que se cambia, y la copia de otro lleva el mismo."""
    import decimal  # ya está: lo cargó el servicio

    decimal.setcontext(decimal.getcontext().copy())


def direct(function: Callable[[str], Any], contexts: Contexts) -> Callable[[str], Any]:
    """``function``, para llamarla en el acto."""
    fresh = contexts.fresh

    def call(message: str) -> Any:
        try:
            reply = fresh().run(function, message)
        except KeyboardInterrupt as error:
            if is_typed():
                raise
            raise _not_typed() from error
        if type(reply) is not str and inspect.isawaitable(reply):
            _forget(reply)
            raise TypeError(
                "unas veces devuelve texto, y otras algo que hay que esperar; hazla async def, o ejecútala en hilos"
            )
        return reply

    return call


class Tasks:
    """Cada pregunta, una tarea del bucle. ``loop``: el bucle en marcha. ``plain``: se llama cada vez que una función
    responde en el acto, sin nada que esperar."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, contexts: Contexts, plain: Callable[[], object] = lambda: None
    ) -> None:
        self._loop = loop
        self._contexts = contexts
        self._plain = plain

    def ask(
        self, function: Callable[[str], Any], message: str, answered: Callable[[Outcome], object], *, more: bool = False
    ) -> Job:
        """Como en ``Workers``. Quien la cancela detiene la función donde esté esperando."""
        work = _run(function, message, answered, self._plain)
        return _Asked(self._contexts.fresh().run(self._loop.create_task, work))


class _Asked:
    """Una pregunta hecha a ``Tasks``."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()

    def where(self) -> TracebackType | None:
        frames = []
        awaited: Any = self._task.get_coro()
        while frame := getattr(awaited, "cr_frame", None):  # lo que espera ya no es una corrutina, o aún no espera
            frames.append(frame)
            awaited = awaited.cr_await
        return _through(reversed(frames))


async def _run(
    function: Callable[[str], Any],
    message: str,
    answered: Callable[[Outcome], object],
    plain: Callable[[], object] = lambda: None,
) -> None:
    try:
        reply = function(message)
        if inspect.isawaitable(reply):
            reply = await reply
        else:
            plain()
    except BaseException as error:  # también que la cancelen: para quien pregunta, ya da igual
        answered(raising(error))
    else:
        answered(lambda: reply)


def _forget(reply: Any) -> None:
    """Si ``reply`` es una corrutina, nadie la va a esperar: que Python no se queje de eso."""
    if inspect.iscoroutine(reply):
        reply.close()


class Threads:
    """Hasta ``threads`` hilos demonio, que nacen cuando hacen falta. ``loop``: el bucle donde se dan las respuestas, y
    donde se espera a lo que devuelva una función que no era corriente (un decorador, una ``lambda``)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int, contexts: Contexts) -> None:
        self._loop = loop
        self._contexts = contexts
        self._most = threads
        self._changed = threading.Condition()
        self._waiting = _Line()
        self._free: set[threading.Thread] = set()  # los que no están dentro de una función
        self._idle = 0
        self._alive = 0  # sin contar los perdidos
        self._lost = 0
        self._closed = False

    def ask(
        self, function: Callable[[str], Any], message: str, answered: Callable[[Outcome], object], *, more: bool = False
    ) -> Job:
        """Como en ``Workers``. Si quien la cancela la encuentra esperando, no llega a empezar; si no, sigue, y otro
        hilo ocupa el sitio del suyo."""
        call = _Call(self, function, message, answered)
        with self._changed:
            self._waiting.add(call, more=more)
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._alive < self._most:
                try:
                    self._start()
                except RuntimeError:
                    if not self._alive:  # con alguno, ya le tocará
                        self._waiting.remove(call)
                        raise
        return call

    def close(self) -> None:
        """Acaban los hilos que no hacen nada, y no queda ninguno; a los demás no se les espera."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
            free = list(self._free)
        for thread in free:
            thread.join()

    def _drop(self, call: _Call) -> None:
        with self._changed:
            if call.state == _WAITING:
                self._waiting.remove(call)
            elif call.state == _RUNNING and self._lost < _MOST_LOST:
                call.state = _LOST
                self._lost += 1
                self._alive -= 1
                if self._waiting:
                    with contextlib.suppress(RuntimeError):  # no hay más hilos: se esperará a los que hay
                        self._start()

    def _where(self, call: _Call) -> TracebackType | None:
        frames = []
        with self._changed:  # así no acaba mientras se mira
            frame = sys._current_frames().get(call.thread) if call.state == _RUNNING else None
            while frame and frame.f_code is not Threads._work.__code__:
                frames.append(frame)
                frame = frame.f_back
            return _through(frames)

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="servicio", daemon=True)
        thread.start()
        self._free.add(thread)
        self._alive += 1

    def _work(self) -> None:
        while call := self._next():
            context = self._contexts.fresh()
            tell: Callable[[], object]
            try:
                reply = context.run(call.function, call.message)
            except BaseException as error:
                reply, tell = None, functools.partial(call.answered, raising(error))
            else:
                if type(reply) is str or not inspect.isawaitable(reply):
                    tell = functools.partial(call.answered, _returning(reply))
                else:
                    tell = functools.partial(call.wait_for, reply, context, self._loop)
            with self._changed:
                lost = call.state == _LOST
                call.state = _DONE
                self._free.add(threading.current_thread())
                if lost:
                    _forget(reply)
                    self._lost -= 1
                    if self._alive >= self._most:  # ya hay otro en su sitio
                        self._free.discard(threading.current_thread())
                        return
                    self._alive += 1
            if not lost:
                with contextlib.suppress(RuntimeError):  # el bucle se cerró: ya no hay quien espere
                    self._loop.call_soon_threadsafe(tell)
            del call, context, reply, tell  # mientras espera a la siguiente no retiene nada de esta

    def _next(self) -> _Call | None:
        """La llamada que toca, o ``None`` si ya no habrá más."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            self._free.discard(threading.current_thread())
            if self._closed:
                self._alive -= 1
                return None
            call = self._waiting.take()
            call.state = _RUNNING
            call.thread = threading.get_ident()
            return call


class _Line:
    """Las llamadas que esperan un hilo. Sale una de quien pregunta una vez y otra de quien tiene más preguntas detrás;
    entre iguales, por orden. Así quien pregunta una vez no espera detrás de todos los que inundan."""

    def __init__(self) -> None:
        self._single: OrderedDict[_Call, None] = OrderedDict()
        self._more: OrderedDict[_Call, None] = OrderedDict()
        self._single_last = False

    def __len__(self) -> int:
        return len(self._single) + len(self._more)

    def add(self, call: _Call, *, more: bool) -> None:
        """Se pone a la cola."""
        (self._more if more else self._single)[call] = None

    def take(self) -> _Call:
        """La que toca, que ya no espera. Tiene que haber alguna."""
        self._single_last = bool(self._single) and not (self._single_last and self._more)
        call, _ = (self._single if self._single_last else self._more).popitem(last=False)
        return call

    def remove(self, call: _Call) -> None:
        """Ya no espera, si esperaba."""
        self._single.pop(call, None)
        self._more.pop(call, None)

    def clear(self) -> None:
        """Ya no espera ninguna."""
        self._single.clear()
        self._more.clear()


class _Call:
    """Una llamada pedida a ``Threads``."""

    __slots__ = ("_dropped", "_task", "_threads", "answered", "function", "message", "state", "thread")

    def __init__(
        self, threads: Threads, function: Callable[[str], Any], message: str, answered: Callable[[Outcome], object]
    ) -> None:
        self._threads = threads
        self.function = function
        self.message = message
        self.answered = answered
        self.state = _WAITING
        self.thread = 0  # en cuál, desde que empieza
        self._task: _Asked | None = None  # la que espera a lo que devolvió, si había que esperarlo
        self._dropped = False

    def wait_for(self, reply: Any, context: contextvars.Context, loop: asyncio.AbstractEventLoop) -> None:
        """La función devolvió ``reply``, que hay que esperar."""
        if self._dropped:
            _forget(reply)
        else:
            self._task = _Asked(context.run(loop.create_task, _run(lambda _: reply, "", self.answered)))

    def cancel(self) -> None:
        self._dropped = True
        if self._task:
            self._task.cancel()
        else:
            self._threads._drop(self)

    def where(self) -> TracebackType | None:
        return self._task.where() if self._task else self._threads._where(self)


def _through(frames: Iterable[FrameType]) -> TracebackType | None:
    """``frames``, de lo más hondo a lo de fuera, como los recorrería una excepción."""
    found = None
    for frame in frames:
        found = TracebackType(found, frame, frame.f_lasti, frame.f_lineno or 0)  # sin línea no está en ningún fuente
    return found


def _not_typed() -> RuntimeError:
    """Lo que se dice de un ``KeyboardInterrupt`` que no pulsó nadie: es de la función, y no debe parar el servidor."""
    return RuntimeError("el servicio lanzó KeyboardInterrupt")


def _returning(reply: object) -> Outcome:
    return lambda: reply


def raising(error: BaseException) -> Outcome:
    """Lo que hizo una función que lanzó ``error``."""

    def outcome() -> NoReturn:
        nonlocal error
        try:
            if isinstance(error, KeyboardInterrupt):
                raise _not_typed() from error
            raise error
        finally:
            del error  # lo lleva su propio traceback: serían un círculo, con todo lo que tuviera a mano la función

    return outcome
