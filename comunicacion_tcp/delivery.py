"""Lo que el sistema sabe de lo que se escribió en un socket: cuánto falta, cuánto llegó, y si al otro lado hay alguien.

Aquí no hay plazos ni se decide a quién se corta (``connection.py``, ``client.py``, ``aio.py``).

asyncio avisa cuando el sistema le admite más bytes, y el sistema guarda megabytes y los suelta de golpe: entre un aviso
y el siguiente, un cliente que lee despacio parece uno que no lee. Lo que cuenta es lo que llega al otro extremo.
"""

from __future__ import annotations

import contextlib
import socket
import sys

# SO_LINGER, sí o no y 0 segundos (socket(7)): dos enteros. En Windows son más cortos, y sus cuatro primeros bytes dicen
# lo mismo.
_CUT, _ORDERLY = b"\1\0\0\0\0\0\0\0", bytes(8)
_SO_NWRITE = 0x1024  # macOS, sys/socket.h: lo que Linux dice con TIOCOUTQ (tcp(7), unix(7))

# struct tcp_info, linux/tcp.h: dónde está cada número, y hasta dónde se lee.
_RETRANSMITS, _PROBES, _LAST_DATA_SENT, _LAST_ACK_RECEIVED, _BYTES_ACKED, _SIZE = 2, 3, 44, 56, 120, 128
# Sin respuesta a una pregunta suelta está cualquiera: la red pierde paquetes, y la última puede acabar de salir.
_UNANSWERED = 2

BLINDNESS = 1 if sys.platform in ("linux", "darwin") else 4
"""Por cuánto se multiplica el plazo de quien no lee: donde el sistema no dice lo que falta por llegar (Windows), solo
se ve que avanza cuando suelta un búfer entero, y es mejor esperar de más."""


def cut_if_closed(sock: socket.socket | None, cut: bool = True) -> None:
    """Desde ahora, que ``sock`` se cierre (o que muera el proceso) es un RST, que el otro extremo ve como un error; con
    ``cut=False``, un FIN detrás de lo enviado, que ve como un final en orden.

    En un socket de Unix no hay RST: el sistema da ese error solo a quien haya enviado algo que no se leyó (unix(7)).
    """
    if sock:
        with contextlib.suppress(OSError, RuntimeError):  # ya cerrado: así lo dice uvloop
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CUT if cut else _ORDERLY)


def in_transit(sock: socket.socket | None) -> int:
    """Bytes escritos que el otro extremo no tiene aún. El FIN cuenta como uno (RFC 9293, 3.4), y en un socket de Unix
    se cuenta lo que ocupan en memoria. 0 si el sistema no lo dice."""
    if sock:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # ya cerrado
            if sys.platform == "darwin":
                return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
            if sys.platform == "linux":
                import fcntl  # aquí: el cliente no los usa
                import termios

                return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0


def arrived(sock: socket.socket | None) -> int | None:
    """Bytes que el otro extremo ha dado por recibidos desde que conectó; ``None`` si el sistema no lo cuenta (solo lo
    hace Linux, en TCP)."""
    info = _tcp_info(sock)
    return _number(info, _BYTES_ACKED, 8) if info else None


def silence(sock: socket.socket | None) -> float:
    """Segundos que lleva sin responder el sistema del otro extremo, que no es quien lee sino quien acusa recibo, a algo
    que se le ha enviado más de una vez. 0 si responde, si no se le ha preguntado nada o si no se sabe."""
    info = _tcp_info(sock)
    if not info or info[_RETRANSMITS] + info[_PROBES] < _UNANSWERED:
        return 0.0
    # Lo último que se oyó puede ser de hace horas, si nadie tenía nada que decir.
    return min(_number(info, _LAST_ACK_RECEIVED, 4), _number(info, _LAST_DATA_SENT, 4)) / 1000


def _tcp_info(sock: socket.socket | None) -> bytes:
    if sys.platform == "linux" and sock and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError, RuntimeError):  # ya cerrado, o un núcleo de antes
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
            if len(info) == _SIZE:
                return info
    return b""


def _number(info: bytes, place: int, size: int) -> int:
    return int.from_bytes(info[place : place + size], sys.byteorder)
