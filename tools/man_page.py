"""La página de manual de un programa, en español, sacada de su parser de argparse.

Aquí no se escribe ningún fichero (``share.py``). La hay ya hecha (argparse-manpage), pero da los títulos en inglés y no
sabe de nuestras variables del entorno ni de los códigos de salida, que son media página.

El formato es el de man(7), sin nada que dependa de la versión de Python, de la terminal ni de la fecha.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from comunicacion_tcp import __version__
from comunicacion_tcp.cli.parser import SpanishParser

# groff parte las palabras, estira las líneas y separa las frases como en inglés. Desde la 1.23 sus macros vuelven a
# hacerlo en cada sección si no se les dice antes que no.
_BEFORE = (".nr HY 0", ".ds AD l")
_OPENING = (".nh", ".ad l", ".ss 12 0")
# Un «-» a secas es un guion tipográfico, y no se podría copiar; «'» y «`» serían comillas curvas.
_SPECIAL = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})


def man_page(parser: SpanishParser, see_also: str) -> str:
    """La página de ``parser``. ``see_also``: la otra orden de la casa."""
    about = parser.description or ""
    paragraphs, sections = _epilog(parser.epilog or "")
    lines = [
        "'\\\" -*- coding: utf-8 -*-",
        '.\\" Escrito por «make share» a partir de las opciones del programa: no se cambia a mano.',
        *_BEFORE,
        f'.TH {_text(parser.prog).upper()} 1 "" "comunicacion_tcp {__version__}" "Manual de usuario"',
        *_OPENING,
        ".SH NOMBRE",
        f"{_text(parser.prog)} \\- {_text(about[:1].lower() + about[1:].rstrip('.'))}",
        ".SH SINOPSIS",
        f"{_bold(parser.prog)} [\\fIOPCIÓN\\fR]..." + "".join(f" {_values(it)}" for it in _visible(parser, False)),
        ".SH DESCRIPCIÓN",
        _line(about),
        *(line for paragraph in paragraphs for line in (".PP", *map(_line, paragraph))),
        *_arguments(parser),
        ".SH ENTORNO",
        "Cada variable vale por su opción, si la orden no la trae:",
        *_environment(parser),
        ".SH CÓDIGO DE SALIDA",
        *(line for code, meaning in parser.exit_codes.items() for line in (".TP", _bold(str(code)), _line(meaning))),
    ]
    for title, example in sections:
        lines += [f".SH {_text(title).upper()}", ".EX", *map(_verbatim, example), ".EE"]
    lines += [".SH VÉASE TAMBIÉN", f"{_bold(see_also)}(1)"]
    return "\n".join(lines) + "\n"


def _epilog(text: str) -> tuple[list[list[str]], list[tuple[str, list[str]]]]:
    """Los párrafos del final de la ayuda y sus secciones: «ejemplos:» y líneas con sangría."""
    paragraphs: list[list[str]] = []
    sections: list[tuple[str, list[str]]] = []
    for block in filter(str.strip, text.split("\n\n")):
        first, *others = block.strip("\n").splitlines()
        if first.endswith(":") and others and all(line.startswith("  ") for line in others):
            sections.append((first[:-1], [line[2:] for line in others]))
        else:
            paragraphs.append([first, *others])
    return paragraphs, sections


def _visible(parser: SpanishParser, options: bool) -> Iterator[argparse.Action]:
    """Las opciones, o los argumentos, que se enseñan."""
    for action in parser._actions:
        if bool(action.option_strings) == options and action.help != argparse.SUPPRESS:
            yield action


def _arguments(parser: SpanishParser) -> Iterator[str]:
    """Los argumentos y las opciones, en los grupos de la ayuda: los dos de argparse son secciones."""
    sections = {parser._positionals: ".SH", parser._optionals: ".SH"}
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if actions:
            title = _text(group.title or "")
            yield f"{sections[group]} {title.upper()}" if group in sections else f".SS {title}"
            if group.description:
                yield _line(group.description)
        for action in actions:
            yield ".TP"
            yield ", ".join(map(_bold, action.option_strings)) + _values(action)
            yield _line((action.help or "") % {**vars(action), "prog": parser.prog})


def _values(action: argparse.Action) -> str:
    """Los valores que lleva una opción (con el espacio o el «=» de delante) o un argumento."""
    if action.nargs == 0:
        return ""
    name = f"\\fI{_text(str(action.metavar or action.dest.upper()))}\\fR"
    if not action.option_strings:
        return {"?": f"[{name}]", "*": f"[{name}...]", "+": f"{name}..."}.get(str(action.nargs), name)
    return f"[={name}]" if action.nargs == "?" else f" {name}"


def _environment(parser: SpanishParser) -> Iterator[str]:
    """Una línea por variable, en dos columnas."""
    named = [(name, action) for action in _visible(parser, True) if (name := parser._variable(action))]
    yield ".PD 0"
    for name, action in named:
        option = _bold(action.option_strings[-1])
        yield f".TP {max(len(name) for name, _ in named) + 2}n"
        yield _bold(name)
        yield f"{option}, si es 1" if action.nargs == 0 else option
    yield ".PD"


def _bold(text: str) -> str:
    return f"\\fB{_text(text)}\\fR"


def _text(text: str) -> str:
    return text.translate(_SPECIAL)


def _line(text: str) -> str:
    """Una línea de texto, en la que groff no vea más que palabras."""
    return _verbatim(" ".join(text.split()))


def _verbatim(text: str) -> str:
    """Una línea con sus espacios; aunque empiece por un punto no es una petición."""
    text = _text(text)
    return rf"\&{text}" if text.startswith(".") else text
