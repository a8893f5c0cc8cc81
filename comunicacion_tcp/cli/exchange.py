"""Un mensaje y su respuesta, para un programa: lo que comparten ``one_shot.py``, ``lines.py`` y ``repeat.py``.

Aquí se mide lo que tarda la respuesta y se escribe tal cual o en JSON. No hay diálogo (``dialogue.py``) ni códigos de
salida (``client.py``).
"""

from __future__ import annotations

import contextlib
import sys
import time

from ..client import Client
from ..errors import ConnectionLost, NetworkError, OutOfStep
from ..protocol import ERROR_START
from .terminal import escape, is_terminal, raw_of, say, write_whole

# Segundos: la respuesta ya se tiene, y a un servidor ajeno que ni contesta ni cierra no se le espera.
_GOODBYE_TIMEOUT = 0.5


class Answer:
    """Lo que respondió el servidor. ``reply``: el texto. ``milliseconds``: desde que se empezó a enviar el mensaje."""

    def __init__(self, message: str, reply: str, milliseconds: float) -> None:
        self.message = message
        self.reply = reply
        self.milliseconds = milliseconds

    @property
    def good(self) -> bool:
        """Si no es un error del servidor (o un texto del servicio que empieza como los errores)."""
        return not self.reply.startswith(ERROR_START)

    def write(self) -> None:
        """Escribe la respuesta sola. En una terminal, escapada; si no, en UTF-8 y con un salto de línea."""
        raw = raw_of(sys.stdout)
        if is_terminal(sys.stdout) or raw is None:
            say(escape(self.reply))
        else:
            write_whole(raw, self.reply.encode() + b"\n")

    def write_json(self) -> None:
        """Escribe una línea que es un objeto JSON."""
        write_json({"message": self.message, "reply": self.reply, "milliseconds": round(self.milliseconds, 3)})


def ask(client: Client, message: str) -> Answer:
    """Envía ``message`` y espera su respuesta. Errores: los de ``Client.send``, y ``OutOfStep`` si el servidor ha dicho
    algo más.

    La negativa de un servidor completo llega sin que se le pregunte, y es la respuesta.
    """
    start = time.perf_counter()
    try:
        reply = client.send(message)
    except ConnectionLost:
        said = [client.greeting] if client.greeting is not None else []
        with contextlib.suppress(NetworkError):
            said += client.take_unasked()
        if not said or not said[-1].startswith(ERROR_START):
            raise
        reply = said[-1]
    else:
        client.raise_if_out_of_step()
    return Answer(message, reply, (time.perf_counter() - start) * 1000)


def say_goodbye(client: Client, message: str) -> Answer:
    """Envía ``message``, que es la despedida, y espera lo último que diga el servidor."""
    start = time.perf_counter()
    farewell = client.say_goodbye()
    return Answer(message, farewell[-1] if farewell else "", (time.perf_counter() - start) * 1000)


def leave(client: Client) -> None:
    """Se despide de quien ya respondió: si eso falla, no falta nada. Error: ``OutOfStep`` si dijo algo más; a una
    despedida se contesta con una línea como mucho."""
    said: list[str] = []
    with contextlib.suppress(ConnectionLost):
        client.raise_if_out_of_step()
        client.take_unasked()  # lo que dijo antes de que se le preguntara nada
    with contextlib.suppress(NetworkError):
        said = client.say_goodbye(_GOODBYE_TIMEOUT)
    if len(said) > 1:
        raise OutOfStep(client.address, said[0])


def write_greeting(client: Client, *, as_json: bool) -> None:
    """Escribe el saludo del servidor, si se esperaba alguno."""
    if client.greeting is None:
        return
    if as_json:
        write_json({"greeting": client.greeting})
    else:
        say(f"Saludo del servidor: {escape(client.greeting)}")


def write_json(record: dict[str, object]) -> None:
    """Escribe ``record`` en una línea, en ASCII: se lee igual en cualquier sitio."""
    import json  # solo lo paga quien lo pide

    say(json.dumps(record))


def write_json_error(message: str, error: str) -> None:
    """El objeto de un mensaje que se quedó sin respuesta."""
    write_json({"message": message, "error": error})
