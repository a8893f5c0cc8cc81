"""Lo que guarda un servidor entre todos sus clientes tiene un máximo, y al pasarlo se corta a quien más guarda.

Con sockets de verdad; quién es lo decide ``budget.py``, que se prueba aparte.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import pytest

from comunicacion_tcp.errors import HeldTooMuch
from comunicacion_tcp.limits import Limits

from .support.certificates import Certificates
from .support.encrypted import Encrypted, encrypted
from .support.serving import Served, served
from .support.sockets import connect, receive
from .support.waiting import wait_until

MESSAGE = 100_000
LIMITS = Limits(max_held=4 * MESSAGE, max_message=MESSAGE)


def held(running: Served) -> int:
    return running.server._budget.total


def test_of_those_with_half_a_message_the_one_with_most_is_cut() -> None:
    with served(limits=LIMITS) as running, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(running.port)) for _ in range(6)]
        for count, sock in enumerate(socks, 1):
            sock.sendall(b"hola\n")
            assert receive(sock, 5) == b"HOLA\n"
            sock.sendall(b"x" * 9_000 * count)
            wait_until(lambda: held(running) == 9_000 * sum(range(1, count + 1)), "que lo guarde")  # noqa: B023
        socks[0].sendall(b"x" * (MESSAGE - 9_000))  # el que más
        socks[1].sendall(b"x" * (MESSAGE - 2 * 9_000))
        wait_until(lambda: held(running) == 2 * MESSAGE + 9_000 * 18, "que lo guarde")
        socks[2].sendall(b"x" * (MESSAGE - 3 * 9_000))
        wait_until(lambda: running.events.names.count("lost") == 1, "que corte a uno")
        cause = running.events.events[-1][2]
        assert isinstance(cause, HeldTooMuch)
        assert cause.limit == LIMITS.max_held
        cut = 0
        for sock in socks:
            try:
                sock.sendall(b"\n")
                assert receive(sock, 1) == b"X"
            except ConnectionError:
                cut += 1
        assert cut == 1
        wait_until(lambda: held(running) == 0, "que ya no guarde nada")


@pytest.mark.parametrize("ciphered", [False, True], ids=["en claro", "TLS"])
def test_those_who_do_not_read_are_cut_and_the_others_go_on(certificates: Certificates, ciphered: bool) -> None:
    limits = Limits(max_held=9 * 2**20, drain=0.5)  # para dos que no leen, y no para tres
    tls = certificates.serving() if ciphered else None
    line = "ΰ".encode() * 2**19 + b"\n"
    with served(limits=limits, tls=tls) as running, contextlib.ExitStack() as stack:

        def enter() -> tuple[socket.socket, Callable[[bytes], bytes]]:
            if not ciphered:
                return stack.enter_context(connect(running.port)), bytes
            client: Encrypted = stack.enter_context(encrypted(running.port, certificates.trusting()))
            return client.sock, client.wire

        polite, say = enter()
        deaf = [enter() for _ in range(6)]
        wait_until(lambda: running.server.conversations == 7, "que estén todos")
        for connection in running.server._connections:  # que lo que no leen lo guarde el servidor, y no el sistema
            connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        pushing = [threading.Thread(target=push, args=(sock, wire(b"\n" + line * 3))) for sock, wire in deaf]
        for thread in pushing:
            thread.start()
        wait_until(lambda: running.events.names.count("lost") >= 3, "que corte a los que no caben")
        assert {type(fact) for name, _, fact in running.events.events if name == "lost"} == {HeldTooMuch}
        assert held(running) <= limits.max_held
        polite.sendall(say(b"sigo\n"))
        assert polite.recv(1)
        running.drain()
        for thread in pushing:
            thread.join()


def push(sock: socket.socket, data: bytes) -> None:
    """Envía sin leer, hasta que le corten."""
    with contextlib.suppress(OSError):
        sock.sendall(data)
