"""``servidor-tcp``: escucha, sirve mayúsculas y cuenta lo que pasa, una línea cada vez.

Aquí están las opciones, las señales y las frases; aceptar, responder y cerrar es de ``comunicacion_tcp/server.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import ipaddress
import signal
import sys
from collections.abc import Callable
from typing import Any

from ..errors import BadMessage, BadTLSFile, NetworkError, ServiceFailed, TLSFailed, format_address
from ..server import Observer, Peer, Server
from ..tls import ServerTLS
from .parser import SpanishParser, file_name, host_name, port_number
from .sentences import bad_tls_file, handshake_failed, listening_failed, reason
from .terminal import answer_interrupts, close_output, complain, escape, is_terminal, prepare_streams, say

try:
    from uvloop import run  # el extra «rapido»: el mismo asyncio, sobre libuv
except ImportError:
    from asyncio import run  # type: ignore[assignment]  # con otras opciones, que aquí no se usan

OK, FAILED = 0, 1  # el 2, uso equivocado, es de argparse

_HOST, _PORT = "localhost", 5000
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_TROUBLE_EVERY = 10.0  # segundos entre dos líneas iguales: se ve que dura sin llenar la pantalla
_EPILOG = f"""\
Ctrl-C o SIGTERM lo detienen: deja de aceptar, entrega lo debido y termina. La segunda vez, corta ya.

código de salida:
  {OK:<4} se detuvo porque se le pidió
  {FAILED:<4} no pudo escuchar (puerto ocupado, sin permiso, dirección ajena, un certificado que no sirve) o tuvo que
       cortar conversaciones
  2    opciones equivocadas
"""


class _Screen:
    """Las líneas que ve quien opera, escritas de una vez en cada vuelta del bucle.

    De una en una, las dos de cada cliente costaban la sexta parte de atenderlo (make bench, conectar y despedirse).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: list[str] = []

    def tell(self, line: str) -> None:
        """``line``, que se verá en cuanto acabe esta vuelta."""
        if not self._lines:
            self._loop.call_soon(self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        """Que se vea ya lo que falte."""
        lines, self._lines = self._lines, []
        # Con la salida rota (disco lleno, tubería cerrada) se sigue sirviendo.
        with contextlib.suppress(OSError):
            say("".join(f"{line}\n" for line in lines), end="")


class _Reporter(Observer):
    """Lo que cuenta el servidor, como líneas de la terminal."""

    def __init__(self, screen: _Screen, trouble: _Trouble) -> None:
        self._tell = screen.tell
        self._trouble = trouble

    def accepted(self, peer: Peer) -> None:
        self._tell(f"Conexión aceptada de {peer}")

    def said_goodbye(self, peer: Peer) -> None:
        self._tell("Mensaje de desconexión recibido. Cerrando la conexión.")

    def left(self, peer: Peer) -> None:
        self._tell(f"El cliente {peer} se fue sin despedirse. Cerrando la conexión.")

    def lost(self, peer: Peer, cause: Exception) -> None:
        self._tell(f"Se perdió la conexión con {peer}: {reason(cause)}.")

    def refused(self, peer: Peer) -> None:
        self._tell(f"Conexión rechazada de {peer}: el servidor está completo.")

    def bad_message(self, peer: Peer, bad: BadMessage) -> None:
        cause = bad.__cause__ if isinstance(bad, ServiceFailed) else None
        detail = f" ({type(cause).__name__}: {escape(str(cause))})" if cause else ""
        self._tell(f"Mensaje erróneo de {peer}: {bad}{detail}.")

    def undelivered(self, peer: Peer) -> None:
        self._tell(f"Conexión cortada con {peer}: quedaban respuestas que no había leído.")

    def cannot_accept(self, cause: OSError) -> None:
        self._trouble.tell(reason(cause))

    def handshake_failed(self, peer: Peer, cause: TLSFailed) -> None:
        self._trouble.tell(f"un saludo TLS no se completó: {handshake_failed(cause)}")

    def certificate_reread(self, bad: BadTLSFile | None) -> None:
        self._tell(
            f"Se sigue con el certificado de antes. {bad_tls_file(bad)}"
            if bad
            else "Certificado leído otra vez: las conexiones nuevas usan el nuevo."
        )


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """El programa. ``argv``: sus argumentos, o los del proceso. Devuelve el código de salida."""
    try:
        answer_interrupts()
        prepare_streams()
        return run(_serve(_options(_parser(prog), argv)))
    except KeyboardInterrupt:  # antes de atender señales: aún no había nada que entregar
        return OK
    finally:
        close_output()


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = SpanishParser(prog, "Servidor de mensajes por TCP: responde cada mensaje en mayúsculas.", _EPILOG)
    parser.add_argument("--host", type=host_name, default=_HOST, help="dirección donde escuchar (%(default)s)")
    parser.add_argument("--puerto", type=port_number(0), default=_PORT, help="puerto; 0 toma uno libre (%(default)s)")
    for option, text in (
        ("--tls-cert", "certificado con que cifrar; se lee otra vez si cambia"),
        ("--tls-clave", "su clave, si no está en el mismo fichero"),
        ("--tls-ca", "solo entra quien trae un certificado firmado por estos"),
    ):
        parser.add_argument(option, type=file_name, metavar="FICHERO", help=text)
    return parser


def _options(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    options = parser.parse_args(argv)
    for option in ("tls_clave", "tls_ca"):
        if getattr(options, option) is not None and options.tls_cert is None:
            parser.error(f"--{option.replace('_', '-')} necesita --tls-cert")
    return options


async def _serve(options: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    screen = _Screen(loop)
    trouble = _Trouble(screen, loop)
    loop.set_exception_handler(trouble)
    try:
        tls = ServerTLS(options.tls_cert, options.tls_clave, options.tls_ca) if options.tls_cert else None
    except BadTLSFile as error:
        complain(bad_tls_file(error))
        return FAILED
    server = Server(host=options.host, port=options.puerto, observer=_Reporter(screen, trouble), tls=tls)
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            server.cut()
        stop.set()

    _handle_signals(loop, on_signal)
    try:
        await server.start()
    except NetworkError as error:
        complain(listening_failed(error))
        return FAILED
    if (options.host, options.puerto) == (_HOST, _PORT):
        screen.tell("Servidor escuchando...")
    else:
        where = " y ".join(format_address(*address) for address in server.addresses)
        screen.tell(f"Servidor escuchando en {where}...")
    if not tls and not all(ipaddress.ip_address(host).is_loopback for host, _ in server.addresses):
        screen.tell(
            "Aviso: fuera de esta máquina, sin cifrar, cualquiera por el camino lee y cambia los mensajes. Cifra con "
            "--tls-cert y --tls-clave."
        )
    await stop.wait()
    loop.set_exception_handler(lambda *_: None)  # acabando, lo que asyncio dejó aplazado ya no le importa a nadie
    if is_terminal(sys.stdout):
        screen.tell("")  # detrás de «^C»
    if server.conversations:
        screen.tell(f"Deteniendo el servidor: {_count(server.conversations, 'conexión')} por cerrar...")
    cut = await server.drain()
    _ignore_signals(loop)
    screen.tell(f"Servidor detenido con {_count(cut, 'conexión')} sin entregar todo." if cut else "Servidor detenido.")
    screen.flush()
    return FAILED if cut else OK


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun.removesuffix('ón')}ones"


def _handle_signals(loop: asyncio.AbstractEventLoop, handler: Callable[[], None]) -> None:
    for number in _SIGNALS:
        try:
            loop.add_signal_handler(number, handler)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(handler))


def _ignore_signals(loop: asyncio.AbstractEventLoop) -> None:
    """Ya no queda nada que cortar antes: otra señal solo estropearía el final."""
    for number in _SIGNALS:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


class _Trouble:
    """Cuenta lo que falló fuera de una conversación (aceptar sin descriptores, casi siempre)."""

    def __init__(self, screen: _Screen, loop: asyncio.AbstractEventLoop) -> None:
        self._screen = screen
        self._loop = loop
        self._last = ""
        self._quiet_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Lo que asyncio no supo a quién contar."""
        cause = context.get("exception")
        if isinstance(cause, OSError) and cause.errno == errno.ENOTCONN:
            return  # el cliente cortó mientras se le cerraba: ya no hay nada que entregarle
        self.tell(reason(cause) or escape(str(context.get("message"))))

    def tell(self, text: str) -> None:
        """Dice que falló ``text``; lo mismo repetido, de vez en cuando."""
        now = self._loop.time()
        if text != self._last or now >= self._quiet_until:
            self._last, self._quiet_until = text, now + _SAME_TROUBLE_EVERY
            self._screen.tell(f"Algo falló y se sigue sirviendo: {text}.")
