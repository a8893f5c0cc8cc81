"""Los programas ajenos que algunas pruebas necesitan."""

from __future__ import annotations

import os
import shutil

import pytest


def need(*names: str) -> str:
    """La ruta del primero de ``names`` que haya. Si no hay ninguno la prueba se salta diciéndolo; en la integración
    continua (``CI=true``) eso es un fallo, porque ``.ci/run`` los instala."""
    for name in names:
        if path := shutil.which(name):
            return path
    missing = f"falta el programa {' o '.join(names)}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)
