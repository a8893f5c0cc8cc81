"""El diálogo con una persona: pregunta un mensaje, lo envía, muestra la respuesta, y otra vez.

Aquí no hay opciones ni códigos de salida (``client.py``); conectar, enviar y esperar es de
``comunicacion_tcp/client.py``.
"""

from __future__ import annotations

import sys

from ..client import Client
from ..errors import ConnectionLost, MessageError
from ..protocol import GOODBYE
from .terminal import complain, escape, is_terminal, say

_PROMPT = f"Ingresa un mensaje (o '{GOODBYE}' para salir): "


def converse(client: Client) -> None:
    """La conversación entera, hasta la despedida. Errores: los de ``Client``, y ``OSError`` de la entrada o salida."""
    while True:
        message = _ask()
        _show(client.take_unasked())
        if message is None or message == GOODBYE:
            break
        try:
            _show([client.send(message)])
        except ConnectionLost:
            _show(client.take_unasked())  # quizá dijo por qué antes de cerrar
            raise
        except MessageError as error:
            complain(f"Ese mensaje no se envió: {error}. Si viene de un fichero, mira que esté en UTF-8.")
    try:
        farewell = client.say_goodbye()
    except ConnectionLost:
        _show(client.take_unasked())
        raise
    _show(farewell)
    if not farewell:
        say("El servidor cerró la conexión sin despedirse.")


def _ask() -> str | None:
    """El siguiente mensaje, o ``None`` si la entrada terminó."""
    say(_PROMPT, end="")
    line = sys.stdin.readline() if sys.stdin else ""
    # En una terminal la línea ya se ve, porque la persona la escribió; por una tubería la escribimos nosotros,
    # para que la conversación se lea igual.
    message = line.removesuffix("\n").removesuffix("\r")
    if not is_terminal(sys.stdin):
        say(escape(message))
    elif not line.endswith("\n"):
        say("")  # Ctrl-D no baja de línea
    return message if line else None


def _show(replies: list[str]) -> None:
    for reply in replies:
        say(f"Servidor: {escape(reply)}")
