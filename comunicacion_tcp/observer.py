"""``Observer``: a quién cuenta el servidor lo que le pasa.

Aquí no se decide qué se le dice a una persona (``cli/report.py``) ni cuándo pasa cada cosa (``server.py``,
``connection.py``).
"""

from __future__ import annotations

from .addresses import Peer
from .errors import BadMessage, BadProxyHeader, BadTLSFile, Refusal, TLSFailed


class Observer:
    """Lo que el servidor cuenta de sí mientras trabaja. Aquí no hace nada; se hereda lo que interese.

    Sus métodos se llaman desde el bucle de asyncio: no deben bloquear ni lanzar.
    """

    def accepted(self, peer: Peer) -> None:
        """Empieza una conversación."""

    def said_goodbye(self, peer: Peer) -> None:
        """El cliente envió ``DESCONEXION``."""

    def left(self, peer: Peer) -> None:
        """El cliente cerró su lado sin despedirse."""

    def lost(self, peer: Peer, cause: Exception) -> None:
        """La conexión se cortó, o su máquina dejó de responder."""

    def closed(self, peer: Peer) -> None:
        """Acabó del todo una conversación, como fuera: una vez por cada ``accepted``."""

    def refused(self, peer: Peer, why: Refusal) -> None:
        """No se le atiende, y se le dijo por qué."""

    def idle(self, peer: Peer) -> None:
        """Calló ``limits.idle_timeout`` segundos, y se le cierra."""

    def bad_message(self, peer: Peer, bad: BadMessage) -> None:
        """Un mensaje recibió ``ERROR: ...``. Se cuentan todos los fallos del servicio (``ServiceFailed``), y de los del
        cliente el primero de cada clase en cada conversación."""

    def undelivered(self, peer: Peer) -> None:
        """Se cortó con algo por entregar: el cliente no lo leyó a tiempo, o se detiene el servidor."""

    def cannot_accept(self, cause: OSError) -> None:
        """No se pudo aceptar una conexión (sin descriptores, casi siempre); se volverá a intentar enseguida."""

    def lowered(self, connections: int, wanted: int) -> None:
        """El sistema no da descriptores para ``wanted`` conversaciones: serán ``connections`` como mucho."""

    def handshake_failed(self, peer: Peer, cause: TLSFailed) -> None:
        """No se completó un saludo de TLS: no hubo conversación."""

    def proxy_header_bad(self, peer: Peer, bad: BadProxyHeader) -> None:
        """Quien conectó desde ``peer``, de quien se esperaba una cabecera PROXY, no dio una buena: se le cortó."""

    def certificate_reread(self) -> None:
        """Cambiaron los ficheros de TLS: desde ahora valen los nuevos."""

    def certificate_unusable(self, bad: BadTLSFile) -> None:
        """Cambiaron los ficheros de TLS y no sirven: siguen valiendo los de antes."""


class OnlyTrouble(Observer):
    """De una conversación, cuenta a ``observer`` solo lo que va mal."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def refused(self, peer: Peer, why: Refusal) -> None:
        self._observer.refused(peer, why)

    def bad_message(self, peer: Peer, bad: BadMessage) -> None:
        self._observer.bad_message(peer, bad)

    def undelivered(self, peer: Peer) -> None:
        self._observer.undelivered(peer)
