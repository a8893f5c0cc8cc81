"""``python3 -m comunicacion_tcp servidor|cliente``: elige el programa; no hace nada más."""

from __future__ import annotations

import sys

_USAGE = "uso: python3 -m comunicacion_tcp servidor|cliente [opciones]"


def main(argv: list[str]) -> int:
    """Da ``argv[1:]`` al programa que nombra ``argv[0]``; devuelve su código de salida (2 si no nombra ninguno)."""
    name = argv[0] if argv else ""
    prog = f"python3 -m comunicacion_tcp {name}"
    if name == "servidor":
        from .cli import server

        return server.main(argv[1:], prog)
    if name == "cliente":
        from .cli import client

        return client.main(argv[1:], prog)
    from .cli.terminal import complain, prepare_streams, say

    prepare_streams()
    if name in ("-h", "--help"):
        say(_USAGE)
        return 0
    complain(_USAGE)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
