"""``LastingTalk``: un diálogo que no acaba porque se pierda la conexión; vuelve a conectar, y lo dice.

Cuánto se espera entre intentos lo decide ``comunicacion_tcp/backoff.py``. Aquí no se lee del teclado.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

from ..backoff import Backoff
from ..client import Client
from ..conversation import waiting_helps
from ..errors import ConnectionLost, NetworkError, TimedOut, TLSFailed
from ..protocol import ERROR_START, GOODBYE
from .colour import ERROR, NOTICE, REPLY, paint, wants_colour
from .dialogue import Talk
from .sentences import conversation_broken
from .terminal import escape, say

# Quien escribe está mirando: si se tarda más, parece que no vuelve. Y por cada persona hay un cliente, no mil.
_BACKOFF = Backoff(most=5.0)
# Lo que teclea quien se quiere ir: la despedida mal escrita, y lo que vale en otros programas.
_WAYS_OUT = frozenset({"desconexion", "desconectar", "salir", "adios", "terminar", "exit", "quit", "bye", "logout"})
_WITHOUT_ACCENTS = str.maketrans("áéíóú", "aeiou")
_NEVER = float("inf")
_SETTLING = 0.3  # segundos sin que nos cierren para decir «conectado»: una negativa llega en una ida y vuelta, o dos
GLANCE = 0.1  # segundos entre una mirada a la conexión y otra: por debajo, una persona no nota que algo tardó


class LastingTalk(Talk):
    """Lo que se habla con el servidor, aunque la conexión se pierda por el camino.

    Un mensaje que estaba en vuelo no se vuelve a enviar: quizá se atendió. Uno que aún no se había enviado, sí, cuando
    se pueda. ``clock`` y ``sleep``: el reloj y la espera, en segundos. ``chance``: un número de 0 a 1.
    """

    def __init__(
        self,
        client: Client,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(client)
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._colour = wants_colour()
        self._to_tell: list[str] = []
        self._delays: Iterator[float] = _BACKOFF.delays(chance)
        self._attempt: _Attempt | None = None
        self._retry_at: float | None = None  # cuándo toca el próximo intento, o tocó el de ahora; nunca, con conexión
        self._since = clock()  # cuándo se conectó
        self._settled = True  # si se ha dicho que hay conexión
        self._heard: list[str] = []  # lo que el servidor dijo por su cuenta y aún no se ha mostrado
        self._dismissed = False  # si el servidor se ha quejado de nosotros: si ahora cuelga, es que no nos quiere ahí
        self._refusal: list[str] = []  # lo que dijo antes de colgar la última vez

    def exchange(self, message: str) -> None:
        self.poll()
        self.wait()
        try:
            reply = self._client.send(message)
        except (ConnectionLost, TimedOut) as error:
            self._lose(error, in_flight=True)
            self.tell()
        else:
            self._show([reply])
            if wants_to_leave(message, reply):
                self._notice(f"Para salir, escribe {GOODBYE}, en mayúsculas y sin nada más.")
                self.tell()
            self._delays = _BACKOFF.delays(self._chance)  # este servidor atiende: la próxima vez, con prisa
            self._dismissed = False

    def say_goodbye(self) -> None:
        self.tell()
        if self._retry_at is None:  # si no, no hay de quién despedirse
            super().say_goodbye()

    def poll(self) -> bool:
        if self._attempt:
            if self._attempt.over:
                self._finish(self._attempt)
        elif self._retry_at is not None:
            if self._clock() >= self._retry_at:
                self._try()
        else:
            self._listen()
        return bool(self._to_tell)

    def tell(self) -> None:
        while self._to_tell:
            say(self._to_tell.pop(0))

    def wait(self) -> None:
        self.tell()
        if self._retry_at == _NEVER:
            self._retry_at = self._clock()
        while not self._settled:
            self._sleep(GLANCE)
            self.poll()
            self.tell()

    # -- por dentro -----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Con conexión: lo que el servidor haya dicho, y si sigue ahí."""
        try:
            self._heard += self._client.take_unasked()
            self._client.raise_if_lost()
        except ConnectionLost as error:
            self._lose(error)
            return
        now = self._clock()
        if not self._settled and now >= self._since + _SETTLING:
            self._settled = True
            self._notice(f"Conectado otra vez al servidor en {escape(self._client.address)}")
        if self._settled:
            self._quote_heard()
        if now >= self._since + _BACKOFF.most:  # ha durado: no es de los que cuelgan nada más llegar
            self._delays = _BACKOFF.delays(self._chance)

    def _lose(self, error: NetworkError, *, in_flight: bool = False) -> None:
        """Se perdió la conexión: lo cuenta, si no es que aún se estaba volviendo, y prepara el próximo intento."""
        with contextlib.suppress(ConnectionLost):  # la cerramos nosotros
            self._heard += self._client.take_unasked()  # quizá dijo por qué antes de cerrar
        if self._settled or self._heard != self._refusal:  # que sigue completo ya se sabe
            self._refusal = self._heard
            self._quote_heard()
        self._heard = []
        if self._settled:
            self._notice(conversation_broken(error))
            if in_flight:
                self._notice("No se sabe si el servidor lo recibió: envíalo otra vez si hace falta.")
            if self._dismissed:
                self._notice("Se volverá a conectar con el próximo mensaje.")
            else:
                self._notice("Volviendo a conectar... (Ctrl-C para dejarlo)")
        self._settled = False
        self._client.close()
        self._plan()
        if self._dismissed:
            self._retry_at = _NEVER
        self._dismissed = False

    def _quote_heard(self) -> None:
        if self._settled and self._clock() >= self._since + _SETTLING:  # antes, lo que pasa es que no cabemos
            self._dismissed |= any(map(_is_error, self._heard))
        self._to_tell += map(self._line, self._heard)
        self._heard = []

    def _try(self) -> None:
        try:
            self._attempt = _Attempt(self._client.connect)
        except RuntimeError:  # el sistema no deja ahora crear un hilo
            self._plan()

    def _plan(self) -> None:
        self._attempt = None
        self._retry_at = self._clock() + next(self._delays)

    def _finish(self, attempt: _Attempt) -> None:
        error = attempt.error
        if error is None:
            self._attempt = self._retry_at = None
            self._since = self._clock()
            if self._client.greeting is not None:
                self._heard.append(self._client.greeting)
        elif isinstance(error, NetworkError) and _may_pass(error):
            self._plan()
        else:
            raise error

    def _line(self, reply: str) -> str:
        line = super()._line(reply)
        return paint(line, ERROR if _is_error(reply) else REPLY) if self._colour else line

    def _notice(self, line: str) -> None:
        # Por la salida, y no por la de errores: es parte del diálogo, y aquí siempre hay alguien mirándola.
        self._to_tell.append(paint(line, NOTICE) if self._colour else line)


def wants_to_leave(message: str, reply: str) -> bool:
    """Si ``message`` parece de quien quiere irse y no sabe cómo, y el servidor solo se lo ha repetido."""
    plain = message.casefold().strip(" \t.:!()¡«»'\"").translate(_WITHOUT_ACCENTS)
    return plain in _WAYS_OUT and reply.casefold() == message.casefold()


def _is_error(reply: str) -> bool:
    return reply.startswith(ERROR_START)


def _may_pass(error: NetworkError) -> bool:
    """Si esperando puede arreglarse: un certificado que no vale, por ejemplo, es cosa de una persona. Aquí el nombre ya
    valió una vez: que ahora no exista es que no hay red."""
    return not isinstance(error, TLSFailed) or waiting_helps(error)


class _Attempt:
    """Un intento de conectar en su propio hilo, que puede tardar: mientras, se sigue escribiendo.

    ``over``: si acabó. ``error``: por qué no se pudo; ``None`` si se pudo.
    """

    def __init__(self, connect: Callable[[], None]) -> None:
        self._connect = connect
        self.over = False
        self.error: Exception | None = None
        # Quien se va no espera por él.
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._connect()
        except Exception as error:
            self.error = error
        finally:
            self.over = True
