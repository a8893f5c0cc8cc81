"""Lo que un servidor de un solo proceso le va contando a systemd mientras trabaja: que sigue vivo, y con cuántos.

Cómo se le dice es de ``comunicacion_tcp/systemd.py``.
"""

from __future__ import annotations

import asyncio

from ..server import Server
from ..systemd import Notifier

_STATUS_EVERY = 5.0  # segundos: a quien mira «systemctl status» le basta, y no cuesta nada


async def keep_posted(notifier: Notifier, server: Server) -> None:
    """No acaba: se cancela. Va en el bucle que atiende a todos: si se atasca, systemd deja de saber de él y lo
    reinicia."""
    pause = min(_STATUS_EVERY, notifier.watchdog_interval or _STATUS_EVERY)
    told = ""
    while True:
        notifier.watchdog()
        status = how_it_goes(server.conversations)
        if status != told:
            notifier.status(status)
            told = status
        await asyncio.sleep(pause)


def how_it_goes(conversations: int) -> str:
    """La frase que enseña ``systemctl status``."""
    if not conversations:
        return "Escuchando; ahora no hay ninguna conversación."
    return f"Atendiendo {conversations} conversaciones." if conversations > 1 else "Atendiendo 1 conversación."
