"""``cliente-tcp --json`` sin mensaje: cada línea de la entrada, un mensaje, y un objeto JSON por respuesta.

Cada uno espera a la respuesta del anterior: así los tiempos son de verdad. Para ir deprisa está ``pipe.py``.
"""

from __future__ import annotations

import sys

from ..client import Client
from ..errors import MessageError, NetworkError
from ..protocol import GOODBYE
from .exchange import ask, leave, say_goodbye, write_greeting, write_json_error
from .sentences import conversation_failed


def send_lines(client: Client) -> bool:
    """Envía cada línea, hasta la despedida o el final. Devuelve si todas se pudieron enviar y ninguna recibió un error.

    Errores: los de ``Client.send``, y ``OSError`` de la entrada o la salida.
    """
    good = True
    write_greeting(client, as_json=True)
    while line := sys.stdin.readline() if sys.stdin else "":
        message = line.removesuffix("\n").removesuffix("\r")
        try:
            if message == GOODBYE:
                say_goodbye(client, message).write_json()
                return good
            answer = ask(client, message)
        except MessageError as error:
            write_json_error(message, f"Ese mensaje no se envió: {error}.")
            good = False
        except NetworkError as error:
            write_json_error(message, conversation_failed(error))
            raise
        else:
            answer.write_json()
            good = good and answer.good
    leave(client)
    return good
