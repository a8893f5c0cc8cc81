"""Los límites como opciones: cada uno de ``limits.py``, con su nombre y su explicación en español.

Aquí no está ningún número ni su razón: eso es de ``comunicacion_tcp/limits.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..limits import LARGEST, OPTIONAL, Limits

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from typing import Any

# campo de Limits → opción y lo que dice de ella la ayuda
SERVER_LIMITS = {
    "max_message": ("--max-mensaje", "bytes de un mensaje"),
    "max_output": ("--max-salida", "bytes de una respuesta"),
    "high_water": ("--umbral-salida", "bytes de respuestas por leer con que se deja de responder"),
    "max_held": ("--max-guardado", "bytes sin leer o sin acabar entre todas las conversaciones; 0, los que sean"),
    "messages_per_turn": ("--mensajes-por-turno", "mensajes de uno en uno antes de atender a otros clientes"),
    "message_timeout": ("--plazo-mensaje", "desde que un mensaje empieza hasta que acaba"),
    "handshake_timeout": ("--plazo-tls", "para el saludo de TLS, o para la cabecera PROXY"),
    "goodbye_silence": ("--silencio", "silencio que confirma una despedida sin fin de línea"),
    "service_timeout": ("--plazo-servicio", "para que el servicio responda un mensaje; 0, lo que tarde"),
    "max_connections": ("--max-conexiones", "conversaciones a la vez en cada proceso"),
    "max_per_address": ("--max-por-direccion", "las mismas, desde una dirección; 0, las que quepan"),
    "reserve": ("--reserva", "descriptores que no se dan a conversaciones"),
    "backlog": ("--cola", "conexiones por aceptar que guarda el sistema"),
    "accept_pause": ("--pausa-aceptar", "sin poder aceptar, hasta volver a intentarlo"),
    "idle_timeout": ("--plazo-inactivo", "sin recibir nada hasta cerrar; 0, nunca"),
    "output_timeout": ("--plazo-salida", "sin que un cliente reciba nada de lo que se le debe, hasta cortarlo"),
    "keepalive": ("--keepalive", "sin noticias de una máquina hasta preguntarle; 0, nunca"),
    "linger": ("--plazo-cierre", "callado un cliente tras la despedida, hasta cerrar"),
    "linger_quiet": ("--calma-cierre", "lo mismo, al detener el servidor"),
    "drain": ("--plazo-parada", "para entregar lo debido al detener el servidor"),
    "worker_timeout": ("--plazo-proceso", "con --procesos, sin señales de vida de uno, hasta poner otro"),
    "handover": ("--plazo-relevo", "al recargar, para las conversaciones de los procesos de antes; 0, lo que duren"),
}
CLIENT_LIMITS = {
    "reply_silence": ("--silencio", "callado el servidor, hasta dar por entera una respuesta sin fin de línea"),
    "max_reply": ("--max-respuesta", "bytes de una respuesta; con -q no se aplica"),
    "max_unasked": ("--max-sin-pedir", "bytes de lo que el servidor dice sin que se le pregunte"),
}

_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}
_LONGEST_WAIT = 7 * 24 * 3600.0  # una semana; más allá los sistemas empiezan a no saber esperar (2**31 ms)


def add_limits(parser: argparse.ArgumentParser, limits: dict[str, tuple[str, str]]) -> None:
    """Añade a ``parser`` una opción por cada límite de ``limits``."""
    group = parser.add_argument_group("límites", "plazos en segundos; tamaños en bytes, o 64K, 1M")
    for field, (option, text) in limits.items():
        default = getattr(Limits, field)
        waits = isinstance(default, float)
        group.add_argument(
            option,
            dest=field,
            type=seconds(zero=field in OPTIONAL) if waits else _number,
            metavar="S" if waits else "N",
            default=default,
            help=f"{text} ({default:g})" if waits else f"{text} (%(default)s)",
        )


def chosen_limits(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    limits: dict[str, tuple[str, str]],
    **others: float,
) -> Limits:
    """Los límites elegidos en las opciones, y ``others``. Si no son posibles, se dice y acaba el programa, con un 2."""
    chosen: dict[str, Any] = {field: getattr(options, field) for field in limits}
    try:
        return Limits(**chosen, **others)  # type: ignore[arg-type]
    except ValueError as error:
        message = str(error)
        for field, (option, _) in limits.items():
            message = message.replace(field, option)
        parser.error(message)


def _number(text: str) -> int:
    """El tipo de una opción que es una cuenta o un tamaño: ``500``, ``64K``, ``1M``."""
    unit = _UNITS.get(text[-1:].upper(), 1)
    digits = text[:-1] if unit > 1 else text
    number = int(digits) * unit if digits.isascii() and digits.isdigit() and len(digits) <= len(str(LARGEST)) else -1
    if not 0 <= number <= LARGEST:
        raise argparse.ArgumentTypeError(f"debe ser un número entero (500, 64K, 1M) de 0 a {LARGEST}, no {text!r}")
    return number


def seconds(*, zero: bool = False) -> Callable[[str], float]:
    """El tipo de una opción que es un plazo en segundos. ``zero``: si puede ser cero, que es no tenerlo."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (0 < value <= _LONGEST_WAIT or (zero and value == 0)):
            least = "cero o más" if zero else "mayor que cero"
            raise argparse.ArgumentTypeError(
                f"debe ser un número de segundos {least} (1.5, con punto) y de una semana como mucho, no {text!r}"
            )
        return value

    return convert
