"""Módulos escritos para una prueba: una carpeta donde ponerlos, que después nadie recuerda."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def folder_of_modules(folder: Path) -> Iterator[Path]:
    """``folder`` como carpeta actual; al salir, lo que se importara de ella ya no está."""
    before, path, modules = os.getcwd(), list(sys.path), set(sys.modules)
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            spec = sys.modules[name].__spec__
            places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
            if any(place.startswith(str(folder)) for place in places):
                del sys.modules[name]
        importlib.invalidate_caches()


def write(path: Path, source: str) -> None:
    """Escribe un fuente, y sus carpetas."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
