"""Varios procesos: se les mata, se cuelgan, se recargan y no consiguen empezar.

Qué conversaciones tenía el que muere se sabe por el núcleo, y solo esas se pueden cortar.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.run import environment

from ..load import STUCK, Load, Spec
from ..oracle import Oracle
from ..own_services import STUCK_WORD
from ..results import NOTICEABLE, Failed, Outcome, Scenario, ms, number
from ..scale import Scale
from ..server import HOST, PATIENCE, Running, command_line, open_files, serving, until
from .crowds import ask, connect, read_all

_PROCESSES = 2  # uno por procesador de la máquina en que se mide
_SEVERAL = ("--procesos", str(_PROCESSES), "--registro", "json")
_OURS = ("--servicio", "soak.own_services:upper", "--hilos", "0")
_REPLACED_SOON = 1_000.0  # milisegundos: casi todo es bifurcar al padre e importar el servicio
_SLACK = 3.0  # segundos sobre el plazo en que se nota que uno no vive: una vuelta del padre, poner otro, y la máquina
_HEARD = 0.2  # segundos en que a la carga le da tiempo a saber que le han cortado
_MOST_GROWTH = 4 * 1024  # bytes que el padre puede crecer por recarga: diez mil recargas serían 40 MB
_ATTEMPTS = 5  # los que se hacen de que empiece el primero (supervision.py, MOST_FAILURES)
_MOST_SPAWNS = 15  # por minuto, de uno que no consigue empezar: doblando la espera desde 0.1 s salen 9 o 10
_GOOD = "open('nacidos', 'a').write('x')\ndef upper(texto): return texto.upper()\n"
_DIES = "import os\nopen('nacidos', 'a').write('x')\nos.kill(os.getpid(), 9)\n"


class _Journal:
    """Lo que el servidor cuenta de sí en JSON, leído una sola vez."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._position = 0
        self._events: list[dict[str, Any]] = []

    def next(self, *names: str, patience: float = PATIENCE) -> tuple[str, float]:
        """Espera el siguiente suceso de ``names``, olvidando los de antes: cuál fue, y su hora."""
        found: list[tuple[str, float]] = []

        def comes() -> bool:
            self._read()
            while self._events and not found:
                event = self._events.pop(0)
                if event["event"] in names:
                    found.append((event["event"], _time(event["time"])))
            return bool(found)

        until(comes, f"que el servidor cuente {' o '.join(names)}", patience)
        return found[0]

    def _read(self) -> None:
        data = self._server.output_from(self._position)
        whole = data.rfind(b"\n") + 1
        self._position += whole
        lines = data[:whole].splitlines()
        self._events += [json.loads(line) for line in lines if b'"accepted"' not in line and b'"left"' not in line]


def _time(text: str) -> float:
    """Una hora del registro, en segundos desde 1970."""
    return datetime.fromisoformat(text).timestamp()


@contextlib.contextmanager
def _stopped(*pids: int) -> Iterator[None]:
    """Esos procesos, parados mientras dura: lo que tienen entonces es lo que tendrán si se les mata."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: all(_state(pid) == "T" for pid in pids), "que los procesos se paren")
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    """``T``, parado; vacío, no está."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def check_cuts(cut: list[int], held: set[int]) -> None:
    """``Failed`` si se cortó a alguien que no era del proceso que murió, cuyas conexiones eran ``held``."""
    if others := [port for port in cut if port and port not in held]:
        raise Failed(f"cortadas {len(others)} conversaciones que no eran del proceso que murió")
    if len(cut) > len(held):
        raise Failed(f"cortadas {len(cut)} conversaciones, y el proceso que murió tenía {len(held)}")


# -- mueren -------------------------------------------------------------------------------------------------


def workers_killed(scale: Scale) -> Outcome:
    kills = cuts = owned = waited = 0
    replaced: list[float] = []
    held_before: set[int] = set()
    with (
        serving(*_SEVERAL) as server,
        Load(Spec(server.port, scale.polite, scale.every, churn=scale.arrivals, returns=True)) as load,
    ):
        journal = _Journal(server)
        alone = load.measure(scale.seconds)
        worst = 0.0
        start = time.monotonic()
        while (turn := time.monotonic()) - start < scale.kill_seconds:
            victim = server.workers[kills % _PROCESSES]
            held, when = _kill(server, victim, scale.waiting)
            _, there = journal.next("worker_replaced")
            replaced.append((there - when) * 1000)
            time.sleep(max(0.0, scale.kill_every - (time.monotonic() - turn)))
            figures = load.look()
            # También las de la muerte anterior: en una máquina ocupada, la carga puede saber de un corte tras esta.
            check_cuts(figures.cut, held | held_before)
            held_before = held
            kills, cuts, owned = kills + 1, cuts + len(figures.cut), owned + len(held)
            waited += scale.waiting
            worst = max(worst, figures.p99)
            if len(server.workers) != _PROCESSES:
                raise Failed(f"quedan {len(server.workers)} procesos de {_PROCESSES}")
        load.finish()
    return Outcome(
        [
            f"{number(kills)} muertes de uno de {_PROCESSES} procesos, en {scale.kill_seconds:g} s: sirve otro a los "
            f"{ms(statistics.median(replaced))} (el que más tardó, {ms(max(replaced))})",
            f"{number(cuts)} conversaciones cortadas, todas de las {number(owned)} que tenían los muertos, y vuelven",
            f"0 conexiones rechazadas; las {number(waited)} que esperaban en la cola, atendidas",
            f"p99 {ms(alone.p99)} → {ms(worst)} en los peores {scale.kill_every:g} s",
            "0 respuestas cambiadas, repetidas o perdidas sin aviso",
        ],
        max(replaced) <= _REPLACED_SOON,
    )


def _kill(server: Running, victim: int, waiting: int) -> tuple[set[int], float]:
    """Mata a ``victim`` con ``waiting`` clientes esperando en la cola, que debe atender otro: los puertos de quienes
    conversaban con él, y cuándo."""
    with contextlib.ExitStack() as queue:
        with _stopped(*server.workers):  # parados, ninguno acepta: los que llegan se quedan en la cola
            socks = [(queue.enter_context(connect(server)), Oracle(index)) for index in range(waiting)]
            for sock, oracle in socks:
                sock.sendall(oracle.take())
            held = server.held_by(victim)
            when = time.time()
            os.kill(victim, signal.SIGKILL)
        for sock, oracle in socks:
            ask(sock, oracle)
    return held, when


# -- se cuelgan ---------------------------------------------------------------------------------------------


def worker_stopped(scale: Scale) -> Outcome:
    figures, met = [], True
    options = (*_SEVERAL, *_OURS, "--plazo-proceso", str(scale.worker_timeout))
    patience = scale.worker_timeout + STUCK
    with serving(*options) as server:
        journal = _Journal(server)
        spec = Spec(server.port, scale.polite, scale.every, returns=True, stuck=patience)
        for how, what in ((_stop, "parado con SIGSTOP"), (_get_stuck, "con el servicio atascado")):
            with Load(spec) as load, contextlib.ExitStack() as held_back:
                alone = load.measure(scale.seconds)
                start = time.time()
                victim = how(server, held_back)
                time.sleep(scale.worker_timeout / 2)  # parado o atascado, ya no acepta a nadie
                held = server.held_by(victim)
                _, noticed = journal.next("worker_hung", patience=PATIENCE + scale.worker_timeout)
                _, there = journal.next("worker_replaced")
                time.sleep(_HEARD)
                during = load.look()
                check_cuts(during.cut, held)
                load.finish()
            figures.append(
                f"{what}: se nota a los {noticed - start:.1f} s y a los {there - start:.1f} s sirve otro; cortadas "
                f"{len(during.cut)} conversaciones suyas; p99 de las demás {ms(alone.p99)} → {ms(during.p99)}"
            )
            met = met and there - start <= scale.worker_timeout + _SLACK and during.p99 <= NOTICEABLE
    return Outcome([*figures, f"con --plazo-proceso {scale.worker_timeout:g}"], met)


def _stop(server: Running, held_back: contextlib.ExitStack) -> int:
    victim = server.workers[0]
    held_back.enter_context(_stopped(victim))
    return victim


def _get_stuck(server: Running, held_back: contextlib.ExitStack) -> int:
    sock = held_back.enter_context(connect(server))
    ask(sock, Oracle(0))  # si responde, ya es de alguien
    port = sock.getsockname()[1]
    victim = next(pid for pid in server.workers if port in server.held_by(pid))
    sock.sendall(f"{STUCK_WORD}\n".encode())
    return victim


# -- se recargan --------------------------------------------------------------------------------------------


def reloads(scale: Scale) -> Outcome:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = _Bench(folder)
        bench.set()
        # Primero una buena, así la última también lo es: a cada mala sigue una buena.
        turns = [bench.set, bench.set_more, bench.spoil_configuration, bench.set, bench.spoil_service, bench.set_more]
        turns += [bench.set, bench.spoil_certificate]
        server = stack.enter_context(serving("--configuracion", str(bench.configuration), cwd=folder))
        journal = _Journal(server)
        long = stack.enter_context(Load(Spec(server.port, scale.long_talks, scale.every)))
        short = stack.enter_context(Load(Spec(server.port, scale.polite, scale.every, churn=scale.arrivals)))
        long.look()
        short.look()
        took, kept, arrived = [], 0, 0
        worst = 0.0
        sizes: list[float] = []
        for index in range(scale.reloads):
            last = index == scale.reloads - 1
            change = bench.set if last else turns[index % len(turns)]
            before = set(server.workers)
            good = change()
            start = time.time()
            server.process.send_signal(signal.SIGHUP)
            what, when = journal.next("reloaded", "reload_failed")
            if (what == "reloaded") != good:
                raise Failed(
                    f"la recarga {index} acabó en {what}, y la configuración era {'buena' if good else 'mala'}"
                )
            if good:
                took.append(when - start)
            else:
                kept += 1
                until(lambda before=before: set(server.workers) <= before, "que se vaya el que no empezó")  # type: ignore[misc]
            for load in (long, short):
                figures = load.look()
                arrived += figures.replaced
                worst = max(worst, figures.p99)
            sizes.append(_own_memory(server.pid))
            time.sleep(max(0.0, scale.reload_every - (time.time() - start)))
        long.finish()
        short.finish()
        until(lambda: len(server.workers) == _PROCESSES, f"que queden {_PROCESSES} procesos")
        descriptors = server.settled() and len(open_files(server.pid))
        half = len(sizes) // 2
        growth = (sizes[-1] - sizes[half]) / max(1, len(sizes) - half - 1)
    return Outcome(
        [
            f"{number(scale.reloads)} recargas: {len(took)} buenas y {kept} con la configuración, el servicio o el "
            f"certificado malos, que dejan lo de antes",
            f"{number(arrived)} conversaciones llegan y se van, y {scale.long_talks} duran todo el rato: 0 fallos",
            f"una recarga, {ms(statistics.median(took) * 1000)} (la que más, {ms(max(took) * 1000)}); p99 en la peor, "
            f"{ms(worst)}",
            f"al acabar, {_PROCESSES} procesos; el padre, {descriptors} descriptores y {number(growth)} bytes más por "
            f"recarga (de {number(sizes[half] / 2**20, 1)} MiB)",
        ],
        growth <= _MOST_GROWTH,
    )


class _Bench:
    """Los ficheros que se cambian entre recarga y recarga. Cada cambio devuelve si es bueno."""

    def __init__(self, folder: Path) -> None:
        self.configuration = folder / "servidor.conf"
        self._service = folder / "servicio.py"

    def set(self) -> bool:
        return self._write(_PROCESSES)

    def set_more(self) -> bool:
        return self._write(_PROCESSES + 1)

    def spoil_configuration(self) -> bool:
        self._write(_PROCESSES, "max-mensaje = -1")
        return False

    def spoil_service(self) -> bool:
        self._write(_PROCESSES)
        self._service.write_text("def upper(\n")
        return False

    def spoil_certificate(self) -> bool:
        self._write(_PROCESSES, "tls-cert = servicio.py")
        return False

    def _write(self, processes: int, more: str = "") -> bool:
        self._service.write_text(_GOOD)
        lines = [f"procesos = {processes}", "registro = json", "servicio = servicio:upper", "hilos = 0", more]
        self.configuration.write_text("\n".join(lines))
        return True


def _own_memory(pid: int) -> int:
    """La memoria residente de ese proceso, sin sus hijos, en bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


# -- no empiezan --------------------------------------------------------------------------------------------


def cannot_start(scale: Scale) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        at_once = _nobody_starts(folder)
        spawns, back = _one_does_not_start(folder, scale)
    alone = _without_parent(scale, stuck=False)
    stuck = _without_parent(scale, stuck=True)
    return Outcome(
        [
            f"al arrancar: {_ATTEMPTS} intentos, cada vez más tarde, una línea y código 1 a los {at_once:.1f} s",
            f"con otro sirviendo: {spawns:.0f} intentos por minuto y, arreglado el servicio, sirve a los {back:.0f} s",
            f"muerto el padre con kill -9: todo entregado, y sin procesos a los {ms(alone * 1000)}; con uno atascado, "
            f"a los {stuck:.1f} s (--plazo-proceso {scale.worker_timeout:g})",
        ],
        spawns <= _MOST_SPAWNS and stuck <= 2 * scale.worker_timeout + _SLACK,
    )


def _nobody_starts(folder: Path) -> float:
    """Segundos hasta que el servidor deja de intentarlo."""
    (folder / "servicio.py").write_text(_DIES)
    command = [*command_line(), "--host", HOST, "--puerto", "0", "--procesos", "4", "--servicio", "servicio:upper"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=environment())
    took = time.monotonic() - start
    born = len((folder / "nacidos").read_text())
    last = done.stdout.splitlines()[-1:]
    if (
        done.returncode != 1
        or born != _ATTEMPTS
        or last != [f"Ningún proceso ha conseguido servir en {_ATTEMPTS} intentos, y no se intenta más."]
    ):
        raise Failed(f"código {done.returncode}, {born} nacidos, y acabó diciendo {last!r}")
    return took


def _one_does_not_start(folder: Path, scale: Scale) -> tuple[float, float]:
    """Uno muere, el servicio ya no deja empezar a otro, y al rato se arregla: intentos por minuto, y segundos desde que
    se arregla hasta que sirve."""
    service, born = folder / "servicio.py", folder / "nacidos"
    service.write_text(_GOOD)
    with (
        serving(*_SEVERAL, "--servicio", "servicio:upper", "--hilos", "0", cwd=folder) as server,
        Load(Spec(server.port, scale.polite, scale.every, returns=True)) as load,
    ):
        journal = _Journal(server)
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
        service.write_text(_DIES)
        victim = server.workers[0]
        held, _ = _kill(server, victim, 0)
        born.write_text("")
        start = time.monotonic()
        time.sleep(scale.failing_seconds)
        spawns = len(born.read_text()) * 60 / (time.monotonic() - start)
        check_cuts(load.look().cut, held)
        service.write_text(_GOOD)
        start = time.monotonic()
        journal.next("worker_replaced", patience=2 * PATIENCE)  # la espera más larga entre dos intentos es de 30 s
        back = time.monotonic() - start
        load.finish()
    return spawns, back


def _without_parent(scale: Scale, *, stuck: bool) -> float:
    """Segundos desde que se mata al padre hasta que no queda ningún proceso."""
    with (
        serving(*_SEVERAL, *_OURS, "--plazo-proceso", str(scale.worker_timeout)) as server,
        contextlib.ExitStack() as socks,
    ):
        clients = [(socks.enter_context(connect(server)), Oracle(index)) for index in range(scale.polite)]
        for sock, oracle in clients:
            ask(sock, oracle)
        workers = server.workers
        if stuck:
            _get_stuck(server, socks)
        else:
            for sock, oracle in clients:
                sock.sendall(oracle.take(10))
        start = time.monotonic()
        server.kill()
        for sock, oracle in clients:
            with contextlib.suppress(ConnectionResetError) if stuck else contextlib.nullcontext():
                oracle.receive(read_all(sock))
            oracle.finish()
            sock.close()
        until(lambda: not any(_state(pid) not in ("", "Z") for pid in workers), "que no queden huérfanos", 2 * PATIENCE)
        return time.monotonic() - start


SCENARIOS = [
    Scenario(
        "workers_killed",
        32,
        "con varios procesos, kill -9 a uno cada 2 s, con gente llegando",
        "solo se cortan sus conversaciones, a quien esperaba en la cola lo atiende otro, y se repone en 1 s",
        workers_killed,
    ),
    Scenario(
        "worker_stopped",
        33,
        "un proceso parado (SIGSTOP), u ocupado para siempre",
        "se nota en --plazo-proceso y se repone; los demás sirven (p99, 100 ms)",
        worker_stopped,
    ),
    Scenario(
        "reloads",
        34,
        "SIGHUP sin parar, a veces con la configuración, el servicio o el certificado malos",
        "nadie lo nota; con lo malo se sigue con lo de antes; el padre no crece",
        reloads,
    ),
    Scenario(
        "cannot_start",
        35,
        "procesos que mueren al nacer; el padre, muerto con kill -9",
        "se intenta cada vez más tarde, o se deja con una frase; no quedan huérfanos",
        cannot_start,
    ),
]
