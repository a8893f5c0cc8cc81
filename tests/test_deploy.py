"""``deploy/README.md`` es el mapa de ``deploy/``, y de cada página cada enlace lleva a algún sitio."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comunicacion_tcp.cli.serving import PORT

from .support.examples import ROOT

FOLDER = ROOT / "deploy"


def test_the_map_has_every_folder() -> None:
    drawn = re.findall(r"^\| \[(\w+)\]", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    real = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    assert real == {*drawn}


@pytest.mark.parametrize("page", sorted(FOLDER.rglob("*.md")), ids=lambda page: str(page.relative_to(FOLDER)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_the_metrics_are_always_at_the_next_port_which_nothing_else_shown_uses() -> None:
    # El 9100, el que se ponía antes, es de node_exporter, que está en casi cada máquina con Prometheus.
    pages = [*FOLDER.rglob("*"), ROOT / "README.md", ROOT / "README.en.md"]
    shown: dict[str, set[str]] = {}
    for page in (page for page in pages if page.is_file()):
        text = page.read_text(encoding="utf-8")
        found = re.findall(r'metricas\W+(?:localhost|0\.0\.0\.0):(\d+)|targets: \["localhost:(\d+)', text)
        if found:
            shown[str(page.relative_to(ROOT))] = {"".join(one) for one in found}
    assert len(shown) == 7
    assert set().union(*shown.values()) == {str(PORT + 1)}
    for page in (FOLDER / "haproxy").glob("*.cfg"):
        assert str(PORT + 1) not in re.findall(r"bind :(\d+)", page.read_text(encoding="utf-8"))
