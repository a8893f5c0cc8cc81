"""Un Python demasiado viejo dice una frase clara, no un SyntaxError."""

from __future__ import annotations

import functools
import glob
import os
import shutil
import subprocess

import pytest

from .support.examples import ROOT


@functools.cache
def old_pythons() -> list[str]:
    """Los Python anteriores a 3.10 que haya en la máquina, en el PATH o en pyenv."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    names = ["python2", "python2.7", *(f"python3.{minor}" for minor in range(10))]
    found = [shutil.which(name) for name in names] + glob.glob(f"{root}/versions/*/bin/python")
    return [path for path in found if path and is_old(path)]


def is_old(python: str) -> bool:
    """Si funciona y es anterior a 3.10."""
    code = "import sys; sys.exit(0 if sys.version_info < (3, 10) else 1)"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "command", [["Servidor_TCP.py"], ["Cliente_TCP.py"], ["-m", "comunicacion_tcp", "servidor"]], ids=" ".join
)
def test_one_clear_sentence(command: list[str]) -> None:
    pythons = old_pythons()
    if not pythons:
        pytest.skip("no hay ningún Python anterior a 3.10 en esta máquina")
    for python in pythons:
        done = subprocess.run([python, "-B", *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("comunicacion_tcp necesita Python 3.10 o posterior, y este es Python ")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["Servidor_TCP.py", "Cliente_TCP.py", "comunicacion_tcp/__init__.py"])
def test_the_files_it_reads_first_have_nothing_new(name: str) -> None:
    # Aunque aquí no haya ningún Python viejo: sin anotaciones, ni cadenas f, ni nada que Python 2 no entienda.
    source = (ROOT / name).read_text(encoding="utf-8")
    assert source.startswith("# -*- coding: utf-8 -*-\n")
    assert ' f"' not in source
    assert '(f"' not in source
    assert "->" not in source.split('"""', 2)[2]
    assert "from __future__" not in source
