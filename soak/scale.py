"""Cuánto: los tamaños y las duraciones de los escenarios, en la medida entera y en la corta de las pruebas.

Aquí no hay escenarios; todos leen de aquí, y así las pruebas ejecutan el mismo código que la medida.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Scale:
    """Los números de una ejecución. Duraciones en segundos, tamaños en bytes, lo demás son conexiones o veces."""

    seconds: float = 8.0
    """Lo que dura cada ventana en que se miden latencias: con 2000 mensajes por segundo, el p99 sale de 160."""
    polite: int = 100
    """Clientes educados junto a los hostiles: los que no deben notar nada."""
    every: float = 0.1
    """Un mensaje de cada educado: entre todos 1000 por segundo, que ni servidor ni carga notan."""
    idle: int = 10_000
    active: int = 200
    churn_connections: int = 1_500
    churn_rate: float = 300.0
    """Por segundo, las que se van y las que llegan: la quinta parte de las de arriba."""
    churn_seconds: float = 180.0
    allowed: int = 200
    """El máximo que se le pone al servidor para pasarse de él."""
    extra: int = 100
    storm: int = 5_000
    """De golpe: cinco veces la cola de conexiones por aceptar (1024)."""
    fault_seconds: float = 6.3
    """Lo que dura cada fallo de accept: varias pausas de las suyas, que son de 1 s, y parte de otra."""
    waiting: int = 20
    unread: int = 100
    unread_bytes: int = 1024 * MIB
    output_deadline: float = 5.0
    slow: int = 5_000
    message_deadline: float = 10.0
    drip: float = 2.0
    """Entre dos bytes de uno lento: más seguido, 5000 ocuparían un procesador solo en enviarlos."""
    vanished: int = 50
    keepalive: float = 5.0
    slow_rate: float = 20_000.0
    """Bytes por segundo de quien lee despacio: como una línea de hace treinta años."""
    slow_seconds: float = 120.0
    """Dos veces el plazo de quien no lee."""
    slow_bytes: int = 24 * MIB
    """Lo que pide: varias veces lo que guarda el sistema de una conexión."""
    in_flight: int = 20
    """Cada uno encadena 12 MiB: más, y la memoria de los sockets sería la de la máquina."""
    restarts: int = 10
    clock_deadline: float = 4.0
    tls_silent: int = 200
    tls_deadline: float = 10.0
    largest: int = 100
    """Las que dicen su mayor mensaje: bastantes para que lo que cada una guarda se vea sobre lo del proceso, que con el
    primero pide hasta 2 MiB."""
    deaf: int = 20
    """De esas, las que después no leen: 4 MiB cada una, en cada uno de los dos bucles."""
    flooders: tuple[int, ...] = (1, 10, 100, 500)
    """Los que inundan a la vez."""
    flood_seconds: float = 3.0
    """Con cada cuántos: las respuestas de los educados son tres mil, y el p99 sale de treinta."""
    hostile_seconds: float = 1.5
    """De cada clase de byte hostil: el procesador gastado se sabe de centésima en centésima."""
    proxied: int = 500
    """De cada clase de cabecera: entre todas, miles, y segundos."""
    proxied_late: int = 200
    net_connections: int = 20
    arrivals: float = 50.0
    """Conversaciones por segundo que llegan y se van mientras a los procesos les pasa algo: alguna estará a medias."""
    kill_seconds: float = 300.0
    kill_every: float = 2.0
    """Entre dos muertes: lo bastante para que el repuesto sirva y se llene, y morirá otra vez."""
    worker_timeout: float = 10.0
    """Lo de siempre (limits.py, worker_timeout)."""
    reloads: int = 100
    reload_every: float = 0.5
    """Entre dos recargas: que en cada una haya conversaciones llegando y yéndose."""
    long_talks: int = 10
    """Conversaciones que duran desde la primera recarga hasta la última."""
    failing_seconds: float = 60.0
    """Lo que pasa sin que un proceso consiga empezar: un minuto, que es como se dice la cifra."""


FULL = Scale()

QUICK = Scale(
    seconds=0.3,
    polite=10,
    every=0.02,
    idle=200,
    active=20,
    churn_connections=20,
    churn_rate=50.0,
    churn_seconds=0.8,
    allowed=20,
    extra=10,
    storm=100,
    fault_seconds=0.3,
    waiting=3,
    unread=4,
    unread_bytes=64 * MIB,
    output_deadline=0.5,
    slow=50,
    message_deadline=0.5,
    drip=0.1,
    vanished=5,
    keepalive=1.0,
    slow_rate=2_000_000.0,
    slow_seconds=0.3,
    slow_bytes=16 * MIB,
    in_flight=2,
    restarts=2,
    clock_deadline=0.5,
    tls_silent=5,
    tls_deadline=0.5,
    largest=2,
    deaf=1,
    flooders=(3,),
    flood_seconds=0.2,
    hostile_seconds=0.02,
    proxied=5,
    proxied_late=5,
    net_connections=4,
    kill_seconds=0.8,
    kill_every=0.4,
    worker_timeout=2.0,
    reloads=9,
    reload_every=0.05,
    long_talks=3,
    failing_seconds=0.3,
)
"""Segundos, y no minutos: que cada escenario funciona, no cuánto da."""
