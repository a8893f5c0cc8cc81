"""Lo medido, como tablas y figuras: en la terminal, en ``docs/`` y en el README. Aquí no se mide nada."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .results import Results
from .servers import HERE, Competitor
from .works import WORKS, Work

ROOT = HERE.parent
PAGE, README = ROOT / "docs" / "rendimiento.md", ROOT / "README.md"
_END = "<!-- Hasta aquí -->\n"
_PIPE_JOBS = (
    "No todos hacen lo mismo: `cliente-tcp -q` sabe cuántas respuestas faltan; `redis-cli` también, y no las escribe; "
    "los demás solo mueven bytes. Lo que escribe cada uno se comprueba byte a byte."
)
_OUR_COLOUR, _THEIR_COLOUR, _LIMIT_COLOUR = "#b5442e", "#9a9a9a", "#3c3c3c"


def work_table(work: Work, results: Results) -> str:
    """La tabla en Markdown de un trabajo, con quién falló y cómo."""
    failed = results.failures[work.key]
    rows = []
    for name, samples in results.samples[work.key].items():
        cpus = [sample.cpu for sample in samples]
        cpu, kernel, rate, p50, p99 = (
            results.median(work.key, name, field) for field in ("cpu", "kernel", "rate", "p50", "p99")
        )
        rows.append(
            [
                name,
                f"{cpu:.3f}",
                f"{kernel:.3f}",
                f"{min(cpus):.3f}-{max(cpus):.3f}",
                _times(results.ratio(work.key, name)),
                f"{rate:_.0f}".replace("_", " "),
                f"{p50:.0f}",
                f"{p99:.0f}",
            ]
        )
    rows += [[name, "FALLA", *[""] * 6] for name in failed]
    lines = [
        f"### {work.title}",
        "",
        f"{work.connections} conexiones, {work.depth} mensajes por bloque, {work.size} bytes por mensaje.",
        "",
        table(
            ["servidor", "CPU us/mensaje", "en el núcleo", "recorrido", "veces C", "mensajes/s", "p50 us", "p99 us"],
            rows,
        ),
        *(f"FALLA {text}\n" for text in failed.values()),
    ]
    return "\n".join(lines)


def idle_table(results: Results) -> str:
    """La tabla en Markdown de la memoria por conexión callada."""
    rows = [[name, f"{value:.0f}"] for name, value in results.idle.items()]
    return "### memoria por conexión callada\n\n" + table(["servidor", "bytes"], rows)


def services_table(results: Results) -> str:
    """La tabla en Markdown de los servicios propios: procesador por mensaje en cada trabajo; vacía si no se midieron."""
    works = [work for work in WORKS if work.key in results.services]
    if not works:
        return ""
    rows = [
        [name, *(f"{median(sample.cpu for sample in results.services[work.key][name]):.1f}" for work in works)]
        for name in results.services[works[0].key]
    ]
    head = ["CPU us/mensaje", *(work.title for work in works)]
    return "### una función propia, según dónde se ejecuta\n\n" + table(head, rows)


def client_table(results: Results) -> str:
    """La tabla en Markdown de lo que cuesta el cliente, paso a paso."""
    parts = ["### el cliente: un mensaje, de principio a fin\n"]
    for cost in results.client:
        rows = [[step, f"{ms:.1f}", _times(times)] for step, (ms, times) in cost.steps.items()]
        parts += [f"{cost.title}:\n", table(["paso", "ms de procesador", "veces nada"], rows)]
    return "\n".join(parts)


def pipe_table(results: Results) -> str:
    """La tabla en Markdown de los clientes por una tubería; vacía si no se midieron."""
    if not results.pipe:
        return ""
    rows = []
    for name, samples in results.pipe.items():
        cpus = [sample.cpu for sample in samples]
        rows.append(
            [
                name,
                f"{median(cpus):.3f}",
                f"{min(cpus):.3f}-{max(cpus):.3f}",
                _times(results.pipe_ratio(name)),
                f"{median(sample.rate for sample in samples):_.0f}".replace("_", " "),
            ]
            if samples
            else [name, "FALLA" if name in results.pipe_failures else "FALTA", *[""] * 3]
        )
    title = f"### los clientes: {results.lines:_} líneas de un fichero a otro".replace("_", " ")
    head = ["cliente", "CPU us/línea", "recorrido", "veces el nuestro", "líneas/s"]
    failed = "".join(f"\nFALLA {text}\n" for text in results.pipe_failures.values())
    return f"{title}\n\n{_PIPE_JOBS}\n\n{table(head, rows)}{failed}"


def pipe_line(results: Results) -> str:
    """Lo mismo en una frase; vacía si no se midió."""
    measured = [name for name, samples in results.pipe.items() if samples]
    if not measured:
        return ""
    ours, *others = measured
    seconds = median(sample.cpu for sample in results.pipe[ours]) * results.lines / 1e6
    rest = ", ".join(f"`{name}` {_times(results.pipe_ratio(name))}" for name in others)
    lines = f"{results.lines:_}".replace("_", " ")
    tail = f" Veces eso: {rest}." if rest else ""
    return f"{lines} líneas por `{ours}` son {seconds:.3f} s de procesador del cliente.{tail}"


def summary_table(results: Results) -> str:
    """La tabla en Markdown de todos los servidores y trabajos: veces el procesador del servidor en C."""
    measured = [work for work in WORKS if work.key in results.samples]
    rows = []
    for server in results.servers:
        cells = []
        for work in measured:
            failed = server.name in results.failures[work.key]
            cells.append("FALLA" if failed else _times(results.ratio(work.key, server.name)))
        rows.append([_bold(server), *(["FALTA"] * len(cells) if server.missing else cells)])
    return table(["veces C", *(work.title for work in measured)], rows)


def target_table(results: Results) -> str:
    """La tabla en Markdown de lo que nos proponemos y lo medido."""
    standard, fast = (server.name for server in results.servers if server.ours)
    rows = []
    for work in WORKS:
        if work.targets:
            for name, target in zip((standard, fast), work.targets, strict=True):
                ratio = results.ratio(work.key, name)
                met = "" if ratio is None else "sí" if ratio <= target else "no"
                rows.append([work.title, name, f"{target:.2f}", _times(ratio), met])
    return table(["trabajo", "servidor", "objetivo", "medido", "cumplido"], rows)


def write_docs(results: Results) -> None:
    """Escribe lo medido en ``docs/rendimiento.md``, sus figuras y el resumen del README. Lo que hay fuera de las marcas
    lo escribe una persona y se queda como está."""
    _cpu_figure(PAGE.parent / "rendimiento-cpu.svg", results)
    _latency_figure(PAGE.parent / "rendimiento-latencia.svg", results)
    conditions = (
        f"{platform.system()} {platform.release()}, {processor()}; {results.rounds} rondas intercaladas de "
        f"{results.seconds:g} s (`make bench`)."
    )
    summary = summary_table(results)
    versions = [[server.name, server.version or f"FALTA: {server.missing}"] for server in results.servers]
    parts = [
        conditions,
        table(["servidor", "versión"], versions),
        "## Resumen",
        "Procesador por mensaje, en veces el del servidor en C; la mediana de las rondas.",
        summary,
        "![Procesador por mensaje de cada servidor en cada trabajo](rendimiento-cpu.svg)",
        "![Tiempo de respuesta de cada servidor en cada trabajo](rendimiento-latencia.svg)",
        "## Lo que nos proponemos",
        target_table(results),
        "## Trabajo a trabajo",
        *(work_table(work, results) for work in WORKS),
        idle_table(results),
        services_table(results),
        client_table(results),
        pipe_table(results),
        pipe_line(results),
    ]
    replace_between(PAGE, "\n\n".join(part.strip() for part in parts if part))
    replace_between(README, f"{summary}\n{conditions}\n\n{pipe_line(results)}")


def replace_between(path: Path, text: str, command: str = "make bench") -> None:
    """Pone ``text`` entre las dos marcas que ``command`` tiene en ``path``. Error: ``ValueError`` si no las tiene."""
    before, start, rest = path.read_text(encoding="utf-8").partition(f"<!-- Desde aquí lo escribe {command} -->\n")
    _, end, after = rest.partition(_END)
    if not (start and end):
        raise ValueError(f"a {path} le faltan las marcas entre las que se escribe")
    path.write_text(f"{before}{start}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "--:") -> str:
    """Una tabla en Markdown. ``align``: a qué lado van las columnas menos la primera; las de números, a la derecha."""
    lines = [head, ["---", *[align] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _bold(server: Competitor) -> str:
    return f"**{server.name}**" if server.ours else server.name


def processor() -> str:
    """El procesador de esta máquina, por su nombre."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _panels(results: Results, title: str) -> tuple[Any, list[tuple[Work, Any, list[str]]]]:
    """Una figura con un recuadro por trabajo, y en cada uno los servidores que lo hicieron, de arriba abajo."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = title  # la misma figura, los mismos bytes
    matplotlib.rcParams["svg.fonttype"] = "none"  # letras, no dibujos de letras: se pueden buscar y copiar
    from matplotlib import pyplot

    works = [work for work in WORKS if work.key in results.samples]
    most = max(len(samples) for samples in results.samples.values())
    lines = -(-len(works) // 2)
    figure, axes = pyplot.subplots(lines, 2, figsize=(11, 2.9 * lines), squeeze=False)
    figure.suptitle(title, fontsize=13)
    panels = []
    for axis, work in zip(axes.flat, works, strict=False):
        axis.set_title(work.title, fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        names = list(results.samples[work.key])[::-1]
        axis.set_ylim(len(names) - most - 0.6, len(names) - 0.4)  # con menos servidores, las barras igual de gruesas
        panels.append((work, axis, names))
    for axis in axes.flat[len(works) :]:
        axis.set_visible(False)
    return figure, panels


def _colours(results: Results, names: Iterable[str]) -> list[str]:
    ours = {server.name for server in results.servers if server.ours}
    limit = results.servers[0].name
    return [_OUR_COLOUR if name in ours else _LIMIT_COLOUR if name == limit else _THEIR_COLOUR for name in names]


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout(rect=(0, 0, 1, 0.99))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _cpu_figure(path: Path, results: Results) -> None:
    title = "Procesador por mensaje, en veces el del servidor en C (menos es mejor)"
    figure, panels = _panels(results, title)
    for work, axis, names in panels:
        values = [results.ratio(work.key, name) or 0 for name in names]
        bars = axis.barh(names, values, color=_colours(results, names))
        axis.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=8)
        axis.margins(x=0.15)
    _save(figure, path)


def _latency_figure(path: Path, results: Results) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    title = "Respuesta a un bloque, de p50 (punto) a p99 (raya), en milisegundos (menos es mejor)"
    figure, panels = _panels(results, title)
    for work, axis, names in panels:
        p50, p99 = ([results.median(work.key, name, field) / 1000 for name in names] for field in ("p50", "p99"))
        axis.hlines(names, p50, p99, colors=_colours(results, names), linewidth=2)
        axis.scatter(p50, names, c=_colours(results, names), s=28, zorder=3)
        axis.scatter(p99, names, c=_colours(results, names), marker="|", s=60, zorder=3)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(axis="x", alpha=0.25)
    _save(figure, path)
