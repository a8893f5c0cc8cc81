"""Lo medido y lo que se deduce de ello. Aquí no se mide (``run.py``) ni se escribe nada (``report.py``)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from .servers import Competitor


@dataclass(frozen=True)
class Sample:
    """Una medida: microsegundos de procesador por mensaje, y de ellos los que pasa en el núcleo del sistema; mensajes
    por segundo, y p50 y p99 de un bloque en us."""

    cpu: float
    kernel: float
    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class ClientCost:
    """Lo que cuesta cada paso del cliente con un intérprete: milisegundos de procesador, y veces el no hacer nada."""

    title: str
    steps: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class PipeSample:
    """Una ronda de un cliente por una tubería: microsegundos de procesador por línea, y líneas por segundo."""

    cpu: float
    rate: float


@dataclass
class Results:
    """Todo lo de una ejecución. ``samples[trabajo][servidor]``, ``failures[trabajo][servidor]`` (qué hizo mal),
    ``idle[servidor]`` (bytes por conexión callada). El primer servidor es el de C, con el que se comparan todos.
    ``services[trabajo][servicio]``, nuestro servidor con servicios propios (el primero, las mayúsculas de siempre).
    ``pipe[cliente]``, las rondas de cada cliente por una tubería (el primero es el nuestro; ninguna, si falta o falló:
    ``pipe_failures[cliente]``), con ``lines`` líneas."""

    servers: Sequence[Competitor]
    rounds: int
    seconds: float
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    client: list[ClientCost] = field(default_factory=list)
    services: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    pipe: dict[str, list[PipeSample]] = field(default_factory=dict)
    pipe_failures: dict[str, str] = field(default_factory=dict)
    lines: int = 0

    def median(self, work: str, server: str, name: str) -> float:
        """La mediana de un campo de ``Sample``."""
        values: list[float] = [getattr(sample, name) for sample in self.samples[work][server]]
        return statistics.median(values)

    def pipe_ratio(self, client: str) -> float:
        """El procesador por línea entre el de nuestro cliente, ronda a ronda: la mediana."""
        ours = next(iter(self.pipe.values()))
        return statistics.median(one.cpu / mine.cpu for one, mine in zip(self.pipe[client], ours, strict=True))

    def ratio(self, work: str, server: str) -> float | None:
        """El procesador por mensaje entre el del servidor en C, ronda a ronda: la mediana. Así la máquina puede ir
        cambiando de velocidad. ``None`` si no se midió."""
        measured = self.samples.get(work, {})
        if server not in measured:
            return None
        limit = measured[self.servers[0].name]
        return statistics.median(ours.cpu / theirs.cpu for ours, theirs in zip(measured[server], limit, strict=True))
