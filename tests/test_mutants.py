"""``make mutants``, sin cambiar nada: qué se cambia y con qué, y lo que se aparta."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import mutants

from .support.examples import ROOT
from .support.programs import environment


@pytest.mark.parametrize("module", mutants.TARGETS)
def test_each_module_and_its_tests_are_there(module: str) -> None:
    assert (ROOT / "comunicacion_tcp" / f"{module}.py").is_file()
    assert all((ROOT / "tests" / name).is_file() for name in mutants.TARGETS[module])


def test_what_is_decorated_is_the_same_and_can_be_changed() -> None:
    source = """import contextlib
class Casa:
    @property
    def puerta(self):
        return "abierta"
    @contextlib.contextmanager
    def dentro(self):
        yield self.puerta
    @staticmethod
    def calle():
        return "ancha"
"""
    changed = mutants.undecorate(source)
    assert "    @property\n" not in changed
    assert "    @staticmethod\n" in changed
    found: dict[str, type] = {}
    exec(changed, found)
    with found["Casa"]().dentro() as seen:
        assert seen == "abierta"


def test_the_equivalent_changes_are_of_what_is_changed_and_have_a_reason() -> None:
    lines = mutants.EQUIVALENTS.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    known = mutants.read_equivalents()
    assert len(known) == len([line for line in lines if line and not line.startswith("# ")]), "hay alguno dos veces"
    for line in known:
        module, separator, change = line.partition(": ")
        assert separator
        assert module in mutants.TARGETS
        before, separator, after = change.partition(" => ")
        assert separator
        assert before != after


def test_the_copy_is_of_everything_and_says_what_to_change(tmp_path: Path) -> None:
    mutants.copy(tmp_path, "deadlines")
    assert (tmp_path / "tests" / "test_deadlines.py").read_bytes() == Path(__file__).with_name(
        "test_deadlines.py"
    ).read_bytes()
    assert "only_mutate =\n    comunicacion_tcp/deadlines.py\n" in (tmp_path / "setup.cfg").read_text(encoding="utf-8")
    assert not (tmp_path / ".venv").exists()


def test_what_is_not_changed_is_said() -> None:
    command = [sys.executable, "-m", "tools.mutants", "relay"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert "relay" in done.stderr
