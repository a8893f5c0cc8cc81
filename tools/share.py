"""Escribe en ``share/`` lo que las shells y ``man`` saben de los dos programas: cómo se completa cada uno y su manual.

Todo sale de las opciones que cada programa define, y ``tests/test_share.py`` comprueba que sigue siendo así. De las
shells sabe shtab; de la página de manual, ``man_page.py``. Se ejecuta con ``make share``.
"""

from __future__ import annotations

from pathlib import Path

import shtab

from comunicacion_tcp.cli import client, server
from comunicacion_tcp.cli.parser import SpanishParser, file_name, host_name, one_of

from .man_page import man_page

ROOT = Path(__file__).resolve().parents[1]
# Dónde mira cada shell, debajo del prefijo en que se instala.
_COMPLETIONS = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/site-functions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}
_HOSTS = {
    "bash": "_comunicacion_tcp_hosts",
    "zsh": "_hosts",
    "fish": "(__fish_print_hostnames)",
    "preamble": {"bash": '_comunicacion_tcp_hosts() {\n  compgen -A hostname -- "$1"\n}'},
}


def parsers() -> list[SpanishParser]:
    """Los de los dos programas, con los nombres con que se instalan."""
    return [client._parser("cliente-tcp"), server._parser("servidor-tcp")]


def files() -> dict[str, str]:
    """Cada fichero de ``share/``: su ruta dentro de ella y lo que contiene."""
    first, second = parsers()
    written = {}
    for parser, other in ((first, second), (second, first)):
        written[f"man/man1/{parser.prog}.1"] = man_page(parser, other.prog)
        written |= completions(parser)
    return written


def completions(parser: SpanishParser) -> dict[str, str]:
    """Los de cada shell; ``parser`` no vale después para otra cosa."""
    _say_what_completes(parser)
    return {path.format(parser.prog): _tidy(shtab.complete(parser, shell)) for shell, path in _COMPLETIONS.items()}


def _say_what_completes(parser: SpanishParser) -> None:
    """A cada opción le pone lo que shtab ofrece como su valor; a las demás, nada."""
    for action in parser._actions:
        if isinstance(action.metavar, str):
            action.metavar = action.metavar.replace(":", r"\:")  # para zsh, detrás de «:» empieza otra cosa
        if action.type is file_name:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # así lo pide shtab
        elif action.type is host_name:
            action.complete = _HOSTS  # type: ignore[attr-defined]
        elif isinstance(action.type, one_of):
            action.choices = action.type.names


def _tidy(text: str) -> str:
    """Sin espacios al final de las líneas, y con un solo salto al final del fichero."""
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n") + "\n"


def main() -> None:
    """Los escribe todos."""
    for path, text in files().items():
        place = ROOT / "share" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
