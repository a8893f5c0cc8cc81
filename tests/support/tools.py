"""Lo ajeno que algunas pruebas necesitan, y qué pasa si falta."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(why: str) -> NoReturn:
    """Lo que hace falta no está: la prueba se salta y dice ``why``. En la integración continua (``CI=true``) es un
    fallo, porque ``.ci/run`` instala lo que piden las pruebas."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def need(*names: str) -> str:
    """La ruta del primero de ``names`` que haya; si no hay ninguno, ``missing``."""
    for name in names:
        if path := shutil.which(name):
            return path
    missing(f"falta el programa {' o '.join(names)}")
