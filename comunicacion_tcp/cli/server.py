"""``servidor-tcp``: escucha, sirve mayúsculas y cuenta lo que pasa, una línea cada vez.

Aquí están las opciones y las señales. Lo que se cuenta es de ``report.py``; aceptar, responder y cerrar, de
``comunicacion_tcp/server.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from ..addresses import Peer, format_address, unix_path
from ..descriptors import raise_limit
from ..errors import BadService, BadTLSFile, NetworkError
from ..fresh_imports import FreshImports
from ..limits import Limits
from ..loading import load_service
from ..loops import run
from ..server import THREADS, Server
from ..services import Service, uppercase
from ..tls import ServerTLS
from .log import FORMATS, LEVELS, Log, lines_lost, logging_to
from .metrics import CannotMeasure, Metrics
from .output import Output, sink_of
from .parser import SpanishParser, host_and_port, host_name, one_of, port_number, whole_number
from .reloading import Told, keep_fresh
from .report import Reporter
from .sentences import bad_service, bad_tls_file, listening_failed
from .settings import SERVER_LIMITS, add_limits, chosen_limits
from .terminal import answer_interrupts, close_output, complain, is_terminal, prepare_streams

OK, FAILED, USAGE = 0, 1, 2  # el 2 lo pone argparse

_HOST, _PORT = "localhost", 5000
_OWN_DESCRIPTORS = 64  # los tres de siempre, los del bucle, los que escuchan; de sobra
_MOST_THREADS = 1000  # con más, los hilos se estorban y el sistema puede no darlos: para eso está async def
# Segundos que se espera, detenido ya el servidor, a lo que el servicio dejó a medias: un hilo que no vuelve, o una
# tarea que no se deja cancelar. Más que lo que espera la salida (output.py).
_LAST_WAIT = 2.0
_STUCK = 1.0  # segundos sin que gire el bucle: nada nuestro lo ocupa tanto
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_EPILOG = """\
Ctrl-C o SIGTERM lo detienen: deja de aceptar, entrega lo debido y termina. La segunda vez, corta ya.
Cada opción puede ir en el entorno: --puerto 7000 es SERVIDOR_TCP_PUERTO=7000. La orden manda.
"""
_EXIT_CODES = {
    OK: "se detuvo porque se le pidió",
    FAILED: "no pudo empezar (puerto ocupado, sin permiso, dirección ajena, un certificado o un servicio que no "
    "sirven) o tuvo que cortar conversaciones",
    USAGE: "opciones equivocadas",
}


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """El programa. ``argv``: sus argumentos, o los del proceso. Devuelve el código de salida."""
    try:
        answer_interrupts()
        prepare_streams()
        parser = _parser(prog)
        options = parser.parse_args(argv)
        parser.require(options, "--tls-cert", "--tls-clave", "--tls-ca")
        parser.require(options, "--servicio", "--recargar")
        return _run(options, chosen_limits(parser, options, SERVER_LIMITS))
    except KeyboardInterrupt:  # antes de atender señales: aún no había nada que entregar
        return OK
    finally:
        close_output()


def _parser(prog: str | None) -> SpanishParser:
    about = "Servidor de mensajes por TCP: responde cada mensaje en mayúsculas, o con la función de --servicio."
    parser = SpanishParser(prog, about, _EPILOG, "SERVIDOR_TCP_", _EXIT_CODES)
    where = "dirección donde escuchar, o unix:RUTA para un socket de Unix (%(default)s)"
    parser.add_argument("--host", type=host_name, default=_HOST, help=where)
    parser.add_argument("--puerto", type=port_number(0), default=_PORT, help="puerto; 0 toma uno libre (%(default)s)")
    parser.add_argument(
        "--servicio",
        metavar="MODULO:FUNCION",
        help="función de Python que responde cada mensaje: recibe su texto y devuelve otro; el módulo se busca primero "
        "en esta carpeta (sin ella, mayúsculas)",
    )
    parser.add_argument(
        "--hilos",
        type=whole_number(0, _MOST_THREADS),
        default=THREADS,
        metavar="N",
        help="mensajes que responde a la vez una función que espera; 0, sin hilos: más rápido si nunca espera a nada "
        "(%(default)s)",
    )
    parser.add_argument(
        "--recargar",
        action="store_true",
        help="lee otra vez el servicio cuando cambian sus ficheros, sin cortar a nadie",
    )
    parser.add_argument(
        "--registro",
        type=one_of(*FORMATS),
        default="llano",
        metavar="FORMA",
        help="cómo se cuenta cada cosa que pasa: llano, solo la frase; fecha, con la hora y la gravedad; "
        "json, un objeto por línea (%(default)s)",
    )
    parser.add_argument(
        "--nivel",
        type=one_of(*LEVELS),
        default="info",
        metavar="NIVEL",
        help="lo menos grave que se cuenta: info, aviso o error (%(default)s)",
    )
    parser.add_argument(
        "--metricas",
        type=host_and_port,
        metavar="HOST:PUERTO",
        help="dónde da por HTTP las métricas para Prometheus (/metrics), y si está vivo (/salud) y listo (/lista); ni "
        "cifra ni pide contraseña; necesita el extra «metricas»",
    )
    parser.add_files(
        {
            "--tls-cert": "certificado con que cifrar; se lee otra vez si cambia",
            "--tls-clave": "su clave, si no está en el mismo fichero",
            "--tls-ca": "solo entra quien trae un certificado firmado por estos",
        }
    )
    add_limits(parser, SERVER_LIMITS)
    return parser


def _run(options: argparse.Namespace, limits: Limits) -> int:
    if options.servicio:
        _take_keyboard_away()
    with FreshImports(options.servicio) if options.recargar else contextlib.nullcontext() as imports:
        # Antes de que haya un bucle: un módulo puede querer el suyo mientras se importa.
        try:
            service = imports.load() if imports else _load(options.servicio)
        except BadService as bad:
            complain(bad_service(bad))
            return FAILED
        return _listen(options, limits, service, imports)


def _take_keyboard_away() -> None:
    """Un servicio que pregunta por el teclado falla en el acto, y no espera a quien no sabe que le preguntan."""
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)


def _load(name: str | None) -> Service:
    return uppercase if name is None else load_service(name)


def _listen(options: argparse.Namespace, limits: Limits, service: Service, imports: FreshImports | None) -> int:
    formatter = FORMATS[options.registro]()
    try:
        output = Output(*sink_of(sys.stdout), lambda count: formatter.format(lines_lost(count)))
    except RuntimeError:
        complain("El sistema no deja crear el hilo que escribe la salida. Sube el límite de procesos con «ulimit -u».")
        return FAILED
    try:
        # Lo que escriba un servicio va con los errores: en la salida solo hay líneas del registro.
        apart = contextlib.redirect_stdout(sys.stderr) if options.servicio else contextlib.nullcontext()
        with apart, logging_to(output.write, formatter, LEVELS[options.nivel]) as log:
            return run(_serve(options, limits, service, imports, log, output))
    finally:
        output.close()


async def _serve(
    options: argparse.Namespace,
    limits: Limits,
    service: Service,
    imports: FreshImports | None,
    log: Log,
    output: Output,
) -> int:
    loop = asyncio.get_running_loop()
    reporter = Reporter(log, loop)
    loop.set_exception_handler(reporter.failed)
    raise_limit(limits.max_connections + limits.reserve + _OWN_DESCRIPTORS)
    try:
        tls = ServerTLS(options.tls_cert, options.tls_clave, options.tls_ca) if options.tls_cert else None
    except BadTLSFile as error:
        complain(bad_tls_file(error))
        return FAILED
    server = Server(
        service,
        options.host,
        options.puerto,
        limits=limits,
        observer=reporter,
        tls=tls,
        threads=options.hilos,
    )
    metrics: Metrics | None = None
    if options.metricas:
        try:
            metrics = Metrics(options.metricas, server, tls)
        except CannotMeasure as error:
            complain(str(error))
            return FAILED
    stop = asyncio.Event()

    hurry = False
    draining = False

    def on_signal() -> None:
        nonlocal hurry
        hurry = stop.is_set()
        stop.set()
        if draining:
            server.cut()

    _handle_signals(loop, on_signal)
    try:
        await server.start()
    except NetworkError as error:
        complain(listening_failed(error))
        if metrics:
            metrics.close()
        return FAILED
    where = ""
    if (options.host, options.puerto) != (_HOST, _PORT):
        where = " en " + " y ".join(format_address(*address) for address in server.addresses)
    reporter.listening(f"Servidor escuchando{where}...", server.addresses)
    if not tls and not all(map(_is_local, server.addresses)):
        reporter.not_encrypted()
    if metrics:
        metrics.serving()
        reporter.measuring(metrics.addresses)
    told: list[Told] = [reporter, metrics.meter] if metrics else [reporter]
    reloading = loop.create_task(keep_fresh(imports, server, told)) if imports else None
    await stop.wait()
    if reloading:
        reloading.cancel()
    loop.set_exception_handler(lambda *_: None)  # acabando, lo que asyncio dejó aplazado ya no le importa a nadie
    if is_terminal(sys.stdout):
        output.write("")  # detrás de «^C»
    reporter.stopping(server.conversations)
    if metrics:
        metrics.stopping()
    draining = True
    cut = await server.drain(0 if hurry else None)
    _ignore_signals()
    if metrics:
        metrics.close()
    reporter.stopped(cut)
    code = FAILED if cut else OK
    _end_anyway(output, code)
    return code


def _end_anyway(output: Output, code: int) -> None:
    """Si dentro de un rato el proceso sigue, acaba con ``code``: a lo que dejó el servicio lo esperarían, quizá para
    siempre, tanto asyncio como Python."""

    def end() -> None:
        output.close()
        os._exit(code)

    timer = threading.Timer(_LAST_WAIT, end)
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # el sistema no da más hilos
        timer.start()


def _is_local(address: Peer) -> bool:
    host, _ = address
    return unix_path(host) is not None or ipaddress.ip_address(host).is_loopback


def _handle_signals(loop: asyncio.AbstractEventLoop, handler: Callable[[], None]) -> None:
    """Con cada señal, ``handler`` en el bucle. Si un servicio no lo deja girar, la que llegue ``_STUCK`` segundos
    después de una que aún no se ha atendido acaba el proceso: si no, Ctrl-C no haría nada."""
    unseen: float | None = None  # desde cuándo hay alguna sin atender

    def see() -> None:
        nonlocal unseen
        unseen = None
        handler()

    # No es loop.add_signal_handler, que no hace nada hasta que el bucle gira (y en Windows no está).
    def on_signal(*_: object) -> None:
        nonlocal unseen
        now = time.monotonic()
        unseen = unseen or now
        if now - unseen > _STUCK:
            complain("El servicio tiene ocupado el servidor y no se puede detener con cuidado: se corta todo.")
            os._exit(FAILED)
        loop.call_soon_threadsafe(see)

    for number in _SIGNALS:
        signal.signal(number, on_signal)


def _ignore_signals() -> None:
    """Ya no queda nada que cortar antes: otra señal solo estropearía el final."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
