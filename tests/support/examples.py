"""Los ejemplos de ``docs/protocolo.md``, como pasos que se pueden ejecutar."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .model import EOF, SILENCE, Step

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str, language: str) -> list[str]:
    """El contenido de cada bloque de código de ``language`` en un documento del repositorio, en orden."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Turn:
    """Lo que envía el cliente y todo lo que debe haber respondido el servidor después."""

    sent: list[Step]
    received: bytes


@dataclass(frozen=True)
class Conversation:
    """Un ejemplo: sus turnos, y si acaba con el FIN del servidor."""

    line: int
    turns: list[Turn]
    ends: bool


def parse_bytes(text: str) -> bytes:
    """``hola\\n`` → ``b"hola\\n"``: los escapes son bytes; lo demás, UTF-8."""
    escapes = {"n": b"\n", "r": b"\r"}
    parts = re.split(r"\\(n|r|x[0-9a-f]{2})", text)
    return b"".join(
        (escapes.get(part) or bytes.fromhex(part[1:])) if index % 2 else part.encode()
        for index, part in enumerate(parts)
    )


def documented_conversations() -> list[Conversation]:
    """Todos los bloques ``conversacion`` de la norma, en orden."""
    page = (ROOT / "docs" / "protocolo.md").read_text(encoding="utf-8")
    found = []
    for block in re.finditer(r"^```conversacion\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        turns: list[Turn] = []
        sent: list[Step] = []
        ends = False
        for line in block[1].splitlines():
            side, text = line[:3], line[3:]
            if side == "C: ":
                sent.append({"(silencio)": SILENCE, "(fin)": EOF}.get(text) or parse_bytes(text))
            elif line == "S: (fin)":
                ends = True
            else:
                assert side == "S: ", f"línea que no se entiende: {line!r}"
                turns.append(Turn(sent, parse_bytes(text)))
                sent = []
        assert not sent, "cada ejemplo acaba en lo que dice el servidor"
        found.append(Conversation(page[: block.start()].count("\n") + 1, turns, ends))
    return found
