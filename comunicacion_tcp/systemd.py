"""Lo que systemd y un programa se dicen: los avisos (sd_notify(3)) y los sockets ya a la escucha (sd_listen_fds(3)).

Aquí no se sabe qué sirve el programa ni hay bucle de asyncio: lo usan igual un proceso solo y el padre de varios. Sin
systemd no están sus variables, y no se hace nada.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable, MutableMapping

from .errors import BadSocket

_FIRST = 3  # sd_listen_fds(3), SD_LISTEN_FDS_START: detrás de la entrada, la salida y los errores
_FAMILIES = {getattr(socket, name, None) for name in ("AF_INET", "AF_INET6", "AF_UNIX")}
# Segundos que un aviso que importa espera a que systemd tenga sitio; su cola admite cientos, y casi nunca la hay.
_PATIENCE = 1.0
_MOST_DIGITS = 15  # de un número del entorno: en microsegundos son treinta años


class Notifier:
    """Cuenta a systemd cómo va el programa. Un aviso que no se puede dar se pierde: nunca es un error.

    ``address``: el socket de los avisos (vacío: no hay a quién contarle nada). ``watchdog_interval``: cada cuántos
    segundos hay que llamar a ``watchdog()``, la mitad de lo que systemd espera antes de reiniciar; 0.0 si no lo pide.
    ``clock``: los nanosegundos de CLOCK_MONOTONIC.
    """

    def __init__(
        self,
        address: bytes = b"",
        watchdog_interval: float = 0.0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._address = address
        self.watchdog_interval: float = watchdog_interval if address else 0.0
        self._clock = clock
        self._socket: socket.socket | None = None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """El que dicen ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` y ``WATCHDOG_PID``, que se quitan de ``environ``: los
        procesos hijos no hablan por este. Lo que no se entiende es como si no estuviera."""
        place, usec, pid = (environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        address = os.fsencode(place) if place.startswith(("/", "@")) and hasattr(socket, "AF_UNIX") else b""
        if address.startswith(b"@"):
            address = b"\0" + address[1:]  # un nombre abstracto (unix(7))
        ours = not pid or _number(pid) == os.getpid()
        return cls(address, _number(usec) / 1e6 / 2 if ours else 0.0)

    @property
    def present(self) -> bool:
        """Si hay alguien a quien contarle algo."""
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """Ya sirve; o acabó de leer otra vez su configuración, si antes dijo ``reloading()``."""
        self._send("READY=1", status, _PATIENCE)

    def reloading(self) -> None:
        """Empieza a leer otra vez su configuración; al acabar, bien o mal, ``ready()``."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={self._clock() // 1000}", "", _PATIENCE)

    def stopping(self, status: str = "") -> None:
        """Empieza a detenerse."""
        self._send("STOPPING=1", status, _PATIENCE)

    def status(self, text: str) -> None:
        """Cómo va, en una frase: la enseña ``systemctl status``."""
        self._send("", text, 0)

    def watchdog(self) -> None:
        """Sigue vivo. Se llama cada ``watchdog_interval`` segundos desde lo que, atascado, haría falta reiniciar."""
        if self.watchdog_interval:
            self._send("WATCHDOG=1", "", 0)

    def close(self) -> None:
        """No va a contar nada más."""
        if self._socket:
            self._socket.close()
        self._socket = None
        self._address = b""

    def _send(self, fact: str, status: str, patience: float) -> None:
        if not self._address:
            return
        lines = [fact] if fact else []
        if status:
            lines.append("STATUS=" + " ".join(status.splitlines()))  # cada línea de un aviso es otra cosa
        with contextlib.suppress(OSError):
            if not self._socket:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(patience)
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def listening_sockets(environ: MutableMapping[str, str] = os.environ, first: int = _FIRST) -> list[socket.socket]:
    """Los sockets que systemd ya puso a escuchar, en el orden de su fichero ``.socket``; vacía, si no dio ninguno.

    Salen sin bloquear y sin que los hereden otros programas. Las variables se quitan de ``environ``; si son para otro
    proceso, o no se entienden, es como si no estuvieran. ``first``: el descriptor del primero. Error: ``BadSocket``.
    """
    count, pid, names = (environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"))
    if _number(pid) != os.getpid():
        return []
    found: list[socket.socket] = []
    try:
        for position in range(_number(count)):
            name = names.split(":")[position] if position <= names.count(":") else ""
            found.append(_take(first + position, name))
    except BadSocket:
        for sock in found:
            sock.close()
        raise
    return found


def _take(number: int, name: str) -> socket.socket:
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise BadSocket(number, name, "not_stream")
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise BadSocket(number, name, "closed", error) from error
    if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM:
        problem = "not_stream"
    elif not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        problem = "not_listening"
    else:
        sock.set_inheritable(False)
        sock.setblocking(False)
        return sock
    sock.close()
    raise BadSocket(number, name, problem)


def _number(text: str) -> int:
    """El número natural que dice ``text``, o 0."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else 0
