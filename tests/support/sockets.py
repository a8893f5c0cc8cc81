"""Sockets de prueba: hablar con un servidor byte a byte y hacer de servidor ajeno."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from .waiting import PATIENCE


def connect(port: int, host: str = "127.0.0.1", *, source: str = "") -> socket.socket:
    """Un socket conectado (desde ``source``, si se dice), con plazo y sin esperar a juntar segmentos."""
    sock = socket.create_connection((host, port), timeout=PATIENCE, source_address=(source, 0) if source else None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactamente ``size`` bytes, o los que haya hasta el FIN. Un RST es ``ConnectionResetError``."""
    data = b""
    while len(data) < size and (more := sock.recv(min(65536, size - len(data)))):
        data += more
    return data


def receive_all(sock: socket.socket) -> bytes:
    """Todo hasta el FIN. Un RST es ``ConnectionResetError``."""
    data = bytearray()
    while more := sock.recv(65536):
        data += more
    return bytes(data)


def ask(sock: socket.socket, text: str) -> str:
    """La línea que responde el servidor a la línea ``text``."""
    sock.sendall(text.encode() + b"\n")
    line = b""
    while not line.endswith(b"\n"):
        more = receive(sock, 1)
        assert more, line
        line += more
    return line.decode().removesuffix("\n")


def fill(sock: socket.socket, data: bytes = b"x" * 65535 + b"\n") -> None:
    """Envía ``data`` una y otra vez, sin leer, hasta que ni esperando un poco se puede más: no le leen, o le cortan."""
    sock.setblocking(False)
    quiet = 0
    with contextlib.suppress(ConnectionError):
        while quiet < 50:
            try:
                sock.send(data)
                quiet = 0
            except BlockingIOError:
                quiet += 1
                threading.Event().wait(0.01)


def fill_pipe(writer: int) -> None:
    """Escribe en una tubería que nadie lee hasta que no le cabe ni una letra; queda con bloqueo."""
    os.set_blocking(writer, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * size)
    os.set_blocking(writer, True)


def reset(sock: socket.socket) -> None:
    """Cierra con RST en vez de FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def foreign_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Un servidor ajeno: atiende cada conexión con ``serve`` en su hilo. Da su puerto."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []

    def attend(sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        try:
            with sock:
                serve(sock)
        except (ConnectionError, BrokenPipeError):
            pass  # el cliente se fue: cosa suya
        except BaseException as error:
            failures.append(error)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=attend, args=(sock,), daemon=True)
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        # shutdown despierta al accept; close solo no lo hace en Linux.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in [acceptor, *threads]:
            thread.join(PATIENCE)
    assert not failures, failures


def free_port() -> int:
    """Un puerto en el que ahora no escucha nadie, y que el sistema no dará a quien le pida uno cualquiera: los suyos
    empiezan en 32768 (Linux, ip_local_port_range) o en 49152 (RFC 6335)."""
    while True:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", random.randint(10000, 32000))) as sock:
            return int(sock.getsockname()[1])
