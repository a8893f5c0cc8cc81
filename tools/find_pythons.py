"""Escribe, uno por línea, un Python de cada versión desde 3.10 que haya en la máquina y sirva para hacer entornos.

Mira el PATH y las versiones de pyenv. No instala nada.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys

OLDEST = (3, 10)
_PROBE = "import sys, venv, ensurepip; print(*sys.version_info[:2])"


def candidates() -> list[str]:
    """Los ejecutables que podrían ser un Python: primero el que ejecuta esto, después pyenv, después el PATH."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found = [sys.executable, *glob.glob(f"{root}/versions/*/bin/python3")]
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found += glob.glob(f"{folder}/python3.[0-9]*[0-9]")
    return found


def version(python: str) -> tuple[int, ...] | None:
    """La versión de ``python``, o ``None`` si no funciona o no puede hacer entornos."""
    try:
        answer = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return tuple(map(int, answer.stdout.split())) if answer.returncode == 0 else None


def main() -> None:
    """Escribe la lista, de la versión más antigua a la más nueva."""
    best: dict[tuple[int, ...], str] = {}
    for python in candidates():
        number = version(python)
        if number and number >= OLDEST:
            best.setdefault(number, python)
    print("\n".join(best[number] for number in sorted(best)))


if __name__ == "__main__":
    main()
