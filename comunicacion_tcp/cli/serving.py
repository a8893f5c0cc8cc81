"""Un proceso que sirve, solo o con otros: del servicio que se pidió a «Servidor detenido», y las señales por medio.

Aquí no están las opciones (``server.py``) ni el padre de varios procesos (``processes.py``). Lo que se cuenta es de
``report.py``; aceptar, responder y cerrar, de ``comunicacion_tcp/server.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ..board import Board
from ..descriptors import raise_limit
from ..errors import BadService, BadSocket, BadTLSFile, NetworkError
from ..forks import release
from ..fresh_imports import FreshImports
from ..guard import Guard, stand_guard
from ..limits import Limits
from ..loading import load_service
from ..loops import run
from ..server import Server
from ..services import Service, uppercase
from ..supervision import CUT, CUT_SHORT, DRAIN, END_PATIENCE, NOT_STARTED, RETIRE, Insistence
from ..supervisor import Seat
from ..systemd import Notifier
from ..tls import ServerTLS
from .log import FORMATS, LEVELS, JsonFormatter, Log, lines_lost, logging_to, stop_hearing
from .metrics import CannotMeasure, Metrics, MetricsAlone
from .output import Output, Turn, by_lines, complain_briefly, only_ours, sink_of
from .reloading import Told, keep_fresh
from .report import Reporter, WorkerReporter
from .sentences import bad_service, bad_socket, bad_tls_file, listening_failed
from .terminal import close_output, complain, is_terminal
from .under_systemd import Manager, keep_posted, manager

OK, FAILED, USAGE = 0, NOT_STARTED, 2  # el 2 lo pone argparse
HOST, PORT = "localhost", 5000
AUTO = "auto"  # --procesos: uno por procesador

# Segundos que se espera, detenido ya el servidor, a lo que el servicio dejó a medias: un hilo que no vuelve, o una
# tarea que no se deja cancelar. Más que lo que espera la salida (output.py).
_LAST_WAIT = 2.0
_NO_THREAD = "El sistema no deja crear el hilo que escribe la salida. Sube el límite de procesos con «ulimit -u»."
_BUSY = "El servicio tiene ocupado el servidor y no se puede detener con cuidado: se corta todo."
_STUCK = 1.0  # segundos sin que gire el bucle: nada nuestro lo ocupa tanto
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_READ = 4096  # bytes: uno por señal, y de más que lleguen juntas da igual cuántas eran


class Launch(NamedTuple):
    """Lo que se pidió: las opciones y los límites."""

    options: argparse.Namespace
    limits: Limits


class Post(NamedTuple):
    """Lo que recibe uno de varios procesos: su puesto, los sockets que escuchan y, si se piden métricas, la pizarra en
    que apuntar. ``lent``: si seguirán escuchando cuando el servidor acabe. ``turn``: para escribir en la salida, que es
    de todos."""

    seat: Seat
    sockets: list[socket.socket]
    board: Board | None
    lent: bool
    turn: Turn


def is_usual_place(options: argparse.Namespace) -> bool:
    """Si se escucha donde siempre, y no hace falta decirlo."""
    return (options.host, options.puerto) == (HOST, PORT)


def formatter_of(options: argparse.Namespace, *, several: bool) -> logging.Formatter:
    """La forma de cada línea. ``several``: si escriben varios procesos, y conviene saber cuál."""
    formatter = FORMATS[options.registro]()
    if several and isinstance(formatter, JsonFormatter):
        formatter.process = os.getpid()
    return formatter


def serve(launch: Launch, post: Post | None = None) -> int:
    """Sirve hasta que se le pida acabar, y devuelve el código de salida. ``post``: si es uno de varios procesos."""
    options = launch.options
    try:
        systemd = Manager(Notifier(), []) if post else manager()  # con varios, es cosa del padre
    except BadSocket as bad:
        complain(bad_socket(bad))
        return FAILED
    with contextlib.ExitStack() as stack:
        stdout, imports, guard, bell = sys.stdout, None, None, stack.enter_context(_Bell())
        if options.servicio:
            # Antes de importarlo, que también puede crear hilos y procesos, y escribir.
            if not post:
                patience = launch.limits.drain + END_PATIENCE
                guard = stand_guard(bell.awake, _SIGNALS, patience, functools.partial(complain, _BUSY))
            if guard:
                stack.callback(guard.leave)
            _bear_strangers(post.sockets if post else systemd.sockets)
            stdout = stack.enter_context(only_ours())
        if options.recargar:
            imports = stack.enter_context(FreshImports(options.servicio))
        # Antes de que haya un bucle: un módulo puede querer el suyo mientras se importa.
        try:
            service = load(options, imports)
        except BadService as bad:
            return _cannot(post, bad_service(bad))
        return _listen(launch, post, _Means(systemd, imports, stdout, bell, guard), service)


def _cannot(post: Post | None, why: str) -> int:
    """Dice por qué no se puede servir, y da el código de salida. De varios procesos, solo el padre sabe si es que no
    arranca, una recarga que no vale o uno que no se puede reponer: se le dice a él, y lo cuenta él."""
    _ignore_signals()
    if post:
        post.seat.cannot(why)
    else:
        complain_briefly(why)
    end_anyway(close_output, FAILED)  # el servicio pudo dejar un hilo
    return FAILED


def _take_keyboard_away() -> None:
    """Un servicio que pregunta por el teclado falla en el acto, y no espera a quien no sabe que le preguntan."""
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)


def load(options: argparse.Namespace, imports: FreshImports | None = None) -> Service:
    """El servicio que se pidió; con ``imports``, el suyo. Error: ``BadService``."""
    if options.servicio is None:
        return uppercase
    _take_keyboard_away()
    return imports.load() if imports else load_service(options.servicio)


def tls_of(options: argparse.Namespace) -> ServerTLS | None:
    """Con qué se cifra, si se pidió. Error: ``BadTLSFile``."""
    return ServerTLS(options.tls_cert, options.tls_clave, options.tls_ca) if options.tls_cert else None


def _listen(launch: Launch, post: Post | None, means: _Means, service: Service) -> int:
    options = launch.options
    formatter = formatter_of(options, several=post is not None)
    sink, encoding = sink_of(means.stdout)
    try:
        output = Output(
            by_lines(sink, post.turn) if post else sink, encoding, lambda count: formatter.format(lines_lost(count))
        )
    except RuntimeError:
        return _cannot(post, _NO_THREAD)
    try:
        output.terminal = is_terminal(means.stdout)
        with logging_to(output.write, formatter, LEVELS[options.nivel]) as log:
            return run(_serve(launch, post, means, service, log, output), means.bell.arm)
    finally:
        output.close()


class _Bell:
    """Lo que despierta al bucle cuando llega una señal. Sola no puede si llega justo antes de que empiece a esperar, o
    a otro hilo (a cualquiera, si el proceso estaba parado): no se sabría de ella hasta lo siguiente que pase, y puede
    no pasar nada. ``awake``: donde se lee un byte por cada una (``guard.py`` también lo mira)."""

    def __init__(self) -> None:
        self.awake, self._alarm = socket.socketpair()
        for end in (self.awake, self._alarm):
            end.setblocking(False)
        self._others: list[int] = []  # a dónde iba ese byte antes: el bucle puede tener lo suyo (uvloop)

    def hang(self, loop: asyncio.AbstractEventLoop) -> None:
        """Desde ahora despierta a ``loop``. El bucle de Windows ya lo hace."""
        if os.name == "posix":
            loop.add_reader(self.awake, self._answer)
            self.arm()

    def arm(self) -> None:
        """Otra vez: uvloop, cuando se detiene y sigue, pone lo suyo."""
        if os.name == "posix":
            other = signal.set_wakeup_fd(self._alarm.fileno(), warn_on_full_buffer=False)
            if other not in (-1, self._alarm.fileno()):
                self._forget()
                self._others = [os.dup(other)]  # el suyo puede cerrarlo cuando quiera

    def _answer(self) -> None:
        arrived = self.awake.recv(_READ)
        for other in self._others:
            with contextlib.suppress(OSError):
                os.write(other, arrived)

    def _forget(self) -> None:
        for other in self._others:
            os.close(other)
        self._others = []

    def __enter__(self) -> _Bell:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ValueError):  # no es el hilo principal: no se llegó a poner
            signal.set_wakeup_fd(-1)
        self._forget()
        self.awake.close()
        self._alarm.close()


class _Means(NamedTuple):
    """Con qué se sirve. ``stdout``: la salida, que hace de ``sys.stdout``. ``guard``: quien mata a este proceso si no
    acaba."""

    systemd: Manager
    imports: FreshImports | None
    stdout: Any
    bell: _Bell
    guard: Guard | None


async def _serve(launch: Launch, post: Post | None, means: _Means, service: Service, log: Log, output: Output) -> int:
    options, limits = launch
    systemd, imports = means.systemd, means.imports
    loop = asyncio.get_running_loop()
    means.bell.hang(loop)
    reporter = WorkerReporter(log, loop, first=post.seat.first) if post else Reporter(log, loop)
    loop.set_exception_handler(reporter.failed)
    raise_limit(limits.max_connections + limits.reserve)
    try:
        tls = tls_of(options)
    except BadTLSFile as error:
        return _cannot(post, bad_tls_file(error))
    given = post.sockets if post else systemd.sockets
    server = Server(
        service,
        options.host,
        options.puerto,
        limits=limits,
        observer=reporter,
        tls=tls,
        threads=options.hilos,
        sockets=given or None,
        proxy_from=options.proxy_de,
        allow_http=options.admite_http,
    )
    try:
        metrics = _metrics(options, post, server, tls)
    except CannotMeasure as error:
        return _cannot(post, str(error))
    end = _End(
        server, metrics, leave_queue=post.lent if post else bool(systemd.sockets), seat=post.seat if post else None
    )
    if post:
        post.seat.attend(loop, end.obey, limits.worker_timeout)
        _handle_signals(loop, end.ask, signal.SIGTERM)  # las de la terminal son para el padre
    else:
        _handle_signals(loop, end.insist, *_SIGNALS, guard=means.guard)
    try:
        await server.start()
    except NetworkError as error:
        if metrics:
            metrics.close()
        return _cannot(post, listening_failed(error))
    lent = bool(systemd.sockets)
    reporter.listening(server.addresses, usual=is_usual_place(options), encrypted=tls is not None, lent=lent)
    if metrics:
        metrics.serving()
        reporter.measuring(metrics.addresses)
    systemd.notifier.ready()
    posting = loop.create_task(keep_posted(systemd.notifier, server)) if systemd.notifier.present else None
    told: list[Told] = [reporter, metrics.meter] if metrics else [reporter]
    reloading = loop.create_task(keep_fresh(imports, server, told)) if imports else None
    if post:
        post.seat.ready()
    await end.asked.wait()
    if reloading:
        reloading.cancel()
    loop.set_exception_handler(lambda *_: None)  # acabando, lo que asyncio dejó aplazado ya no le importa a nadie
    if not post and output.terminal:
        output.write("")  # detrás de «^C»
    reporter.stopping(server.conversations)
    systemd.notifier.stopping()
    cut = await end.drain()
    _ignore_signals()
    if metrics:
        metrics.close()
    reporter.stopped(cut)
    if posting:
        posting.cancel()
    systemd.notifier.close()
    code = CUT_SHORT if cut else OK
    end_anyway(output.close, code)
    return code


def _metrics(options: argparse.Namespace, post: Post | None, server: Server, tls: ServerTLS | None) -> Metrics | None:
    """Las métricas que se pidieran. Error: ``CannotMeasure``."""
    if post:
        return Metrics(server, tls, post.board.seat(post.seat.row)) if post.board else None
    return MetricsAlone(server, tls, options.metricas) if options.metricas else None


class _End:
    """Cuándo y con qué prisa se detiene ``server``, y con él lo que dice en ``metrics``. ``leave_queue``: si quien
    espera en la cola es para otro. ``seat``: su puesto, si es uno de varios."""

    def __init__(self, server: Server, metrics: Metrics | None, *, leave_queue: bool, seat: Seat | None) -> None:
        self._leave_queue = leave_queue
        self._seat = seat
        self.asked = asyncio.Event()
        """Se pidió acabar."""
        self._insistence = Insistence()
        self._server = server
        self._metrics = metrics
        self._hurry = False
        self._draining = False
        self._retiring: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Que acabe; pedirlo otra vez no cambia nada."""
        self.asked.set()

    def insist(self) -> None:
        """Que acabe; si se insiste, ya."""
        how = self._insistence.ask(time.monotonic())
        if how == DRAIN:
            self.ask()
        elif how == CUT:
            self._cut()

    def _cut(self) -> None:
        self._hurry = True
        if self._draining:
            self._server.cut()

    def obey(self, order: str) -> None:
        """Hace lo que le ordena el padre."""
        if order == RETIRE:
            self._retiring = asyncio.get_running_loop().create_task(self._retire())
            return
        if order == CUT:
            self._cut()
        self.ask()

    async def drain(self) -> int:
        """Detiene el servidor; cuántas conversaciones cortó."""
        self._draining = True
        if self._metrics:
            self._metrics.stopping()
        if self._leave_queue:
            await self._server.retire(0)
        return await self._server.drain(0 if self._hurry else None)

    async def _retire(self) -> None:
        if self._metrics:
            self._metrics.stopping()
        leaving = asyncio.ensure_future(self._server.retire())
        await asyncio.sleep(0)  # lo primero que hace es dejar de aceptar
        if self._seat:
            self._seat.retired()
        await leaving
        self.ask()


def end_anyway(close_output: Callable[[], None], code: int) -> None:
    """Si dentro de un rato el proceso sigue, acaba con ``code``, y antes ``close_output()``: a lo que dejó el servicio
    lo esperarían, quizá para siempre, tanto asyncio como Python."""

    def end() -> None:
        close_output()
        os._exit(code)

    timer = threading.Timer(_LAST_WAIT, end)
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # el sistema no da más hilos
        timer.start()


def _handle_signals(
    loop: asyncio.AbstractEventLoop, handler: Callable[[], None], *signals: int, guard: Guard | None = None
) -> None:
    """Con cada señal de ``signals``, ``handler`` en el bucle. Si un servicio no lo deja girar, la que llegue ``_STUCK``
    segundos después de una que aún no se ha atendido acaba el proceso: si no, Ctrl-C no haría nada."""
    unseen: float | None = None  # desde cuándo hay alguna sin atender

    def see() -> None:
        nonlocal unseen
        unseen = None
        handler()

    # No es loop.add_signal_handler, que no hace nada hasta que el bucle gira (y en Windows no está).
    def on_signal(*_: object) -> None:
        nonlocal unseen
        if guard:
            guard.stopping()  # antes de que el bucle lea su byte: después puede no ejecutarse nada más
        now = time.monotonic()
        unseen = unseen or now
        if now - unseen > _STUCK:
            _ignore_signals()  # otra, a media frase, la estropearía
            try:
                complain_briefly(_BUSY)
            finally:
                os._exit(CUT_SHORT)
        loop.call_soon_threadsafe(see)

    for number in signals:
        signal.signal(number, on_signal)


def _bear_strangers(given: list[socket.socket]) -> None:
    """Un proceso que cree el servicio (multiprocessing) no es de los nuestros: no atiende nuestras señales, no se queda
    los sockets que nos dieron (los demás los suelta ``forks.py``), ni escribe en nuestro registro, que en él no va a
    ninguna parte."""

    def be_born() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C llega a todos: de este se ocupa quien lo creó
        release(sock.fileno() for sock in given)
        stop_hearing()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=be_born)


def _ignore_signals() -> None:
    """Ya no queda nada que cortar antes: otra señal solo estropearía el final."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
