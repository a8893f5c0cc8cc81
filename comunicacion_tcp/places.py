"""Una ruta relativa es desde la carpeta en que se dio. El programa, o un servicio, puede cambiar de carpeta después, y
lo que se lee o se abre más tarde (un certificado que cambia, un servidor que se pone en marcha otra vez) sería otro.

Aquí no se mira si hay algo en la ruta.
"""

from __future__ import annotations

import os
import sys

from .addresses import unix_host, unix_path

# Bytes de la ruta de un socket de Unix: sockaddr_un tiene 108 en Linux (unix(7)) y 104 en macOS (unix(4)), con un cero.
_LONGEST = 107 if sys.platform == "linux" else 103


def as_of_now(path: str) -> str:
    """``path``, desde la raíz, con la carpeta actual de ahora; tal cual, si esa carpeta ya no existe."""
    try:
        # Sin quitar ningún «..», que detrás de un enlace no es la carpeta de antes.
        return os.path.join(os.getcwd(), path)
    except OSError:
        return path


def host_as_of_now(host: str) -> str:
    """Lo mismo con la ruta de un socket de Unix (``"unix:ruta"``), si así cabe en él. Otra dirección, tal cual."""
    path = unix_path(host)
    if not path:
        return host
    whole = as_of_now(path)
    return unix_host(whole) if len(os.fsencode(whole)) <= _LONGEST else host
