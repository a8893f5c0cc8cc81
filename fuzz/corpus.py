"""Las entradas guardadas, en ficheros de texto que se leen y se escriben a mano; cómo se entienden, en ``check.py``.

Una por línea, con ``\\n``, ``\\r`` y ``\\xhh`` como en docs/protocolo.md. Lo que empieza por «# » es un comentario.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tests.support.examples import parse_bytes

CORPUS = Path(__file__).with_name("corpus.txt")
"""Pocas y distintas: con ellas el fuzzer no empieza de cero. Las reescribe ``make fuzz FUZZ_KEEP=1``."""

SEEDS = Path(__file__).with_name("seeds.txt")
"""Las escritas a mano, y todas las que alguna vez encontraron un fallo. A este fichero solo se añade."""


def show(data: bytes) -> str:
    """Una entrada en una línea de texto; ``parse_bytes`` la devuelve igual."""
    text = data.decode(errors="surrogateescape")
    line = "".join(char if char.isprintable() and char != "\\" else _escape(char) for char in text)
    # Ni un comentario por casualidad, ni un espacio final que un editor se lleve.
    line = "\\x23" + line[1:] if line.startswith("#") else line
    return line[:-1] + "\\x20" if line.endswith(" ") else line


def _escape(char: str) -> str:
    known = {"\n": r"\n", "\r": r"\r"}
    return known.get(char) or "".join(f"\\x{byte:02x}" for byte in char.encode(errors="surrogateescape"))


def read(path: Path) -> list[bytes]:
    """Las entradas de un fichero, en orden."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [parse_bytes(line) for line in lines if line and not line.startswith("# ")]


def write(path: Path, inputs: Iterable[bytes]) -> None:
    """Cambia las entradas de un fichero; los comentarios con que empieza se quedan."""
    comment = re.match(r"(?:# .*\n)*", path.read_text(encoding="utf-8"))
    lines = sorted({show(data) for data in inputs}, key=lambda line: (len(line), line))
    path.write_text((comment[0] if comment else "") + "".join(f"{line}\n" for line in lines), encoding="utf-8")


def add(path: Path, data: bytes) -> None:
    """Añade una entrada, si no está."""
    if data not in read(path):
        with path.open("a", encoding="utf-8") as file:
            file.write(show(data) + "\n")
