"""Clientes lentos, que leen poco o paran un rato y no tienen prisa; y uno que de verdad no lee."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.report import ROOT
from benchmarks.run import environment

from ..oracle import Flood
from ..results import Failed, Outcome, Scenario, number
from ..scale import MIB, Scale
from ..server import PATIENCE, Running, serving, until
from .crowds import connect

_BLOCK = 20_000  # mensajes por bloque: unos 400 KB
_CLIENT = [sys.executable, str(ROOT / "Cliente_TCP.py")]
_READ = 8 * 1024  # bytes de cada lectura lenta


class _Reader:
    """Lee de ``read`` despacio y después deprisa; comprueba cada byte."""

    def __init__(self, scale: Scale, flood: Flood, read: Callable[[int], bytes]) -> None:
        self._scale = scale
        self._flood = flood
        self._read = read

    def all(self) -> None:
        """Hasta el final."""
        scale = self._scale
        hurry = time.monotonic() + scale.slow_seconds
        while data := self._read(_READ):
            self._flood.receive(data)
            if time.monotonic() < hurry:
                time.sleep(len(data) / scale.slow_rate)
        self._flood.finish()


@contextlib.contextmanager
def _sending(sock: socket.socket, flood: Flood, size: int) -> Iterator[None]:
    """Envía ``size`` bytes, o un poco más, y cierra ese lado, mientras otro lee. Acaba a la vez que el bloque."""
    blocks = [flood.take() for _ in range(size // len(flood.block) + 1)]

    def send() -> None:
        with contextlib.suppress(ConnectionError):  # si le cortan, lo verá quien lee
            for block in blocks:
                sock.sendall(block)
            sock.shutdown(socket.SHUT_WR)

    sock.settimeout(None)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sender.join()


def _slow_socket(server: Running, scale: Scale, flood: Flood) -> None:
    with connect(server) as sock, _sending(sock, flood, scale.slow_bytes):
        _Reader(scale, flood, sock.recv).all()


def _slow_after_leaving(server: Running, scale: Scale, flood: Flood) -> None:
    # Lo que cabe en los búferes: ya se ha ido cuando empieza a leer.
    with connect(server) as sock, _sending(sock, flood, 4 * MIB):
        _Reader(scale, flood, sock.recv).all()


def _paused(server: Running, scale: Scale, flood: Flood) -> None:
    with connect(server) as sock, _sending(sock, flood, scale.slow_bytes):
        time.sleep(3 * scale.keepalive)
        while data := sock.recv(1 << 16):
            flood.receive(data)
        flood.finish()


def _through_a_pipe(command: list[str], scale: Scale, flood: Flood) -> None:
    """Un programa que envía un fichero, y cuya salida lee alguien despacio."""
    with tempfile.TemporaryFile() as file:
        for _ in range(scale.slow_bytes // len(flood.block) + 1):
            file.write(flood.take())
        file.seek(0)
        with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, env=environment()) as process:
            assert process.stdout
            try:
                _Reader(scale, flood, process.stdout.read).all()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise Failed(f"{command[0]} acabó con código {process.returncode}")


def slow_readers(scale: Scale) -> Outcome:
    with serving("--keepalive", str(scale.keepalive)) as server:
        place = [server.host, str(server.port)]
        kinds: dict[str, Callable[[Flood], None]] = {
            "un socket": lambda flood: _slow_socket(server, scale, flood),
            "otro que ya cerró su lado": lambda flood: _slow_after_leaving(server, scale, flood),
            "uno que para y sigue": lambda flood: _paused(server, scale, flood),
            "cliente-tcp -q": lambda flood: _through_a_pipe(
                [*_CLIENT, "--host", place[0], "--puerto", place[1], "-q"], scale, flood
            ),
        }
        if nc := shutil.which("nc.openbsd"):
            kinds["nc -N"] = lambda flood: _through_a_pipe([nc, "-N", *place], scale, flood)
        with ThreadPoolExecutor(len(kinds)) as pool:
            floods = [Flood(index, _BLOCK) for index in range(len(kinds))]
            for done in [pool.submit(kind, flood) for kind, flood in zip(kinds.values(), floods, strict=True)]:
                done.result()
        if "entregar" in server.output or "perdió" in server.output:
            raise Failed(f"el servidor dice: {server.output}")
    return Outcome(
        [
            f"{', '.join(kinds)}: a {number(scale.slow_rate / 1000)} kB/s durante {scale.slow_seconds:g} s, o parado "
            f"{3 * scale.keepalive:g} s con --keepalive {scale.keepalive:g}, reciben enteros "
            f"{number(sum(flood.bytes for flood in floods) / MIB)} MiB",
            f"a quien no lee se le corta a los {_cut(scale):.1f} s, con un plazo de {scale.output_deadline:g} s, y "
            "ve un RST",
        ],
        True,
    )


def _cut(scale: Scale) -> float:
    """Los segundos que tarda en ver el corte uno que pide mucho, cierra su lado y no lee. ``Failed`` si ve un final en
    orden."""
    # Un solo mensaje (tras un LF, que dice que se habla por líneas), y se lee entero: con algo sin leer, el sistema ya
    # manda un RST por su cuenta.
    message = "ΰ".encode() * (scale.slow_bytes // 6)
    options = ("--max-mensaje", str(len(message)), "--max-salida", str(4 * len(message)))
    with (
        serving("--plazo-salida", str(scale.output_deadline), *options) as server,
        connect(server) as sock,
    ):
        sock.sendall(b"\n" + message)
        sock.shutdown(socket.SHUT_WR)
        poll = select.poll()
        poll.register(sock, 0)
        took = until(lambda: poll.poll(0), "que corte a quien no lee", PATIENCE + scale.output_deadline)
        try:
            while sock.recv(1 << 16):
                pass
        except ConnectionResetError:
            if "perdió" in server.output:
                raise Failed("de uno que no leía dice que desapareció") from None
            return took
        raise Failed("quien no leyó vio un final en orden")


SCENARIOS = [
    Scenario(
        "slow_readers",
        37,
        "clientes que leen despacio, o paran, y siguen",
        "lo reciben todo; quien no lee nada encuentra un RST, y no un final en orden",
        slow_readers,
    )
]
