"""Cada error como una frase para una persona: qué pasó y qué hacer ahora.

Aquí no se imprime nada ni se deciden códigos de salida: de eso se ocupa cada programa.
"""

from __future__ import annotations

import errno
import os
import sys

from ..addresses import unix_path
from ..errors import (
    AddressInUse,
    AddressNotOurs,
    BadProxyHeader,
    BadService,
    BadSocket,
    BadTLSFile,
    CertificateRejected,
    ConnectionLost,
    HeldTooMuch,
    NetworkError,
    OutOfStep,
    PortNotAllowed,
    ServerNotRunning,
    TimedOut,
    TLSFailed,
    TooMuchSaid,
    Truncated,
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
    errno.EISDIR: "es una carpeta",
    errno.ESPIPE: "es una tubería, y hace falta un fichero",
    errno.EACCES: "el sistema no lo permite",
    errno.EPERM: "el sistema no lo permite",
    errno.EMFILE: "no quedan descriptores de fichero; sube el límite con «ulimit -n»",
    errno.ENFILE: "el sistema no tiene más descriptores de fichero",
    errno.ENOBUFS: "el sistema no tiene memoria para más conexiones",
    errno.ENOMEM: "el sistema no tiene memoria para más conexiones",
    errno.ENOSPC: "no queda espacio en el disco",
    errno.ENOENT: "ese fichero no existe",
    errno.ENOTDIR: "parte de la ruta no es una carpeta",
    errno.ETIME: "tarda demasiado",
    errno.ENAMETOOLONG: "la ruta es demasiado larga",
}
# Por qué no hubo TLS, como lo cuenta cada lado: quien llama, que puede hacer algo, y quien atiende, que lo anota.
_NO_TLS = {
    "not_tls": "El servidor de {} no habla TLS. Quita --tls, o revisa --puerto.",
    "versions": "El servidor de {} y este cliente no tienen ninguna versión de TLS en común: aquí, de la 1.2 en "
    "adelante. Quien lo lleva debe ponerlo al día.",
    "nothing_shared": "El servidor de {} no acepta este saludo TLS: o pide un certificado de cliente (--tls-cert), o "
    "no hay ningún cifrado en común.",
    "needs_certificate": "El servidor de {} pide un certificado de cliente. Da el tuyo con --tls-cert y --tls-clave.",
    "ours_rejected": "El servidor de {} no acepta el certificado de --tls-cert. Pide a quien lo lleva uno firmado por "
    "la autoridad que espera.",
    "silent": "El servidor de {} no contesta al saludo TLS: quizá no habla TLS. Quita --tls, revisa --puerto, o espera "
    "más con --espera.",
    "cut": "El servidor de {} colgó a mitad del saludo TLS: quizá no habla TLS. Quita --tls, o revisa --puerto.",
}
_NO_TRUST = {
    "expired": "El certificado del servidor de {} está caducado. Quien lo lleva debe renovarlo; mira también la hora "
    "de esta máquina.",
    "not_yet_valid": "El certificado del servidor de {} aún no vale. Mira la hora de esta máquina y la del servidor.",
    "unknown_ca": "El certificado del servidor de {} lo firma una autoridad que esta máquina no conoce. Si es de fiar, "
    "da el certificado de esa autoridad con --tls-ca.",
    "self_signed": "El certificado del servidor de {} lo firma él mismo. Si es el que esperas, da una copia con "
    "--tls-ca.",
    "wrong_name": "El certificado del servidor de {} es de otro nombre: o no es quien dice, o hay que llamarlo en "
    "--host como pone en su certificado.",
}
_HANDSHAKES = {
    "not_tls": "el otro extremo no habla TLS",
    "versions": "ninguna versión de TLS en común",
    "nothing_shared": "ningún cifrado en común",
    "needs_certificate": "no trajo certificado",
    "ours_rejected": "no acepta nuestro certificado",
    "silent": "no acabó a tiempo",
    "cut": "colgó a la mitad",
    "expired": "su certificado está caducado",
    "not_yet_valid": "su certificado aún no vale",
    "unknown_ca": "su certificado no lo firma una autoridad de --tls-ca",
    "self_signed": "su certificado no lo firma una autoridad de --tls-ca",
}
_PROXY_HEADERS = {
    "absent": "no empieza por una cabecera PROXY; dile que la envíe, o quítalo de --proxy-de",
    "cut": "colgó a mitad de la cabecera PROXY",
    "late": "la cabecera PROXY no llegó a tiempo",
    "too_long": "la cabecera PROXY es demasiado larga",
    "syntax": "la cabecera PROXY no está bien escrita",
    "address": "en la cabecera PROXY hay una dirección que no lo es",
    "port": "en la cabecera PROXY hay un puerto que no lo es",
    "version": "la cabecera PROXY no es de la versión 1 ni de la 2",
    "command": "la cabecera PROXY pide algo que no existe",
    "family": "la cabecera PROXY trae una conexión que no es de TCP ni de un socket de Unix",
    "length": "en la cabecera PROXY no caben sus direcciones",
    "field": "la cabecera PROXY trae un campo roto",
    "checksum": "la cabecera PROXY no da su suma de comprobación",
}
_TLS_OPTIONS = {"cert": "--tls-cert", "key": "--tls-clave", "ca": "--tls-ca"}
_BAD_FILES = {
    "no_certificate": "no es un certificado en PEM, o está a medias",
    "no_key": "no lleva una clave en PEM, o está a medias",
    "mismatch": "lleva una clave que no es la del certificado",
    "locked": "lleva una clave con contraseña, y aquí nadie puede escribirla",
}
_BAD_SOCKETS = {
    "closed": "no hay nada abierto",
    "not_stream": "no hay un socket de TCP, ni de Unix que sea un chorro",
    "not_listening": "hay una conversación, y no un socket a la escucha",
}
# Por qué no se puede servir lo que se pidió: {name} es MODULO:FUNCION; {module}, el módulo; {what} y {place}, lo que
# diga el error.
_BAD_SERVICES = {
    "format": "«{name}» no es MODULO:FUNCION. Escribe el módulo, dos puntos y la función: --servicio mio:responder. "
    "En el nombre de un módulo no hay guiones ni espacios.",
    "file": "En --servicio va el nombre de un módulo, y «{name}» es el de un fichero. Prueba con --servicio {what}, "
    "desde la carpeta en que está.",
    "no_module": "No hay ningún módulo «{what}», ni en esta carpeta ni entre los instalados. Revisa --servicio, o "
    "arranca desde la carpeta en que está.",
    "missing_import": "«{module}» importa «{what}»{place}, que no existe. Instálalo, o revisa su nombre.",
    "syntax": "«{module}» tiene algo que no es Python{place}: {what}. Corrígelo, y guárdalo en UTF-8.",
    "import_failed": "«{module}» falló al importarse{place}: {cause}. Corrígelo{hint}.",
    "endless": "«{module}» lleva demasiado importándose, y mientras no acabe no se puede leer otra vez: algo fuera de "
    "sus funciones espera o da vueltas. Corrígelo y reinicia el servidor.",
    "no_name": "En «{module}»{place} no hay ningún «{what}». {known} Revisa --servicio.",
    "not_callable": "«{name}» no es una función, sino de tipo {what}. Da una que reciba un texto y devuelva otro.",
    "class": "«{name}» es una clase, y con cada mensaje haría un objeto. Da una función, o un método de un "
    "objeto ya hecho: --servicio {module}:objeto.metodo.",
    "generator": "«{name}» responde con yield, y cada mensaje tiene una sola respuesta. Devuélvela con return.",
    "arguments": "«{name}» recibe {what}, y hay que poder llamarla con un texto y nada más, como def responder(texto). "
    "A lo demás ponle valores por defecto; si es de una clase, haz un objeto y da su método.",
}
_MOST_QUOTED = 60  # caracteres de una línea del servidor dentro de una frase: los que bastan para reconocerla
_MOST_SAID = 500  # caracteres del mensaje de una excepción: a quien la lee le basta, y puede medir megas
_ONLY_HOST = "En --host va solo su nombre o su dirección; el puerto, en --puerto."


def reason(cause: BaseException | None) -> str:
    """Por qué falló algo, en una frase corta sin punto; vacía si no se sabe."""
    if isinstance(cause, Truncated):
        return "el otro extremo la cortó sin el aviso de cierre de TLS, y puede faltar lo último"
    if isinstance(cause, HeldTooMuch):
        return f"{cause} (--max-guardado)"
    if hasattr(cause, "library"):  # un ssl.SSLError, sin cargar ssl para saberlo; su errno no es del sistema
        return f"OpenSSL dice: {escape(getattr(cause, 'verify_message', '') or str(cause))}"
    if isinstance(cause, OSError) and cause.errno:
        return _REASONS.get(cause.errno) or f"el sistema dice: {os.strerror(cause.errno)}"
    if isinstance(cause, MemoryError):
        return "no queda memoria"
    return f"el sistema dice: {escape(str(cause))}" if cause else ""


def said_by(error: BaseException) -> str:
    """El mensaje de una excepción de otro, sin escapar y acortado; puede fallar hasta al decirlo."""
    try:
        text = str(error)
    except BaseException:
        return "no se sabe decir"
    return text if len(text) <= _MOST_SAID else text[:_MOST_SAID] + "..."


def named(error: BaseException) -> str:
    """Una excepción de otro, con su clase y, si lo hay, su mensaje: ``ValueError: no``."""
    return f"{type(error).__name__}: {said_by(error)}".removesuffix(": ")


def proxy_header_bad(error: BadProxyHeader) -> str:
    """Qué le pasa a una cabecera PROXY, sin punto."""
    return _PROXY_HEADERS[error.problem]


def bad_service(error: BadService) -> str:
    """Por qué no se puede servir lo que se pidió con --servicio."""
    script = isinstance(error.cause, (SystemExit, EOFError))  # un programa que se usaba solo, hecho módulo
    known = "Quizá es" if len(error.known) == 1 else "Hay"
    facts = {
        "name": error.name,
        "module": error.name.partition(":")[0],
        "what": error.what,
        "place": f" ({error.place})" * bool(error.place),
        "known": f"{known} «{'», «'.join(error.known)}»." if error.known else "Y no hay ninguna función.",
        "cause": named(error.cause) if error.cause else "",
        "hint": ', o déjalo dentro de «if __name__ == "__main__":»' * script,
    }
    return escape(_BAD_SERVICES[error.problem].format_map(facts))


def listening_failed(error: NetworkError) -> str:
    """Por qué el servidor no pudo empezar a escuchar."""
    where = escape(error.address)
    if unix_path(where) is not None:
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
    missing = isinstance(error.cause, FileNotFoundError)
    why = "esa carpeta no existe" if missing else reason(error.cause)
    return f"No se puede escuchar en {where}: {why}. Elige otra ruta en --host."


def metrics_failed(error: NetworkError) -> str:
    """Por qué no se pueden dar las métricas donde se pidió."""
    why = reason(error.cause)
    if isinstance(error, AddressInUse):
        why = "el puerto ya está ocupado"
    elif isinstance(error, AddressNotOurs):
        why = "esa dirección no es de esta máquina"
    elif isinstance(error, UnknownHost):
        why = "no se conoce esa máquina"
    return f"No se pueden dar las métricas en {escape(error.address)}: {why}. Elige otro sitio con --metricas."


def handshake_failed(error: TLSFailed) -> str:
    """Por qué el servidor no pudo empezar a cifrar, en una frase corta sin punto."""
    return _HANDSHAKES.get(error.problem) or reason(error.cause)


def bad_tls_file(error: BadTLSFile) -> str:
    """Por qué no sirve un fichero de TLS."""
    option, path = _TLS_OPTIONS[error.role], escape(error.path)
    if error.problem == "unreadable":
        why = reason(error.cause)
        return f"No se puede leer «{path}», el fichero de {option}: {why}. Revisa su nombre y sus permisos."
    hint = f"Da otro con {option}."
    if error.problem == "no_key" and error.role == "cert":
        hint = "Da la clave aparte con --tls-clave."
    if error.problem == "locked":
        hint = "Quítasela con «openssl pkey -in CON -out SIN» y da la otra."
    return f"El fichero de {option} no sirve: «{path}» {_BAD_FILES[error.problem]}. {hint}"


def bad_socket(error: BadSocket) -> str:
    """Por qué no se puede escuchar en lo que dio systemd."""
    name = f", «{escape(error.name)}»," if error.name else ""
    return (
        f"systemd debía dar un puerto en el descriptor {error.number}{name} y {_BAD_SOCKETS[error.problem]}. Revisa el "
        "fichero .socket: lleva ListenStream= y Accept=no."
    )


def conversation_failed(error: NetworkError) -> str:
    """Por qué el cliente no pudo empezar o seguir la conversación."""
    where = escape(error.address)
    if isinstance(error, ServerNotRunning) and unix_path(where) is not None:
        return f"No hay ningún servidor en {where}. Arráncalo con el mismo --host, o revisa la ruta."
    if isinstance(error, ServerNotRunning):
        return (
            f"No hay ningún servidor escuchando en {where}. Arráncalo allí con «servidor-tcp» (o «python3 "
            "Servidor_TCP.py») y el mismo --puerto, o revisa --host y --puerto."
        )
    if isinstance(error, UnknownHost):
        return f"No se conoce la máquina de {where}. {_ONLY_HOST}"
    if isinstance(error, TimedOut):
        wait = f"{error.seconds:g} s"
        if error.connecting:
            return (
                f"{where} no contesta: {wait} sin poder conectar. Revisa --host y --puerto, o espera más con --espera."
            )
        return f"{conversation_broken(error)} Vuelve a probar, o espera más con --espera."
    if isinstance(error, OutOfStep):
        return (
            f"{conversation_broken(error)} Si saluda al conectar, usa --saludo; si responde varias líneas a un "
            "mensaje, usa -q o el diálogo."
        )
    if isinstance(error, TooMuchSaid):
        option = "--max-sin-pedir" if error.unasked else "--max-respuesta"
        return f"{conversation_broken(error)} Mira qué servidor es, o admite más con {option}."
    if isinstance(error, CertificateRejected):
        other = f"El certificado del servidor de {{}} no vale: {reason(error.cause)}. Avisa a quien lo lleva."
        return _NO_TRUST.get(error.problem, other).format(where)
    if isinstance(error, TLSFailed):
        other = f"No se pudo cifrar la conversación con {{}}: {reason(error.cause)}. Revisa --host y --puerto."
        return _NO_TLS.get(error.problem, other).format(where)
    if isinstance(error, ConnectionLost):
        return f"{conversation_broken(error)} Ejecuta otra vez el cliente para volver a conectar."
    return f"No se puede conectar con {where}: {reason(error.cause)}. Revisa --host, --puerto y la red."


def conversation_broken(error: NetworkError) -> str:
    """Qué le pasó a una conversación en marcha; qué hacer lo dice quien sabe si se va a volver a conectar."""
    where = escape(error.address)
    if isinstance(error, TimedOut) and error.unfinished:
        return f"La respuesta del servidor de {where} no acabó en {error.seconds:g} s."
    if isinstance(error, TimedOut):
        return f"El servidor de {where} no responde: {error.seconds:g} s sin recibir nada."
    if isinstance(error, OutOfStep):
        quoted = error.said if len(error.said) <= _MOST_QUOTED else error.said[:_MOST_QUOTED] + "..."
        return (
            f"El servidor de {where} dijo algo que no se le preguntó («{escape(quoted)}»), y no se sabe qué respuesta "
            "es de qué mensaje."
        )
    if isinstance(error, TooMuchSaid):
        what = "dijo sin que se le preguntara" if error.unasked else "envió, en una respuesta que no acaba,"
        return f"El servidor de {where} {what} más de {error.limit} bytes."
    why = reason(error if isinstance(error, Truncated) else error.cause) or "el servidor la cerró"
    return f"Se perdió la conexión con {where}: {why}."
