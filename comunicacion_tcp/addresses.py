"""Cómo se nombra un sitio: máquina y puerto, o la ruta de un socket de Unix. Aquí no se abre ni se resuelve ninguno."""

from __future__ import annotations

Peer = tuple[str, int]
"""Un cliente: su dirección IP y su puerto. Por un socket de Unix, ``"unix:/ruta"`` y el número de su proceso (0 donde
el sistema no lo dice)."""

_UNIX = "unix:"


def unix_path(host: str) -> str | None:
    """La ruta, si ``host`` es la de un socket de Unix (``"unix:/ruta"``); si no, ``None``."""
    return host.removeprefix(_UNIX) if host.startswith(_UNIX) else None


def unix_host(path: str) -> str:
    """Lo contrario: ``"unix:/ruta"``."""
    return _UNIX + path


def can_be_host(text: str) -> bool:
    """Si ``text`` puede ser un nombre, una dirección o la ruta de un socket de Unix; que exista es otra cosa."""
    return bool(text) and unix_path(text) != "" and "\x00" not in text


def format_address(host: str, port: int) -> str:
    """``"host:puerto"``, como se le dice a una persona; una dirección IPv6, entre corchetes (RFC 3986). La de un
    socket de Unix no tiene puerto."""
    if unix_path(host) is not None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
