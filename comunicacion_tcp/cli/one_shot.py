"""``cliente-tcp hola mundo``: un mensaje, y su respuesta sola en la salida. Aquí no se decide el código de salida."""

from __future__ import annotations

from ..client import Client
from ..errors import NetworkError
from ..protocol import GOODBYE
from .exchange import ask, leave, say_goodbye, write_greeting, write_json_error
from .sentences import conversation_failed


def send_one(client: Client, message: str, *, as_json: bool) -> bool:
    """Envía ``message``, escribe su respuesta y se despide. Devuelve si no fue un error del servidor.

    Errores: los de ``Client.send``, y ``OSError`` de la salida.
    """
    if as_json:  # si no, en la salida va la respuesta sola
        write_greeting(client, as_json=True)
    try:
        answer = say_goodbye(client, message) if message == GOODBYE else ask(client, message)
    except NetworkError as error:
        if as_json:
            write_json_error(message, conversation_failed(error))
        raise
    if as_json:
        answer.write_json()
    else:
        answer.write()
    if message != GOODBYE:
        leave(client)
    return answer.good
