"""La orden más corriente de ``-q``, entendida sin argparse: solo ``-q``, ``--host`` y ``--puerto``, bien escritos.

Cargar argparse y declararle las opciones costaba la cuarta parte de todo el arranque. Aquí no se explica ni se rechaza
nada: de cualquier otra orden, o si el entorno dice algo, se ocupa ``client.py`` con todas sus opciones.
"""

from __future__ import annotations

import os

from ..addresses import can_be_host

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from typing import Any


def plain_pipe(argv: list[str]) -> dict[str, Any] | None:
    """El ``host`` y el ``port`` que diga la orden, como los quiere ``Relay``; ``None`` si es otra orden."""
    if any(name.startswith("CLIENTE_TCP_") for name in os.environ):
        return None
    given: dict[str, Any] = {}
    pipe = False
    words = iter(argv)
    for word in words:
        if word in ("-q", "--tuberia"):
            pipe = True
        elif word == "--host":
            given["host"] = host = next(words, "")
            if not can_be_host(host) or host[0] == "-":
                return None
        elif word == "--puerto":
            number = next(words, "")
            if not (number.isascii() and number.isdigit() and len(number) <= 5 and 0 < int(number) <= 65535):
                return None
            given["port"] = int(number)
        else:
            return None
    return given if pipe else None
