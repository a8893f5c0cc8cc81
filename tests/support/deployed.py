"""Lo que los ficheros de ``deploy/`` le dicen al servidor, contra las opciones que el servidor tiene."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from comunicacion_tcp.cli.server import _parser


def check_options(arguments: list[str], configuration: Path | None = None) -> argparse.Namespace:
    """Lo que ``servidor-tcp`` entiende de ``arguments``, que son opciones con su valor detrás de un igual o de un
    espacio. ``configuration``: el fichero que hará de ``--configuracion``, esté donde esté el de verdad."""
    parser = _parser("servidor-tcp")
    kept: list[str] = []
    for argument in " ".join(arguments).replace(" --", "\n--").splitlines():
        option, value = argument.replace(" ", "=", 1).split("=", 1)
        if option == "--configuracion":
            assert value.startswith("/")
            value = str(configuration)
        kept.append(f"{option}={value}")
    try:
        return parser.parse_args(kept)
    except SystemExit:
        pytest.fail(f"el servidor no entiende {kept}")
