"""Cuántos procesadores puede usar este proceso: no los que tiene la máquina, sino los que le dejan.

Aquí no se decide cuántos procesos sirven (``cli/processes.py``).
"""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path("/")


def available(root: Path = _ROOT) -> int:
    """Los procesadores que puede usar este proceso, uno como poco: los de su afinidad (sched_setaffinity(2)) y, en
    Linux, sin pasar de la cuota de su grupo de control (un contenedor, ``CPUQuota=``). ``root``: dónde están ``/proc``
    y ``/sys``."""
    try:
        ours = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        ours = os.cpu_count() or 1
    quota = _quota(root)
    return ours if quota >= ours else max(1, round(quota))


def _quota(root: Path) -> float:
    """Cuántos procesadores deja la cuota más corta de las que hay de este grupo hacia arriba (cgroups(7), v2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return float("inf")
    inside = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    top = root / "sys/fs/cgroup"
    group = top / inside
    found = [_quota_of(folder) for folder in (group, *group.parents) if folder == top or top in folder.parents]
    return min(found, default=float("inf"))


def _quota_of(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)  # «max» es que no hay
    except (OSError, ValueError, ZeroDivisionError):
        return float("inf")
