"""La red falla: un cliente desaparece sin decir nada, o el camino pierde, retrasa, desordena y estrecha."""

from __future__ import annotations

import contextlib
import time

from .. import networks
from ..load import Load, Spec
from ..oracle import Flood, Oracle
from ..results import Failed, Outcome, Scenario, ms, number
from ..scale import MIB, Scale
from ..server import PATIENCE, Running, serving, until
from .crowds import ask

_PATH = networks.Bad(loss=0.01, delay=0.02, late=0.02, more=0.005, rate=50_000_000)
"""Una conexión de casa en un mal día: 40 ms de ida y vuelta, 50 Mbit/s y uno de cada cien paquetes perdido
y dos demorados."""
_OWED_EVERY = 5  # de los que desaparecen, uno de cada tantos lo hace con respuestas sin leer
_BLOCK = 20_000  # mensajes: unos 400 KB, con los que la ventana de quien no lee queda llena


def vanished(scale: Scale) -> Outcome:
    with (
        networks.joined() as pair,
        serving(
            *("--keepalive", str(scale.keepalive), "--plazo-salida", "60"),
            host=networks.SERVER,
            prefix=pair.inside(pair.server),
        ) as server,
        contextlib.ExitStack() as socks,
        Load(
            Spec(server.port, scale.polite, scale.every, host=networks.SERVER), prefix=pair.inside(pair.server)
        ) as load,
    ):
        alone = load.measure(scale.seconds)
        before = server.connections
        owed = 0
        for index in range(scale.vanished):
            sock = socks.enter_context(pair.connect(server.port))
            ask(sock, Oracle(index))
            if index % _OWED_EVERY == 0:
                owed += 1
                sock.sendall(Flood(index, _BLOCK).take())
        with_all = server.connections
        assert with_all == before + scale.vanished
        start = time.monotonic()
        pair.silence()
        patience = 4 * scale.keepalive + PATIENCE
        first = until(lambda: server.connections < with_all, "que note que faltan", patience)
        until(lambda: server.connections <= before, "que suelte a los desaparecidos", patience)
        took = time.monotonic() - start
        pair.speak()
        if "entregar" in server.output:
            raise Failed("de uno que desapareció dice que no leía")
        during = load.look()
        load.finish()
    return Outcome(
        [
            f"{scale.vanished} desaparecen, {owed} con respuestas sin leer: soltados entre los {first:.1f} y los "
            f"{took:.1f} s, con --keepalive {scale.keepalive:g}",
            f"p99 de los demás {ms(alone.p99)} → {ms(during.p99)}",
        ],
        took <= 3 * scale.keepalive,
    )


def hostile_net(scale: Scale) -> Outcome:
    figures = []
    for bad, what in ((None, "camino limpio"), (_PATH, "camino malo")):
        with (
            networks.joined(bad) as pair,
            serving(host=networks.SERVER, prefix=pair.inside(pair.server)) as server,
        ):
            figures.append(f"{what}: {_talk(server, pair, scale)}")
            server.settled()  # con el camino en pie: el FIN de la última conexión también tarda
            if bad:
                seen = pair.relayed()
                figures.append(
                    f"de sus {number(sum(seen.values()) - seen['desordenados'])} paquetes perdió "
                    f"{number(seen['perdidos'])} y desordenó {number(seen['desordenados'])}"
                )
    return Outcome([*figures, "0 respuestas cambiadas"], True)


def _talk(server: Running, pair: networks.Pair, scale: Scale) -> str:
    """Lo que ven los clientes: primero hablando, y después uno encadenando sin parar."""
    inside = pair.inside(pair.client)
    spec = Spec(server.port, scale.net_connections, scale.every, host=networks.SERVER)
    with Load(spec, inside) as load:
        polite = load.measure(scale.seconds)
        load.finish()
    with Load(Spec(server.port, 1, host=networks.SERVER, flood=True), inside) as load:
        rate = load.measure(scale.seconds).rate
        load.finish()
    size = len(Flood(1, 1_000).block) / 1_000
    return f"p50 {ms(polite.p50)}, p99 {ms(polite.p99)}; {number(rate * size / MIB, 2)} MiB/s en cada sentido"


SCENARIOS = [
    Scenario(
        "vanished",
        16,
        "clientes que desaparecen: la red se come sus paquetes",
        "se les suelta en unas dos veces --keepalive",
        vanished,
    ),
    Scenario(
        "hostile_net",
        31,
        "un camino que pierde (1 %), retrasa (20 ms), desordena (2 %) y estrecha (50 Mbit/s)",
        "ni una respuesta cambiada",
        hostile_net,
    ),
]
