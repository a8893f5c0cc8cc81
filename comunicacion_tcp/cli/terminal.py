"""La salida y la entrada: que una línea se vea igual en todas partes y que nadie la falsifique.

Aquí no se decide qué se dice (``server.py``, ``client.py``, ``sentences.py``), solo cómo llega.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    import re
    from io import RawIOBase
    from typing import TextIO

INTERRUPTED = 128 + signal.SIGINT  # el código que da cualquier shell a quien acaba por Ctrl-C

# Lo que una terminal obedece en vez de mostrar: controles C0 (menos el tabulador) y C1, DEL, los separadores de
# línea y párrafo de Unicode, las marcas de sentido de escritura (UAX #9: reordenan lo que se lee) y los sustitutos.
_UNSAFE = "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_SHORT = {"\n": r"\n", "\r": r"\r", "\x00": r"\0"}


def escape(text: str) -> str:
    """``text``, que viene de otro extremo, sin nada que una terminal pueda obedecer: ``\\x1b`` en vez de ESC."""
    # Casi todo texto es imprimible, y así la expresión, que tarda en compilarse, solo la paga quien la necesita.
    if text.isprintable():
        return text
    import re

    return re.sub(_UNSAFE, _escape_one, text)


def _escape_one(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # así guarda Python un byte de la entrada que no es texto (PEP 383)
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def answer_interrupts() -> None:
    """Desde aquí Ctrl-C es ``KeyboardInterrupt``: los programas lo dejan en «acabar sin quejarse» mientras cargan."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def prepare_streams() -> None:
    """Deja la entrada y las salidas listas para nuestros textos.

    Se respeta la codificación de la terminal mientras conozca nuestros acentos (una página de códigos de Windows
    los conoce); si no, UTF-8. Lo que un mensaje traiga y ella no conozca se ve escapado, nunca es un error.
    """
    if os.name == "posix":
        _fill_closed_descriptors()
    for stream in (sys.stdout, sys.stderr):
        _prepare(stream, "backslashreplace")
    # Como en el protocolo: solo "\n" acaba una línea. Los bytes que no sean texto llegan enteros hasta quien los juzga.
    _prepare(sys.stdin, "surrogateescape", newline="\n")
    if sys.stdin is not None and hasattr(os, "set_blocking"):
        # Quien nos lanzó pudo dejar la entrada sin bloqueo: «aún no hay nada» parecería el final.
        with contextlib.suppress(OSError, ValueError):
            os.set_blocking(sys.stdin.fileno(), True)


def _fill_closed_descriptors() -> None:
    # Con un descriptor de los tres cerrado (`>&-`), el próximo socket tomaría su número: quien escriba en «la salida»
    # escribiría en él, y libuv (uvloop) aborta el programa al cerrarlo. Para Python siguen cerrados.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):  # sin /dev/null, como estaba
                os.open(os.devnull, os.O_RDWR)  # toma el menor libre: este


def _prepare(stream: TextIO | None, errors: str, newline: str | None = None) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if stream is None or reconfigure is None:
        return  # cerrado (`>&-`), o puesto por otro programa que sabrá lo que hace
    encoding = stream.encoding
    try:
        "áéíóúñ¿«»".encode(encoding)
        by_bytes = "\n".encode(encoding) == b"\n"  # UTF-16 no: ni se lee línea a línea ni se corta por donde sea
    except (UnicodeEncodeError, LookupError):
        by_bytes = False
    if not by_bytes:
        encoding = "utf-8"
    options = {} if newline is None else {"newline": newline}
    reconfigure(encoding=encoding, errors=errors, **options)


def say(text: str, end: str = "\n") -> None:
    """Escribe en la salida, y que se vea ya. Error: ``OSError`` si la salida no lo admite."""
    if sys.stdout is not None:
        _write(sys.stdout, text + end)


def complain(text: str) -> None:
    """Escribe una línea en la salida de errores; si no se puede, no hay a quién decírselo."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: alguien la cerró
            _write(sys.stderr, text + "\n")


def _write(stream: TextIO, text: str) -> None:
    raw = raw_of(stream)
    if raw is None or os.name == "nt":  # en Windows, los saltos de línea y los acentos de la consola los pone Python
        stream.write(text)
        stream.flush()
    else:
        write_whole(raw, text.encode(stream.encoding, stream.errors or "strict"))


def raw_of(stream: TextIO | None) -> RawIOBase | None:
    """Donde ``write_whole`` puede escribir los bytes de ``stream``; ``None`` si es de otro programa, que solo admite
    texto (IDLE)."""
    buffer = getattr(stream, "buffer", None)
    raw: RawIOBase | None = getattr(buffer, "raw", buffer)  # con «python -u» no hay búfer en medio
    return raw


def write_whole(raw: RawIOBase, data: bytes) -> None:
    """Escribe ``data`` hasta el último byte. Si ahora no cabe, espera: quien nos lanzó pudo dejar la salida sin bloqueo
    (lo es para todos los que la tienen abierta: quitárselo aquí se lo quitaría a él). Error: ``OSError``.

    Va por debajo de los búferes de Python: ellos, en ese caso, pierden lo que no cupo (PEP 3116).
    """
    rest = memoryview(data)
    while rest:
        size = raw.write(rest)
        if size is None:
            select.select([], [raw], [])
        else:
            rest = rest[size:]


def is_person(stream: TextIO | None) -> bool:
    """Si al otro lado de ``stream`` hay una persona: en una terminal, o en la ventana de un programa como IDLE."""
    return stream is not None and not stream.closed and stream.isatty()


def is_terminal(stream: TextIO | None) -> bool:
    """Si ``stream`` es una terminal de verdad, con su descriptor: una que edita, y que obedece códigos de escape."""
    if stream is None or not is_person(stream):
        return False
    try:
        return os.isatty(stream.fileno())
    except (AttributeError, OSError, ValueError):  # no tiene (io.UnsupportedOperation es de las dos últimas)
        return False


def close_output() -> None:
    """Al acabar: lo que la salida no admitió (disco lleno, tubería cerrada) no vuelve como un traceback de Python."""
    if sys.stdout is not None and not sys.stdout.closed:  # un servicio puede cerrarla
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
