"""Cuántas máquinas para cuántos clientes: la cuenta de ``docs/escalado.md``, y su tabla.

Puro, menos ``main``. Las cifras de partida salen de medidas, redondeadas hacia lo peor; de dónde, lo dice la página. Se
ejecuta con ``python -m tools.sizing``, que enseña la tabla, o ``--docs``, que la escribe en la página;
``tests/test_sizing.py`` comprueba que sigue siendo esta.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import replace_between, table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "escalado.md"
CROWDS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
_COMMAND = "tools.sizing"

# -- lo medido (docs/escalado.md, «Lo que se ha medido»)

MESSAGE = 12e-6
"""Segundos de procesador por mensaje, en petición y respuesta."""
CONNECTION = 130e-6
"""Segundos de procesador por conexión que llega, dice algo y se despide."""
MEMORY = 2_400 + 5_000
"""Bytes por conexión callada: en el proceso, y en el núcleo."""
MEMORY_TLS = MEMORY + 16_600
"""Lo mismo, si cifra."""
PROCESS = 8 * 2**20
"""Bytes por proceso, sin conexiones."""
BALANCER_MESSAGE = 25e-6
BALANCER_CONNECTION = 110e-6
BALANCER_MEMORY = 3_500 + 9_500
"""Lo mismo, de un HAProxy delante."""

# -- lo que se decide

BUSY = 0.5
"""Lo que se deja trabajar a cada procesador y llenar la memoria: si cae una máquina, las demás tienen sitio."""
RETURN = 10.0
"""Segundos: lo que puede tardar un proceso nuevo en recibir a todos los del que murió. Limita cuántos tiene uno."""
SPARE = 0.1
"""Máquinas de más, para una avería y para cambiar de versión: una de cada diez, y al menos una."""
FRAMES = 2 * (38 + 20 + 32)
"""Bytes que la red añade en cada sentido a un mensaje: los de Ethernet (con preámbulo y hueco), IPv4 y TCP (con marcas
de tiempo), y otra vez en el acuse del mensaje del otro."""


@dataclass(frozen=True)
class Profile:
    """Cómo es un cliente: cada cuántos segundos dice un mensaje y cada cuántos vuelve a conectarse, y cuántos bytes
    tiene un mensaje."""

    title: str
    message_every: float
    connection_every: float
    size: int = 100

    def cpu(self, message: float, connection: float) -> float:
        """Procesadores que ocupa un cliente, si un mensaje y una conexión cuestan eso."""
        return message / self.message_every + connection / self.connection_every


@dataclass(frozen=True)
class Machine:
    """Una máquina: procesadores, que son también procesos, y bytes de memoria."""

    processors: int
    memory: int


MACHINE = Machine(8, 16 * 2**30)
PROFILES = (
    Profile("callado", 300, 86_400),
    Profile("hablador", 1, 600),
)


@dataclass(frozen=True)
class Plan:
    """Lo que sale: clientes por proceso y qué los limita, máquinas (con las de más), balanceadores, y bits por segundo
    en cada sentido."""

    each: int
    limit: str
    machines: int
    balancers: int
    bits: float


def each_process(profile: Profile, machine: Machine) -> tuple[int, str]:
    """Los clientes que caben en un proceso, y qué es lo que primero se acaba."""
    room = machine.memory * BUSY / machine.processors - PROCESS
    return min(
        (int(BUSY / profile.cpu(MESSAGE, CONNECTION)), "procesador"),
        (int(room / MEMORY), "memoria"),
        (int(RETURN / CONNECTION), "volver"),
    )


def each_balancer(profile: Profile, machine: Machine) -> int:
    """Los clientes que pasan por un balanceador, en una máquina igual."""
    cpu = profile.cpu(BALANCER_MESSAGE, BALANCER_CONNECTION)
    return min(int(machine.processors * BUSY / cpu), int(machine.memory * BUSY / BALANCER_MEMORY))


def with_spare(machines: float) -> int:
    """Las máquinas enteras que hacen falta, y las de más."""
    least = math.ceil(machines)
    return least + max(1, math.ceil(least * SPARE))


def plan(clients: int, profile: Profile, machine: Machine = MACHINE) -> Plan:
    """Lo que hace falta para ``clients`` clientes a la vez."""
    each, limit = each_process(profile, machine)
    machines = with_spare(clients / (each * machine.processors))
    balancers = with_spare(clients / each_balancer(profile, machine))
    bits = clients / profile.message_every * (profile.size + FRAMES) * 8
    return Plan(each, limit, machines, balancers, bits)


def show() -> str:
    """La tabla, en Markdown."""
    head = ["clientes a la vez", "perfil", "por proceso", "lo limita", "procesos", "máquinas", "balanceadores", "red"]
    rows = []
    for profile in PROFILES:
        for clients in CROWDS:
            got = plan(clients, profile)
            sizes = [number(got.each), got.limit, number(got.machines * MACHINE.processors), number(got.machines)]
            rows.append([number(clients), profile.title, *sizes, number(got.balancers), speed(got.bits)])
    return table(head, rows)


def number(value: float) -> str:
    """Con los miles separados."""
    return f"{value:_.0f}".replace("_", " ")


def speed(bits: float) -> str:
    """Bits por segundo, en la unidad que se lee mejor."""
    for size, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s")):
        if bits >= size:
            return f"{bits / size:.3g} {unit}"
    return f"{bits / 1e3:.3g} kbit/s"


def main() -> int:
    """Enseña la tabla o la escribe. Devuelve el código de salida."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="la escribe en docs/escalado.md")
    if parser.parse_args().docs:
        replace_between(PAGE, show(), _COMMAND)
    else:
        print(show(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
