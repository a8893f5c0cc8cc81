"""``support/ports.py``: el cerrojo de las pruebas está en la carpeta temporal, donde escribe cualquiera."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .support.ports import lock


def test_only_one_has_it_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "cerrojo"
    for _ in range(2):
        with lock(path):
            assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    victim, missing = tmp_path / "de_otro", tmp_path / "no_estaba"
    victim.write_text("intacto")
    for target in (victim, missing):
        path = tmp_path / f"hacia_{target.name}"
        path.symlink_to(target)
        with pytest.raises(pytest.fail.Exception, match="no es un fichero de quien prueba"), lock(path):
            pass
    assert victim.read_text() == "intacto"
    assert not missing.exists()


def test_a_file_of_another_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(pytest.fail.Exception, match="es de otro usuario"), lock(tmp_path / "cerrojo"):
        pass
