"""La máquina falla o alguien para el servidor: sin descriptores, salidas rotas, señales, arranques, el reloj."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from comunicacion_tcp.supervision import CUT_SHORT, TOGETHER

from ..load import Load, Spec
from ..oracle import Flood, Oracle, WrongReply
from ..results import NOTICEABLE, Failed, Outcome, Scenario, Unavailable, ms, number
from ..scale import Scale
from ..server import HOST, PATIENCE, Running, command_line, serving, until
from .crowds import ask, connect, read_all

_ERRORS = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")
_RECOVERS = 1.5  # segundos: la pausa de accept es 1 s; lo demás, soltar el proceso y una máquina ocupada
_SPIN = 0.05  # procesadores: quien no para de intentarlo gasta uno entero
_QUIET = 0.3  # segundos sin que quepa un byte más de nadie: lo que iba a leer el servidor ya lo ha leído
_FAR = 12 * 1024 * 1024  # bytes de mensajes por cliente: más que los 10 MiB que Linux da a los búferes de un socket
_BLOCK = 4_000  # mensajes por bloque: unos 80 KB
_LINES = 700  # conexiones que llenan los 64 KiB de una tubería antes de medir: sus líneas son unos 120 bytes
_PROMPT_STOP = 2_000.0  # milisegundos para pararse cuando todos leen: muy por debajo del plazo de parada (10 s)
_PROMPT_START = 1_000.0  # milisegundos: casi todo, lo que tarda en arrancar Python
_AT_ONCE = 500.0  # milisegundos desde la segunda señal
_LIBFAKETIME = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")
_HOUR = 3600
_SLACK = 1.0  # segundos sobre un plazo: lo que puede retrasarse una máquina ocupada


def free_port() -> int:
    """Un puerto en el que ahora no escucha nadie."""
    with socket.create_server((HOST, 0)) as sock:
        return int(sock.getsockname()[1])


# -- accept que falla ---------------------------------------------------------------------------------------


def accept_errors(scale: Scale) -> Outcome:
    figures, met = [], True
    with serving() as server, connect(server) as old:
        oracle = Oracle(0)
        ask(old, oracle)
        for name in _ERRORS:
            with contextlib.ExitStack() as waiting:
                with _failing_accept(server, name) as log:
                    for _ in range(scale.waiting):
                        waiting.enter_context(connect(server))  # entran en la cola del núcleo
                    before, start = server.cpu, time.monotonic()
                    time.sleep(scale.fault_seconds)
                    ask(old, oracle)  # a quien ya estaba se le sigue sirviendo
                    cpu = (server.cpu - before) / (time.monotonic() - start)
                    tries = log.read_text().count("accept4(") / scale.fault_seconds
                start = time.monotonic()
                with connect(server) as sock:
                    ask(sock, Oracle(1))  # la última de la cola: antes han entrado todas
                took = time.monotonic() - start
            figures.append(f"{name}: {tries:.1f} accept/s, {cpu * 100:.1f} % de un procesador, vuelve en {took:.1f} s")
            met = met and cpu <= _SPIN and took <= _RECOVERS
    return Outcome(figures, met)


@contextlib.contextmanager
def _failing_accept(server: Running, name: str) -> Iterator[Path]:
    """Mientras dura, cada accept del servidor da ese error. Da el fichero donde se apunta cada intento."""
    program = shutil.which("strace")
    if not program:
        raise Unavailable("falta el programa strace")
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
        command = [program, "-qq", "-f", "-e", "trace=accept4", "-e", f"inject=accept4:error={name}", "-o", log.name]
        process = subprocess.Popen([*command, "-p", str(server.pid)], stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: _traced(server) or process.poll() is not None, "que strace mire al servidor")
            if process.poll() is not None:
                assert process.stderr
                raise Unavailable(f"strace no puede mirar al servidor: {process.stderr.read().strip()}")
            yield Path(log.name)
        finally:
            process.terminate()  # así suelta al servidor antes de acabar
            process.wait()
            if process.stderr:
                process.stderr.close()


def _traced(server: Running) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{server.pid}/status").read_text()


# -- parar y arrancar ---------------------------------------------------------------------------------------


def sigterm(scale: Scale) -> Outcome:
    with serving() as server, contextlib.ExitStack() as socks:
        late = _stuffed(server, socks, scale.in_flight)
        owed = sum(client.count_owed() for client in late)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for client in late:
            client.read_the_rest()
        code = server.wait()
        took = (time.monotonic() - start) * 1000
        lost = sum(client.lost for client in late)
    if lost or code:
        raise Failed(f"perdidos {lost} bytes de {owed} respuestas; código {code}")
    with serving() as server, contextlib.ExitStack() as socks:
        late = _stuffed(server, socks, scale.in_flight)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "Deteniendo" in server.output, "que diga que se está deteniendo")
        time.sleep(TOGETHER)  # antes, sería la misma petición por dos sitios
        code, again = server.stop()
        if code != CUT_SHORT:
            raise Failed(f"tras la segunda señal acabó con código {code}, y no {CUT_SHORT}")
    return Outcome(
        [
            f"{number(owed)} respuestas debidas a {scale.in_flight} clientes atrasados: perdida ninguna",
            f"acaba en {ms(took)}; con la segunda señal, en {ms(again)}",
        ],
        took <= _PROMPT_STOP and again <= _AT_ONCE,
    )


def _stuffed(server: Running, socks: contextlib.ExitStack, count: int) -> list[_Late]:
    """``count`` clientes que han enviado sin leer hasta que no se les admite más."""
    late = [_Late(server, socks.enter_context(connect(server)), index) for index in range(count)]
    moved = time.monotonic()
    while time.monotonic() - moved < _QUIET:
        if sum(client.push() for client in late):
            moved = time.monotonic()
        else:
            time.sleep(0.01)
    return late


class _Late:
    """Uno que encadena mensajes sin leer hasta que no le admiten más, y lee cuando ya se está parando el servidor."""

    def __init__(self, server: Running, sock: socket.socket, number: int) -> None:
        self.lost = 0
        self._server = server
        self._sock = sock
        self._flood = Flood(number, _BLOCK)
        self._data = memoryview(b"".join(self._flood.take() for _ in range(_FAR // len(self._flood.block))))
        self._port = sock.getsockname()[1]
        self._sent = 0
        self._owed = 0
        sock.setblocking(False)

    def push(self) -> bool:
        """Envía lo que quepa; devuelve si cupo algo."""
        try:
            count = self._sock.send(self._data[self._sent :])
        except BlockingIOError:
            return False
        self._sent += count
        return count > 0

    def count_owed(self) -> int:
        """Cuántas respuestas debe ya el servidor: los mensajes que ha leído enteros, según el núcleo."""
        unread = 0
        for line in self._server.sockets():
            if (line.local, line.remote) == (self._port, self._server.port):
                unread += line.unacknowledged
            elif (line.local, line.remote) == (self._server.port, self._port):
                unread += line.unread
        read = bytes(self._data[: self._sent - unread])
        self._owed = read.rfind(b"\n") + 1  # son ASCII: cada respuesta mide lo que su mensaje
        return read.count(b"\n")

    def read_the_rest(self) -> None:
        """Lee hasta el final; cuenta los bytes perdidos. ``WrongReply`` si llega lo que no es debido, o un RST."""
        self._sock.settimeout(PATIENCE)
        try:
            while data := self._sock.recv(1 << 20):
                self._flood.receive(data)
        except ConnectionError as error:
            raise WrongReply(f"cortada con respuestas debidas: {error}") from error
        self.lost = max(0, self._owed - self._flood.bytes)


def restart(scale: Scale) -> Outcome:
    port = free_port()
    starts, stops = [], []
    for _ in range(scale.restarts):
        start = time.monotonic()
        with serving(port=port) as server, contextlib.ExitStack() as socks:
            starts.append((time.monotonic() - start) * 1000)
            # Los cierra primero el servidor, y sus puertos quedan en TIME_WAIT: lo que estorba para volver a escuchar.
            clients = [socks.enter_context(connect(server)) for _ in range(scale.in_flight)]
            for index, sock in enumerate(clients):
                ask(sock, Oracle(index))
            server.process.send_signal(signal.SIGTERM)
            start = time.monotonic()
            for sock in clients:
                if read_all(sock):
                    raise WrongReply("al pararse respondió lo que nadie pidió")
                sock.close()
            if code := server.wait():
                raise Failed(f"al pararse acabó con código {code}")
            stops.append((time.monotonic() - start) * 1000)
    with serving(port=port):
        done = subprocess.run(
            [*command_line(), "--host", HOST, "--puerto", str(port)], capture_output=True, text=True, timeout=PATIENCE
        )
    if done.returncode != 1 or len(done.stderr.splitlines()) != 1:
        raise Failed(f"con el puerto ocupado acabó con código {done.returncode} y dijo {done.stderr!r}")
    return Outcome(
        [
            f"{scale.restarts} veces en el mismo puerto: escucha a los {ms(statistics.median(starts))} de arrancar "
            f"(la que más, {ms(max(starts))}); parar, {ms(statistics.median(stops))}",
            "con el puerto ocupado, código 1 y una línea",
        ],
        max(starts) <= _PROMPT_START,
    )


# -- el reloj -----------------------------------------------------------------------------------------------


def clock(scale: Scale) -> Outcome:
    library = next((str(path) for name in _LIBFAKETIME for path in Path("/").glob(name[1:])), None)
    if not library:
        raise Unavailable("falta libfaketime")
    with tempfile.NamedTemporaryFile("w", suffix=".hora") as moved:

        def move(seconds: int) -> None:
            Path(moved.name).write_text(f"{seconds:+d}\n")

        # Solo la hora del día: el otro reloj, el que no da saltos, tampoco los da cuando alguien cambia la hora.
        env = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": moved.name, "FAKETIME_NO_CACHE": "1"}
        env |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
        move(0)
        events = 0
        with serving("--plazo-mensaje", str(scale.clock_deadline), env=env) as server:
            with Load(Spec(server.port, scale.polite, scale.every)) as load, connect(server) as slow:
                alone = load.measure(scale.seconds)
                ask(slow, Oracle(0))
                start = time.monotonic()
                slow.sendall(b"a medias")
                for seconds in (_HOUR, -_HOUR, _HOUR):
                    move(seconds)
                    if not _HOUR - 60 < abs(_clock_there(env) - time.time()) < _HOUR + 60:
                        raise Unavailable("libfaketime no mueve el reloj")
                    figures = load.measure(scale.clock_deadline / 6)  # los tres, la mitad del plazo
                    events += not figures.messages
                early = _has_something(slow) and time.monotonic() - start < scale.clock_deadline
                with contextlib.suppress(ConnectionError):
                    read_all(slow)
                took = time.monotonic() - start
                load.finish()
            move(0)
    return Outcome(
        [
            f"adelantado y atrasado una hora: {events + early} cortes o paradas",
            f"p99 {ms(alone.p99)} → {ms(figures.p99)}",
            f"el plazo de {scale.clock_deadline:g} s vence a los {took:.1f} s",
        ],
        not events and not early and scale.clock_deadline <= took <= scale.clock_deadline + _SLACK,
    )


def _clock_there(env: dict[str, str]) -> float:
    """La hora que ve un proceso con ese entorno."""
    done = subprocess.run(["date", "+%s"], env={**os.environ, **env}, capture_output=True, text=True)
    return float(done.stdout or 0)


def _has_something(sock: socket.socket) -> bool:
    """Si el servidor ya le ha dicho algo, o le ha cerrado."""
    sock.setblocking(False)
    try:
        sock.recv(4096, socket.MSG_PEEK)
        return True
    except BlockingIOError:
        return False
    finally:
        sock.settimeout(PATIENCE)


# -- la salida ----------------------------------------------------------------------------------------------


def output(scale: Scale) -> Outcome:
    figures, met = [], True
    places: dict[str, Callable[[], contextlib.AbstractContextManager[IO[bytes]]]] = {
        "un fichero": _file,
        "/dev/full": _dev_full,
        "un disco lleno": _full_disk,
        "una tubería que nadie lee": _unread_pipe,
    }
    for title, place in places.items():
        try:
            with place() as out:
                p99 = _talk_writing_to(out, scale)
        except Unavailable as error:
            figures.append(f"en {title} no se puede aquí: {error}")
            continue
        figures.append(f"en {title}, p99 {ms(p99)}")
        met = met and p99 <= NOTICEABLE
    return Outcome(figures, met)


def _talk_writing_to(out: IO[bytes], scale: Scale) -> float:
    """El p99 de los educados mientras el servidor escribe ahí sus líneas: muchas, que cada conexión son dos."""
    with (
        serving(port=free_port(), stdout=out) as server,
        Load(Spec(server.port, scale.polite, scale.every, churn=scale.churn_rate)) as load,
    ):
        for _ in range(_LINES):
            with connect(server) as sock:
                sock.sendall(b"DESCONEXION\n")
                read_all(sock)
        figures = load.measure(scale.seconds)
        load.finish()
    return figures.p99


@contextlib.contextmanager
def _file() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile("wb") as file:
        yield file


@contextlib.contextmanager
def _dev_full() -> Iterator[IO[bytes]]:
    with open("/dev/full", "wb") as file:
        yield file


@contextlib.contextmanager
def _full_disk() -> Iterator[IO[bytes]]:
    """Un fichero en un disco de 64 KiB, lleno."""
    if os.geteuid() != 0:
        raise Unavailable("solo root monta un disco pequeño")
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "soak", folder], capture_output=True, text=True
        )
        if mounted.returncode:
            raise Unavailable(f"no se puede montar un disco pequeño: {mounted.stderr.strip()}")
        try:
            with (Path(folder) / "salida").open("wb") as file:
                yield file
        finally:
            subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def _unread_pipe() -> Iterator[IO[bytes]]:
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as file:
            yield file
    finally:
        os.close(reading)


SCENARIOS = [
    Scenario(
        "accept_errors",
        5,
        "accept falla: EMFILE, ENFILE, ENOBUFS, ENOMEM",
        "se espera sin gastar procesador, y al pasar se vuelve a aceptar en 1 s",
        accept_errors,
    ),
    Scenario(
        "sigterm",
        19,
        "SIGTERM con respuestas por entregar; una segunda",
        "se entrega todo y acaba con código 0; a la segunda, ya",
        sigterm,
    ),
    Scenario("restart", 20, "parar y arrancar en el mismo puerto", "escucha en 1 s; ocupado, lo dice", restart),
    Scenario("clock", 21, "la hora salta, adelante y atrás", "nada se corta ni se para", clock),
    Scenario(
        "output",
        22,
        "la salida no admite nada, o nadie la lee",
        "se sirve igual: nadie espera más de lo que se nota (100 ms)",
        output,
    ),
]
