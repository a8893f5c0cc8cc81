"""Los sockets a la escucha: abrirlos (uno por dirección y todos en el mismo puerto, o uno de Unix) y aceptar de ellos.

Aquí no se conversa: cada socket aceptado se entrega a quien lo pidió (``server.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .addresses import Peer, format_address, unix_host, unix_path
from .errors import AddressInUse, AddressNotOurs, NetworkError, PortNotAllowed, UnknownHost

with contextlib.suppress(ImportError):  # Windows, donde Python no tiene sockets de Unix
    import fcntl

# Por vuelta del bucle: lo bastante para que una oleada no cueste una vuelta por cliente (make bench, conectar y
# despedirse: de una en una, el doble de procesador), y lo bastante poco para no hacer esperar a los que ya hablan.
_ACCEPTS_PER_TURN = 64
# Si se comparte con otros procesos. En una oleada de 1000, de una en una se gasta un 16 % más de procesador que de
# cuatro en cuatro, y de 64 en 64, un 6 % menos; el reparto sale igual con 1, 2, 4, 16 y 64 (python -m
# benchmarks.processes). Se queda en lo menor que ya no cuesta: con procesadores de sobra, uno no se lleva una ráfaga.
_SHARED_ACCEPTS = 4
_PORT_ATTEMPTS = 8  # veces que se busca un puerto libre en todas las direcciones a la vez: dos suelen bastar
_BIND_ERRORS: dict[int, type[NetworkError]] = {
    errno.EADDRINUSE: AddressInUse,
    errno.EACCES: PortNotAllowed,
    errno.EPERM: PortNotAllowed,
    errno.EADDRNOTAVAIL: AddressNotOurs,
}
_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # esa familia de direcciones no existe en esta máquina
# El que estaba en cola ya no sirve, y se pasa al siguiente: Linux da por accept los errores de su red (accept(2)).
_GONE = {
    *(errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
}
_LONGEST_QUIET = 32767  # segundos: lo más que admite Linux (tcp(7), MAX_TCP_KEEPIDLE)
_LOCK_ATTEMPTS, _LOCK_PAUSE = 100, 0.01  # segundos: un servidor lo suelta en menos de 1 ms; quien no, no nos detiene
_PROBES = 6  # preguntas sin respuesta antes de dar a alguien por perdido: tres perdidas por la red no bastan


class Listener:
    """Acepta de un socket a la escucha, por tandas, en el bucle de asyncio en marcha.

    ``take``: recibe cada socket aceptado y quién es. ``trouble``: recibe el error cuando no se puede aceptar; no se
    vuelve a intentar hasta ``pause`` segundos después. ``shared``: si lo abrió otro, y otros procesos pueden aceptar de
    él: su fichero, si es de Unix, no es nuestro.

    No es el ``create_server`` de asyncio porque ese, sin descriptores, aplaza un reintento por cada intento fallido
    de la tanda, y se multiplican (medido: 17 000 por segundo al cabo de 30 s, en Python 3.12).
    """

    def __init__(
        self,
        sock: socket.socket,
        take: Callable[[socket.socket, Peer], None],
        trouble: Callable[[OSError], None],
        pause: float,
        *,
        shared: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self.address: Peer = address_of(sock)
        """``(ip, puerto)``, o ``("unix:/ruta", 0)``. También después de cerrarse: puede preguntarlo otro hilo."""
        self._take = take
        self._trouble = trouble
        self._pause = pause
        self._file = None if shared else file_of(self.address)
        self._accepts = _SHARED_ACCEPTS if shared else _ACCEPTS_PER_TURN
        self._asking: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def descriptor(self) -> int:
        """El de su socket; -1 si ya se cerró."""
        return self._sock.fileno()

    def start(self) -> None:
        """Empieza a aceptar."""
        try:
            self._loop.add_reader(self._sock, self._accept, self._accepts)
        except NotImplementedError:  # el bucle de Windows no avisa de que hay alguien: se le pide de uno en uno
            self._asking = self._loop.create_task(self._ask())

    def close(self, queued: int) -> None:
        """Deja de escuchar; antes acepta a quienes ya esperaban en cola, como mucho ``queued``."""
        self._stop()
        self._accept(queued)
        self._stop()  # si no pudo, quedó en intentarlo más tarde
        if self._file:
            remove_file(self.address, self._file)
        self._sock.close()

    def _accept(self, most: int) -> None:
        for _ in range(most):
            try:
                sock, place = self._sock.accept()
            except BlockingIOError:  # nadie más en cola
                return
            except OSError as error:
                if error.errno in _GONE:
                    continue
                self._rest(error)
                return
            self._give(sock, place)

    async def _ask(self) -> None:
        while True:
            try:
                sock, place = await self._loop.sock_accept(self._sock)
            except OSError as error:
                self._rest(error)
                return
            self._give(sock, place)

    def _give(self, sock: socket.socket, place: Any) -> None:
        try:
            # En un socket de Unix el sitio de un cliente es el fichero que él quiera, casi siempre ninguno.
            self._take(sock, _as_itself(place) if isinstance(place, tuple) else self._neighbour(sock))
        except BaseException:
            sock.close()
            raise

    def _neighbour(self, sock: socket.socket) -> Peer:
        """Quién es el de un socket de Unix, que no tiene dirección."""
        host, process = self.address[0], 0
        if hasattr(socket, "SO_PEERCRED"):
            process, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return host, process

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


def open_sockets(host: str, port: int, backlog: int, keepalive: float = 0) -> list[socket.socket]:
    """Abre un socket a la escucha en cada dirección de ``host``, todos en el mismo puerto; o uno de Unix, si es
    ``"unix:/ruta"``.

    Una familia que la máquina no tiene (IPv6, a menudo) no es un error mientras quede otra. ``keepalive``: segundos
    sin noticias de un cliente antes de preguntarle; 0, nunca. Errores: los de ``Server.start``.
    """
    path = unix_path(host)
    if path is not None:
        return [_open_unix(host, path, backlog)]
    opened = _open_tcp(host, port, backlog)
    for sock in opened:
        if keepalive:
            _keep_alive(sock, keepalive)
    return opened


def _open_unix(host: str, path: str, backlog: int) -> socket.socket:
    if not path or not hasattr(socket, "AF_UNIX"):
        why = "en este sistema Python no los tiene" if path else "falta la ruta"
        raise NetworkError(host, OSError(why))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _alone_in(os.path.dirname(path) or "."):
            try:
                sock.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _is_abandoned(path):
                    raise
                os.unlink(path)
                sock.bind(path)
            sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        # Python dice sin número que la ruta no cabe (108 bytes en Linux, unix(7)).
        number = error.errno or errno.ENAMETOOLONG
        raise _BIND_ERRORS.get(number, NetworkError)(host, OSError(number, os.strerror(number))) from error
    return sock


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Mientras dura, ningún otro servidor abre un socket en ``folder``: uno ya puesto y aún sin escuchar parece
    abandonado, y otro lo borraría."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:  # no se deja leer: sin cerrojo, o dirá su error al abrir el socket
        yield
        return
    try:
        for _ in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
            except OSError:  # hay sistemas de ficheros sin cerrojos
                break
        yield
    finally:
        os.close(lock)


def _is_abandoned(path: str) -> bool:
    """Si en ``path`` quedó el socket de un servidor que ya no está (terminó sin poder borrarlo)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            return stat.S_ISSOCK(os.stat(path).st_mode)
        except OSError:
            return False
        return False


def address_of(sock: socket.socket) -> Peer:
    """Dónde escucha ``sock``: ``(ip, puerto)``, o ``("unix:/ruta", 0)``."""
    name = sock.getsockname()
    return name[:2] if isinstance(name, tuple) else (unix_host(os.fsdecode(name)), 0)


def file_of(address: Peer) -> tuple[int, int] | None:
    """Qué fichero hay en la ruta de un socket de Unix, si lo es y lo hay: su dispositivo y su número."""
    path = unix_path(address[0])
    try:
        found = os.stat(path) if path else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found else None


def remove_file(address: Peer, file: tuple[int, int] | None) -> None:
    """Borra el socket de Unix de ``address`` si sigue siendo ``file``: otro servidor pudo poner ahí el suyo después."""
    path = unix_path(address[0])
    if path and file and file == file_of(address):
        with contextlib.suppress(OSError):
            os.unlink(path)


def adopt_sockets(sockets: Iterable[socket.socket], keepalive: float = 0) -> list[socket.socket]:
    """Los de ``open_sockets``, cuando los abrió otro: quedan sin bloqueo y con el mismo ``keepalive``.

    Error: ``ValueError`` si alguno no escucha, o ya se cerró.
    """
    adopted = list(sockets)
    for sock in adopted:
        if not _listens(sock):
            raise ValueError("uno de los sockets no es de los que escuchan (TCP o Unix, tras listen())")
        sock.setblocking(False)
        if keepalive and sock.family != getattr(socket, "AF_UNIX", None):
            _keep_alive(sock, keepalive)
    return adopted


def _as_itself(place: tuple[Any, ...]) -> Peer:
    """Quién es un cliente. Un socket que abrió otro puede ser de las dos familias, y ahí IPv4 se escribe dentro de IPv6
    (``::ffff:192.0.2.7``, RFC 4291): sin deshacerlo, todos los de IPv4 serían de la misma red."""
    host, port = place[:2]
    return (host.removeprefix("::ffff:") if "." in host else host), port


def _listens(sock: socket.socket) -> bool:
    try:
        return sock.type == socket.SOCK_STREAM and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _keep_alive(sock: socket.socket, seconds: float) -> None:
    # En el que escucha: los aceptados lo heredan, y así no cuesta nada por conexión.
    quiet = min(max(1, round(seconds)), _LONGEST_QUIET)
    options = [
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", quiet),
        (socket.IPPROTO_TCP, "TCP_KEEPALIVE", quiet),  # así se llama en macOS
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", max(1, round(quiet / _PROBES))),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", _PROBES),
        # TCP_USER_TIMEOUT (RFC 5482), no. Con algo sin entregar Linux no pregunta, reenvía, y ese sería su plazo; pero
        # también corta a quien no lee y responde a todo, y cambia cuándo se da por perdido a un callado (tcp(7)). De
        # quien no responde con algo sin entregar se ocupa Connection.look.
    ]
    for level, name, value in options:
        if hasattr(socket, name):
            with contextlib.suppress(OSError):  # un sistema que dice tenerla y no la tiene: se sirve sin ella
                sock.setsockopt(level, getattr(socket, name), value)


def _open_tcp(host: str, port: int, backlog: int) -> list[socket.socket]:
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
