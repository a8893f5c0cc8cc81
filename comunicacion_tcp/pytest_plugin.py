"""Un servidor de verdad para las pruebas de otros proyectos: lo que pytest encuentra si este paquete está instalado.

Aquí no se abre nada hasta que una prueba lo pide. pytest importa este fichero siempre, se usen o no sus fixtures: por
eso el servidor, y asyncio con él, se importan dentro de ellas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from .server import Server
    from .services import Service


@pytest.fixture
def servicio_tcp() -> Service | Callable[[str], str]:
    """Con qué responde ``servidor_tcp``: en mayúsculas. Para otra cosa, define tu propia fixture ``servicio_tcp`` (o
    parametrízala) con un ``Service`` o una función ``str -> str``."""
    from .services import uppercase

    return uppercase


@pytest.fixture
def servidor_tcp(servicio_tcp: Service | Callable[[str], str]) -> Iterator[Server]:
    """Un ``Server`` en marcha en 127.0.0.1, en un puerto libre y en su hilo, uno por prueba: ``servidor_tcp.host`` y
    ``servidor_tcp.port``. Responde con lo que dé la fixture ``servicio_tcp``."""
    from .server import Server

    with Server(servicio_tcp, "127.0.0.1", 0) as server:
        yield server
