"""El color de lo que muestra el cliente en una terminal: qué color, y si lo hay.

Nunca por una tubería: ahí nadie carga este fichero.
"""

from __future__ import annotations

import os

# De los ocho colores que cada terminal enseña a su gusto (ECMA-48, 8.3.117). El mensaje que se escribe va sin ninguno.
REPLY, ERROR, NOTICE = "36", "31", "33"  # cian, rojo, amarillo


def wants_colour() -> bool:
    """Si la persona y su terminal admiten color. ``NO_COLOR``, con lo que sea, es que no (no-color.org)."""
    # En Windows TERM no suele estar, y no todas sus consolas entienden los colores: sin él, no se arriesga.
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")


def paint(text: str, colour: str) -> str:
    """``text``, una línea entera, de un color."""
    return f"\x1b[{colour}m{text}\x1b[0m"
