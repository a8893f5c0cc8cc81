"""argparse en español: la misma herramienta, con sus frases en la lengua de quien la usa.

Aquí no hay opciones de ningún programa; cada uno define las suyas una vez, en su fichero.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence

from .. import __version__
from ..addresses import Peer, can_be_host, unix_host, unix_path
from ..places import as_of_now, host_as_of_now
from .sentences import reason
from .terminal import complain, escape, say

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from typing import NoReturn

# Lo que dice argparse, y cómo se dice aquí. Lo que no esté en la tabla sale como venga: mejor que nada.
# Sin compilar: solo hacen falta cuando alguien se equivoca.
_ERRORS = (
    (r"unrecognized arguments: ((?s:.*))", r"no se entiende «\1»"),
    (r"argument (\S+): expected one argument", r"\1 necesita un valor"),
    (r"argument (\S+): ignored explicit argument (?s:.*)", r"\1 no lleva valor"),
    (r"argument (\S+): ((?s:.*))", r"\1 \2"),
)


_SWITCHES = {"1": True, "0": False}
_PATIENCE = 5.0  # segundos sin que nadie escriba en una tubería de opciones: quien la prepara tarda mucho menos
_LARGEST_FILE = 1024 * 1024  # bytes de un fichero de opciones: mil veces más que uno con todas; /dev/zero no acaba
_NARROWEST = 20  # columnas: en menos, argparse tampoco parte las líneas


class SpanishParser(argparse.ArgumentParser):
    """Un ``ArgumentParser`` que ayuda y se queja en español. Un error de uso acaba el programa con código 2.

    Cada opción se puede dar también en el entorno: si ``variables`` es ``"SERVIDOR_TCP_"``, ``--puerto`` es
    ``SERVIDOR_TCP_PUERTO``; una que no lleva valor, con un 1. Una variable vacía es como si no estuviera. Y, si se
    añade con ``add_configuration()``, en un fichero, donde es ``puerto = 7000``. La orden manda sobre el entorno, y el
    entorno sobre el fichero.

    ``exit_codes``: cada código de salida del programa y lo que quiere decir; la ayuda acaba con esa tabla.
    """

    _width = 80  # hasta que haya algo que enseñar; sin él, argparse carga shutil ya al declarar la primera opción

    def __init__(
        self,
        prog: str | None,
        description: str,
        epilog: str,
        variables: str,
        exit_codes: dict[int, str] | None = None,
    ) -> None:
        self._variables = variables
        self.exit_codes: dict[int, str] = exit_codes or {}
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=lambda prog: _SpanishFormatter(prog, width=self._width),
            add_help=False,
            allow_abbrev=False,
        )
        self.color = False  # desde Python 3.14 la ayuda lo lleva; y en lo que se escribe con ella, estorba
        self._positionals.title = "argumentos"
        self._optionals.title = "opciones"
        self.add_argument("-h", "--help", "--ayuda", action="help", help="muestra esta ayuda y termina")
        self.add_argument(
            "--version",
            action="version",
            version=f"comunicacion_tcp {__version__}",
            help="muestra la versión y termina",
        )

    def add_files(self, texts: dict[str, str]) -> None:
        """Añade opciones que son un fichero: opción → lo que dice de ella la ayuda."""
        for option, text in texts.items():
            self.add_argument(option, type=file_name, metavar="FICHERO", help=text)

    def add_configuration(self) -> None:
        """Añade ``--configuracion``, el fichero donde pueden estar las demás."""
        text = "lee de ahí las opciones que no se den de otra manera: en cada línea, opción = valor"
        self.add_files({"--configuracion": text})

    def require(self, options: argparse.Namespace, needed: str, *others: str) -> None:
        """Si se dio alguna de las opciones ``others`` sin ``needed``, que les hace falta, se dice y se acaba."""
        missing = getattr(options, needed.lstrip("-").replace("-", "_")) in (None, False)
        for other in others:
            if missing and getattr(options, other.lstrip("-").replace("-", "_")) not in (None, False):
                self.error(f"{other} necesita {needed}")

    def parse_known_args(  # type: ignore[override]  # la de argparse admite un espacio de nombres de cualquier clase
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        given = argparse.Namespace() if namespace is None else namespace
        untouched = {action.dest: action for action in self._actions if self._variable(action)}
        for dest, action in untouched.items():
            setattr(given, dest, action)  # una marca: la orden manda, y --help no mira ni el entorno ni el fichero
        result = super().parse_known_args(args, given)
        missing = set()
        for dest, action in untouched.items():
            if getattr(given, dest) is not action:
                continue
            name = self._variable(action)
            if text := os.environ.get(name):
                setattr(given, dest, self._convert(action, text, name))
            else:
                setattr(given, dest, action.default)
                missing.add(dest)
        if path := getattr(given, "configuracion", None):
            self._read(path, given, missing)
        return result

    def _read(self, path: str, given: argparse.Namespace, missing: set[str]) -> None:
        """Da a ``given`` las opciones del fichero ``path`` que estén en ``missing``."""
        actions = {self._key(action): action for action in self._actions if self._variable(action)}
        for number, line in enumerate(self._lines(path), 1):
            key, equals, text = (part.strip() for part in line.partition("="))
            if not line.strip() or key.startswith("#"):
                continue
            where = f"{path}, línea {number}: {escape(key or line.strip())}"
            action = actions.get(key)
            if action is None or action.dest == "configuracion":
                written = key and equals and not key.startswith("-")
                self.error(
                    f"{where} no es una opción" + ("" if written else ": se escribe «opción = valor», sin guiones")
                )
            value = self._convert(action, text, where)
            if action.dest in missing:
                setattr(given, action.dest, value)

    def _lines(self, path: str) -> list[str]:
        try:
            data = _read_file(path)
            text = data.decode("utf-8-sig")  # el Bloc de notas pone una marca delante
        except TimeoutError:
            self.error(f"no se puede leer {path}: nadie ha escrito nada en él")
        except OSError as error:
            self.error(f"no se puede leer {path}: {reason(error)}")
        except ValueError:
            self.error(f"{path} no es un fichero de texto en UTF-8")
        if len(data) > _LARGEST_FILE:
            self.error(f"{path} es demasiado grande para ser un fichero de opciones")
        return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")

    def _convert(self, action: argparse.Action, text: str, name: str) -> object:
        if action.nargs == 0:
            if text not in _SWITCHES:
                self.error(f"{name} debe ser 1 o 0, no {text!r}")
            return _SWITCHES[text]
        convert = action.type if callable(action.type) else str
        try:
            return convert(text)
        except argparse.ArgumentTypeError as error:
            self.error(f"{name} {error}")

    def _key(self, action: argparse.Action) -> str:
        """El nombre de una opción en el fichero."""
        return action.option_strings[-1].lstrip("-")

    def _variable(self, action: argparse.Action) -> str:
        """El nombre en el entorno de una opción; vacío si no es de las que se pueden dar así (``--help``)."""
        if not action.option_strings or action.default is argparse.SUPPRESS:
            return ""
        return self._variables + self._key(action).replace("-", "_").upper()

    def format_help(self) -> str:
        import shutil  # y con él zlib, bz2 y lzma: 3 ms que solo paga quien pide ayuda

        self._width = shutil.get_terminal_size().columns - 2  # los dos que deja argparse a la derecha
        return super().format_help() + self._format_exit_codes()

    def _format_exit_codes(self) -> str:
        import textwrap  # argparse también lo deja para cuando hay algo que enseñar

        lines = ["\ncódigo de salida:"]
        for code, meaning in self.exit_codes.items():
            width = max(self._width, _NARROWEST)
            lines += textwrap.wrap(meaning, width, initial_indent=f"  {code:<5}", subsequent_indent=" " * 7)
        return "\n".join(lines) + "\n" if self.exit_codes else ""

    def _print_message(self, message: str, file: object = None) -> None:
        """Como en argparse: ahí escriben la ayuda, la versión y las quejas. Lo que no se pueda escribir se dice."""
        if file is not sys.stdout:
            complain(message.removesuffix("\n"))
            return
        try:
            say(message, end="")
        except OSError as error:
            self.exit(1, "" if error.errno == errno.EPIPE else f"{self.prog}: no se puede escribir: {reason(error)}.\n")

    def error(self, message: str) -> NoReturn:
        for pattern, spanish in _ERRORS:
            if match := re.fullmatch(pattern, message):
                message = match.expand(spanish)
                break
        self.exit(2, f"{self.prog}: {message}. Las opciones se ven con --help.\n")


def _read_file(path: str) -> bytes:
    """Lo que hay en el fichero, si cabe; o en la tubería, que es lo que da ``<(...)`` en bash. ``TimeoutError`` si
    nadie escribe en ella: esperarle sería no empezar nunca."""
    import select
    import stat

    def open_at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    data = b""
    with open(path, "rb", buffering=0, opener=open_at_once) as file:
        at_hand = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        while len(data) <= _LARGEST_FILE:
            if not at_hand and not select.select([file], [], [], _PATIENCE)[0]:
                raise TimeoutError
            more = file.read(_LARGEST_FILE)
            if not more:
                break
            data += more
    return data


class _NoColour:
    """Lo que argparse escribe alrededor de cada cosa para darle color: nada."""

    def __getattr__(self, name: str) -> str:
        return ""


class _SpanishFormatter(argparse.RawDescriptionHelpFormatter):
    if sys.version_info[:2] == (3, 14):
        # Esta versión carga dataclasses e inspect, 10 ms de cada cliente, para no dar color a una ayuda que nadie pide.
        # La 3.15 ya no.
        def _set_color(self, color: bool) -> None:
            self._theme, self._decolor = _NoColour(), str

    def add_usage(self, usage, actions, groups, prefix=None):  # type: ignore[no-untyped-def]  # como en argparse
        super().add_usage(usage, actions, groups, prefix or "uso: ")


def port_number(lowest: int) -> Callable[[str], int]:
    """El tipo de una opción que es un puerto, desde ``lowest`` (0 si el sistema puede elegirlo; si no, 1)."""
    return whole_number(lowest, 65535)


def host_and_port(text: str) -> Peer:
    """El tipo de una opción que es una máquina y un puerto (0 si el sistema puede elegirlo); una dirección IPv6, entre
    corchetes (RFC 3986)."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not can_be_host(bare) or (":" in bare and bare == host) or unix_path(bare) is not None:
        raise argparse.ArgumentTypeError(f"debe ser HOST:PUERTO (localhost:5001, [::1]:5001), no {text!r}")
    return bare, port_number(0)(port)


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """El tipo de una opción que es un número entero de ``lowest`` a ``highest``."""

    def convert(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(highest)) else -1
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"debe ser un número de {lowest} a {highest}, no {text!r}")
        return value

    return convert


class one_of:  # noqa: N801  # se usa como las funciones de al lado
    """El tipo de una opción que es uno de ``names``; las shells ofrecen esos al completarla."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, text: str) -> str:
        if text not in self.names:
            raise argparse.ArgumentTypeError(f"debe ser {', '.join(self.names[:-1])} o {self.names[-1]}, no {text!r}")
        return text


def file_name(text: str) -> str:
    """El tipo de una opción que es un fichero: cualquier texto que pueda ser su nombre, desde la carpeta actual."""
    if not text or "\x00" in text:
        raise argparse.ArgumentTypeError("debe ser el nombre de un fichero")
    return as_of_now(text)


def host_name(text: str) -> str:
    """El tipo de una opción que es una máquina: cualquier texto que pueda ser un nombre, una dirección o la ruta de un
    socket de Unix."""
    if not can_be_host(text):
        raise argparse.ArgumentTypeError(f"debe ser un nombre, una dirección o {unix_host('RUTA')}")
    return host_as_of_now(text)
