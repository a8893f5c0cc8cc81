"""El diálogo con una persona: pregunta un mensaje, lo envía, muestra la respuesta, y otra vez.

Aquí está el de siempre, el de una tubería. En una terminal, con qué se escribe lo elige ``line_editor.py``, y la
conexión que vuelve sola es de ``reconnection.py``. No hay opciones ni códigos de salida (``client.py``); conectar,
enviar y esperar es de ``comunicacion_tcp/client.py``.
"""

from __future__ import annotations

import sys

from ..client import Client
from ..errors import ConnectionLost, MessageError
from ..protocol import GOODBYE
from .terminal import complain, escape, is_person, is_terminal, say

_PROMPT = f"Ingresa un mensaje (o '{GOODBYE}' para salir): "


def converse(client: Client, *, keep_history: bool = True) -> None:
    """La conversación entera, hasta la despedida. Errores: los de ``Client``, y ``OSError`` de la entrada o salida.

    ``keep_history``: si, en una terminal, los mensajes se guardan para la próxima vez.
    """
    if is_terminal(sys.stdin) and is_terminal(sys.stdout):
        from .line_editor import open_editor  # nada de esto hace falta por una tubería
        from .reconnection import LastingTalk

        _hold(LastingTalk(client), open_editor(keep_history=keep_history))
    else:
        _hold(Talk(client), PlainEditor())


def _hold(talk: Talk, editor: Editor) -> None:
    talk.greet()
    try:
        while (message := editor.ask(_PROMPT, talk)) is not None and message != GOODBYE:
            try:
                talk.exchange(message)
            except MessageError as error:
                complain(f"Ese mensaje no se envió: {error}. Si viene de un fichero, mira que esté en UTF-8.")
        talk.say_goodbye()
    finally:
        editor.close()


class Talk:
    """Lo que se habla con el servidor, mostrado. Si la conexión se pierde, se acabó: ``ConnectionLost``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def greet(self) -> None:
        """Muestra el saludo del servidor, si se esperaba alguno."""
        if self._client.greeting is not None:
            self._show([self._client.greeting])

    def exchange(self, message: str) -> None:
        """Envía ``message`` y muestra su respuesta, y antes lo que el servidor hubiera dicho sin que se le preguntara.

        Errores: los de ``Client.send``.
        """
        self._show(self._client.take_unasked())
        try:
            self._show([self._client.send(message)])
        except ConnectionLost:
            self._show(self._client.take_unasked())  # quizá dijo por qué antes de cerrar
            raise

    def say_goodbye(self) -> None:
        """Se despide y muestra lo que conteste. Errores: los de ``Client.say_goodbye``."""
        self._show(self._client.take_unasked())
        try:
            farewell = self._client.say_goodbye()
        except ConnectionLost:
            self._show(self._client.take_unasked())
            raise
        self._show(farewell)
        if not farewell:
            say("El servidor cerró la conexión sin despedirse.")

    def poll(self) -> bool:
        """Mira, sin esperar, si ha pasado algo mientras se escribe; devuelve si hay algo que contar con ``tell``."""
        return False

    def tell(self) -> None:
        """Muestra lo que ``poll`` encontró."""

    def wait(self) -> None:
        """Lo llama antes de leer quien no puede llamar a ``poll`` mientras lee."""

    def _show(self, replies: list[str]) -> None:
        for reply in replies:
            say(self._line(reply))

    def _line(self, reply: str) -> str:
        return f"Servidor: {escape(reply)}"


class Editor:
    """Con qué escribe la persona."""

    def ask(self, prompt: str, talk: Talk) -> str | None:
        """El siguiente mensaje, o ``None`` si la entrada terminó. Error: ``KeyboardInterrupt``."""
        raise NotImplementedError

    def close(self) -> None:
        """Deja la terminal como estaba."""


class PlainEditor(Editor):
    """La entrada tal cual: una tubería, o una terminal en la que edita el sistema."""

    def ask(self, prompt: str, talk: Talk) -> str | None:
        talk.wait()
        say(prompt, end="")
        line = sys.stdin.readline() if sys.stdin else ""
        # Si la escribió una persona, la línea ya se ve; por una tubería la escribimos nosotros, para que la
        # conversación se lea igual.
        message = line.removesuffix("\n").removesuffix("\r")
        if not is_person(sys.stdin):
            say(escape(message))
        elif not line.endswith("\n"):
            say("")  # Ctrl-D no baja de línea
        return message if line else None
