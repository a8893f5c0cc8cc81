"""Lo que le cuesta al servidor cada byte que le envían: procesador por byte, y bytes de vuelta por cada uno de ida.

Aquí nadie espera a nadie: lo que eso hace esperar a los demás es cosa de ``hostile.py``.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass

from ..results import Failed, Outcome, Scenario, number
from ..scale import Scale
from ..server import Running, serving
from .crowds import connect

_THREADS = ("--servicio", "soak.own_services:upper")
_LOOP = (*_THREADS, "--hilos", "0")
_FAILS = ("--servicio", "soak.own_services:fails", "--hilos", "0")
_MOST_CHAINED = 2_000.0  # nanosegundos por byte: un segundo de procesador, con medio megabyte
_MOST_LOOSE = 60_000.0  # y uno suelto, lo que dos llamadas al sistema y una vuelta del bucle
_GAP = 0.0003  # segundos entre dos bytes sin respuesta: para que cada uno sea una lectura


@dataclass(frozen=True)
class _Input:
    """Una entrada: ``message``, con su terminador, se encadena ``count`` veces y se espera la respuesta de todas. Sin
    terminador, va suelto, byte a byte. ``silent``: no tiene respuesta. ``reaches``: si llega al servicio."""

    what: str
    message: bytes
    where: str
    options: tuple[str, ...] = ()
    count: int = 5_000
    silent: bool = False
    reaches: bool = False


_INPUTS = [
    _Input("buenos, de 32 bytes, en bloque", b"a" * 31 + b"\n", "`services.py`: `_uppercase_block`", reaches=True),
    _Input(
        "las letras más lentas de poner en mayúsculas",
        "ΰ".encode() * 15 + b"\n",
        "`services.py`: `_uppercase_block`",
        reaches=True,
    ),
    _Input("vacíos", b"\n", "`protocol.py`: `receive_data`", reaches=True),
    _Input("malos, de un byte", b"\xff\n", "`protocol.py`: `_answer_by_parts`"),
    _Input("uno bueno y uno malo", b"a\n\xff\n", "`protocol.py`: `_answer_by_parts`"),
    _Input(
        "demasiado largos, con `--max-mensaje 16`",
        b"a" * 17 + b"\n",
        "`protocol.py`: `_answer_message`",
        ("--max-mensaje", "16"),
    ),
    _Input("malos, con un servicio en hilos", b"\xff\n", "`protocol.py`: `_answer_by_parts`", _THREADS),
    _Input("vacíos, con un servicio en hilos", b"\n", "`workers.py`: `Threads`", _THREADS, count=500, reaches=True),
    _Input("vacíos, con `--hilos 0`", b"\n", "`protocol.py`: `_answer_message`", _LOOP, reaches=True),
    _Input(
        "que hacen fallar al servicio, con `--hilos 0`",
        b"a\n",
        "`protocol.py`: `_reply`; `cli/report.py`",
        _FAILS,
        count=500,
        reaches=True,
    ),
    _Input("sueltos, byte a byte", b"a", "`protocol.py`: `_receive_piece`", count=500),
    _Input("sueltos y malos, byte a byte", b"\xff", "`protocol.py`: `_receive_piece`", count=500),
    _Input("media línea, byte a byte", b"\n", "`protocol.py`: `_keep`", count=500, silent=True),
]


def amplification(scale: Scale) -> Outcome:
    """Cada entrada, en una conexión, durante ``scale.hostile_seconds``."""
    costs: list[tuple[_Input, float, float]] = []
    for options in dict.fromkeys(one.options for one in _INPUTS):
        with serving(*options) as server:
            here = [one for one in _INPUTS if one.options == options]
            costs += [(one, *_cost(server, one, scale.hostile_seconds)) for one in here]
    costs.sort(key=lambda cost: _INPUTS.index(cost[0]))
    base = costs[0][1]
    chained = [cost for cost in costs if cost[0].message.endswith(b"\n") and not cost[0].silent]
    loose = [cost for cost in costs if cost not in chained]
    aside = max(ns for one, ns, _ in chained if not one.reaches)
    return Outcome(
        [
            f"encadenados, como mucho {number(aside)} ns por byte",
            f"sueltos, byte a byte, {number(max(ns for _, ns, _ in loose))} ns",
            f"como mucho {number(max(back for _, _, back in costs), 1)} bytes de vuelta por cada uno de ida",
        ],
        aside <= _MOST_CHAINED and max(ns for _, ns, _ in loose) <= _MOST_LOOSE,
        [
            ["entrada", "ns por byte", "veces", "bytes de vuelta por byte", "en el código"],
            *([one.what, _short(ns), _short(ns / base), number(back, 1), one.where] for one, ns, back in costs),
        ],
    )


def _short(value: float) -> str:
    return number(value, 1 if value < 10 else 0)


def _cost(server: Running, one: _Input, seconds: float) -> tuple[float, float]:
    """Nanosegundos de procesador del servidor por byte enviado, y bytes recibidos por cada uno."""
    with connect(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchange = _drip if one.silent else _chain if one.message.endswith(b"\n") else _loose
        exchange(sock, one)  # la primera vez hay cosas que se cargan
        before, sent, back = server.cpu, 0, 0
        end = time.monotonic() + seconds
        while not sent or time.monotonic() < end:
            there, here = exchange(sock, one)
            sent, back = sent + there, back + here
        spent = server.cpu - before
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    return spent / sent * 1e9, back / sent


def _chain(sock: socket.socket, one: _Input) -> tuple[int, int]:
    block = one.message * one.count
    sock.sendall(block)
    owed, back = block.count(b"\n"), 0
    while owed > 0:
        data = _receive(sock)
        owed -= data.count(b"\n")
        back += len(data)
    return len(block), back


def _loose(sock: socket.socket, one: _Input) -> tuple[int, int]:
    back = 0
    for _ in range(one.count):
        sock.send(one.message)
        back += len(_receive(sock))
    return one.count, back


def _drip(sock: socket.socket, one: _Input) -> tuple[int, int]:
    """Media línea, de la que se empieza otra cada vez: así no vence su plazo."""
    sock.sendall(one.message)
    back = len(_receive(sock))
    for _ in range(one.count - 1):
        sock.send(b"a")
        time.sleep(_GAP)
    return one.count, back


def _receive(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 20)
    if not data:
        raise Failed("el servidor cerró a quien enviaba")
    return data


SCENARIOS = [
    Scenario(
        "amplification",
        40,
        "bytes hostiles de varias clases, de uno en uno y encadenados",
        "sin llegar al servicio, menos de 2 us de procesador por byte encadenado, y menos de 60 suelto",
        amplification,
    ),
]
