"""La página del paquete en PyPI: el README con los enlaces que allí llevan a algún sitio. Solo se usa al construirlo.

En el repositorio los enlaces son a los ficheros de al lado, que no están en PyPI; y PyPI tampoco entiende los que van a
un apartado de la misma página.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

README = "README.md"
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!https?:)(?P<target>[^)\s]+)\)")


def outside(markdown: str, repository: str) -> str:
    """``markdown``, de la carpeta principal del repositorio que está en ``repository``, para leerlo en otro sitio."""

    def whole(link: re.Match[str]) -> str:
        target = link["target"]
        place = f"{repository}/{'raw' if link['image'] else 'blob'}/HEAD/{README if target.startswith('#') else ''}"
        return f"{link['image']}[{link['text']}]({place}{target})"

    return _LINK.sub(whole, markdown)


class PackagePage(MetadataHookInterface):
    """Lo llama hatchling: pone en los metadatos lo que aquí se prepara."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Añade a ``metadata`` la página."""
        text = (Path(self.root) / README).read_text(encoding="utf-8")
        page = outside(text, metadata["urls"]["Repository"])
        metadata["readme"] = {"content-type": "text/markdown", "text": page}
