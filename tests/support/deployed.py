"""Lo que los ficheros de ``deploy/`` le dicen al servidor, contra las opciones que el servidor tiene."""

from __future__ import annotations

import argparse

import pytest

from comunicacion_tcp.cli.server import _parser

# Se están construyendo aparte: mientras no estén, no se comprueba cómo se usan. En cuanto estén, se quita la que esté.
_COMING = {"--procesos", "--configuracion", "--metricas", "--proxy-de"}


def check_options(arguments: list[str]) -> argparse.Namespace:
    """``arguments`` son opciones que ``servidor-tcp`` tiene y entiende. Devuelve lo entendido."""
    parser = _parser("servidor-tcp")
    ours = set(parser._option_string_actions)
    kept: list[str] = []
    waiting = False  # el valor de una que no se mira
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if option.startswith("--"):
            skipped = option in _COMING - ours
            waiting = skipped and not equals
            if not skipped:
                kept.append(argument)
        elif not waiting:
            kept.append(argument)
        else:
            waiting = False
    try:
        return parser.parse_args(kept)
    except SystemExit:
        pytest.fail(f"el servidor no entiende {kept}")
