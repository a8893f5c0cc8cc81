"""``cliente-tcp --repetir N``: el mismo mensaje una y otra vez, y al final un resumen de los tiempos, como ping.

Aquí se cuenta y se escribe; el reloj y la espera se reciben. Los códigos de salida son de ``client.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count as count_from

from ..client import Client
from ..errors import NetworkError
from .exchange import ask, leave, write_greeting, write_json, write_json_error
from .sentences import conversation_failed
from .terminal import escape, say


class Times:
    """Cuántos números van, el menor, el mayor, la media y la desviación típica.

    No los guarda: ocupan lo mismo uno que mil millones (B. P. Welford, «Note on a Method for Calculating Corrected Sums
    of Squares and Products», 1962).
    """

    def __init__(self) -> None:
        self.count: int = 0
        self.least: float = 0.0
        self.most: float = 0.0
        self.mean: float = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        """Uno más."""
        self.count += 1
        self.least = value if self.count == 1 else min(self.least, value)
        self.most = max(self.most, value)
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def deviation(self) -> float:
        """La desviación típica de todos ellos (como el «mdev» de ping); 0 si no hay ninguno."""
        return float((self._squares / self.count) ** 0.5) if self.count else 0.0


def send_again(
    client: Client,
    message: str,
    times: int,
    interval: float,
    *,
    as_json: bool,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> bool:
    """Envía ``message`` ``times`` veces (0: sin fin), una cada ``interval`` segundos o en cuanto llega la respuesta
    anterior. Devuelve si ninguna fue un error del servidor.

    El resumen se escribe siempre, también si algo falla o llega un Ctrl-C. Errores: los de ``Client.send``, y
    ``OSError`` de la salida.
    """
    taken = Times()
    sent = 0
    good = True
    write_greeting(client, as_json=as_json)
    try:
        start = now()
        for number in range(1, times + 1) if times else count_from(1):
            if number > 1:
                # El turno de cada uno se cuenta desde el primero: lo que se retrase uno no se suma a los demás. Una
                # respuesta muy lenta no deja una ráfaga detrás.
                start = max(start + interval, now())
                if (wait := start - now()) > 0:
                    sleep(wait)
            sent += 1
            answer = ask(client, message)
            taken.add(answer.milliseconds)
            good = good and answer.good
            if as_json:
                answer.write_json()
            else:
                say(f"{number}: {answer.milliseconds:.3f} ms  {escape(answer.reply)}")
    except NetworkError as error:
        if as_json:
            write_json_error(message, conversation_failed(error))
        raise
    finally:
        _summarize(client.address, sent, taken, as_json=as_json)
    leave(client)
    return good


def _summarize(address: str, sent: int, taken: Times, *, as_json: bool) -> None:
    if as_json:
        figures = {"min": taken.least, "mean": taken.mean, "max": taken.most, "deviation": taken.deviation}
        milliseconds = {name: round(value, 3) for name, value in figures.items()} if taken.count else None
        write_json({"sent": sent, "replies": taken.count, "lost": sent - taken.count, "milliseconds": milliseconds})
        return
    say(f"--- {escape(address)}: {sent} enviados, {taken.count} respondidos, {sent - taken.count} perdidos")
    if taken.count:
        say(
            "mínimo/media/máximo/desviación = "
            f"{taken.least:.3f}/{taken.mean:.3f}/{taken.most:.3f}/{taken.deviation:.3f} ms"
        )
