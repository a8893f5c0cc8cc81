"""Dos espacios de nombres de red unidos por un cable: el servidor en uno y sus clientes en el otro.

El cable es un par veth o, si debe perder, retrasar y desordenar, ``relay.py`` entre dos TUN (este núcleo no tiene
netem). Llevan el número de este proceso en su nombre, y al acabar se borran. Solo en Linux y siendo root.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from .results import Unavailable
from .server import PATIENCE

SERVER, CLIENT = "10.77.0.1", "10.77.0.2"
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h


@dataclass(frozen=True)
class Bad:
    """Lo malo que es un camino: proporción de paquetes que se pierden, segundos de ida, proporción de los que se
    demoran y cuántos segundos más (y así les adelantan otros), y bits por segundo."""

    loss: float
    delay: float
    late: float
    more: float
    rate: int


@dataclass
class Pair:
    """Los dos espacios: ``server`` y ``client`` son sus nombres."""

    server: str
    client: str
    relay: subprocess.Popen[str] | None = None

    def inside(self, name: str) -> list[str]:
        """Lo que va delante de una orden para que se ejecute dentro de ``name``."""
        return ["ip", "netns", "exec", name]

    def connect(self, port: int) -> socket.socket:
        """Un socket del espacio de los clientes, conectado con el servidor, en este proceso."""
        with _inside(self.client):
            sock = socket.socket()
        sock.settimeout(PATIENCE)
        sock.connect((SERVER, port))
        return sock

    def silence(self) -> None:
        """Desde aquí nada sale de los clientes: para el servidor, han desaparecido."""
        _ip("-n", self.client, "route", "add", "blackhole", f"{SERVER}/32")

    def speak(self) -> None:
        """Deshace ``silence``."""
        _ip("-n", self.client, "route", "del", "blackhole", f"{SERVER}/32")

    def relayed(self) -> dict[str, int]:
        """Los paquetes que ha visto el camino malo: ``pasaron``, ``perdidos``, ``desordenados``."""
        assert self.relay
        assert self.relay.stdin
        assert self.relay.stdout
        self.relay.stdin.close()
        counts: dict[str, int] = json.loads(self.relay.stdout.readline())
        return counts


@contextlib.contextmanager
def joined(bad: Bad | None = None) -> Iterator[Pair]:
    """Los dos espacios, unidos. ``Unavailable`` si esta máquina no deja hacerlos."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise Unavailable("solo root hace espacios de nombres de red")
    if not shutil.which("ip"):
        raise Unavailable("falta el programa ip (iproute2)")
    names = [f"soak{os.getpid()}{side}" for side in "sc"]
    pair = Pair(names[0], names[1])
    with contextlib.ExitStack() as undo:
        for name in names:
            _ip("netns", "add", name)
            undo.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        devices = [f"{name}0" for name in names]
        if bad:
            pair.relay = undo.enter_context(_relay(devices, bad))
            for name, device in zip(names, devices, strict=True):
                _ip("link", "set", device, "netns", name)
        else:
            _ip("-n", names[0], "link", "add", devices[0], "type", "veth", "peer", "name", devices[1])
            _ip("-n", names[0], "link", "set", devices[1], "netns", names[1])
        for name, device, address in zip(names, devices, (SERVER, CLIENT), strict=True):
            _ip("-n", name, "addr", "add", f"{address}/30", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
            if bad:
                # 50 ms de cola, lo que un encaminador de casa; 32 KiB de una vez, más que el mayor paquete.
                limit = ["root", "tbf", "rate", f"{bad.rate}bit", "burst", "32k", "latency", "50ms"]
                _run(["tc", "-n", name, "qdisc", "add", "dev", device, *limit])
        yield pair


@contextlib.contextmanager
def _relay(devices: list[str], bad: Bad) -> Iterator[subprocess.Popen[str]]:
    how = map(str, (bad.loss, bad.delay, bad.late, bad.more))
    command = [sys.executable, "-m", "soak.relay", *devices, *how]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stderr
        if not process.stdout.readline():
            raise Unavailable(f"no se puede abrir un TUN: {process.stderr.read().strip()}")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


@contextlib.contextmanager
def _inside(name: str) -> Iterator[None]:
    """Este hilo, dentro de ese espacio: los sockets que se hagan aquí serán de él para siempre."""
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns es de Python 3.12

    def enter(path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(fd, _CLONE_NEWNET):
                raise Unavailable(f"no se puede entrar en {path}: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(fd)

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(f"/run/netns/{name}")
        try:
            yield
        finally:
            enter(f"/proc/self/fd/{home}")
    finally:
        os.close(home)


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"«{' '.join(command)}» dice: {done.stderr.strip()}")
