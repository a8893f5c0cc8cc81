"""Los resultados de las medidas, como tablas y figuras. Aquí no se mide nada."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .servers import Competitor
from .works import WORKS, Work

if TYPE_CHECKING:
    from .run import Sample

Results = Mapping[str, Sequence["Sample"]]


def median_cpu(samples: Sequence[Sample]) -> float:
    """Mediana de los microsegundos de procesador por mensaje."""
    return statistics.median(sample.cpu for sample in samples)


def ratios(results: Results) -> dict[str, float]:
    """Cada servidor entre el de C, ronda a ronda: la mediana. Así la máquina puede ir cambiando de velocidad."""
    limit = next(iter(results.values()))
    return {
        name: statistics.median(ours.cpu / theirs.cpu for ours, theirs in zip(samples, limit, strict=True))
        for name, samples in results.items()
    }


def work_table(work: Work, results: Results, failed: Mapping[str, str]) -> str:
    """La tabla en Markdown de un trabajo; ``failed``: quién falló, y cómo."""
    lines = [
        f"### {work.title}",
        "",
        f"{work.connections} conexiones, {work.depth} mensajes por bloque, {work.size} bytes por mensaje.",
        "",
        "| servidor | CPU us/mensaje | recorrido | veces C | mensajes/s | p50 us | p99 us |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    ratio = ratios(results)
    for name, samples in results.items():
        cpus = [sample.cpu for sample in samples]
        rate, p50, p99 = (
            statistics.median(getattr(sample, field) for sample in samples) for field in ("rate", "p50", "p99")
        )
        per_second = f"{rate:_.0f}".replace("_", " ")
        lines.append(
            f"| {name} | {statistics.median(cpus):.3f} | {min(cpus):.3f}-{max(cpus):.3f} | {ratio[name]:.2f} "
            f"| {per_second} | {p50:.0f} | {p99:.0f} |"
        )
    lines += [f"| {name} | FALLA | | | | | |" for name in failed]
    lines += ["", *(f"FALLA {text}" for text in failed.values())] if failed else []
    return "\n".join(lines) + "\n"


def idle_table(idle: Mapping[str, float]) -> str:
    """La tabla en Markdown de la memoria por conexión callada."""
    lines = ["### memoria por conexión callada", "", "| servidor | bytes |", "|---|--:|"]
    lines += [f"| {name} | {value:.0f} |" for name, value in idle.items()]
    return "\n".join(lines) + "\n"


def write_docs(
    folder: Path,
    everyone: Sequence[Competitor],
    samples: Mapping[str, Results],
    failures: Mapping[str, Mapping[str, str]],
    idle: Mapping[str, float],
    client: float,
    rounds: int,
    seconds: float,
) -> None:
    """Escribe ``rendimiento.md`` y una figura por trabajo en ``folder``."""
    parts = [
        "# Rendimiento",
        "",
        "Lo escribe `make bench`, que mide todos los servidores haciendo el mismo trabajo en la misma ejecución. La",
        "medida es el procesador que gasta el árbol de procesos del servidor por mensaje; «veces C» la compara, ronda a",
        "ronda, con un servidor en C sobre epoll que hace lo mismo sin límites ni plazos. Cada respuesta se comprueba byte",
        "a byte. p50 y p99 son de un bloque entero.",
        "",
        f"{platform.system()} {platform.release()}, {_processor()}; {rounds} rondas de {seconds:g} s intercaladas.",
        "",
        "| servidor | versión |",
        "|---|---|",
        *(f"| {server.name} | {server.version or 'FALTA: ' + server.missing} |" for server in everyone),
        "",
    ]
    for work in WORKS:
        if work.key in samples:
            _figure(folder / f"rendimiento-{work.key}.svg", work, samples[work.key])
            parts += [
                work_table(work, samples[work.key], failures[work.key]),
                f"![{work.title}](rendimiento-{work.key}.svg)",
                "",
            ]
    if idle:
        parts.append(idle_table(idle))
    if client:
        parts.append(
            f"### el cliente\n\nUn mensaje de principio a fin: {client:.2f} veces el intérprete que no hace nada.\n"
        )
    (folder / "rendimiento.md").write_text("\n".join(parts), encoding="utf-8")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _figure(path: Path, work: Work, results: Results) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = work.key  # la misma figura, los mismos bytes
    from matplotlib import pyplot

    names = list(results)[::-1]
    values = [median_cpu(results[name]) for name in names]
    colours = ["#b5442e" if "comunicacion" in name else "#8a8a8a" for name in names]
    figure, axes = pyplot.subplots(figsize=(8, 0.42 * len(names) + 1.1))
    bars = axes.barh(names, values, color=colours)
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
    axes.set_xlabel("microsegundos de procesador por mensaje (menos es mejor)")
    axes.set_title(work.title)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
