"""``timeouts.py``: con plazo, y sin que se pierda una cancelación."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from comunicacion_tcp.timeouts import within

from .support.cancelling import DONE, WAITING, cancel_at_each_step
from .support.waiting import PATIENCE


async def a_turn_later(result: str) -> str:
    await asyncio.sleep(0)
    return result


def test_the_result_the_error_and_the_deadline() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def main() -> None:
        for seconds in (PATIENCE, None):
            assert await within(seconds, a_turn_later("hola")) == "hola"
            with pytest.raises(ZeroDivisionError):
                await within(seconds, fail())
        never = asyncio.ensure_future(asyncio.Event().wait())
        with pytest.raises(TimeoutError):
            await within(0.001, never)
        assert never.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("when", [WAITING, DONE])
def test_a_cancellation_is_never_lost(when: str) -> None:
    async def make() -> Coroutine[object, object, str]:
        return within(PATIENCE, a_turn_later("hola"))

    async def main() -> None:
        assert await cancel_at_each_step(make, when) >= 1

    asyncio.run(main())


@pytest.mark.parametrize("twice", [False, True])
def test_who_is_cancelled_leaves_nothing_working_behind(twice: bool) -> None:
    async def main() -> None:
        steps = []

        async def slow() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                steps.append("acabó")
                raise

        task = asyncio.create_task(within(None, slow()))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        if twice:
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps == ["acabó"]

    asyncio.run(main())


def test_an_error_nobody_will_see_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        inner: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(within(PATIENCE, inner))
        await asyncio.sleep(0)
        inner.set_exception(ZeroDivisionError())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not caplog.records
