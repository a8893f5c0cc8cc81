"""Qué se responde: un ``Service`` hecho de cualquier función ``str -> str``, y el que viene puesto, mayúsculas.

Aquí no se parten bytes en mensajes ni se juzga lo que devuelve una función: eso es de ``protocol.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .records import Record

Function = Callable[[str], str] | Callable[[str], Awaitable[str]]
"""Una función ``str -> str``, corriente o ``async``."""


class Service(Record):
    """Lo que un servidor responde.

    ``function``: recibe un mensaje (``str`` sin ``\\n``) y devuelve su respuesta (``str`` sin ``\\n``). Puede ser
    ``async``.

    ``block``: el atajo, si lo hay. Recibe de una vez muchos mensajes enteros en UTF-8, cada uno con su
    terminador, y devuelve sus respuestas igual. Debe dar lo mismo que ``function`` mensaje a mensaje; si algo
    no le cuadra lanza una excepción y los mensajes se responden de uno en uno. De aquí sale la velocidad.

    ``by_character``: si responder un texto a trozos da los mismos bytes que responderlo entero. Solo entonces
    se puede contestar al vuelo a clientes que no envían terminador; si no, el servidor habla solo por líneas.
    """

    function: Function
    block: Callable[[bytes], bytes] | None = None
    by_character: bool = False


def as_service(service: Service | Function) -> Service:
    """Devuelve ``service`` tal cual si ya es un ``Service``; una función ``str -> str`` la envuelve en uno.

    Error: ``TypeError`` si no es ninguna de las dos cosas.
    """
    if isinstance(service, Service):
        return service
    if not callable(service):
        raise TypeError(f"un servicio es un Service o una función str -> str, no {type(service).__name__}")
    return Service(service)


_LATIN_ODD = (b"\xb5", b"\xdf", b"\xff")  # µ, ß y ÿ en Latin-1: su mayúscula no cabe en él
_LATIN_LOWER = "abcdefghijklmnopqrstuvwxyzàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþ"
_LATIN_UPPER = bytes.maketrans(_LATIN_LOWER.encode("latin-1"), _LATIN_LOWER.upper().encode("latin-1"))
_LATIN_FROM = 1024  # bytes: con menos, tantos pasos cuestan más de lo que ahorran


def _uppercase_block(block: bytes) -> bytes:
    # Tres caminos a los mismos bytes, del más corto al que vale siempre (python3 -m timeit, Python 3.11). ASCII: 70 ns
    # en vez de 101 con un mensaje de 32 bytes. Español y vecinos, que caben en Latin-1, donde basta una tabla: 12 us
    # en vez de 23 con cien de 32. Y str.upper(), que mira cada carácter.
    if block.isascii():
        return block.upper()
    text = block.decode()
    if len(block) >= _LATIN_FROM:
        try:
            latin = text.encode("latin-1")
        except UnicodeEncodeError:
            pass
        else:
            if not any(odd in latin for odd in _LATIN_ODD):
                return latin.translate(_LATIN_UPPER).decode("latin-1").encode()
    return text.upper().encode()


uppercase: Service = Service(str.upper, block=_uppercase_block, by_character=True)
"""El servicio que viene puesto: cada mensaje, en mayúsculas (las de Unicode, carácter a carácter)."""
