"""El servidor y systemd: lo que se recibe de él al empezar, y lo que se le va contando.

Cómo se le habla es de ``comunicacion_tcp/systemd.py``.
"""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple

from ..server import Server
from ..systemd import Notifier, listening_sockets

_STATUS_EVERY = 5.0  # segundos: a quien mira «systemctl status» le basta, y no cuesta nada


class Manager(NamedTuple):
    """A quién se cuenta cómo va, y los sockets que dio; sin systemd, a nadie y ninguno."""

    notifier: Notifier
    sockets: list[socket.socket]


def manager() -> Manager:
    """Lo que dice el entorno, que deja de decirlo: se llama una vez, y antes de crear otro proceso o de importar nada
    que lo cree. Error: ``BadSocket``."""
    return Manager(Notifier.from_environment(), listening_sockets())


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
