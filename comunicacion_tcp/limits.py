"""Todos los límites y plazos, una sola vez, cada número con su razón.

Aquí no se aplica ninguno: los aplican ``protocol.py`` (tamaños), ``server.py`` y ``client.py`` (plazos).
"""

from __future__ import annotations

from .records import Record

MIB = 1024 * 1024


class Limits(Record):
    """Los límites de un servidor o de un cliente. Tamaños en bytes, plazos en segundos.

    Errores: ``ValueError`` si alguno no está entre 0 y ``LARGEST``, o si ``max_message`` no deja sitio a la despedida.
    """

    max_message: int = MIB
    """Bytes de un mensaje sin su terminador. Un texto de persona no llega; un fichero pegado por error, sí."""

    goodbye_silence: float = 0.020
    """Silencio tras el que un cliente sin terminador ya no va a completar una despedida empezada. Muchas veces lo que
    separa dos segmentos seguidos (en una red local, menos de 1 ms); por debajo de lo que una persona nota (100 ms)."""

    reply_silence: float = 0.5
    """Lo que el cliente espera, callado el servidor, antes de dar por entera una respuesta sin terminador.
    Más que una retransmisión de TCP (Linux: desde 0,2 s), para no partir en dos una respuesta que se atrasó."""

    connect_timeout: float = 10.0
    """Para conectar: TCP reintenta a 1, 3 y 7 s; con menos se daría por muerta una red que solo perdió un paquete."""

    handshake_timeout: float = 10.0
    """Para el saludo de TLS entero, que son una o dos idas y vueltas: lo mismo que para conectar, y por lo mismo. En el
    servidor es además lo que puede ocupar un sitio quien conecta y no dice nada."""

    reply_timeout: float = 30.0
    """Sin recibir nada de una respuesta debida. Un servicio lento (una consulta) tarda segundos, no medio minuto."""

    max_connections: int = 10_000
    """Conversaciones a la vez: el problema C10K. Cada una es también un descriptor, y suele haber menos."""

    backlog: int = 1024
    """Cola del sistema de conexiones por aceptar. Si se llena, quien llega espera 1 s a que TCP reintente."""

    accept_pause: float = 1.0
    """Sin poder aceptar (no quedan descriptores), hasta volver a intentarlo: quien espera en cola apenas lo nota, y
    una línea de queja por segundo aún se lee."""

    linger: float = 2.0
    """Tras nuestro FIN se lee y se tira lo que llegue hasta que el cliente calle este tiempo (y como mucho ``drain``):
    cerrar con entrada sin leer haría al núcleo mandar RST y perder la respuesta. Dos segundos son dos
    retransmisiones en una red mala (como Apache). No hay tope de bytes: tirarlos cuesta menos que responderlos."""

    linger_quiet: float = 0.5
    """Al detener el servidor, un cliente que calla este tiempo tras nuestro FIN ya no tiene nada en vuelo:
    no se espera más por él (si no, Ctrl-C tardaría ``linger`` con un solo cliente pensando)."""

    drain: float = 10.0
    """Para entregar lo debido a quien no lo lee (al despedirse o al detener el servidor): lo que docker espera
    antes de matar un proceso (systemd, 90 s)."""

    def check(self) -> None:
        for field in self.fields():
            if not 0 < getattr(self, field) <= LARGEST:  # así tampoco pasa un NaN
                raise ValueError(f"{field} debe ser mayor que cero y como mucho {LARGEST}")
        if self.max_message < MIN_MESSAGE:
            raise ValueError(f"max_message debe ser {MIN_MESSAGE} o más, para que quepa DESCONEXION")


LARGEST = 2**31 - 1  # en segundos o en bytes, más no lo admiten todas las llamadas de todos los sistemas
MIN_MESSAGE = 16  # «DESCONEXION\r» son 12: una despedida nunca puede ser un mensaje demasiado largo

DEFAULT_LIMITS = Limits()
