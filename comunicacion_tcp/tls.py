"""TLS sin red: ``TLSSession``, bytes cifrados a un lado y textos al otro, y los certificados que usa.

Aquí no hay sockets, reloj ni asyncio, aunque sí se leen los ficheros de los certificados: el servidor
(``tls_transport.py``), el cliente (``client.py``) y las pruebas mueven los bytes de estos mismos objetos. No es el TLS
de asyncio porque ese es uno distinto en Python 3.10, en los siguientes y en uvloop, no sabe cerrar un lado solo y
pierde respuestas si llega algo detrás de nuestro aviso de cierre.
"""

from __future__ import annotations

import contextlib
import errno
import os
import ssl
import stat

from .errors import BadTLSFile, CertificateRejected, TLSFailed
from .places import as_of_now

LOOK_EVERY = 2.0
"""Segundos entre dos miradas a los ficheros: un certificado renovado se usa enseguida, y una oleada de conexiones no
cuesta tres consultas al disco cada una."""

_RECORD = 16 * 1024  # bytes: lo más que lleva un registro de TLS (RFC 8446, 5.1), y lo más que da una lectura
_LONGEST = 5 + _RECORD + 2048  # bytes: lo más que ocupa un registro en el cable (RFC 5246, 6.2.3; en TLS 1.3, menos)
# Conversaciones de TLS 1.2 que se recuerdan por si alguien quiere retomarlas: OpenSSL guarda hasta 20 480, de 1 KiB,
# dos horas, y el módulo ssl no deja decirle que no. Con billetes no las guardaría, pero quien robara su clave, que no
# cambia, leería todas las anteriores. Se olvidan con un contexto nuevo, que son 2 ms; 1024 ocupan 1 MiB.
_MOST_SESSIONS = 1024
_HANDSHAKE, _ALERT = 0x16, 0x15  # cómo puede empezar el primer registro (RFC 8446, 5.1)

# Qué falló, según el número con que OpenSSL rechaza un certificado (openssl verify -help) y según su razón.
_BY_CODE = {
    9: "not_yet_valid",
    10: "expired",
    18: "self_signed",
    19: "unknown_ca",
    20: "unknown_ca",
    21: "unknown_ca",
    62: "wrong_name",
    64: "wrong_name",
}
_BY_REASON = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "needs_certificate",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "needs_certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "ours_rejected",
    "SSLV3_ALERT_BAD_CERTIFICATE": "ours_rejected",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "ours_rejected",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "ours_rejected",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "ours_rejected",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "ours_rejected",
    "TLSV1_ALERT_PROTOCOL_VERSION": "versions",
    "UNSUPPORTED_PROTOCOL": "versions",
    "NO_PROTOCOLS_AVAILABLE": "versions",
    "WRONG_SSL_VERSION": "versions",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "nothing_shared",
    "NO_SHARED_CIPHER": "nothing_shared",
    "WRONG_VERSION_NUMBER": "not_tls",
}

_OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")  # este, si ni es del mismo tipo


class NotTLS(ssl.SSLError):
    """Lo primero que llegó no es TLS."""


def tls_error(address: str, cause: OSError | None, problem: str = "") -> TLSFailed:
    """Un fallo de TLS como lo cuenta esta casa. ``cause``: el error de ``ssl`` o del sistema. ``problem``: qué pasó,
    si ``cause`` no es de ``ssl``."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return CertificateRejected(address, cause, _BY_CODE.get(cause.verify_code, "other"))
    if isinstance(cause, NotTLS):
        problem = "not_tls"
    elif isinstance(cause, ssl.SSLError):
        problem = _BY_REASON.get(cause.reason or "", "other")
    return TLSFailed(address, cause, problem or "other")


# -- una conversación cifrada ---------------------------------------------------------------------------------


class TLSSession:
    """Un lado de una conversación TLS.

    Contrato: tras cada llamada se envía lo que dé ``take_outgoing()``, en ese orden, y tras ``receive`` se miran
    ``established``, ``peer_closed`` y ``failure``. Ningún método lanza por lo que haga el otro extremo.

    ``context``: de ``ServerTLS`` o de ``client_context()``. ``server_name``: en el cliente, el nombre o la dirección
    a los que se quería llegar (``ValueError`` si no puede ser un nombre); sin él, es el lado del servidor.
    """

    __slots__ = (
        "_aside",
        "_heard",
        "_incoming",
        "_openings",
        "_outgoing",
        "_tls",
        "closed",
        "established",
        "failure",
        "peer_closed",
    )

    def __init__(self, context: ssl.SSLContext, server_name: str | None = None) -> None:
        server = server_name is None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._aside: list[bytes] = []  # lo que salió de él y no se ha enviado
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=server_name)
        self._openings = (_HANDSHAKE,) if server else (_HANDSHAKE, _ALERT)
        self._heard = False
        self.established: bool = False
        """Si el saludo acabó: ya se puede enviar. (Un servidor aún puede rechazar el certificado del cliente.)"""
        self.peer_closed: bool = False
        """Si el otro lado avisó de que no enviará más (``close_notify``; RFC 8446, 6.1)."""
        self.closed: bool = False
        """Si ya avisamos nosotros."""
        self.failure: ssl.SSLError | None = None
        """Por qué se acabó mal; lo que ``take_outgoing()`` dé después se lo explica al otro extremo."""
        if not server:
            self._shake()

    def receive(self, data: bytes) -> bytes:
        """Entran ``data``, bytes del cable cortados por donde sea. Devuelve los textos que traían, juntos."""
        if self.failure or self.peer_closed:
            return b""
        if not self._heard and data:
            self._heard = True
            if data[0] not in self._openings:
                self.failure = NotTLS("lo primero que llegó no es TLS")
                return b""
        texts: list[bytes] = []
        if len(data) <= _RECORD:
            self._take_in(data, texts, 0)
        else:
            whole = memoryview(data)
            for start in range(0, len(whole), _RECORD):
                # Lo que queda dentro puede ser medio registro, y descubrirlo es una excepción: una sola, al final.
                leave = _LONGEST if start + _RECORD < len(whole) else 0
                self._take_in(whole[start : start + _RECORD], texts, leave)
                self._set_aside()  # lo que TLS contesta por su cuenta
                if self.failure or self.peer_closed:
                    break
        return texts[0] if len(texts) == 1 else b"".join(texts)

    def send(self, data: bytes | memoryview) -> None:
        """Cifra ``data``; no se llama después de ``close()``, y no hace nada después de ``failure``."""
        if self.failure:
            return
        try:
            rest = data
            if len(data) > _RECORD:
                rest = memoryview(data)
                while len(rest) > _RECORD:
                    self._tls.write(rest[:_RECORD])
                    rest = rest[_RECORD:]
                    self._set_aside()
            if rest:
                self._tls.write(rest)
        except ssl.SSLError as error:
            self.failure = error

    def close(self) -> None:
        """No enviaremos más: prepara nuestro ``close_notify``. Se puede seguir recibiendo."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(ssl.SSLError):  # lo normal: detrás del nuestro busca el otro, que aún no está
                self._tls.unwrap()

    def take_outgoing(self) -> bytes:
        """Los bytes que hay que poner en el cable, quizá ninguno."""
        last = self._outgoing.read()
        if not self._aside:
            return last
        whole = b"".join((*self._aside, last))
        self._aside.clear()
        return whole

    # Un MemoryBIO no encoge: lo que una vez tuvo dentro, y un tercio más, lo ocupa mientras dure la conversación, por
    # callada que siga. Por eso se llenan y se vacían de registro en registro, poco más o menos.

    def _set_aside(self) -> None:
        if self._outgoing.pending:
            self._aside.append(self._outgoing.read())

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
            self.established = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.failure = error

    def _take_in(self, data: bytes | memoryview, texts: list[bytes], leave: int) -> None:
        """Entran ``data``; los textos que traían se añaden a ``texts``. ``leave``: bytes que pueden quedar."""
        self._incoming.write(data)
        if not self.established:
            self._shake()
            if not self.established:
                return
        # Todos los registros de una vez: una respuesta por lectura, como sin cifrar.
        try:
            while self._incoming.pending > leave or self._tls.pending():
                text = self._tls.read(_RECORD)
                if not text:
                    self.peer_closed = True
                    break
                texts.append(text)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # lo mismo que b"", cuando ya cerramos nosotros
            self.peer_closed = True
        except ssl.SSLError as error:
            self.failure = error


# -- certificados ---------------------------------------------------------------------------------------------


class ServerTLS:
    """Con qué cifra un servidor: sus ficheros en PEM, que se leen otra vez cuando cambian.

    ``cert``: el certificado y los intermedios que lo firman. ``key``: su clave, sin contraseña; por defecto, en el
    mismo fichero. ``ca``: si se da, solo entra quien trae un certificado firmado por esas autoridades. Las rutas
    relativas son desde la carpeta de entonces. Error: ``BadTLSFile``.
    """

    def __init__(self, cert: str, key: str | None = None, ca: str | None = None) -> None:
        self._cert = as_of_now(cert)
        self._key = key and as_of_now(key)
        self._ca = ca and as_of_now(ca)
        self._seen = self._look()
        self._context = _server_context(self._cert, self._key, self._ca)
        self._next_look = 0.0
        self._told = ""

    def session(self) -> TLSSession:
        """El lado servidor de una conversación nueva, con el último certificado bueno."""
        return TLSSession(self._context)

    def reread(self, now: float) -> bool:
        """Si los ficheros cambiaron, los lee otra vez; devuelve si desde ahora vale lo que hay en ellos.

        ``now``: la hora, en segundos de un reloj que no retrocede; se mira una vez cada ``LOOK_EVERY``. Error:
        ``BadTLSFile`` si lo nuevo no sirve (quizá está a medio escribir): se sigue con lo anterior y se volverá a
        intentar, pero el mismo error no se repite.
        """
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_EVERY
        found = self._look()
        if not all(stat.S_ISREG(one[3]) for one in found if one):
            return False  # leer una tubería esperaría a que alguien escribiera
        if found == self._seen and not self._told:  # tras un error, también si vuelve el de antes
            self._forget_sessions()
            return False
        try:
            self._context = _server_context(self._cert, self._key, self._ca)
        except BadTLSFile as error:
            if str(error) == self._told:
                return False
            self._told = str(error)
            raise
        self._seen = found
        self._told = ""
        return True

    def _forget_sessions(self) -> None:
        if self._context.session_stats()["number"] < _MOST_SESSIONS:
            return
        with contextlib.suppress(BadTLSFile):  # ya no se dejan leer (quien arrancó era otro usuario): se sigue así
            self._context = _server_context(self._cert, self._key, self._ca)

    def expiry(self) -> float | None:
        """Cuándo caduca el certificado, en segundos desde 1970; ``None`` si no se sabe. Lee otra vez el fichero."""
        try:
            if not os.path.isfile(self._cert):
                return None  # de una tubería ya se leyó: otra vez sería esperar a que alguien escribiera
            with open(self._cert, encoding="latin-1") as file:  # lo que no es PEM puede ser cualquier cosa
                return not_after(_first_certificate(file.read()))
        except (OSError, ValueError):
            return None

    def _look(self) -> list[tuple[int, int, int, int] | None]:
        """Lo que dice el sistema de cada fichero: basta para saber si es otro."""
        found: list[tuple[int, int, int, int] | None] = []
        for path in (self._cert, self._key, self._ca):
            try:
                one = os.stat(path) if path else None
            except (OSError, ValueError):
                one = None
            found.append((one.st_mtime_ns, one.st_size, one.st_ino, one.st_mode) if one else None)
        return found


def client_context(ca: str | None = None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Con qué cifra un cliente: ``Client(..., tls=client_context())``. Comprueba quién es el servidor y su nombre.

    ``ca``: un fichero PEM con las autoridades en que se confía; por defecto, las del sistema. ``cert`` y ``key``: el
    certificado con que el cliente dice quién es, y su clave sin contraseña (por defecto, en el mismo fichero). Error:
    ``BadTLSFile``.
    """
    context = ssl.create_default_context() if ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return _harden(context, cert, key, ca)


def _server_context(cert: str, key: str | None, ca: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Sin billetes para retomar la conversación: nadie aquí los usa, y en TLS 1.3 llegan sin pedirlos detrás del
    # saludo: a quien cierra sin leerlos, el núcleo le hace mandar RST. (Sin ellos, las de TLS 1.2 las guarda el
    # servidor: _MOST_SESSIONS.)
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    if ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return _harden(context, cert, key, ca)


def _harden(context: ssl.SSLContext, cert: str | None, key: str | None, ca: str | None) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # los anteriores están retirados (RFC 8996)
    # Renegociar le cuesta al servidor diez veces más que a quien se lo pide; comprimir deja adivinar lo cifrado.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    for role, path in (("cert", cert), ("key", key), ("ca", ca)):
        _refuse_pipe(role, path)
    if cert is not None:
        _load_chain(context, cert, key)
    if ca is not None:
        _load_authorities(context, "ca", ca)
    return context


def _refuse_pipe(role: str, path: str | None) -> None:
    # OpenSSL esperaría a que alguien escribiera en ella, quizá para siempre; y cada fichero se lee más de una vez.
    try:
        pipe = path is not None and stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return  # lo dirá quien lo lea
    if path is not None and pipe:
        raise BadTLSFile(role, path, "unreadable", OSError(errno.ESPIPE, os.strerror(errno.ESPIPE)))


class _Locked(Exception):
    """La clave tiene contraseña."""


def _no_password() -> str:
    raise _Locked  # si no, OpenSSL la preguntaría en la terminal


def _load_chain(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    role, path = ("cert", cert) if key is None else ("key", key)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _Locked as error:
        raise BadTLSFile(role, path, "locked") from error
    except (OSError, ValueError) as error:  # SSLError es un OSError; ValueError, un nombre de fichero imposible
        # Cuál de los dos falló no lo dice: se mira cada uno.
        _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "cert", cert)
        if isinstance(error, ssl.SSLError):
            mismatch = error.reason in _OTHER_KEY
            raise BadTLSFile(role, path, "mismatch" if mismatch else "no_key", error) from error
        raise BadTLSFile(role, path, "unreadable", error) from error


def _load_authorities(context: ssl.SSLContext, role: str, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise BadTLSFile(role, path, "no_certificate", error) from error
    except (OSError, ValueError) as error:
        raise BadTLSFile(role, path, "unreadable", error) from error


# -- lo que pone en un certificado ------------------------------------------------------------------------------

# Etiquetas de DER (X.690, 8.1.2) que hay camino de la fecha.
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0
_PEM_START, _PEM_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def not_after(certificate: bytes) -> float:
    """Hasta cuándo vale un certificado en DER, en segundos desde 1970 (RFC 5280, 4.1). ``ValueError`` si no lo es.

    Solo se busca la fecha: ``ssl`` no la da de un certificado propio, y leerlo entero no es cosa de esta casa.
    """
    from datetime import datetime, timezone  # solo lo paga quien lo pregunta

    _, whole, _ = _element(certificate, _SEQUENCE)
    _, rest, _ = _element(whole, _SEQUENCE)  # TBSCertificate
    if rest[:1] == bytes([_VERSION]):
        rest = _element(rest)[2]
    for _ in range(3):  # el número de serie, el algoritmo de la firma y quién firma
        rest = _element(rest)[2]
    _, validity, _ = _element(rest, _SEQUENCE)
    tag, text, _ = _element(_element(validity)[2])
    digits = text.decode("ascii")
    if tag == _UTC_TIME:  # con dos cifras, de 1950 a 2049 (RFC 5280, 4.1.2.5.1)
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no hay una fecha donde debía")
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()


def _element(data: bytes, wanted: int | None = None) -> tuple[int, bytes, bytes]:
    """El primer elemento de ``data``: su etiqueta, lo que lleva dentro y lo que hay detrás (X.690, 8.1)."""
    if len(data) < 2 or (wanted is not None and data[0] != wanted):
        raise ValueError("no es un certificado")
    size, start = data[1], 2
    if size & 0x80:  # el tamaño, en los bytes que siguen
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    if start + size > len(data):
        raise ValueError("el certificado está a medias")
    return data[0], data[start : start + size], data[start + size :]


def _first_certificate(text: str) -> bytes:
    """El primero de un fichero PEM, que es el que se enseña (RFC 7468), en DER. ``ValueError`` si no hay ninguno."""
    start = text.index(_PEM_START)
    end = text.index(_PEM_END, start) + len(_PEM_END)
    return ssl.PEM_cert_to_DER_cert(text[start:end])
