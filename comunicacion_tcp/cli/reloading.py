"""``--recargar``: mira los ficheros del servicio y, cuando cambian, lo importa otra vez y lo pone en el servidor.

Qué es un cambio lo dice ``watch.py``; cómo se importa, ``fresh_imports.py``; cómo se cambia en un servidor en marcha,
``Server.change_service``.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from ..errors import BadService
from ..fresh_imports import FreshImports, look
from ..server import Server
from ..services import Service
from ..watch import Watch

# Segundos entre una mirada y la siguiente. Hacen falta dos iguales: quien guarda y vuelve a la otra ventana ya se lo
# encuentra hecho, y mirar unos ficheros dos veces por segundo no se nota.
_LOOK_EVERY = 0.5
_TOO_LONG = 5.0  # segundos importando hasta decirlo: casi todo se importa en menos de uno, y lo pesado en unos pocos


class Told(Protocol):
    """A quien se le cuenta (``Reporter``, ``Meter``)."""

    def service_reloaded(self, name: str) -> None:
        """Ya responde el servicio nuevo."""

    def service_unusable(self, bad: BadService) -> None:
        """El nuevo no sirve: sigue el de antes."""


async def keep_fresh(imports: FreshImports, server: Server, told: Iterable[Told]) -> None:
    """Mantiene en ``server`` el servicio de ``imports``, ya importado una vez, hasta que se cancele; cada cambio se les
    cuenta a ``told``."""

    def unusable(bad: BadService) -> None:
        for one in told:
            one.service_unusable(bad)

    watch = Watch()
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        if not watch.changed(imports.files, look(imports.files)):
            continue
        loading = _in_thread(imports.load)
        await asyncio.wait([loading], timeout=_TOO_LONG)
        if not loading.done():
            unusable(BadService(imports.name, "endless"))
        outcome = await loading
        if isinstance(outcome, Service):
            server.change_service(outcome)
            for one in told:
                one.service_reloaded(imports.name)
        elif isinstance(outcome, BadService):
            unusable(outcome)
        else:
            unusable(BadService(imports.name, "import_failed", cause=outcome))


def _in_thread(work: Callable[[], Service]) -> asyncio.Future[Service | BaseException]:
    """Lo que dé ``work()``, o lance, hecho en otro hilo. Demonio, y no uno de los de asyncio, a los que se espera al
    acabar: un módulo que no acaba de importarse no puede impedir que se detenga el servidor."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Service | BaseException] = loop.create_future()

    def settle(outcome: Service | BaseException) -> None:
        if not future.done():
            future.set_result(outcome)

    def run() -> None:
        outcome: Service | BaseException
        try:
            outcome = work()
        except BaseException as error:
            outcome = error
        with contextlib.suppress(RuntimeError):  # el bucle acabó antes
            loop.call_soon_threadsafe(settle, outcome)

    try:
        threading.Thread(target=run, name="recarga", daemon=True).start()
    except RuntimeError as error:  # el sistema no da más hilos
        settle(error)
    return future
