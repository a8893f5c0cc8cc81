"""``deploy/README.md`` es el mapa de ``deploy/``, y de cada página cada enlace lleva a algún sitio."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
