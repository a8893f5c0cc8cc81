"""Cabeceras PROXY hechas aquí, y un modelo de referencia que las lee enteras, escrito aparte del nuestro."""

from __future__ import annotations

import re
import socket
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, TCP6, UNIX = 0x00, 0x11, 0x21, 0x31
CRC32C = 0x03


def line(source: str, port: int, family: str = "TCP4", destination: str = "192.0.2.1") -> bytes:
    """Una cabecera de la versión 1."""
    return f"PROXY {family} {source} {destination} {port} 5000\r\n".encode()


def binary(block: bytes = b"", family: int = UNSPEC, command: int = PROXY) -> bytes:
    """Una de la versión 2 con ``block`` detrás de su tamaño, sea lo que sea."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def tcp4(source: str, port: int, more: bytes = b"") -> bytes:
    """Una de la versión 2 que trae a ``source``; ``more``, los campos de más."""
    ends = socket.inet_aton(source) + socket.inet_aton("192.0.2.1")
    return binary(ends + struct.pack("!HH", port, 5000) + more, TCP4)


def tcp6(source: str, port: int, more: bytes = b"") -> bytes:
    """Lo mismo, en IPv6."""
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    return binary(ends + struct.pack("!HH", port, 5000) + more, TCP6)


def unix(source: bytes) -> bytes:
    """Lo mismo, por un socket de Unix."""
    return binary(struct.pack("108s108s", source, b"/balanceador"), UNIX)


def local(more: bytes = b"") -> bytes:
    """La del balanceador cuando mira si el servidor vive."""
    return binary(more, UNSPEC, LOCAL)


def field(kind: int, value: bytes) -> bytes:
    """Un campo de más de la versión 2."""
    return struct.pack("!BH", kind, len(value)) + value


MORE, BAD = "falta", "mala"
Reading = tuple[str, object, bytes] | str
"""``(qué, a quién trae, lo que sobra)``, ``MORE`` o ``BAD``."""


def crc32c(data: bytes) -> bytes:
    """La suma de comprobación: el resto de dividir por el polinomio de la RFC 4960, con enteros sin fin."""
    divisor = 0x11EDC6F41
    bits = int.from_bytes(bytes(int(f"{byte:08b}"[::-1], 2) for byte in data), "big")
    number = bits << 32 ^ 0xFFFFFFFF << 8 * len(data)
    while (excess := number.bit_length() - divisor.bit_length()) >= 0:
        number ^= divisor << excess
    return int(f"{number ^ 0xFFFFFFFF:032b}"[::-1], 2).to_bytes(4, "big")


_SYNTAX = re.compile(rb"PROXY (?:(UNKNOWN)(?: [^\r\n]*)?|(TCP[46]) ([^ ]*) ([^ ]*) (0|[1-9]\d*) (0|[1-9]\d*))\r\n")


def read(data: bytes) -> Reading:
    """Qué dice una cabecera que empieza en ``data``."""
    for start in (b"PROXY ", SIGNATURE):
        if data[: len(start)] == start:
            return _read_line(data) if start == b"PROXY " else _read_binary(data)
        if start[: len(data)] == data:
            return MORE
    return BAD


def _read_line(data: bytes) -> Reading:
    match = _SYNTAX.match(data)
    if not match:
        # Aún puede ser buena si no ha acabado la línea ni se ha pasado.
        open_end = not re.search(rb"\r[^\n]|\n", data[:107]) and len(data) < 107
        return MORE if open_end else BAD
    if match.end() > 107:
        return BAD
    rest = data[match.end() :]
    if match[1]:
        return "done", None, rest
    family = socket.AF_INET if match[2] == b"TCP4" else socket.AF_INET6
    try:
        packed, _ = (socket.inet_pton(family, match[group].decode("ascii")) for group in (3, 4))
    except (OSError, ValueError):
        return BAD
    if max(int(match[5]), int(match[6])) > 65535:
        return BAD
    return "done", (_text(family, packed), int(match[5])), rest


def _read_binary(data: bytes) -> Reading:
    head = data[12:16] + b"\xff" * 4
    command, family = head[0], head[1]
    sizes = {UNSPEC: 0, TCP4: 12, TCP6: 36, UNIX: 216}
    if len(data) > 12 and command not in (LOCAL, PROXY):
        return BAD
    if len(data) > 13 and command == PROXY and family not in sizes:
        return BAD
    if len(data) < 16:
        return MORE
    (size,) = struct.unpack("!H", data[14:16])
    needed = sizes[family] if command == PROXY else 0
    if 16 + size > 4096 or size < needed:
        return BAD
    if len(data) < 16 + size:
        return MORE
    block, rest = data[16 : 16 + size], data[16 + size :]
    if command == LOCAL:
        return "local", None, rest
    if family == UNSPEC:
        return "done", None, rest
    fields = block[needed:]
    sums = []
    while fields:
        length = 3 + (int.from_bytes(fields[1:3], "big") if len(fields) >= 3 else 0)
        if len(fields) < length:
            return BAD
        if fields[0] == CRC32C:
            sums.append((16 + size - len(fields) + 3, fields[3:length]))
        fields = fields[length:]
    if len(sums) > 1:
        return BAD
    for place, value in sums:
        if value != crc32c(data[:place] + b"\0\0\0\0" + data[place + 4 : 16 + size]):
            return BAD
    if family == UNIX:
        return "done", ("unix:" + block[:108].split(b"\0")[0].decode(errors="backslashreplace"), 0), rest
    kind, length = (socket.AF_INET, 4) if family == TCP4 else (socket.AF_INET6, 16)
    (port,) = struct.unpack("!H", block[2 * length : 2 * length + 2])
    return "done", (_text(kind, block[:length]), port), rest


def _text(family: socket.AddressFamily, packed: bytes) -> str:
    if family == socket.AF_INET6 and packed.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntoa(packed[12:])
    return socket.inet_ntop(family, packed)
