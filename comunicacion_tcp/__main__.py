"""``python3 -m comunicacion_tcp servidor|cliente``: elige el programa; no hace nada más."""

from __future__ import annotations

import contextlib
import signal
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
    from .cli.terminal import close_output, complain, prepare_streams, say

    prepare_streams()
    if name not in ("-h", "--help", "--ayuda"):
        complain(_USAGE)
        return 2
    with contextlib.suppress(OSError):  # una salida que no admite nada no merece un traceback
        say(_USAGE)
    close_output()
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # hasta que el programa lo atienda, Ctrl-C acaba y no se queja
    sys.exit(main(sys.argv[1:]))
