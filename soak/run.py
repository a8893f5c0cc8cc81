"""`make soak`: ejecuta los escenarios contra el servidor de verdad y escribe su tabla en ``docs/fiabilidad.md``.

Uso: python -m soak.run [--escenarios a,b] [--rapido] [--bucle asyncio|uvloop] [--docs]
Código de salida: 0 si cada respuesta fue la debida; 1 si algún escenario falla (lo dice la tabla).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import processor, replace_between, table
from benchmarks.run import end

from . import server
from .oracle import WrongReply
from .results import Failed, Outcome, Scenario, Unavailable
from .scale import FULL, QUICK, Scale
from .scenarios import SCENARIOS
from .server import PATIENCE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "fiabilidad.md"
_COMMAND = "make soak"
_HEAD = ["fila", "qué se le hace", "qué se promete", "medido", "cumplido"]


def row(scenario: Scenario, scale: Scale) -> tuple[list[str], bool, list[list[str]]]:
    """Ejecuta un escenario: su fila de la tabla, si no falló, y su propia tabla."""
    start = [f"{scenario.row}", f"{scenario.title} (`{scenario.key}`)", scenario.promise]
    try:
        outcome: Outcome = scenario.run(scale)
    except Unavailable as error:
        return [*start, f"no se puede aquí: {error}", ""], True, []
    except TimeoutError:
        return [*start, f"FALLA: el servidor no contesta en {PATIENCE:g} s", "no"], False, []
    except (Failed, WrongReply, OSError) as error:
        return [*start, f"FALLA: {error}".replace("\n", " ").replace("|", "\\|"), "no"], False, []
    return [*start, "; ".join(outcome.figures), "sí" if outcome.met else "no"], True, outcome.table


def conditions() -> str:
    """En qué máquina y con qué se mide."""
    cpus = len(os.sched_getaffinity(0))
    return f"{platform.system()} {platform.release()}, {processor()}, {cpus} procesadores; {server.loop_name()}."


def write_docs(rows: Sequence[Sequence[str]]) -> None:
    """Escribe la tabla en la página, entre sus marcas; de lo que no se ha medido queda la fila que había."""
    measured = {cells[0] for cells in rows}
    there = PAGE.read_text(encoding="utf-8").partition(f"<!-- Desde aquí lo escribe {_COMMAND} -->")[2]
    lines = re.findall(r"^\| (\d+ \| .*) \|$", there.partition("<!--")[0], re.MULTILINE)
    kept = [cells for line in lines if (cells := line.split(" | "))[0] not in measured]
    every = sorted([*kept, *rows], key=lambda cells: int(cells[0]))
    replace_between(PAGE, f"{conditions()} Lo mide `{_COMMAND}`.\n\n{table(_HEAD, every, '---')}", _COMMAND)


def write_own_table(key: str, rows: Sequence[Sequence[str]]) -> None:
    """Escribe en la página la tabla de un escenario que tiene la suya, entre sus marcas."""
    head, *others = rows
    replace_between(PAGE, f"{conditions()}\n\n{table(head, others)}", f"{_COMMAND}: {key}")


def main() -> int:
    """Mide, enseña cada fila en cuanto la hay y devuelve el código de salida."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [scenario.key for scenario in SCENARIOS]
    parser.add_argument("--escenarios", default=",".join(every), help="claves separadas por comas (%(default)s)")
    parser.add_argument("--rapido", action="store_true", help="segundos en vez de minutos: solo si funcionan")
    parser.add_argument("--bucle", choices=["asyncio", "uvloop"], default="asyncio", help="con cuál va el servidor")
    parser.add_argument("--docs", action="store_true", help="escribe sus filas en docs/fiabilidad.md")
    options = parser.parse_args()
    keys = options.escenarios.split(",")
    if unknown := set(keys) - set(every):
        parser.error(f"no hay escenarios {', '.join(sorted(unknown))}; hay {', '.join(every)}")
    if options.docs and options.rapido:
        parser.error("--docs es para la medida entera, sin --rapido")
    if platform.system() != "Linux":
        print("La medida mira el servidor por /proc: solo funciona en Linux.", file=sys.stderr)
        return 1
    server.choose_loop(options.bucle)
    signal.signal(signal.SIGTERM, end)
    print(conditions(), flush=True)
    rows, good, tables = [], True, {}
    for scenario in SCENARIOS:
        if scenario.key in keys:
            print(f"{scenario.key}...", file=sys.stderr, flush=True)
            cells, went_well, own = row(scenario, QUICK if options.rapido else FULL)
            rows.append(cells)
            if own:
                tables[scenario.key] = own
                print(table(own[0], own[1:]), flush=True)
            good = good and went_well
            print(f"| {' | '.join(cells)} |", flush=True)
    if options.docs:
        write_docs(rows)
        for key, own in tables.items():
            write_own_table(key, own)
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(1)
