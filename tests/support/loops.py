"""El bucle de asyncio con que trabaja el servidor de una prueba: el de la biblioteca estándar o uvloop (``rapido``)."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Coroutine
from typing import Any, TypeVar

from .examples import ROOT
from .tools import missing

Result = TypeVar("Result")

STANDARD, FAST = "asyncio", "uvloop"
_WITHOUT_UVLOOP = str(ROOT / "tests" / "support" / "without_uvloop")  # un uvloop.py que no se deja importar
_chosen = STANDARD


def choose(kind: str) -> None:
    """Desde aquí, los servidores de las pruebas usan el bucle ``kind``; se salta la prueba si no está instalado."""
    global _chosen
    if kind == FAST:
        importlib.util.find_spec("uvloop") or missing("falta uvloop")
    _chosen = kind


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Un bucle del tipo elegido."""
    if _chosen == FAST:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    return asyncio.new_event_loop()


def run_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Como ``asyncio.run``, en un bucle del tipo elegido."""
    loop = new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def python_path() -> dict[str, str]:
    """Lo que hay que poner en el entorno de un programa para que use el bucle elegido."""
    return {} if _chosen == FAST else {"PYTHONPATH": _WITHOUT_UVLOOP}
