"""Varios procesos: cómo se reparten las conexiones, cuánto dan entre todos y cuánta memoria gasta cada cosa.

Aquí no se compara con nadie (``run.py``). Servidor y carga comparten los procesadores, como en una máquina de verdad:
los mensajes por segundo dicen entonces menos que el procesador por mensaje, que es con lo que se echan cuentas
(``docs/escalado.md``).

Uso: python -m benchmarks.processes [--medidas reparto,memoria] [--aceptar 1,4,64] [--rondas N] [--segundos S]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from comunicacion_tcp.listener import _SHARED_ACCEPTS

from .report import table
from .run import WrongReply, cpu_seconds, end, generate, measure, process_tree, resident, serving
from .servers import HERE, Competitor, compile_c
from .works import WORKS

_CONNECTIONS = 1_000  # caben en la cola (1024): nadie tiene que volver a llamar, y es una sola oleada
_BURST = 50  # menos de lo que acepta de una vez quien está solo (64): uno podría quedárselas todas
_IDLE = 10_000
_WORKS = ("rr", "p16", "churn")
_MEASURES = ("reparto", "velocidad", "memoria", "balanceador")
_BALANCED = 4_000  # calladas por el balanceador: cada una son dos descriptores suyos
_TALKING = 1_000  # las que hablan por él en los demás trabajos, y de sobra
_BALANCER = """global
  maxconn {most}
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen mensajes
  bind {host}:{port}
  server uno {host}:{server}
"""
_PATIENCE = 30.0  # segundos como mucho para que respondan a una conexión
_HOST = "127.0.0.1"
_PROGRAM = str(HERE.parent / "Servidor_TCP.py")
_SLABS = ("SReclaimable", "SUnreclaim")  # proc(5): lo que el núcleo gasta en objetos pequeños, y un socket son varios


def our_server(
    processes: int, *, fast: bool, accepts: int = _SHARED_ACCEPTS, options: Sequence[str] = ()
) -> Competitor:
    """Nuestro servidor con ``processes`` procesos (0: sin ``--procesos``), con uvloop (``fast``) o sin él, y aceptando
    ``accepts`` conexiones por vuelta."""
    code = (
        f"import runpy, sys; sys.argv[0] = {_PROGRAM!r}; sys.path.insert(0, {str(HERE.parent)!r}); "
        + ("" if fast else "sys.modules['uvloop'] = None; ")
        + f"from comunicacion_tcp import listener; listener._SHARED_ACCEPTS = {accepts}; "
        + "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    several = ["--procesos", str(processes)] if processes else []
    command = [sys.executable, "-c", code, "--host", _HOST, "--puerto", "0", *several, *options]
    return Competitor("uvloop" if fast else "asyncio", command, ours=True)


def everywhere() -> tuple[str, str]:
    """Todos los procesadores, para el servidor y para la carga."""
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return cpus, cpus


# -- el reparto ---------------------------------------------------------------------------------------------


def storm(port: int, count: int = 0) -> list[socket.socket]:
    """``count`` a la vez (sin decirlo, ``_CONNECTIONS``); vuelve cuando han respondido a todas, y siguen abiertas."""
    socks = []
    with selectors.DefaultSelector() as selector:
        for _ in range(count or _CONNECTIONS):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex((_HOST, port))
            selector.register(sock, selectors.EVENT_WRITE)
            socks.append(sock)
        left = len(socks)
        while left:
            ready = selector.select(_PATIENCE)
            if not ready:
                raise WrongReply(f"{left} conexiones sin responder")
            for key, mask in ready:
                sock = key.fileobj  # type: ignore[assignment]
                if mask & selectors.EVENT_WRITE:
                    sock.sendall(b"hola\n")
                    selector.modify(sock, selectors.EVENT_READ)
                else:
                    _expect(sock)
                    selector.unregister(sock)
                    left -= 1
    return socks


def bursts(port: int) -> list[socket.socket]:
    """``_CONNECTIONS``, de ``_BURST`` en ``_BURST``."""
    return [sock for _ in range(_CONNECTIONS // _BURST) for sock in storm(port, _BURST)]


def one_by_one(port: int) -> list[socket.socket]:
    """``_CONNECTIONS``, cada una cuando ya han respondido a la anterior; todas siguen abiertas."""
    socks = []
    for _ in range(_CONNECTIONS):
        sock = socket.create_connection((_HOST, port), timeout=_PATIENCE)
        sock.sendall(b"hola\n")
        _expect(sock)
        socks.append(sock)
    return socks


ARRIVALS = {"todas de golpe": storm, f"de {_BURST} en {_BURST}": bursts, "de una en una": one_by_one}


def _expect(sock: socket.socket) -> None:
    if (answer := sock.recv(64)) != b"HOLA\n":
        raise WrongReply(f"a una conexión le respondieron {answer!r}")


def sockets_of(pid: int) -> int:
    """Cuántos sockets tiene abiertos ese proceso."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += os.readlink(link).startswith("socket:")
    return count


def shares(server: Competitor, arrive: Callable[[int], list[socket.socket]]) -> tuple[list[int], float]:
    """Cuántas conexiones se queda cada proceso, de menos a más, y los microsegundos de procesador por conexión."""
    with serving(server, everywhere()) as (pid, port), contextlib.ExitStack() as crowd:
        workers = process_tree(pid)[1:]
        empty, before = [sockets_of(worker) for worker in workers], cpu_seconds(pid)
        for sock in arrive(port):
            crowd.enter_context(sock)
        cost = (cpu_seconds(pid) - before) / _CONNECTIONS * 1e6
        return sorted(sockets_of(worker) - rest for worker, rest in zip(workers, empty, strict=True)), cost


def measure_shares(accepts: Sequence[int], rounds: int, loops: Sequence[bool]) -> None:
    """Enseña cómo se reparten las conexiones largas, según cuántas se aceptan por vuelta."""
    head = ["bucle", "procesos", "llegan", "por vuelta", "la parte mayor, en veces la justa", "CPU us/conexión"]
    rows = []
    for fast in loops:
        for processes in (2, 4):
            for title, arrive in ARRIVALS.items():
                # Por rondas intercaladas: lo que esté haciendo la máquina, lo hace para todas.
                seen: dict[int, list[tuple[list[int], float]]] = {most: [] for most in accepts}
                for _ in range(rounds):
                    for most in accepts:
                        server = our_server(processes, fast=fast, accepts=most)
                        seen[most].append(shares(server, arrive))
                for most, samples in seen.items():
                    biggest = [each[-1] * processes / _CONNECTIONS for each, _ in samples]
                    cost = statistics.median(cost for _, cost in samples)
                    unfair = f"{statistics.median(biggest):.2f} ({min(biggest):.2f}-{max(biggest):.2f})"
                    name = "uvloop" if fast else "asyncio"
                    rows.append([name, str(processes), title, str(most), unfair, f"{cost:.0f}"])
    print(table(head, rows), flush=True)


# -- la velocidad -------------------------------------------------------------------------------------------


def measure_speed(rounds: int, seconds: float, loops: Sequence[bool]) -> None:
    """Enseña lo que dan entre todos, y lo que gasta cada mensaje."""
    head = ["trabajo", "bucle", "procesos", "CPU us/mensaje", "recorrido", "mensajes/s", "p99 us"]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        load = compile_c("load.c", Path(name))
        for work in (work for work in WORKS if work.key in _WORKS):
            cargo = work.write(Path(name))
            many = [(fast, processes) for fast in loops for processes in (0, 1, 2)]
            samples = {one: [] for one in many}  # type: ignore[var-annotated]
            for _ in range(rounds):
                for fast, processes in many:
                    server = our_server(processes, fast=fast)
                    samples[fast, processes].append(measure(server, work, load, cargo, seconds, everywhere()))
            for (fast, processes), taken in samples.items():
                cpu = sorted(sample.cpu for sample in taken)
                rate, p99 = (statistics.median(getattr(sample, what) for sample in taken) for what in ("rate", "p99"))
                row = [work.title, "uvloop" if fast else "asyncio", str(processes) if processes else "sin --procesos"]
                row += [f"{statistics.median(cpu):.2f}", f"{cpu[0]:.2f}-{cpu[-1]:.2f}"]
                row += [f"{rate:_.0f}".replace("_", " "), f"{p99:.0f}"]
                rows.append(row)
    print(table(head, rows), flush=True)


# -- la memoria ---------------------------------------------------------------------------------------------


def kernel_memory() -> int:
    """Bytes que el núcleo de la máquina gasta en objetos pequeños: los sockets, y todo lo demás."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(_SLABS))


def own_memory(pid: int) -> int:
    """La memoria que dejaría libre ese proceso al acabar, en bytes: sin la que comparte con su padre."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def measure_memory(loops: Sequence[bool]) -> None:
    """Enseña lo que ocupan el padre, cada proceso, y cada conexión callada: en el proceso y en el núcleo."""
    head = ["bucle", "padre, MiB", "cada proceso, MiB", "bytes por callada, en el proceso", "en el núcleo"]
    rows = []
    for fast in loops:
        server = our_server(2, fast=fast, options=["--max-conexiones", str(_IDLE)])
        with serving(server, everywhere()) as (pid, port), contextlib.ExitStack() as crowd:
            workers = process_tree(pid)[1:]
            for _ in range(_CONNECTIONS // 10):  # lo que se reserva una sola vez
                crowd.enter_context(socket.create_connection((_HOST, port)))
            _settle(workers, _CONNECTIONS // 10)
            each = statistics.mean(own_memory(worker) for worker in workers) / 2**20
            before, kernel = resident(pid), kernel_memory()
            for _ in range(_IDLE):
                crowd.enter_context(socket.create_connection((_HOST, port)))
            _settle(workers, _CONNECTIONS // 10 + _IDLE)
            inside = (resident(pid) - before) / _IDLE
            # En el núcleo están los dos extremos, y son iguales: la mitad es del servidor.
            outside = (kernel_memory() - kernel) / _IDLE / 2
            own = own_memory(pid) / 2**20
        rows.append([server.name, f"{own:.1f}", f"{each:.1f}", f"{inside:.0f}", f"{outside:.0f}"])
    print(table(head, rows), flush=True)


# -- el balanceador -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def balancing(server: int, folder: Path) -> Iterator[tuple[int, int]]:
    """Un HAProxy delante del puerto ``server``: ``(pid, puerto)``. Al acabar lo para a él y a nadie más."""
    with socket.create_server((_HOST, 0)) as free:
        port = int(free.getsockname()[1])
    path = folder / "haproxy.cfg"
    path.write_text(_BALANCER.format(host=_HOST, port=port, server=server, most=_BALANCED + _TALKING))
    process = subprocess.Popen(["haproxy", "-db", "-f", str(path)])
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                socket.create_connection((_HOST, port)).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.01)
        yield process.pid, port
    finally:
        process.kill()
        process.wait()


def measure_balancer(rounds: int, seconds: float) -> None:
    """Enseña lo que gasta un HAProxy por mensaje, por conexión y por conexión callada."""
    if not shutil.which("haproxy"):
        print("FALTA el balanceador: no está instalado haproxy")
        return
    row = []
    with tempfile.TemporaryDirectory() as name, serving(our_server(0, fast=True), everywhere()) as (_, there):
        folder = Path(name)
        load = compile_c("load.c", folder)
        with balancing(there, folder) as (pid, port):
            for work in (work for work in WORKS if work.key in ("rr", "churn")):
                cargo = work.write(folder)
                taken = [
                    generate("haproxy", pid, port, work, load, cargo, seconds, everywhere()[1]) for _ in range(rounds)
                ]
                row.append(f"{statistics.median(sample.cpu for sample in taken):.1f}")
        with balancing(there, folder) as (pid, port), contextlib.ExitStack() as crowd:
            before, kernel = resident(pid), kernel_memory()
            for _ in range(_BALANCED):
                crowd.enter_context(socket.create_connection((_HOST, port)))
            _settle([pid], 2 * _BALANCED)
            # En el núcleo están los cuatro extremos: dos son suyos.
            row += [f"{(resident(pid) - before) / _BALANCED:.0f}", f"{(kernel_memory() - kernel) / _BALANCED / 2:.0f}"]
    head = ["CPU us/mensaje", "CPU us/conexión", "bytes por callada, en el proceso", "en el núcleo"]
    print(table(head, [row]), flush=True)


def _settle(workers: Sequence[int], connections: int) -> None:
    """Espera a que las tengan aceptadas."""
    deadline = time.monotonic() + _PATIENCE
    while sum(map(sockets_of, workers)) < connections:
        if time.monotonic() > deadline:
            raise WrongReply("no aceptan todas las conexiones")
        time.sleep(0.1)


def main() -> int:
    """Mide y enseña las tablas. Devuelve el código de salida."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--medidas", default=",".join(_MEASURES), help="cuáles, separadas por comas (%(default)s)")
    parser.add_argument("--aceptar", default=str(_SHARED_ACCEPTS), help="conexiones por vuelta (%(default)s)")
    parser.add_argument("--bucles", default="asyncio,uvloop", help="con cuáles va el servidor (%(default)s)")
    parser.add_argument("--rondas", type=int, default=5, help="de cada medida (%(default)s)")
    parser.add_argument("--segundos", type=float, default=0.5, help="lo que dura cada una de velocidad (%(default)s)")
    options = parser.parse_args()
    keys = options.medidas.split(",")
    if unknown := set(keys) - set(_MEASURES):
        parser.error(f"no hay medidas {', '.join(sorted(unknown))}; hay {', '.join(_MEASURES)}")
    signal.signal(signal.SIGTERM, end)
    loops = [name == "uvloop" for name in options.bucles.split(",")]
    if "reparto" in keys:
        measure_shares([int(text) for text in options.aceptar.split(",")], options.rondas, loops)
    if "velocidad" in keys:
        measure_speed(options.rondas, options.segundos, loops)
    if "memoria" in keys:
        measure_memory(loops)
    if "balanceador" in keys:
        measure_balancer(options.rondas, options.segundos)
    return 0


if __name__ == "__main__":
    sys.exit(main())
