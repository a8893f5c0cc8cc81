"""Un servidor al azar: responde en mayúsculas, a trozos o a destiempo, y a veces corta antes o después de atender."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from random import Random

from .sockets import reset


class Chaos:
    """``serve`` atiende una conversación. ``attended``: cuántas veces atendió cada mensaje."""

    def __init__(self, seed: int) -> None:
        self.attended: Counter[str] = Counter()
        self._random = Random(seed)  # de todas las conversaciones: que ninguna sea siempre la misma

    def serve(self, sock: socket.socket) -> None:
        """Una conversación. No acaba a mitad de una respuesta: el final de la entrada la daría por entera."""
        chance = self._random.random
        pending = b""
        while data := sock.recv(self._random.choice([1, 16, 65536])):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                if chance() < 0.03:
                    reset(sock)
                    return
                self.attended[line.decode()] += 1
                if chance() < 0.03:
                    return
                reply = line.upper() + b"\n"
                cut = self._random.randrange(len(reply)) if chance() < 0.3 else 0
                sock.sendall(reply[:cut])
                if chance() < 0.3:
                    threading.Event().wait(chance() / 200)  # hasta 5 ms: que dé tiempo a cancelar
                sock.sendall(reply[cut:])
