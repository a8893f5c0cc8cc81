"""TLS entre un transporte de asyncio y una conexión: la conexión ve un transporte corriente, y por el cable va cifrado.

Aquí no se cifra (``tls.py``), no hay plazos ni sitio que contar (``connection.py``): bytes que suben y bytes que bajan,
y cómo acaba cada lado.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

from .addresses import Peer, format_address
from .errors import Truncated
from .tls import NotTLS, TLSSession

_AT_ONCE = 256 * 1024  # bytes que se cifran antes de escribirlos: entera, una respuesta de 4 MiB ocuparía el triple
_ONLY_TLS = "ERROR: este servidor solo habla TLS; conéctate cifrando (cliente-tcp --tls)\n"


class Handshake(Protocol):
    """Quien espera a que acabe el saludo: se le llama una vez a ``begun`` y una a ``succeeded`` o a ``gone``."""

    def begun(self, transport: TLSTransport) -> None:
        """Hay alguien al otro lado; el saludo empieza."""

    def succeeded(self) -> asyncio.Protocol:
        """El saludo acabó bien. Devuelve quién conversará."""
        raise NotImplementedError

    def failed(self, cause: OSError) -> None:
        """El saludo acabó mal. Se le está diciendo por qué al otro extremo, que aún no ha colgado."""

    def gone(self) -> None:
        """No hay conexión ya, y el saludo no acabó bien."""


class TLSTransport(asyncio.Transport, asyncio.Protocol):
    """Para el transporte de verdad, un protocolo; para ``Connection``, el transporte.

    ``write_eof()`` es el ``close_notify`` y detrás el FIN; el ``close_notify`` del otro extremo es ``eof_received()``,
    y un FIN sin él, ``connection_lost(Truncated(...))``.
    """

    __slots__ = (
        "_cause",
        "_end_owed",
        "_fin_awaited",
        "_fin_received",
        "_handshake",
        "_peer",
        "_protocol",
        "_raw",
        "_session",
        "_throwing_away",
        "_unwritten",
    )

    _raw: asyncio.Transport

    def __init__(self, session: TLSSession, handshake: Handshake, peer: Peer) -> None:
        self._session = session
        self._peer = peer
        self._handshake: Handshake | None = handshake  # hasta que acaba
        self._protocol: asyncio.Protocol | None = None  # desde entonces
        self._cause: Exception | None = None
        self._throwing_away = False  # ya no enviaremos más: lo que llegue ni se descifra
        self._unwritten = 0  # bytes que aún no se han cifrado
        self._end_owed = False  # llegó un close_notify que la conexión no sabe aún: no lo quiere mientras no lee
        self._fin_received = False
        self._fin_awaited = False  # la conexión sabe de un close_notify cuyo FIN no ha llegado

    # -- lo que avisa el transporte de verdad ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        if self._handshake:
            self._handshake.begun(self)

    def data_received(self, data: bytes) -> None:
        if self._throwing_away:
            if self._protocol:
                self._protocol.data_received(b"")  # para quien solo quiere saber si aún se habla
            return
        session = self._session
        told = session.peer_closed
        text = session.receive(data)
        if self._handshake:
            if session.established:  # y quizá ya falló detrás, en esta misma lectura
                # La última parte de nuestro saludo la lleva lo que se escriba, o _flush.
                self._protocol, self._handshake = self._handshake.succeeded(), None
                self._protocol.connection_made(self)
            elif session.failure:
                self._refuse(session.failure)
                return
        if text and self._protocol and not self._throwing_away:
            self._protocol.data_received(text)
        self._flush()
        if self._throwing_away or not self._protocol:
            return
        if session.failure:
            self._cut(session.failure)
        elif session.peer_closed and not told:
            self._end_owed = True
            self._tell_end()

    def eof_received(self) -> bool:
        self._fin_received, self._fin_awaited = True, False
        if self._handshake:
            if self._throwing_away:
                self._raw.close()
            else:
                self._handshake.failed(ConnectionResetError())
                self._raw.abort()
        elif self._throwing_away and self._protocol:
            self._protocol.eof_received()
        elif not self._session.peer_closed:
            self._cut(Truncated(format_address(*self._peer)))
        return True  # es decir: no lo hagas tú, asyncio

    def connection_lost(self, exc: Exception | None) -> None:
        if self._handshake:
            if exc and not self._throwing_away:
                self._handshake.failed(exc if isinstance(exc, OSError) else ConnectionResetError())
            handshake, self._handshake = self._handshake, None
            handshake.gone()
        elif self._protocol:
            # Soltándola: si no, cada uno retendría al otro, y a OpenSSL, hasta que pasara el recolector.
            protocol, self._protocol = self._protocol, None
            protocol.connection_lost(self._cause or exc)

    def pause_writing(self) -> None:
        if self._protocol:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol:
            self._protocol.resume_writing()

    # -- lo que pide la conexión ----------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        rest = memoryview(data)
        # Cortada al escribir, asyncio se quejaría de cada trozo de más.
        while rest and not (self._throwing_away or self._raw.is_closing()):
            piece, rest = rest[:_AT_ONCE], rest[_AT_ONCE:]
            self._unwritten = len(rest)  # pueden preguntarlo al escribir
            self._session.send(piece)
            self._flush()
        self._unwritten = 0

    def write_eof(self) -> None:
        self._close_session()
        self._raw.write_eof()

    def close(self) -> None:
        self._close_session()
        # Sin cifrar, el final de la entrada es el FIN y se puede cerrar enseguida. Aquí el FIN aún no ha llegado, y
        # cerrar con algo por leer delante de él perdería respuestas: se sigue como en cualquier despedida.
        if self._fin_awaited:
            self._fin_awaited = False
        else:
            self._raw.close()

    def abort(self) -> None:
        self._throwing_away = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()
        if self._end_owed:
            asyncio.get_running_loop().call_soon(self._tell_end)

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size() + self._unwritten

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    @property
    def max_size(self) -> int:
        """Bytes por lectura, donde el transporte de verdad lo deja elegir (asyncio)."""
        return getattr(self._raw, "max_size", 0)

    @max_size.setter
    def max_size(self, size: int) -> None:
        if hasattr(self._raw, "max_size"):
            self._raw.max_size = size

    # -- por dentro -----------------------------------------------------------------------------------------

    def _tell_end(self) -> None:
        if self._end_owed and self._protocol and not self._throwing_away and self._raw.is_reading():
            self._end_owed = False
            self._fin_awaited = not self._fin_received
            self._protocol.eof_received()

    def _flush(self) -> None:
        outgoing = self._session.take_outgoing()
        if outgoing:
            self._raw.write(outgoing)

    def _close_session(self) -> None:
        self._throwing_away = True
        self._session.close()
        self._flush()

    def _refuse(self, cause: OSError) -> None:
        """No hubo saludo: se le dice por qué, y se tira lo que envíe para que un RST no se lo quite."""
        self._throwing_away = True
        if isinstance(cause, NotTLS):
            self._raw.write(_ONLY_TLS.encode())
        self._flush()
        if self._handshake:
            self._handshake.failed(cause)
        try:
            self._raw.write_eof()
        except OSError:  # ya cortó
            self._raw.abort()

    def _cut(self, cause: Exception) -> None:
        """Se acabó: lo que dio el sistema se entrega, y a lo demás no se espera."""
        self._throwing_away = True
        self._cause = cause
        self._raw.abort()
