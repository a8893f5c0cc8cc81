"""El servidor bajo prueba: su programa de verdad en un proceso, lo que se ve de él por fuera y cómo se para.

Aquí no se le envía ninguna carga (``load.py``) ni se juzgan cifras (``scenarios/``).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.run import cpu_seconds, environment, process_tree, resident
from benchmarks.servers import ours
from comunicacion_tcp.supervision import CUT_SHORT, NOT_STARTED

from .results import Failed, Unavailable

HOST = "127.0.0.1"
PATIENCE = 30.0  # segundos: más que cualquier plazo del servidor; solo los agota un escenario que va a fallar
_TROUBLE = re.compile("Traceback|Exception ignored|Fatal Python", re.IGNORECASE)


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> float:
    """Espera a que ``condition()`` se cumpla y devuelve cuántos segundos tardó. ``Failed`` si no llega a hacerlo."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > patience:
            raise Failed(f"en {patience:g} s no llegó a cumplirse: {what}")
        time.sleep(0.005)
    return time.monotonic() - start


def raise_descriptors() -> int:
    """Sube el límite de descriptores de este proceso, y de los que lance, hasta donde se pueda; devuelve cuál."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def need_descriptors(count: int) -> None:
    """``Unavailable`` si ni este proceso ni los que lance pueden tener ``count`` descriptores."""
    if (most := raise_descriptors()) < count:
        raise Unavailable(f"el límite de descriptores es {most} y hacen falta {count}")


_ONCE = 2  # descriptores que cada proceso abre una sola vez, con su primera conversación
_LISTENING = 10  # TCP_LISTEN, en include/net/tcp_states.h de Linux


@dataclass(frozen=True)
class TcpLine:
    """Una línea de ``/proc/net/tcp`` (proc(5)): puertos, estado, bytes sin acusar y sin leer, y número del socket."""

    local: int
    remote: int
    state: int
    unacknowledged: int
    unread: int
    inode: int

    @classmethod
    def parse(cls, row: str) -> TcpLine:
        """De ``sl local remota estado tx:rx reloj reintentos uid plazo socket ...``, casi todo en hexadecimal."""
        _, local, remote, state, queues, _, _, _, _, inode, *_ = row.split()
        unacknowledged, unread = queues.split(":")
        ports = [int(place.rpartition(":")[2], 16) for place in (local, remote)]
        return cls(ports[0], ports[1], int(state, 16), int(unacknowledged, 16), int(unread, 16), int(inode))


class Running:
    """Un servidor en marcha, de uno o de varios procesos. ``output`` está vacía si su salida se llevó a otra parte."""

    def __init__(self, process: subprocess.Popen[bytes], host: str, out: IO[bytes] | None, errors: IO[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self.host = host
        self.port = 0
        self._out = out
        self._errors = errors
        self._descriptors = self._connections = 0
        self._killed = False

    @property
    def output(self) -> str:
        """Lo que lleva escrito en su salida, si está en un fichero."""
        return _content(self._out) if self._out else ""

    @property
    def errors(self) -> str:
        """Lo que lleva escrito en su salida de errores."""
        return _content(self._errors)

    @property
    def workers(self) -> list[int]:
        """Los procesos que sirven, si son varios: sus hijos."""
        return process_tree(self.pid)[1:]

    @property
    def descriptors(self) -> int:
        """Cuántos descriptores tienen abiertos todos sus procesos."""
        return sum(len(open_files(pid)) for pid in process_tree(self.pid))

    @property
    def connections(self) -> int:
        """Cuántos de ellos son sockets."""
        return sum(link.startswith("socket:") for pid in process_tree(self.pid) for link in open_files(pid))

    def held_by(self, pid: int) -> set[int]:
        """Los puertos de los clientes cuyas conexiones tiene el proceso ``pid``."""
        own = set(open_files(pid))
        return {line.remote for line in self.sockets() if f"socket:[{line.inode}]" in own and line.remote}

    def output_from(self, position: int) -> bytes:
        """Lo que lleva escrito en su salida desde ese byte."""
        assert self._out
        with Path(self._out.name).open("rb") as file:
            file.seek(position)
            return file.read()

    @property
    def resting(self) -> int:
        """Como mucho los descriptores que tiene en reposo."""
        return self._descriptors + _ONCE * len(process_tree(self.pid))

    def rest(self) -> None:
        """Ahora está en reposo: es como debe quedar, para ``settled``."""
        self._descriptors, self._connections = self.descriptors, self.connections

    @property
    def memory(self) -> int:
        """La memoria residente de todos sus procesos, en bytes."""
        return resident(self.pid)

    @property
    def peak(self) -> int:
        """La mayor memoria residente que ha tenido, en bytes."""
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return int(match[1]) * 1024 if match else 0

    @property
    def cpu(self) -> float:
        """El procesador que lleva gastado, en segundos."""
        return cpu_seconds(self.pid)

    def wait_until_it_listens(self, port: int) -> None:
        """Espera a que escuche: en ``port`` o, si es 0, en el que diga."""

        def listens() -> bool:
            if self.process.poll() is not None:
                raise Failed(f"el servidor no arrancó: {self.errors.strip() or self.output.strip()}")
            if port:
                self.port = port
                return any(line.local == port and line.state == _LISTENING for line in self.sockets())
            match = re.search(r"escuchando.*:(\d+)\D", self.output)
            self.port = int(match[1]) if match else 0
            return bool(match)

        until(listens, "que el servidor escuche")

    def sockets(self) -> list[TcpLine]:
        """Los sockets de TCP sobre IPv4 de la red en que vive, los suyos y los de los demás."""
        rows = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        return [TcpLine.parse(row) for row in rows]

    def settled(self) -> float:
        """Espera a que tenga los descriptores que tenía en reposo; devuelve cuántos segundos tardó."""

        def back() -> bool:
            return self.connections <= self._connections and self.descriptors <= self.resting

        return until(back, f"que los descriptores, de {self.descriptors}, vuelvan a {self._descriptors}")

    def kill(self) -> None:
        """Lo mata, a él y a ninguno de sus hijos: que muera así no es un fallo."""
        self._killed = True
        self.process.kill()
        self.process.wait()

    @property
    def died(self) -> bool:
        """Si acabó como no debe."""
        return not self._killed and self.process.returncode not in (0, NOT_STARTED, CUT_SHORT)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Le pide que se detenga: ``(código de salida, milisegundos que tardó)``."""
        start = time.monotonic()
        self.process.send_signal(number)
        code = self.wait()
        return code, (time.monotonic() - start) * 1000

    def wait(self) -> int:
        """Espera a que acabe; devuelve su código de salida. ``Failed`` si no acaba."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(f"el servidor no acaba: {PATIENCE:g} s después de pedírselo") from None

    def check(self) -> None:
        """``Failed`` si escribió algo que nadie debe leer."""
        for text in (self.output, self.errors):
            if match := _TROUBLE.search(text):
                raise Failed(f"el servidor escribió: {text[match.start() :][:400]!r}")


def open_files(pid: int) -> list[str]:
    """A qué apunta cada descriptor de ese proceso; ninguno si ya no está."""
    links = []
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # se cerró mientras se miraba
                links.append(os.readlink(link))
    return links


def _content(file: IO[bytes]) -> str:
    return Path(file.name).read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def serving(
    *options: str,
    host: str = HOST,
    port: int = 0,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    cwd: Path | None = None,
) -> Iterator[Running]:
    """El servidor en marcha con ``options``. Al acabar comprueba que no quedó nada y lo para, a él y a nadie más.

    ``prefix``: lo que va delante de su orden (otro espacio de nombres). ``stdout``: dónde escribe; sin decirlo, en un
    fichero que se puede leer. ``cwd``: en qué carpeta. Errores: ``Failed`` si no arranca, si al final no suelta lo que
    tomó, o si no acaba bien.
    """
    raise_descriptors()
    with (
        tempfile.NamedTemporaryFile("rb", suffix=".salida") as out,
        tempfile.NamedTemporaryFile("rb", suffix=".errores") as errors,
    ):
        command = [*prefix, *command_line(), "--host", host, "--puerto", str(port), *options]
        with Path(out.name).open("wb") as own_out, Path(errors.name).open("wb") as own_errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=own_out if stdout is None else stdout,
                stderr=own_errors,
                env={**environment(), "LANG": "C.UTF-8", **(env or {})},
                cwd=cwd,
            )
        running = Running(process, host, out if stdout is None else None, errors)
        try:
            running.wait_until_it_listens(port)
            running.rest()
            yield running
            if process.poll() is None:
                running.settled()
                code, _ = running.stop()
                if code:
                    raise Failed(f"el servidor acabó con código {code}: {running.errors.strip()[-400:]}")
            elif running.died:
                raise Failed(f"el servidor murió con código {process.returncode}: {running.errors.strip()[-400:]}")
            running.check()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


_loop = "asyncio"


def choose_loop(loop: str) -> None:
    """Desde aquí los servidores usan ``asyncio`` o ``uvloop``."""
    global _loop
    _loop = loop


@contextlib.contextmanager
def choosing_loop(loop: str) -> Iterator[None]:
    """Dentro, con ``loop``; al salir, con el de antes."""
    before = _loop
    choose_loop(loop)
    try:
        yield
    finally:
        choose_loop(before)


def command_line() -> list[str]:
    """La orden del servidor, sin opciones."""
    return ours(fast=_loop == "uvloop")


def loop_name() -> str:
    """Con qué bucle y qué Python se mide, para quien lee la tabla."""
    python = f"Python {sys.version.split()[0]}"
    if _loop == "asyncio":
        return f"{python}, asyncio"
    return f"{python}, uvloop {importlib.metadata.version('uvloop')}"
