"""Los dos clientes, usados igual: las pruebas de lo que comparten se escriben una vez, sin ``await``."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator
from typing import Any, TypeVar

import pytest

from comunicacion_tcp.aio import AsyncClient
from comunicacion_tcp.client import Client

from .loops import FAST, STANDARD, choose, new_event_loop

Result = TypeVar("Result")

SYNC = "Client"
KINDS = [SYNC, STANDARD, FAST]


class Blocking(Client):
    """Un ``AsyncClient`` con las maneras de ``Client``. Su bucle solo anda durante cada llamada."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.loop = new_event_loop()
        self.inner = AsyncClient(*args, **options)

    @property
    def address(self) -> str:
        return self.inner.address

    def run(self, awaitable: Awaitable[Result]) -> Result:
        """Espera a ``awaitable``."""

        async def wait() -> Result:
            return await awaitable

        return self.loop.run_until_complete(wait())

    def connect(self) -> None:
        self.run(self.inner.connect())

    def send(self, message: str) -> str:
        return self.run(self.inner.send(message))

    def send_many(self, messages: Iterable[str]) -> Iterator[str]:
        replies = self.inner.send_many(messages)
        try:
            while True:
                try:
                    reply = self.run(anext(replies))
                except StopAsyncIteration:
                    return
                yield reply
        finally:
            self.run(replies.aclose())

    def say_goodbye(self, timeout: float | None = None) -> list[str]:
        return self.run(self.inner.say_goodbye(timeout))

    def take_unasked(self) -> list[str]:
        return self.run(self.inner.take_unasked())

    def raise_if_out_of_step(self) -> None:
        self.run(self.inner.raise_if_out_of_step())

    def close(self) -> None:
        self.run(self.inner.close())

    def finish(self) -> None:
        """Cierra también el bucle."""
        self.close()
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()


class Clients:
    """Hace clientes de la clase que toca, y al final los cierra."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.made: list[Client] = []
        self.naps: list[float] = []
        """Lo que habrían esperado antes de volver a conectar: aquí no se espera."""
        if kind != SYNC:
            choose(kind)

    def __call__(self, *args: Any, **options: Any) -> Client:
        """Un cliente sin conectar aún."""
        client = Client(*args, **options) if self.kind == SYNC else Blocking(*args, **options)
        self.made.append(client)
        self.inside(client)._sleep = self._nap
        return client

    def inside(self, client: Client) -> Any:
        """El cliente de verdad."""
        return client.inner if isinstance(client, Blocking) else client

    def finish(self) -> None:
        """Los cierra todos."""
        for client in self.made:
            client.finish() if isinstance(client, Blocking) else client.close()
        if self.kind != SYNC:
            choose(STANDARD)

    async def _nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        if len(self.naps) > 1000:
            raise AssertionError("vuelve a conectar sin parar")


@pytest.fixture(params=KINDS)
def clients(request: pytest.FixtureRequest) -> Iterator[Clients]:
    """La clase de cliente de esta vez."""
    made = Clients(request.param)
    yield made
    made.finish()
