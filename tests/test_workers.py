"""``workers.py`` sin servidor: cuántos hilos hay, los que no vuelven y las preguntas que se retiran."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest

from comunicacion_tcp import workers
from comunicacion_tcp.workers import Contexts, Outcome, Tasks, Threads, _Call, direct

from .support.waiting import wait_until


class Loop:
    """Lo que ``Threads`` usa de un bucle: aquí las respuestas se dan en el acto."""

    def call_soon_threadsafe(self, call: Callable[..., object], *args: object) -> None:
        call(*args)


class Gate:
    """Una función que no vuelve hasta que se le abre."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self._open = threading.Event()

    def __call__(self, message: str) -> str:
        self.entered.append(message)
        assert self._open.wait(30)
        return message.upper()

    def open(self) -> None:
        self._open.set()


class Answers:
    """Lo que se va respondiendo."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def __call__(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def wait(self, count: int) -> list[object]:
        wait_until(lambda: len(self.outcomes) >= count, f"{count} respuestas")
        return [outcome() for outcome in self.outcomes]


def threads() -> set[threading.Thread]:
    """Los hilos de servicios que hay vivos; al empezar puede estar acabando alguno de otra prueba."""
    return {thread for thread in threading.enumerate() if thread.name == "servicio"}


@pytest.fixture
def make() -> Iterator[Callable[[int], Threads]]:
    made: list[Threads] = []
    before = threads()

    def make(most: int) -> Threads:
        loop: Any = Loop()
        made.append(Threads(loop, most, Contexts()))
        return made[-1]

    yield make
    for one in made:
        one.close()
    wait_until(lambda: threads() <= before, "que acaben los hilos")


def test_a_thread_is_born_only_when_it_is_needed(make: Callable[[int], Threads]) -> None:
    workers, answers, before = make(8), Answers(), threads()
    for number in range(3):
        workers.ask(str.upper, "hola", answers)
        answers.wait(number + 1)
        wait_until(lambda: workers._idle == 1, "que quede libre")
    assert len(threads() - before) == 1


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_than_asked_and_the_rest_wait_in_order(make: Callable[[int], Threads], most: int) -> None:
    workers, answers, gate = make(most), Answers(), Gate()
    for message in "abcde":
        workers.ask(gate, message, answers)
    wait_until(lambda: len(gate.entered) == most, "que entren los que caben")
    assert workers._alive == most
    assert sorted(gate.entered) == list("abcde"[:most])
    gate.open()
    assert sorted(map(str, answers.wait(5))) == list("ABCDE")
    if most == 1:  # con más, el que antes toma el siguiente no siempre es el que antes lo apunta
        assert gate.entered == list("abcde")


def test_what_is_withdrawn_before_starting_never_starts(make: Callable[[int], Threads]) -> None:
    workers, answers, gate = make(1), Answers(), Gate()
    workers.ask(gate, "a", answers)
    wait_until(lambda: gate.entered == ["a"], "que entre")
    workers.ask(gate, "b", answers).cancel()
    workers.ask(gate, "c", answers)
    gate.open()
    assert answers.wait(2) == ["A", "C"]
    assert gate.entered == ["a", "c"]


def test_who_asks_once_does_not_wait_behind_all_that_ask_many_times(make: Callable[[int], Threads]) -> None:
    gate, answers = Gate(), Answers()
    workers = make(1)
    workers.ask(gate, "a", answers)
    wait_until(lambda: gate.entered, "que empiece")
    for message in "vwxyz":
        workers.ask(gate, message, answers, more=True)
    for message in "bc":
        workers.ask(gate, message, answers)
    gate.open()
    assert answers.wait(8) == list("AVBWCXYZ")


def test_a_thread_that_does_not_come_back_is_replaced(make: Callable[[int], Threads]) -> None:
    workers, answers, lost = make(1), Answers(), Gate()
    job = workers.ask(lost, "perdida", answers)
    wait_until(lambda: lost.entered == ["perdida"], "que entre")
    workers.ask(str.upper, "hola", answers)
    job.cancel()
    job.cancel()  # otra vez no cuenta otra vez
    assert answers.wait(1) == ["HOLA"]
    lost.open()  # y cuando vuelve, sobra
    wait_until(lambda: workers._lost == 0, "que vuelva")
    workers.ask(str.upper, "otra", answers)
    assert answers.wait(2) == ["HOLA", "OTRA"]
    assert workers._alive == 1


def test_a_lost_thread_that_comes_back_first_takes_its_place_again(make: Callable[[int], Threads]) -> None:
    workers, answers, lost = make(1), Answers(), Gate()
    job = workers.ask(lost, "perdida", answers)
    wait_until(lambda: lost.entered == ["perdida"], "que entre")
    job.cancel()
    lost.open()
    wait_until(lambda: workers._lost == 0 and workers._idle == 1, "que vuelva")
    assert workers._alive == 1
    workers.ask(str.upper, "hola", answers)
    assert answers.wait(1) == ["HOLA"]


def test_the_lost_are_counted_and_have_an_end(make: Callable[[int], Threads], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_MOST_LOST", 2)
    pool, answers, gate = make(1), Answers(), Gate()
    for number in range(3):
        job = pool.ask(gate, str(number), answers)
        wait_until(lambda number=number: len(gate.entered) == number + 1, "que entre")  # type: ignore[misc]
        job.cancel()
    waiting = pool.ask(gate, "no entra", answers)
    assert pool._lost == 2
    assert pool._alive == 1
    waiting.cancel()
    gate.open()
    wait_until(lambda: pool._lost == 0, "que vuelvan")
    assert "no entra" not in gate.entered


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_it_raises_is_its_outcome(make: Callable[[int], Threads], error: BaseException) -> None:
    def broken(_: str) -> str:
        raise error

    workers, answers = make(1), Answers()
    workers.ask(broken, "hola", answers)
    with pytest.raises((ValueError, SystemExit, RuntimeError)):
        answers.wait(1)
    workers.ask(str.upper, "hola", answers)
    wait_until(lambda: len(answers.outcomes) == 2, "que el hilo siga")
    assert answers.outcomes[1]() == "HOLA"


def test_without_threads_it_says_so(make: Callable[[int], Threads], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, answers, gate = make(2), Answers(), Gate()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError):
            pool.ask(gate, "nadie", answers)
    pool.ask(gate, "a", answers)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        pool.ask(gate, "b", answers)  # ya hay uno: le tocará
    gate.open()
    assert answers.wait(2) == ["A", "B"]
    assert gate.entered == ["a", "b"]


def test_closing_leaves_no_thread_that_is_free(make: Callable[[int], Threads]) -> None:
    before = threads()
    for _ in range(50):  # entre responder y quedarse esperando hay un momento
        pool, answers = make(8), Answers()
        for number in range(8):
            pool.ask(str.upper, str(number), answers)
        answers.wait(8)
        pool.close()
        assert threads() <= before


def steps(where: TracebackType | None) -> list[str]:
    """Por qué funciones de este fichero pasa ``where``."""
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(where) if frame.f_code.co_filename == __file__]


def test_where_a_thread_is_while_it_is_there(make: Callable[[int], Threads]) -> None:
    pool, gate, answers = make(1), Gate(), Answers()
    first, second = (pool.ask(gate, name, answers) for name in "ab")
    wait_until(lambda: gate.entered == ["a"], "que empiece")
    where = first.where()
    assert steps(where) == ["__call__"]
    assert where is not None
    assert where.tb_frame.f_code is Gate.__call__.__code__  # ni un paso de threading, que no es suyo
    assert second.where() is None
    gate.open()
    answers.wait(2)
    assert first.where() is None


class Later:
    """Una función corriente que da algo que esperar, y lo que le va pasando a eso."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.cancelled = False

    def __call__(self, message: str) -> Any:
        return self.work(message)

    async def work(self, message: str) -> str:
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.over.set()
        return message.upper()


@pytest.mark.parametrize("cancel", [False, True])
def test_what_a_thread_has_to_wait_for_is_waited_for_in_the_loop(cancel: bool) -> None:
    async def main() -> None:
        workers, answers, later = Threads(asyncio.get_running_loop(), 1, Contexts()), Answers(), Later()
        job = workers.ask(later, "hola", answers)
        await later.begun.wait()
        assert steps(job.where())[0] == "work"
        if cancel:
            job.cancel()
        else:
            later.go_on.set()
        await later.over.wait()
        await asyncio.sleep(0)
        if cancel:
            assert later.cancelled
        else:
            assert answers.wait(1) == ["HOLA"]
        workers.close()

    asyncio.run(main())


def test_what_a_thread_has_to_wait_for_and_nobody_wants_never_starts() -> None:
    async def main() -> None:
        loop, later = asyncio.get_running_loop(), Later()
        call = _Call(Threads(loop, 1, Contexts()), later, "hola", Answers())
        call.cancel()
        call.wait_for(later("hola"), Contexts().fresh(), loop)  # sin esperar, Python se quejaría: aquí sería un fallo
        await asyncio.sleep(0)
        assert not later.begun.is_set()

    asyncio.run(main())


def test_what_is_called_directly_and_has_to_be_waited_for_is_an_error() -> None:
    with pytest.raises(TypeError, match="async def"):
        direct(Later(), Contexts())("hola")


def test_where_a_task_is_while_it_is_there() -> None:
    async def main() -> None:
        gate, answers = asyncio.Event(), Answers()

        async def inner() -> None:
            await gate.wait()

        async def outer(message: str) -> str:
            await inner()
            return message

        job = Tasks(asyncio.get_running_loop(), Contexts()).ask(outer, "a", answers)
        assert steps(job.where()) == []  # aún no ha empezado
        for _ in range(3):
            await asyncio.sleep(0)
        assert steps(job.where()) == ["outer", "inner"]
        gate.set()
        for _ in range(10):  # vueltas del bucle; bastan cuatro
            await asyncio.sleep(0)
        assert answers.wait(1) == ["a"]
        assert steps(job.where()) == []

    asyncio.run(main())


def test_tasks_run_at_once_and_are_cancelled() -> None:
    async def main() -> None:
        cancelled: list[str] = []

        async def slow(message: str) -> str:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(message)
                raise
            return message

        async def quick(message: str) -> str:
            return message.upper()

        async def broken(message: str) -> str:
            raise SystemExit(message)

        tasks, answers, dropped = Tasks(asyncio.get_running_loop(), Contexts()), Answers(), Answers()
        jobs = [tasks.ask(slow, "a", dropped), tasks.ask(quick, "b", answers), tasks.ask(broken, "c", answers)]
        await asyncio.sleep(0)
        jobs[0].cancel()
        for _ in range(10):  # vueltas del bucle; bastan tres
            await asyncio.sleep(0)
        assert cancelled == ["a"]
        assert answers.outcomes[0]() == "B"
        with pytest.raises(SystemExit):
            answers.outcomes[1]()

    asyncio.run(main())
