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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from . import report
from .clients import WrongOutput, pipe_clients, pour, redis_serving, write_lines
from .results import ClientCost, Results, Sample
from .servers import HERE, Competitor, competitors, compile_c, our_server, own_services
from .works import WORKS, Work

IDLE = 10_000  # conexiones calladas en la medida de memoria: el problema C10K
_FIRST = 64  # de ellas, las que entran antes de empezar a contar: lo que un servidor reserva una sola vez
_SERVICE_WORKS = ("rr", "p16")  # uno cada vez, y varios: lo demás lo decide lo que tarde la función
SETTLE = 60.0  # segundos como mucho para que un servidor acepte todas las calladas
Cpus = tuple[int, int] | tuple[str, str]
"""En qué procesador va el servidor y en cuál la carga; o en cuáles (``"0,1"``), como los quiere taskset(1)."""


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


def kernel_ticks(root: int) -> tuple[int, int]:
    """Lo que el árbol de ``root`` ha gastado en el núcleo y en total, en ticks: solo vale para saber la proporción."""
    kernel = total = 0
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            # proc(5): detrás del nombre, que va entre paréntesis, utime y stime son los campos 14 y 15.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            kernel += int(fields[12])
            total += int(fields[11]) + int(fields[12])
    return kernel, total


def resident(root: int) -> int:
    """Memoria residente del árbol de ``root``, en bytes."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in process_tree(root))
    return pages * resource.getpagesize()


def environment() -> dict[str, str]:
    """El entorno de una persona que ejecuta algo por segunda vez: nada que cambie cómo escribe o compila Python, y así
    los .pyc ya están escritos, ni las opciones de nuestros programas."""
    ours = ("PYTHON", "SERVIDOR_TCP_", "CLIENTE_TCP_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def end(*_: object) -> NoReturn:
    """Al llegar SIGTERM: acaba sin dejar nada en marcha, ni un hijo recién nacido del que nadie sepa aún su número."""
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
    sys.exit(1)


@contextlib.contextmanager
def serving(server: Competitor, cpus: Cpus) -> Iterator[tuple[int, int]]:
    """El servidor en marcha en su procesador: ``(pid, puerto)``. Al acabar lo para a él y a nadie más."""
    command = ["taskset", "-c", str(cpus[0]), *server.command]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment(),
        cwd=HERE.parent,  # donde se buscan los servicios propios
    )
    drain = None
    try:
        assert process.stdout
        line = process.stdout.readline().decode()
        match = re.search(r"(\d+)(, con \d+ procesos? \(padre: \d+\))?\D*$", line)
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
    server: Competitor, work: Work, load: Path, cargo: tuple[Path, int, int], seconds: float, cpus: Cpus
) -> Sample:
    """Una ronda de un trabajo contra un servidor. Error: ``WrongReply`` si una respuesta no es la debida."""
    with serving(server, cpus) as (pid, port):
        return generate(server.name, pid, port, work, load, cargo, seconds, cpus[1])


def generate(
    name: str,
    pid: int,
    port: int,
    work: Work,
    load: Path,
    cargo: tuple[Path, int, int],
    seconds: float,
    cpu: int | str,
) -> Sample:
    """Una ronda de un trabajo contra ``port``, mirando lo que gasta el árbol de ``pid``. Error: el de ``measure``."""
    path, sent, received = cargo
    command = ["taskset", "-c", str(cpu), str(load), str(port), str(work.connections), str(sent), str(received)]
    command += [str(path), str(seconds), *(["cada-vez"] if work.churn else [])]
    generator = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert generator.stdin
    assert generator.stdout
    ready = generator.stdout.readline()
    before, (kernel_before, ticks_before) = cpu_seconds(pid), kernel_ticks(pid)
    output, errors = generator.communicate("ya\n" if ready else "")
    after, (kernel_after, ticks_after) = cpu_seconds(pid), kernel_ticks(pid)
    if generator.returncode:
        raise WrongReply(f"{name}, {work.title}: {errors.strip()}")
    blocks, took, p50, p99 = map(float, output.split())
    messages = blocks * work.depth
    spent = (after - before) / messages * 1e6
    kernel = spent * (kernel_after - kernel_before) / max(1, ticks_after - ticks_before)
    return Sample(spent, kernel, messages / took, p50, p99)


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


def client_cost(title: str, interpreter: str, port: int, rounds: int) -> ClientCost:
    """Lo que gasta ``Cliente_TCP.py`` con un mensaje, de principio a fin, y por pasos, con ese intérprete."""
    talk = [str(HERE.parent / "Cliente_TCP.py"), "--host", "127.0.0.1", "--puerto", str(port)]
    steps = {
        "nada": ["-c", "pass"],
        "import socket": ["-c", "import socket"],
        "import socket, argparse": ["-c", "import socket, argparse"],
        "import del cliente": ["-c", "import comunicacion_tcp.cli.client"],
        "un mensaje": talk,
    }

    def spent(arguments: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [interpreter, *arguments]
        entry = b"hola\nDESCONEXION\n"
        subprocess.run(command, input=entry, stdout=subprocess.DEVNULL, check=True, cwd=HERE.parent, env=environment())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    for arguments in steps.values():
        spent(arguments)
    taken: dict[str, list[float]] = {step: [] for step in steps}
    for _ in range(rounds * 5):  # son milisegundos: con tan pocas rondas como los servidores no bastaría
        for step, arguments in steps.items():
            taken[step].append(spent(arguments))
    ratios = {
        step: statistics.median(mine / nothing for mine, nothing in zip(times, taken["nada"], strict=True))
        for step, times in taken.items()
    }
    return ClientCost(title, {step: (statistics.median(times) * 1000, ratios[step]) for step, times in taken.items()})


def measure_works(results: Results, keys: Sequence[str], folder: Path, cpus: tuple[int, int]) -> None:
    """Mide cada trabajo en todos los servidores, por rondas, y va enseñando su tabla."""
    load = compile_c("load.c", folder)
    present = [server for server in results.servers if not server.missing]
    for work in (work for work in WORKS if work.key in keys):
        table = results.samples.setdefault(work.key, {})
        failed = results.failures.setdefault(work.key, {})
        cargo = work.write(folder)
        for number in range(results.rounds):
            for server in present:
                if (work.bare and not server.bare) or server.name in failed:
                    continue
                _progress(f"{work.title}: ronda {number + 1} de {results.rounds}, {server.name}")
                try:
                    sample = measure(server, work, load, cargo, results.seconds, cpus)
                except WrongReply as error:
                    if server.ours or server is present[0]:
                        raise
                    failed[server.name] = str(error)
                    table.pop(server.name, None)
                else:
                    table.setdefault(server.name, []).append(sample)
        _progress("")
        print(report.work_table(work, results), flush=True)


def measure_idle(results: Results, cpus: tuple[int, int]) -> None:
    """Mide la memoria por conexión callada de todos los servidores y enseña su tabla."""
    for server in results.servers:
        if not server.missing:
            _progress(f"memoria con {IDLE} calladas: {server.name}")
            results.idle[server.name] = idle_bytes(server, cpus)
    _progress("")
    print(report.idle_table(results), flush=True)


def measure_services(results: Results, folder: Path, cpus: tuple[int, int]) -> None:
    """Mide nuestro servidor con una función propia, de cada manera de ejecutarla, y enseña su tabla."""
    load = compile_c("load.c", folder)
    for work in (work for work in WORKS if work.key in _SERVICE_WORKS):
        cargo = work.write(folder)
        table = results.services.setdefault(work.key, {})
        for number in range(results.rounds):
            for server in own_services():
                _progress(f"{work.title}: ronda {number + 1} de {results.rounds}, {server.name}")
                sample = measure(server, work, load, cargo, results.seconds, cpus)
                table.setdefault(server.name, []).append(sample)
    _progress("")
    print(report.services_table(results), flush=True)


def measure_client(results: Results, cpus: tuple[int, int]) -> None:
    """Mide el cliente con el intérprete de aquí, que apenas tiene paquetes, y con el de la máquina."""
    with serving(results.servers[0], cpus) as (_, port):
        for title, interpreter in (
            ("En un entorno virtual, casi sin paquetes", sys.executable),
            ("Con el Python de la máquina y sus paquetes", str(Path(sys.base_prefix) / "bin" / "python3")),
        ):
            _progress(f"el cliente: {title}")
            results.client.append(client_cost(title, interpreter, port, results.rounds))
    _progress("")
    print(report.client_table(results), flush=True)


def measure_pipe(results: Results, lines: int, folder: Path, cpus: tuple[int, int]) -> None:
    """Mide los clientes por una tubería, por rondas, y enseña su tabla."""
    plain, orders = write_lines(folder, lines)
    clients = pipe_clients()
    results.lines = lines
    results.pipe = {client.name: [] for client in clients}
    for client in clients:
        if client.missing:
            print(f"FALTA {client.name}: {client.missing}")
    with contextlib.ExitStack() as running:
        _, port = running.enter_context(serving(our_server(), cpus))
        redis = any(client.redis and not client.missing for client in clients)
        redis_port = running.enter_context(redis_serving(cpus[0], folder)) if redis else 0
        for number in range(results.rounds):
            for client in clients:
                if not client.missing and client.name not in results.pipe_failures:
                    _progress(f"{lines} líneas: ronda {number + 1} de {results.rounds}, {client.name}")
                    there, entry = (redis_port, orders) if client.redis else (port, plain)
                    try:
                        sample = pour(client, there, entry, lines, cpus[1], environment())
                    except WrongOutput as error:
                        if client is clients[0]:
                            raise
                        results.pipe_failures[client.name] = str(error)
                        results.pipe[client.name] = []
                    else:
                        results.pipe[client.name].append(sample)
    _progress("")
    print(report.pipe_table(results), flush=True)


def main() -> int:
    """Mide, enseña el progreso y escribe las tablas. Devuelve el código de salida."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*(work.key for work in WORKS), "idle", "services", "client", "pipe"]
    # Muchas y cortas: una máquina compartida cambia de velocidad de un segundo a otro, y la mediana lo aguanta.
    parser.add_argument("--rondas", type=int, default=9, help="medidas de cada servidor en cada trabajo (%(default)s)")
    parser.add_argument("--segundos", type=float, default=0.5, help="lo que dura cada una (%(default)s)")
    parser.add_argument("--trabajos", default=",".join(every), help="claves separadas por comas (%(default)s)")
    parser.add_argument("--lineas", type=int, default=1_000_000, help="las que envía cada cliente (%(default)s)")
    parser.add_argument("--servidores", default="", help="solo los que contengan este texto, y el de C")
    parser.add_argument("--docs", action="store_true", help="escribe lo medido en docs/ y en el README")
    options = parser.parse_args()
    keys = options.trabajos.split(",")
    if unknown := set(keys) - set(every):
        parser.error(f"no hay trabajos {', '.join(sorted(unknown))}; hay {', '.join(every)}")
    if options.docs and (options.servidores or len(keys) < len(every)):
        parser.error("--docs es para la medida entera: todos los trabajos y todos los servidores")
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        print("Hacen falta dos procesadores: uno para el servidor y otro para el generador.", file=sys.stderr)
        return 1
    cpus = (available[0], available[1])
    signal.signal(signal.SIGTERM, end)
    with tempfile.TemporaryDirectory() as name:
        everyone = competitors(Path(name))
        chosen = [server for server in everyone if server is everyone[0] or options.servidores in server.name]
        for server in chosen:
            if server.missing:
                print(f"FALTA {server.name}: {server.missing}")
        results = Results(chosen, options.rondas, options.segundos)
        measure_works(results, keys, Path(name), cpus)
        if "idle" in keys:
            measure_idle(results, cpus)
        if "services" in keys:
            measure_services(results, Path(name), cpus)
        if "client" in keys:
            measure_client(results, cpus)
        if "pipe" in keys:
            measure_pipe(results, options.lineas, Path(name), cpus)
        if options.docs:
            report.write_docs(results)
    return 0


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
