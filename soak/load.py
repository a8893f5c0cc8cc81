"""Las cargas: clientes que hablan y comprueban cada respuesta, en un proceso aparte que dice sus latencias.

Aparte, para que la carga hostil que lance un escenario no se vea en las latencias de los educados: su retraso debe ser
el del servidor. Se le habla por tuberías: a «mide» contesta con lo visto desde la última vez, a «fin» acaba y cuenta lo
que quede; si la entrada se cierra (quien lo lanzó murió) acaba también. Aquí no se decide qué carga va con qué
escenario (``scenarios/``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, cast

from .oracle import Flood, Oracle, WrongReply
from .results import Failed
from .server import HOST, PATIENCE, raise_descriptors

STUCK = 5.0
"""Segundos sin respuesta que ya no son lentitud: nada de lo que se le hace al servidor debe pararlo tanto."""
FLOOD_BLOCK = 2_000
"""Mensajes por bloque de quien inunda: unos 40 KB, más o menos una lectura del servidor."""
_FLOOD_AHEAD = 4  # bloques enviados sin recibir su respuesta: siempre hay uno esperando en el socket


@dataclass(frozen=True)
class Spec:
    """Qué carga. ``every``: segundos entre dos mensajes de una conexión. ``churn``: conexiones por segundo que se van y
    llegan. ``sources``: direcciones desde las que se conecta, por turno. ``flood``: en vez de educados, clientes que
    encadenan sin parar bloques de ``block`` mensajes; ``bad``, solo mensajes malos. ``returns``: al que le cortan,
    vuelve, y se cuenta (si no, un corte es un fallo). ``stuck``: los segundos sin respuesta que ya no son lentitud."""

    port: int
    connections: int
    every: float = 0.1
    host: str = HOST
    churn: float = 0.0
    sources: list[str] = field(default_factory=list)
    flood: bool = False
    block: int = FLOOD_BLOCK
    bad: bool = False
    returns: bool = False
    stuck: float = STUCK


@dataclass(frozen=True)
class Figures:
    """Lo visto en una ventana: mensajes respondidos, conexiones que se fueron y llegaron, latencias en milisegundos
    (``stuck``: lo que lleva esperando la respuesta más atrasada), segundos que duró, y los puertos de las conexiones
    que el servidor cortó (0: la de una que no llegó a saber el suyo)."""

    messages: int
    replaced: int
    p50: float
    p99: float
    stuck: float
    seconds: float
    cut: list[int]

    @property
    def rate(self) -> float:
        """Mensajes por segundo."""
        return self.messages / self.seconds


class Load:
    """Una carga en su proceso; con ``with``, está en marcha dentro. ``prefix``: lo que va delante de su orden.

    Errores: ``WrongReply`` si una respuesta no es la debida, ``Failed`` si el servidor deja de responder.
    """

    def __init__(self, spec: Spec, prefix: Sequence[str] = ()) -> None:
        self._stuck = spec.stuck
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "soak.load", json.dumps(asdict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Load:
        try:
            self._hear()  # está lista: todas conectadas
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()

    def measure(self, seconds: float) -> Figures:
        """Lo que se ve en los próximos ``seconds``."""
        self.look()
        time.sleep(seconds)
        return self.look()

    def look(self) -> Figures:
        """Lo visto desde la última vez que se miró. ``Failed`` si el servidor tiene a alguien esperando demasiado."""
        figures = Figures(**self._ask("mide"))  # type: ignore[arg-type]  # los enteros de JSON son enteros
        if figures.stuck > self._stuck * 1000:
            raise Failed(f"una respuesta lleva {figures.stuck / 1000:.1f} s sin llegar")
        return figures

    def finish(self) -> None:
        """Acaba: se espera lo que falte, y se cierra. Es un error que algo no llegue."""
        self._ask("fin")
        self._process.wait(PATIENCE)

    def _ask(self, order: str) -> dict[str, float]:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # acabó: su última línea dice por qué
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, float]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise Failed("la carga acabó sin decir por qué")
        answer: dict[str, float | str] = json.loads(line)
        if "error" in answer:
            raise WrongReply(str(answer["error"]))
        return cast("dict[str, float]", answer)


# -- en el proceso de la carga ------------------------------------------------------------------------------


class _Talker(asyncio.Protocol):
    """Una conversación educada: envía cuando se le dice, y comprueba y cronometra cada respuesta."""

    def __init__(self, crowd: _Crowd, number: int) -> None:
        self.oracle = Oracle(number)
        self.leaving = self.dropped = self.ended = False
        self.port = 0
        self.waiting: deque[float] = deque()
        self._crowd = crowd

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.port = transport.get_extra_info("sockname")[1]

    def send(self) -> None:
        self.waiting.append(time.perf_counter())
        self._transport.write(self.oracle.take())

    def leave(self, way: int) -> None:
        """Se va como se va la gente: despidiéndose, cerrando su lado o cortando."""
        self.leaving = True
        if way == 0:
            self._transport.write(self.oracle.say_goodbye())
        elif way == 1:
            with contextlib.suppress(OSError) if self._crowd.returns else contextlib.nullcontext():
                self._transport.write_eof()  # la acaban de cortar, y ahora se sabrá
        else:
            self.dropped = True
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        try:
            count = self.oracle.receive(data)
        except WrongReply as error:
            self._crowd.fail(str(error))
            return
        for _ in range(min(count, len(self.waiting))):
            self._crowd.latencies.append(now - self.waiting.popleft())

    def eof_received(self) -> None:
        self._ended("la cerró el servidor")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc:
            self._ended(f"cortada: {exc}")
        self._crowd.gone(self)

    def _ended(self, how: str) -> None:
        if self.dropped or self.ended:
            return
        self.ended = True
        if self._crowd.returns and (self.oracle.owed or not self.leaving):
            try:
                self.oracle.cut()
            except WrongReply as error:
                self._crowd.fail(str(error))
            self._crowd.cut(self)
            return
        if not self.leaving:
            self._crowd.fail(f"conexión {self.oracle.connection}: {how} sin que se le pidiera")
        try:
            self.oracle.finish()
        except WrongReply as error:
            self._crowd.fail(f"{error} ({how})")


class _Flooder(asyncio.Protocol):
    """Encadena sin parar, leyendo y comprobando lo que vuelve."""

    def __init__(self, crowd: _Crowd, number: int, block: int, *, bad: bool) -> None:
        self.flood = Flood(number, block, bad=bad)
        self._crowd = crowd
        self._most = 0
        self.stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        for _ in range(_FLOOD_AHEAD):
            transport.write(self.flood.take())  # type: ignore[attr-defined]
        self._most = self.flood.owed

    def data_received(self, data: bytes) -> None:
        try:
            self.flood.receive(data)
        except WrongReply as error:
            self._crowd.fail(str(error))
            return
        if not self.stopped and self.flood.owed <= self._most * (_FLOOD_AHEAD - 1) // _FLOOD_AHEAD:
            self._transport.write(self.flood.take())

    def connection_lost(self, exc: Exception | None) -> None:
        if self.flood.owed:
            self._crowd.fail(f"conexión {self.flood.connection}: cortada con {self.flood.owed} bytes debidos")


class _Crowd:
    """Todas las conexiones de una carga, y lo que se va viendo."""

    def __init__(self, spec: Spec) -> None:
        self.latencies: list[float] = []
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._spec = spec
        self._talkers: list[_Talker] = []
        self._flooders: list[_Flooder] = []
        self._leaving: set[_Talker] = set()
        self._returning: set[asyncio.Task[None]] = set()
        self._cut: list[int] = []
        self._number = self._replaced = self._counted = 0
        self._since = time.perf_counter()

    def fail(self, text: str) -> None:
        if not self.failure.done():
            self.failure.set_exception(WrongReply(text))

    @property
    def returns(self) -> bool:
        return self._spec.returns

    def gone(self, talker: _Talker) -> None:
        self._leaving.discard(talker)

    def cut(self, talker: _Talker) -> None:
        """El servidor cortó a ``talker``: vuelve otro en su sitio, si no se iba ya."""
        self._cut.append(talker.port)
        talker.waiting.clear()
        if not talker.leaving:
            talker.leaving = True
            task = asyncio.ensure_future(self._return(self._talkers.index(talker)))
            self._returning.add(task)
            task.add_done_callback(self._returned)

    async def _return(self, place: int) -> None:
        newcomer = await self._enter()
        assert isinstance(newcomer, _Talker)
        self._talkers[place] = newcomer

    def _returned(self, task: asyncio.Task[None]) -> None:
        self._returning.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.fail(f"no se pudo volver: {error}")

    async def start(self) -> None:
        for _ in range(self._spec.connections):
            one = await self._enter()
            if isinstance(one, _Flooder):
                self._flooders.append(one)
            else:
                self._talkers.append(one)

    async def _enter(self) -> _Talker | _Flooder:
        self._number += 1
        source = (self._spec.sources[self._number % len(self._spec.sources)], 0) if self._spec.sources else None
        loop = asyncio.get_running_loop()
        spec, number = self._spec, self._number

        def make() -> _Talker | _Flooder:
            return _Flooder(self, number, spec.block, bad=spec.bad) if spec.flood else _Talker(self, number)

        while True:
            try:
                _, one = await loop.create_connection(make, spec.host, spec.port, local_addr=source)
                return one
            except ConnectionResetError:  # la aceptó uno que murió en ese momento
                if not spec.returns:
                    raise
                self._cut.append(0)

    async def talk(self) -> None:
        """Un mensaje de cada uno cada ``every``, repartidos: a su hora, haya vuelto o no el de antes. Si se esperase,
        una parada larga del servidor contaría como una sola respuesta lenta."""
        if not self._talkers:
            await asyncio.Event().wait()
        gap = self._spec.every / len(self._talkers)
        start, sent = time.perf_counter(), 0
        while True:
            due = int((time.perf_counter() - start) / gap)
            for number in range(sent, due):
                talker = self._talkers[number % len(self._talkers)]
                if not talker.leaving:  # se fue, y aún no ha entrado quien ocupa su sitio
                    talker.send()
            sent = max(sent, due)
            await asyncio.sleep(gap)

    async def churn(self) -> None:
        """Se van los más viejos y llegan otros."""
        if not self._spec.churn:
            await asyncio.Event().wait()
        start, done = time.perf_counter(), 0
        while True:
            while done < int((time.perf_counter() - start) * self._spec.churn):
                place = done % len(self._talkers)
                if self._talkers[place].leaving:  # le cortaron, y ya está volviendo otro
                    done += 1
                    continue
                self._leaving.add(self._talkers[place])
                self._talkers[place].leave(done % 3)
                newcomer = await self._enter()
                assert isinstance(newcomer, _Talker)
                self._talkers[place] = newcomer
                done += 1
                self._replaced += 1
            await asyncio.sleep(1 / self._spec.churn)

    def look(self) -> Figures:
        """Lo visto desde la última vez."""
        now = time.perf_counter()
        taken, self.latencies = sorted(self.latencies), []
        oldest = min((talker.waiting[0] for talker in self._talkers if talker.waiting), default=now)
        flooded = sum(flooder.flood.received for flooder in self._flooders)
        figures = Figures(
            messages=len(taken) + flooded - self._counted,
            replaced=self._replaced,
            p50=_percentile(taken, 0.50),
            p99=_percentile(taken, 0.99),
            stuck=(now - oldest) * 1000,
            seconds=now - self._since,
            cut=self._cut,
        )
        self._since, self._replaced, self._counted, self._cut = now, 0, flooded, []
        return figures

    async def finish(self) -> None:
        """Ya no se envía nada: que llegue lo que falta y se despidan todos. Lo que no llegue es un fallo."""
        for flooder in self._flooders:
            flooder.stopped = True
        await asyncio.gather(*self._returning)
        for way, talker in enumerate(self._talkers):
            if talker.leaving:
                continue  # se iba ya, y no llegó a entrar quien ocupaba su sitio
            self._leaving.add(talker)
            talker.leave(way % 2)
        deadline = time.monotonic() + PATIENCE
        while self._leaving or any(flooder.flood.owed for flooder in self._flooders):
            if self.failure.done() or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.005)
        for one in self._leaving:
            one.oracle.finish()
            self.fail(f"conexión {one.oracle.connection}: el servidor no la cierra")
        for flooder in self._flooders:
            flooder.flood.finish()


def _percentile(ordered: Sequence[float], part: float) -> float:
    """En milisegundos; 0 si no hay ninguno."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000 if ordered else 0.0


async def _run(spec: Spec) -> None:
    crowd = _Crowd(spec)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    await crowd.start()
    _tell({})
    talking, leaving = asyncio.ensure_future(crowd.talk()), asyncio.ensure_future(crowd.churn())
    working: list[asyncio.Future[None]] = [talking, leaving, crowd.failure]
    while True:
        order = asyncio.ensure_future(orders.readline())
        everything: list[asyncio.Future[Any]] = [order, *working]
        await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
        for task in working:
            if task.done():
                task.result()  # lanza lo que pasó
        line = order.result().strip()
        if line == b"mide":
            _tell(asdict(crowd.look()))
            continue
        talking.cancel()
        leaving.cancel()
        if line == b"fin":
            await crowd.finish()
            if crowd.failure.done():
                crowd.failure.result()
            _tell({})
        return


def _tell(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def main(argv: list[str]) -> int:
    """La carga que dice ``argv[0]``, una ``Spec`` en JSON. Devuelve el código de salida."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C es de quien la lanzó, que cerrará su entrada
    raise_descriptors()
    try:
        asyncio.run(_run(Spec(**json.loads(argv[0]))))
    except (WrongReply, OSError) as error:
        _tell({"error": str(error)})
        sys.stdout.flush()
        os._exit(1)  # sin cerrar nada con cuidado: quien la lanzó ya va a parar
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
