"""`make bench`: mide todos los servidores haciendo el mismo trabajo, uno al lado del otro en la misma ejecución.

La medida primera son los microsegundos de procesador por mensaje de todo el árbol de procesos del servidor, según el
sistema operativo: no dependen de lo ocupada que esté la máquina tanto como los segundos. El servidor va en un
procesador y el generador en otro; las rondas se intercalan (A B C A B C) y se da la mediana y el recorrido.

Uso: python -m benchmarks.run [--rondas N] [--segundos S] [--trabajos rr,p16] [--servidores texto] [--docs]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import report
from .servers import HERE, Competitor, competitors, compile_c
from .works import WORKS, Work

IDLE = 10_000  # conexiones calladas en la medida de memoria: el problema C10K
_FIRST = 64  # de ellas, las que entran antes de empezar a contar: lo que un servidor reserva una sola vez
SETTLE = 60.0  # segundos como mucho para que un servidor acepte todas las calladas


@dataclass(frozen=True)
class Sample:
    """Una medida: microsegundos de procesador por mensaje, mensajes por segundo, y p50 y p99 de un bloque en us."""

    cpu: float
    rate: float
    p50: float
    p99: float


class WrongReply(Exception):
    """Un servidor perdió o cambió una respuesta, o cortó: no hay velocidad que contar."""


def process_tree(root: int) -> list[int]:
    """``root`` y todos sus descendientes."""
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(root: int) -> float:
    """Procesador gastado por el árbol de ``root``, en segundos, con sus hilos vivos y muertos (en nanosegundos)."""
    total = 0.0
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            # El reloj de procesador de otro proceso: lo que devuelve clock_getcpuclockid(3) en Linux.
            total += time.clock_gettime(~pid << 3 | 2)
    return total


def resident(root: int) -> int:
    """Memoria residente del árbol de ``root``, en bytes."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in process_tree(root))
    return pages * resource.getpagesize()


@contextlib.contextmanager
def serving(server: Competitor, cpus: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """El servidor en marcha en su procesador: ``(pid, puerto)``. Al acabar lo para a él y a nadie más."""
    command = ["taskset", "-c", str(cpus[0]), *server.command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    drain = None
    try:
        assert process.stdout
        line = process.stdout.readline().decode()
        match = re.search(r"(\d+)\D*$", line)
        if not match:
            raise RuntimeError(f"{server.name} no arrancó: {line!r}")
        # Lo que imprima después (una línea por cliente, el nuestro) se tira como lo tiraría una terminal oculta.
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
        yield process.pid, int(match[1])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()
        if drain:
            drain.wait()


def measure(
    server: Competitor, work: Work, load: Path, cargo: tuple[Path, int, int], seconds: float, cpus: tuple[int, int]
) -> Sample:
    """Una ronda de un trabajo contra un servidor. Error: ``WrongReply`` si una respuesta no es la debida."""
    path, sent, received = cargo
    with serving(server, cpus) as (pid, port):
        command = ["taskset", "-c", str(cpus[1]), str(load), str(port), str(work.connections), str(sent), str(received)]
        command += [str(path), str(seconds), *(["cada-vez"] if work.churn else [])]
        generator = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert generator.stdin
        assert generator.stdout
        ready = generator.stdout.readline()
        before = cpu_seconds(pid)
        output, errors = generator.communicate("ya\n" if ready else "")
        after = cpu_seconds(pid)
        if generator.returncode:
            raise WrongReply(f"{server.name}, {work.title}: {errors.strip()}")
        blocks, took, p50, p99 = map(float, output.split())
        messages = blocks * work.depth
        return Sample((after - before) / messages * 1e6, messages / took, p50, p99)


def idle_bytes(server: Competitor, cpus: tuple[int, int]) -> float:
    """Bytes de memoria del servidor por cada conexión callada, con ``IDLE`` de ellas."""
    with serving(server, cpus) as (pid, port), contextlib.ExitStack() as crowd:

        def connect() -> socket.socket:
            return crowd.enter_context(socket.create_connection(("127.0.0.1", port)))

        def ask(sock: socket.socket) -> None:
            sock.settimeout(SETTLE)
            sock.sendall(b"hola\n")
            answer = sock.recv(64)
            if answer != b"HOLA\n":
                raise WrongReply(f"{server.name}: a una conexión callada le respondió {answer!r}")

        for _ in range(_FIRST):
            last = connect()
        ask(last)
        before = resident(pid)
        for _ in range(IDLE - _FIRST):
            last = connect()
        ask(last)  # se acepta por orden: si responde a la última, las tiene todas
        return (resident(pid) - before) / (IDLE - _FIRST)


def client_ratio(port: int, rounds: int) -> float:
    """Procesador de ``Cliente_TCP.py`` con un mensaje, de principio a fin, entre el del intérprete que no hace nada."""

    def spent(command: list[str], entry: bytes) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, input=entry, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    client = [sys.executable, str(HERE.parent / "Cliente_TCP.py"), "--host", "127.0.0.1", "--puerto", str(port)]
    ratios = []
    for _ in range(rounds * 5):
        nothing = spent([sys.executable, "-c", "pass"], b"")
        ratios.append(spent(client, b"hola\nDESCONEXION\n") / nothing)
    return statistics.median(ratios)


def main() -> int:
    """Mide, enseña el progreso y escribe la tabla. Devuelve el código de salida."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rondas", type=int, default=5)
    parser.add_argument("--segundos", type=float, default=1.0)
    parser.add_argument("--trabajos", default="", help="claves separadas por comas; por defecto, todos")
    parser.add_argument("--servidores", default="", help="solo los que contengan este texto, y el de C")
    parser.add_argument("--docs", action="store_true", help="escribe docs/rendimiento.md y sus figuras")
    options = parser.parse_args()
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        print("Hacen falta dos procesadores: uno para el servidor y otro para el generador.", file=sys.stderr)
        return 1
    cpus = (available[0], available[1])
    wanted = options.trabajos.split(",") if options.trabajos else [work.key for work in WORKS] + ["idle", "client"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        everyone = competitors(folder)
        load = compile_c("load.c", folder)
        chosen = [server for server in everyone if server is everyone[0] or options.servidores in server.name]
        for server in chosen:
            if server.missing:
                print(f"FALTA {server.name}: {server.missing}")
        present = [server for server in chosen if not server.missing]
        samples: dict[str, dict[str, list[Sample]]] = {}
        failures: dict[str, dict[str, str]] = {}
        for work in (work for work in WORKS if work.key in wanted):
            table = samples.setdefault(work.key, {})
            failed: dict[str, str] = {}
            cargo = work.write(folder)
            for number in range(options.rondas):
                for server in present:
                    if (work.bare and not server.bare) or server.name in failed:
                        continue
                    _progress(f"{work.title}: ronda {number + 1} de {options.rondas}, {server.name}")
                    try:
                        sample = measure(server, work, load, cargo, options.segundos, cpus)
                    except WrongReply as error:
                        if "comunicacion" in server.name or server is present[0]:
                            raise
                        failed[server.name] = str(error)
                        table.pop(server.name, None)
                    else:
                        table.setdefault(server.name, []).append(sample)
            _progress("")
            print(report.work_table(work, table, failed), flush=True)
            failures[work.key] = failed
        idle: dict[str, float] = {}
        if "idle" in wanted:
            for server in present:
                _progress(f"memoria con {IDLE} calladas: {server.name}")
                idle[server.name] = idle_bytes(server, cpus)
            _progress("")
            print(report.idle_table(idle), flush=True)
        client = 0.0
        if "client" in wanted:
            with serving(present[0], cpus) as (_, port):
                client = client_ratio(port, options.rondas)
            print(f"cliente, un mensaje de principio a fin: {client:.2f} veces el intérprete que no hace nada\n")
        if options.docs:
            report.write_docs(
                HERE.parent / "docs", chosen, samples, failures, idle, client, options.rondas, options.segundos
            )
    return 0


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
