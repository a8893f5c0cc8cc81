"""Los sockets a la escucha: abrirlos, uno por dirección y todos en el mismo puerto, y aceptar de ellos.

Aquí no se conversa: cada socket aceptado se entrega a quien lo pidió (``server.py``).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

from .errors import AddressInUse, AddressNotOurs, NetworkError, PortNotAllowed, UnknownHost, format_address

# Por vuelta del bucle: lo bastante para que una oleada no cueste una vuelta por cliente (make bench, conectar y
# despedirse: de una en una, el doble de procesador), y lo bastante poco para no hacer esperar a los que ya hablan.
_ACCEPTS_PER_TURN = 64
_PORT_ATTEMPTS = 8  # veces que se busca un puerto libre en todas las direcciones a la vez: dos suelen bastar
_BIND_ERRORS: dict[int, type[NetworkError]] = {
    errno.EADDRINUSE: AddressInUse,
    errno.EACCES: PortNotAllowed,
    errno.EPERM: PortNotAllowed,
    errno.EADDRNOTAVAIL: AddressNotOurs,
}
_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # esa familia de direcciones no existe en esta máquina


class Listener:
    """Acepta de un socket a la escucha, por tandas, en el bucle de asyncio en marcha.

    ``take``: recibe cada socket aceptado. ``trouble``: recibe el error cuando no se puede aceptar; no se
    vuelve a intentar hasta ``pause`` segundos después.

    No es el ``create_server`` de asyncio porque ese, sin descriptores, aplaza un reintento por cada intento fallido
    de la tanda, y se multiplican (medido: 17 000 por segundo al cabo de 30 s, en Python 3.12).
    """

    def __init__(
        self,
        sock: socket.socket,
        take: Callable[[socket.socket], None],
        trouble: Callable[[OSError], None],
        pause: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._take = take
        self._trouble = trouble
        self._pause = pause
        self._asking: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def address(self) -> tuple[str, int]:
        """``(ip, puerto)``."""
        host, port, *_ = self._sock.getsockname()
        return host, port

    def start(self) -> None:
        """Empieza a aceptar."""
        try:
            self._loop.add_reader(self._sock, self._accept, _ACCEPTS_PER_TURN)
        except NotImplementedError:  # el bucle de Windows no avisa de que hay alguien: se le pide de uno en uno
            self._asking = self._loop.create_task(self._ask())

    def close(self, queued: int) -> None:
        """Deja de escuchar; antes acepta a quienes ya esperaban en cola, como mucho ``queued``."""
        self._stop()
        self._accept(queued)
        self._stop()  # si no pudo, quedó en intentarlo más tarde
        self._sock.close()

    def _accept(self, most: int) -> None:
        for _ in range(most):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:  # nadie más en cola
                return
            except ConnectionAbortedError:  # este se fue antes de entrar
                continue
            except OSError as error:
                self._rest(error)
                return
            self._take(sock)

    async def _ask(self) -> None:
        while True:
            try:
                sock, _ = await self._loop.sock_accept(self._sock)
            except OSError as error:
                self._rest(error)
                return
            self._take(sock)

    def _rest(self, error: OSError) -> None:
        # Intentarlo cada vez que el sistema avisa de que hay alguien ocuparía un procesador entero.
        self._stop()
        self._retry = self._loop.call_later(self._pause, self.start)
        self._trouble(error)

    def _stop(self) -> None:
        if self._retry:
            self._retry.cancel()
        if self._asking:
            self._asking.cancel()
        else:
            self._loop.remove_reader(self._sock)


def open_sockets(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Abre un socket a la escucha en cada dirección de ``host``, todos en el mismo puerto.

    Una familia que la máquina no tiene (IPv6, a menudo) no es un error mientras quede otra. Errores: los de
    ``Server.start``.
    """
    address = format_address(host, port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise UnknownHost(address, error) from error
    # Sin repetidas, y primero las de IPv4: son las que una persona espera leer.
    places = sorted(
        dict.fromkeys((family, place) for family, _, _, _, place in found), key=lambda found: found[0] != socket.AF_INET
    )
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        try:
            return _open_all(places, address, backlog)
        except AddressInUse:
            # Con el puerto 0, el que el sistema dio en una dirección puede estar ocupado en la otra.
            if port or attempt == _PORT_ATTEMPTS:
                raise
    raise AssertionError("el bucle de arriba siempre devuelve o lanza")


def _open_all(places: Iterable[tuple[socket.AddressFamily, Any]], address: str, backlog: int) -> list[socket.socket]:
    opened: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, place in places:
            port = opened[0].getsockname()[1] if opened else place[1]
            try:
                opened.append(_open_one(family, (place[0], port, *place[2:]), backlog))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
        if not opened and absent:
            raise absent
    except OSError as error:
        for sock in opened:
            sock.close()
        kind = _BIND_ERRORS.get(error.errno or 0, NetworkError)
        raise kind(address, error) from error
    return opened


def _open_one(family: socket.AddressFamily, place: tuple[Any, ...], backlog: int) -> socket.socket:
    # Con el protocolo dicho, que heredan los aceptados: sin él asyncio no les pone TCP_NODELAY, y una respuesta corta
    # detrás de otra esperaría (RFC 896) al acuse de recibo de la primera, hasta 40 ms en Linux.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            # Volver a escuchar enseguida, aunque queden conexiones viejas en TIME_WAIT. En Windows esta opción
            # dejaría a dos programas compartir el puerto.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 tiene su propio socket
        sock.bind(place)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
