"""Los tipos de la biblioteca: se pueden leer con el programa en marcha, y ``with`` da lo mismo que se le puso.

Que ninguno falte lo mira ``make types-public``; que sean verdad, mypy, también en este fichero.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator

import pytest

import comunicacion_tcp
from comunicacion_tcp import AsyncClient, Client, Server

from .support.serving import served

MODULES = [
    module.name
    for module in pkgutil.walk_packages(comunicacion_tcp.__path__, f"{comunicacion_tcp.__name__}.")
    if not module.name.startswith(f"{comunicacion_tcp.__name__}.cli") and not module.name.endswith("__main__")
]


def public(owner: object, module: str) -> Iterator[object]:
    """Cada clase y función pública de ``owner`` que sea de ``module``, y los métodos de cada clase."""
    for name, value in vars(owner).items():
        if name.startswith("_") and not name.startswith("__"):
            continue
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        if getattr(value, "__module__", "") == module and (inspect.isfunction(value) or inspect.isclass(value)):
            yield value
            if inspect.isclass(value):
                yield from public(value, module)


@pytest.mark.parametrize("name", MODULES)
def test_the_types_can_be_read_while_running(name: str) -> None:
    for value in public(importlib.import_module(name), name):
        typing.get_type_hints(value)


@pytest.mark.parametrize(("kind", "enter"), [(Client, "__enter__"), (Server, "__enter__"), (AsyncClient, "__aenter__")])
def test_to_enter_gives_what_it_is(kind: type, enter: str) -> None:
    assert typing.get_type_hints(getattr(kind, enter))["return"] is kind


class LoudClient(Client):
    """Uno de quien usa la biblioteca."""

    def shout(self, message: str) -> str:
        """Lo mismo, más alto."""
        return self.send(message + "!")


def test_with_a_subclass_what_comes_in_is_of_it() -> None:
    with served() as running, LoudClient("127.0.0.1", running.port) as client:
        assert client.shout("hola") == "HOLA!"  # si «with» diera un Client, mypy no lo admitiría
