"""Lo que ocupa una conexión: después de su mayor mensaje, y mientras no lee; con TLS y sin él, en los dos bucles."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from comunicacion_tcp.limits import DEFAULT_LIMITS

from ..oracle import WrongReply
from ..results import Failed, Outcome, Scenario, number
from ..scale import MIB, Scale
from ..server import PATIENCE, Running, choosing_loop, need_descriptors, serving, until
from .crowds import SPARE, connect
from .hostile import certificate

_KEPT = 100 * 1024  # bytes: lo que puede costar de más, respecto a una nueva, la que ya tuvo su mayor mensaje
_SHORT = b"hola\n"
_GROWS_MOST = "ΰ"  # dos bytes, que en mayúsculas son seis: la mayor respuesta de un mensaje
_LINE = (_GROWS_MOST * (DEFAULT_LIMITS.max_message // 2) + "\n").encode()
_REPLY = _LINE.decode().upper().encode()
_UNREAD = DEFAULT_LIMITS.max_output + DEFAULT_LIMITS.high_water  # bytes de quien no lee, según limits.py
# Un ClientHello que dice medir 131 000 bytes, y le falta uno: OpenSSL los guarda hasta que llega (RFC 8446, 4 y 5.1).
_HELLO = b"\x01" + (131_000).to_bytes(3, "big") + bytes(130_999)
_ENDLESS_HELLO = b"".join(
    b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
    for part in (_HELLO[start : start + 16_384] for start in range(0, len(_HELLO), 16_384))
)
_STUCK = 0.2  # segundos sin que se admita nada: ya no se le lee más


def largest_message(scale: Scale) -> Outcome:
    need_descriptors(scale.largest + SPARE)
    figures, met = [], True
    with tempfile.TemporaryDirectory() as folder:
        files = certificate(Path(folder))
        for loop in ("asyncio", "uvloop") if importlib.util.find_spec("uvloop") else ("asyncio",):
            with choosing_loop(loop):
                text, good = _measure(_in_clear, [], scale)
                figures.append(f"{loop}: {text}")
                met = met and good
                text, good = _measure(_ciphered, files, scale)
                figures.append(f"{loop}, TLS: {text}; {_greeting(files, scale)}")
                met = met and good
    return Outcome(figures, met)


Enter = Callable[[Running], socket.socket]


def _in_clear(server: Running) -> socket.socket:
    sock = connect(server)
    _exchange(sock, _SHORT, _SHORT.upper())
    return sock


def _ciphered(server: Running) -> socket.socket:
    sock = _trusting().wrap_socket(connect(server))
    _exchange(sock, _SHORT, _SHORT.upper())
    return sock


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # aquí se mira lo que ocupa, no quién es
    return context


def _measure(enter: Enter, options: list[str], scale: Scale) -> tuple[str, bool]:
    new = _each(enter, options, scale)
    with serving(*options) as server:
        start = _memory(server)
        with contextlib.ExitStack() as socks:
            crowd = [socks.enter_context(enter(server)) for _ in range(scale.largest)]
            quiet = _memory(server)
            for sock in crowd:
                _exchange(sock, _LINE, _REPLY)
            after = _memory(server)
            deaf = crowd[: scale.deaf]
            for sock in deaf:
                _stuff(sock)
            unread = (_memory(server) - after) / len(deaf)
        until(lambda: server.descriptors <= server.resting, "que los suelte")
        left = _memory(server) - start
    kept = (after - quiet) / scale.largest
    text = (
        f"uno nuevo, {number(new / 1024, 1)} KiB; callado después, {number(kept / 1024, 1)} más; sin leer, "
        f"{number(unread / MIB, 2)} MiB; al irse los {scale.largest} quedan {number(left / MIB, 1)} MiB"
    )
    return text, kept <= _KEPT and unread <= _UNREAD


def _greeting(options: list[str], scale: Scale) -> str:
    """Lo que ocupa quien no acaba de saludar: tras el primer mensaje, y con el mayor que OpenSSL espera."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        _trusting().wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    hello = outgoing.read()

    def says(data: bytes) -> Enter:
        def enter(server: Running) -> socket.socket:
            sock = connect(server)
            sock.sendall(data)
            return sock

        return enter

    usual, longest = (_each(says(data), options, scale) / 1024 for data in (hello, _ENDLESS_HELLO))
    return f"a medio saludo, {number(usual, 1)} KiB, o {number(longest, 1)} si no acaba nunca"


def _each(enter: Enter, options: list[str], scale: Scale) -> float:
    """Los bytes que ocupa cada uno de los que entran así en un servidor recién puesto."""
    with serving(*options) as server, contextlib.ExitStack() as socks:
        socks.enter_context(enter(server))
        before = _memory(server)
        for _ in range(scale.largest):
            socks.enter_context(enter(server))
        each = (_memory(server) - before) / scale.largest
        socks.close()
        return each


def _exchange(sock: socket.socket, sent: bytes, expected: bytes) -> None:
    sock.sendall(sent)
    got = bytearray()
    while len(got) < len(expected):
        data = sock.recv(256 * 1024)
        if not data:
            raise Failed(f"cerró con {len(got)} bytes de {len(expected)}")
        got += data
    if got != expected:
        raise WrongReply("la respuesta al mayor mensaje no es la suya")


def _stuff(sock: socket.socket) -> None:
    """Encadena mensajes mayores sin leer, hasta que no se le admite nada."""
    sock.setblocking(False)
    rest = memoryview(b"")
    moved = time.monotonic()
    deadline = moved + PATIENCE
    while time.monotonic() < moved + _STUCK:
        if time.monotonic() > deadline:
            raise Failed("a quien no lee se le sigue leyendo")
        rest = rest or memoryview(_LINE)
        try:
            rest = rest[sock.send(rest) :]
            moved = time.monotonic()
        except (BlockingIOError, ssl.SSLWantWriteError):
            time.sleep(0.005)


def _memory(server: Running) -> int:
    """La del servidor, cuando deja de cambiar."""
    seen = -1

    def settled() -> bool:
        nonlocal seen
        before, seen = seen, server.memory
        if before != seen:
            time.sleep(0.05)
        return before == seen

    until(settled, "que la memoria del servidor deje de cambiar")
    return seen


SCENARIOS = [
    Scenario(
        "largest_message",
        39,
        "100 clientes dicen un mensaje de 1 MiB, de respuesta 3, y callan; después, 20 encadenan otros y no leen",
        "callado, uno ocupa como mucho 100 KiB más que uno nuevo; sin leer, lo que dice `limits.py` (4,25 MiB)",
        largest_message,
    ),
]
