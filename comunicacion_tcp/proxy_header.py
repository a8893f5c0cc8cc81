"""La cabecera PROXY con que un balanceador dice a quién trae: entenderla, y de quién se cree. Puro: entran bytes.

Aquí no hay sockets ni plazos (``server.py``). La norma de la cabecera, en sus versiones 1 (texto) y 2 (binaria), es
``proxy-protocol.txt``, de HAProxy (https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt).
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

from .addresses import Peer, unix_host, unix_path
from .errors import BadProxyHeader
from .records import Record

LONGEST_LINE = 107
"""Bytes de una cabecera de la versión 1, con su CRLF: los de la más larga posible (norma, 2.1)."""

LONGEST = 4096
"""Bytes de una de la versión 2, con sus campos de más (TLV). La norma cuenta con que 536 llegan siempre de una vez; con
un certificado dentro son 1 o 2 KiB, y nginx admite estos mismos. Es lo que se guarda, como mucho, de quien conecta."""

UNIX = "unix"
"""Entre las redes de quien se cree, los que vienen por un socket de Unix."""

_LINE_START = b"PROXY "
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED = 16  # bytes de la versión 2 antes de las direcciones
_LOCAL, _PROXY = 0x20, 0x21  # versión y orden, en un byte
_UNSPEC, _INET, _INET6, _UNIX = 0x00, 0x11, 0x21, 0x31  # familia y transporte, que solo puede ser de flujo
_SIZES = {_UNSPEC: 0, _INET: 12, _INET6: 36, _UNIX: 216}  # bytes de las dos direcciones
_CRC32C = 0x03
_TLV_HEAD = 3  # bytes de la clase y el tamaño de un campo
_IPV4, _IPV6 = b"TCP4", b"TCP6"  # familias de la versión 1
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxyHeader(Record):
    """Lo que dijo una cabecera. ``peer``: a quién trae, o ``None`` si no lo dice y vale la dirección de verdad.
    ``local``: si no trae a nadie, sino que es el propio balanceador mirando si el servidor vive. ``rest``: los bytes
    que venían detrás, que ya son de la conversación."""

    peer: Peer | None
    local: bool
    rest: bytes


class ProxyHeaderParser:
    """Recibe una cabecera cortada por cualquier sitio."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    @property
    def begun(self) -> bool:
        """Si ha llegado algún byte."""
        return bool(self._data)

    def receive(self, data: bytes) -> ProxyHeader | None:
        """Llegan ``data``. La cabecera, o ``None`` si falta; después de ella, o de un error, no se llama más.

        Error: ``BadProxyHeader``, en cuanto se sabe que no puede ser buena.
        """
        self._data += data
        if self._data.startswith(_LINE_START):
            return _read_line(self._data)
        if self._data.startswith(_SIGNATURE):
            return _read_binary(self._data)
        if _LINE_START.startswith(self._data) or _SIGNATURE.startswith(self._data):
            return None
        raise BadProxyHeader("absent")


class Trusted:
    """De qué direcciones se cree una cabecera.

    ``networks``: direcciones (``"192.0.2.7"``), redes (``"10.0.0.0/8"``, ``"fd00::/8"``) o ``"unix"``. Error:
    ``ValueError``, con la que no lo es, o si no hay ninguna.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        names = [networks] if isinstance(networks, str) else list(networks)
        if not names:
            raise ValueError("hace falta al menos una red de la que fiarse")
        self._unix = UNIX in names
        self._networks = [_network(name) for name in names if name != UNIX]

    def __contains__(self, peer: Peer) -> bool:
        host = peer[0]
        if unix_path(host) is not None:
            return self._unix
        address = _plain(ipaddress.ip_address(host.partition("%")[0]))
        return any(address in network for network in self._networks)


def _network(name: str) -> _Network:
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        raise ValueError(f"{name!r} no es una dirección ni una red (10.0.0.0/8, fd00::/8), ni «{UNIX}»") from None
    if ipaddress.ip_interface(name).ip != network.network_address:  # 10.0.0.5/8
        raise ValueError(f"{name!r} no es una red: la suya es {network}")
    # Un socket que atiende las dos familias ve las de IPv4 metidas en una de IPv6 (RFC 4291, 2.5.5.2).
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped and network.prefixlen >= 96:
        return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def _plain(address: _Address) -> _Address:
    """La de IPv4, si es una metida en una de IPv6: es la misma máquina, y como tal se cuenta."""
    return getattr(address, "ipv4_mapped", None) or address


# -- versión 1 ----------------------------------------------------------------------------------------------


def _read_line(data: bytes) -> ProxyHeader | None:
    head = data[:LONGEST_LINE]
    end = min((place for place in (head.find(b"\r"), head.find(b"\n")) if place >= 0), default=-1)
    if end < 0 or head[end:] == b"\r":
        if len(data) >= LONGEST_LINE:
            raise BadProxyHeader("too_long")
        return None
    if head[end : end + 2] != b"\r\n":
        raise BadProxyHeader("syntax")
    return ProxyHeader(_line_peer(head[len(_LINE_START) : end]), False, data[end + 2 :])


def _line_peer(text: bytes) -> Peer | None:
    if text == b"UNKNOWN" or text.startswith(b"UNKNOWN "):  # lo que siga, dice la norma, no se mira
        return None
    fields = text.split(b" ")
    if len(fields) != 5 or fields[0] not in (_IPV4, _IPV6):
        raise BadProxyHeader("syntax")
    source, _ = (_line_address(fields[0], field) for field in fields[1:3])
    port, _ = (_line_port(field) for field in fields[3:])
    return source, port


def _line_address(family: bytes, field: bytes) -> str:
    try:
        text = field.decode("ascii")
        address = ipaddress.IPv4Address(text) if family == _IPV4 else ipaddress.IPv6Address(text)
    except ValueError:
        raise BadProxyHeader("address") from None
    if b"%" in field:  # la interfaz de una dirección es cosa de cada máquina
        raise BadProxyHeader("address")
    return str(_plain(address))


def _line_port(field: bytes) -> int:
    # Sin signos, espacios ni ceros delante, que int() admite.
    if not (field.isdigit() and len(field) <= 5 and str(int(field)).encode() == field and int(field) <= 65535):
        raise BadProxyHeader("port")
    return int(field)


# -- versión 2 ----------------------------------------------------------------------------------------------


def _read_binary(data: bytes) -> ProxyHeader | None:
    # Cada cosa se mira en cuanto llega, y en su orden: así el error es el mismo se corte por donde se corte.
    version = data[12:13]
    if version and version[0] >> 4 != 2:
        raise BadProxyHeader("version")
    if version and version[0] not in (_LOCAL, _PROXY):
        raise BadProxyHeader("command")
    local = version == bytes([_LOCAL])
    family = data[13:14]
    if family and not local and family[0] not in _SIZES:
        raise BadProxyHeader("family")
    if len(data) < _FIXED:
        return None
    end = _FIXED + int.from_bytes(data[14:_FIXED], "big")
    addresses = _FIXED if local else _FIXED + _SIZES[family[0]]
    if end > LONGEST:
        raise BadProxyHeader("too_long")
    if end < addresses:
        raise BadProxyHeader("length")
    if len(data) < end:
        return None
    if local:  # lo que traiga se tira, dice la norma
        return ProxyHeader(None, True, data[end:])
    if family[0] != _UNSPEC:  # de esa no se sabe dónde acaban las direcciones
        _check_fields(data[:end], addresses)
    return ProxyHeader(_binary_peer(family[0], data[_FIXED:addresses]), False, data[end:])


def _binary_peer(family: int, block: bytes) -> Peer | None:
    if family == _INET:
        return str(ipaddress.IPv4Address(block[:4])), int.from_bytes(block[8:10], "big")
    if family == _INET6:
        return str(_plain(ipaddress.IPv6Address(block[:16]))), int.from_bytes(block[32:34], "big")
    if family == _UNIX:  # la ruta de un cliente, casi siempre ninguna
        return unix_host(block[:108].partition(b"\x00")[0].decode(errors="backslashreplace")), 0
    return None


def _check_fields(header: bytes, start: int) -> None:
    """Los campos de más deben caber justos; de ellos solo se mira la suma de comprobación, si viene."""
    checksum = b""
    blank = header
    while start < len(header):
        value = start + _TLV_HEAD
        end = value + int.from_bytes(header[start + 1 : value], "big")
        if end > len(header):
            raise BadProxyHeader("field")
        if header[start] == _CRC32C:
            if checksum or end - value != 4:
                raise BadProxyHeader("field")
            checksum, blank = header[value:end], header[:value] + bytes(4) + header[end:]
        start = end
    if checksum and _crc32c(blank) != int.from_bytes(checksum, "big"):
        raise BadProxyHeader("checksum")


def _crc32c(data: bytes) -> int:
    """El CRC de Castagnoli (RFC 4960, apéndice B), con una tabla: viene solo si el balanceador quiere
    (``proxy-v2-options crc32c``), una vez por conexión, y bit a bit la mayor cabecera ocupaba el bucle 8 ms."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@functools.cache  # los balanceadores que la usan son pocos: que la haga quien la use
def _crc_table() -> tuple[int, ...]:
    """Lo que cada byte le hace al CRC."""
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 & -(crc & 1))
        table.append(crc)
    return tuple(table)
