"""Cada error como una frase para una persona: qué pasó y qué hacer ahora.

Aquí no se imprime nada ni se deciden códigos de salida: de eso se ocupa cada programa.
"""

from __future__ import annotations

import errno
import os
import sys

from ..errors import (
    UNIX,
    AddressInUse,
    AddressNotOurs,
    ConnectionLost,
    NetworkError,
    PortNotAllowed,
    ServerNotRunning,
    TimedOut,
    UnknownHost,
)
from .terminal import escape

_REASONS = {
    errno.ECONNRESET: "el otro extremo la cortó",
    errno.ECONNABORTED: "el otro extremo la cortó",
    errno.EPIPE: "el otro extremo la cerró",
    errno.ETIMEDOUT: "el otro extremo dejó de responder",
    errno.ENETUNREACH: "no hay camino hasta esa red",
    errno.EHOSTUNREACH: "no hay camino hasta esa máquina",
    errno.EACCES: "el sistema no lo permite",
    errno.EPERM: "el sistema no lo permite",
    errno.EMFILE: "no quedan descriptores de fichero; sube el límite con «ulimit -n»",
    errno.ENFILE: "el sistema no tiene más descriptores de fichero",
    errno.ENOBUFS: "el sistema no tiene memoria para más conexiones",
    errno.ENOMEM: "el sistema no tiene memoria para más conexiones",
    errno.ENOSPC: "no queda espacio en el disco",
    errno.ENOENT: "esa carpeta no existe",
    errno.ENOTDIR: "parte de la ruta no es una carpeta",
    errno.ENAMETOOLONG: "la ruta es demasiado larga",
}
_ONLY_HOST = "En --host va solo su nombre o su dirección; el puerto, en --puerto."


def reason(cause: BaseException | None) -> str:
    """Por qué falló algo, en una frase corta sin punto; vacía si no se sabe."""
    if isinstance(cause, OSError) and cause.errno:
        return _REASONS.get(cause.errno) or f"el sistema dice: {os.strerror(cause.errno)}"
    if isinstance(cause, MemoryError):
        return "no queda memoria"
    return f"el sistema dice: {escape(str(cause))}" if cause else ""


def listening_failed(error: NetworkError) -> str:
    """Por qué el servidor no pudo empezar a escuchar."""
    where = escape(error.address)
    if where.startswith(UNIX):
        return _unix_failed(where, error)
    if isinstance(error, AddressInUse):
        if sys.platform == "darwin" and where.endswith(":5000"):
            return (
                f"El puerto de {where} ya está ocupado. En macOS suele tenerlo el receptor AirPlay: apágalo en "
                "Ajustes > General > AirDrop y Handoff, o elige otro con --puerto."
            )
        return (
            f"El puerto de {where} ya está ocupado: otro programa escucha en él. Ciérralo, o elige otro con --puerto."
        )
    if isinstance(error, PortNotAllowed):
        return f"El sistema no permite escuchar en {where}. Elige con --puerto uno de 1024 en adelante."
    if isinstance(error, AddressNotOurs):
        return f"La dirección de {where} no es de esta máquina. Revisa --host."
    if isinstance(error, UnknownHost):
        return f"No se conoce la máquina de {where}. {_ONLY_HOST}"
    return f"No se puede escuchar en {where}: {reason(error.cause)}. Prueba con otro --host o --puerto."


def _unix_failed(where: str, error: NetworkError) -> str:
    if isinstance(error, AddressInUse):
        return f"{where} ya está ocupado: otro programa escucha ahí, o es otro fichero. Elige otra ruta en --host."
    if isinstance(error, PortNotAllowed):
        return f"El sistema no permite crear {where}. Elige en --host una ruta donde puedas escribir."
    return f"No se puede escuchar en {where}: {reason(error.cause)}. Elige otra ruta en --host."


def conversation_failed(error: NetworkError) -> str:
    """Por qué el cliente no pudo empezar o seguir la conversación."""
    where = escape(error.address)
    if isinstance(error, ServerNotRunning) and where.startswith(UNIX):
        return f"No hay ningún servidor en {where}. Arráncalo con el mismo --host, o revisa la ruta."
    if isinstance(error, ServerNotRunning):
        return (
            f"No hay ningún servidor escuchando en {where}. Arráncalo allí con «python3 Servidor_TCP.py» y el mismo "
            "--puerto, o revisa --host y --puerto."
        )
    if isinstance(error, UnknownHost):
        return f"No se conoce la máquina de {where}. {_ONLY_HOST}"
    if isinstance(error, TimedOut):
        wait = f"{error.seconds:g} s"
        if error.connecting:
            return (
                f"{where} no contesta: {wait} sin poder conectar. Revisa --host y --puerto, o espera más con --espera."
            )
        return (
            f"El servidor de {where} no responde: {wait} sin recibir nada. Vuelve a probar, o espera más con --espera."
        )
    if isinstance(error, ConnectionLost):
        why = reason(error.cause) or "el servidor la cerró"
        return f"Se perdió la conexión con {where}: {why}. Ejecuta otra vez el cliente para volver a conectar."
    return f"No se puede conectar con {where}: {reason(error.cause)}. Revisa --host, --puerto y la red."
