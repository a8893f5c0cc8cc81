"""Cuántos procesadores se pueden usar, con el ``/proc`` y el ``/sys`` de otras máquinas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from comunicacion_tcp.processors import available


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Una máquina de ocho."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def machine(root: Path, group: str, **quotas: str) -> Path:
    """Una máquina cuyo proceso está en ``group``. ``quotas``: de cada grupo (``_`` por ``/``), su ``cpu.max``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::/{group}\n")
    for name, quota in quotas.items():
        folder = root / "sys/fs/cgroup" / name.strip("_").replace("_", "/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(quota)
    return root


def test_all_those_of_its_affinity() -> None:
    assert 1 <= available() <= 8


def test_without_a_quota_it_is_all(tmp_path: Path) -> None:
    assert available(tmp_path) == 8
    assert available(machine(tmp_path, "a", a="max 100000\n")) == 8


@pytest.mark.parametrize(
    ("quota", "wanted"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("1000 100000", 1), ("6400000 100000", 8)],
)
def test_the_quota_of_its_group(quota: str, wanted: int, tmp_path: Path) -> None:
    assert available(machine(tmp_path, "", _=quota)) == wanted


def test_the_shortest_of_those_above(tmp_path: Path) -> None:
    assert available(machine(tmp_path, "a/b", a="100000 100000", a_b="400000 100000")) == 1
    # Y las de fuera no son suyas.
    (tmp_path / "sys/cpu.max").write_text("1 100000")


@pytest.mark.parametrize("junk", ["", "muchos 1", "1", "1 0", "\x00"])
def test_a_quota_that_is_not_understood_is_none(junk: str, tmp_path: Path) -> None:
    assert available(machine(tmp_path, "a", a=junk)) == 8


def test_where_there_is_no_affinity_it_is_those_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available(tmp_path) == 1
