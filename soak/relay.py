"""Un camino malo: pasa paquetes IP entre dos TUN y por el camino pierde, retrasa y desordena. Es un proceso aparte.

No sabe de TCP. Los paquetes perdidos se eligen con una semilla fija, para que dos medidas se parezcan.
Uso: python -m soak.relay TUN1 TUN2 PÉRDIDA RETRASO DEMORADOS DEMORA (proporciones y segundos; están en ``relay``).
Dice «listo» y, al cerrarse su entrada, los paquetes que ha visto.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import signal
import struct
import sys
import time

# include/uapi/linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_LARGEST = 65536  # bytes: lo que cabe en un paquete IP


def open_tun(name: str) -> int:
    """El descriptor de un TUN nuevo, que desaparece al cerrarlo."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


def relay(ends: tuple[int, int], stop: int, loss: float, delay: float, late: float, more: float) -> dict[str, int]:
    """Pasa paquetes hasta que ``stop`` tenga algo que leer. Devuelve cuántos de cada.

    De cada uno, con probabilidad ``loss`` no llega; si llega, a los ``delay`` segundos y, con probabilidad ``late``,
    ``more`` después: así le adelantan otros.
    """
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    chance = random.Random(20)
    travelling: list[tuple[float, int, int, bytes]] = []  # cuándo llega, su número, a qué TUN, qué
    latest = dict.fromkeys(ends, 0)
    counts = {"pasaron": 0, "perdidos": 0, "desordenados": 0}
    number = 0
    while True:
        wait = max(0.0, travelling[0][0] - time.monotonic()) if travelling else None
        ready, _, _ = select.select([*ends, stop], [], [], wait)
        if stop in ready:
            return counts
        for fd in ready:
            packet = os.read(fd, _LARGEST)
            if chance.random() < loss:
                counts["perdidos"] += 1
                continue
            number += 1
            arrives = time.monotonic() + delay + more * (chance.random() < late)
            heapq.heappush(travelling, (arrives, number, other[fd], packet))
        while travelling and travelling[0][0] <= time.monotonic():
            _, order, fd, packet = heapq.heappop(travelling)
            counts["desordenados"] += order < latest[fd]
            latest[fd] = max(latest[fd], order)
            try:
                os.write(fd, packet)
                counts["pasaron"] += 1
            except OSError:  # la cola del otro lado está llena, o aún no está puesto: también eso es perderse
                counts["perdidos"] += 1


def main(argv: list[str]) -> int:
    """``argv``, como se dice arriba. Devuelve el código de salida."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C es de quien lo lanzó, que cerrará su entrada
    try:
        ends = open_tun(argv[0]), open_tun(argv[1])
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print("listo", flush=True)
    loss, delay, late, more = map(float, argv[2:])
    print(json.dumps(relay(ends, sys.stdin.fileno(), loss, delay, late, more)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
