"""``cliente-tcp``: sus opciones, qué hace con ellas y con qué código acaba.

Cada modo está en su fichero y se carga solo el que se usa: el diálogo con la persona (``dialogue.py``), un mensaje
(``one_shot.py``), el mismo muchas veces (``repeat.py``), una tubería (``pipe.py``) y un programa (``lines.py``).
Conectar, enviar y esperar es de ``comunicacion_tcp/client.py``.
"""

from __future__ import annotations

import errno
import gc
import signal
import sys

from ..addresses import unix_path
from ..client import Client
from ..errors import BadTLSFile, MessageError, NetworkError, TimedOut
from ..limits import LARGEST, Limits
from ..protocol import GOODBYE, ClientProtocol
from .plain import plain_pipe
from .sentences import bad_tls_file, conversation_failed, reason
from .terminal import INTERRUPTED, answer_interrupts, close_output, complain, escape, prepare_streams, say

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    import argparse
    import ssl

    from .parser import SpanishParser

OK, NETWORK, USAGE, SERVER_ERROR = 0, 1, 2, 3

_PING_INTERVAL = 1.0  # segundos entre dos mensajes repetidos: los de ping

_EPILOG = f"""\
Con un MENSAJE (varias palabras son uno) escribe su respuesta sola y acaba; uno que empiece por guion va detrás de --.
Sin él, cada línea de la entrada es un mensaje. Con {GOODBYE}, o al acabar la entrada (Ctrl-D), el cliente se despide.
En una terminal, las flechas, Ctrl-R y el tabulador traen mensajes anteriores; con un espacio delante no se guardan.
Con -q no se espera a cada respuesta: se envía todo seguido y se escribe lo que responde el servidor, byte a byte.
Nada espera sin plazo al servidor; a una entrada que sigue abierta y calla sí: por cron, mejor un MENSAJE o </dev/null.
Cada opción puede ir en el entorno: --puerto 7000 es CLIENTE_TCP_PUERTO=7000. La orden manda.

ejemplos:
  cliente-tcp                                    un diálogo con localhost:5000
  cliente-tcp --host 192.0.2.7 "MEAS:VOLT?"      un mensaje y su respuesta
  cliente-tcp -q < entrada.txt > salida.txt      un fichero entero
  cliente-tcp --repetir 10 hola                  cuánto tarda
"""
_EXIT_CODES = {
    OK: "la conversación acabó bien",
    NETWORK: "falló la red (sin servidor, conexión perdida, sin respuesta), el cifrado, no se pudo escribir la "
    "salida, o el servidor dijo algo que no se le preguntó",
    USAGE: "opciones equivocadas, o un MENSAJE que no se puede enviar",
    SERVER_ERROR: "con MENSAJE o --json, alguna respuesta empieza por «ERROR: » (un servicio también puede decir eso) "
    "o alguna línea no se pudo enviar",
    INTERRUPTED: "interrumpido con Ctrl-C",
}


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """El programa. ``argv``: sus argumentos, o los del proceso. Devuelve el código de salida."""
    client: Client | None = None
    hint = ""
    try:
        answer_interrupts()
        prepare_streams()
        if sys.stdout is None:  # cerrada (`>&-`): enviar algo cuya respuesta no se va a ver sería perderla
            complain("No se puede seguir: la salida está cerrada. Si no la quieres, llévala a /dev/null.")
            return NETWORK
        place = plain_pipe(sys.argv[1:] if argv is None else argv)
        if place is not None:
            client = _relay()(**place)
            with client:
                _pour(client)
            return OK
        parser = _parser(prog)
        options = _options(parser, argv)
        if _is_dialogue(options):
            hint = f" Para terminar bien, escribe {GOODBYE}."
        kind = _relay() if options.tuberia else Client
        client = kind(
            options.host, options.puerto, limits=_limits(parser, options), tls=_tls(options), greeting=options.saludo
        )
        with client:
            return OK if _converse(client, options) else SERVER_ERROR
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ya se está acabando: otro Ctrl-C solo estropearía el final
        complain(f"\nInterrumpido: la conversación se dejó sin despedida.{hint}{_unanswered(client)}")
        return INTERRUPTED
    except NetworkError as error:
        complain(conversation_failed(error) + _no_greeting(client, error) + _unanswered(client))
        return NETWORK
    except BadTLSFile as error:
        complain(bad_tls_file(error))
        return NETWORK
    except MemoryError:
        complain("No queda memoria: una respuesta no acaba, o es más larga de lo que cabe. Mira qué servidor es.")
        return NETWORK
    except OSError as error:
        # Solo la entrada y la salida llegan hasta aquí. Si quien leía se fue (`| head`), no hay nada que explicar.
        if error.errno != errno.EPIPE:
            complain(f"No se puede seguir: {reason(error)}. Revisa la entrada y la salida del programa.")
        return NETWORK
    finally:
        close_output()
        gc.freeze()  # al acabar, Python no repasa todo lo cargado en busca de basura: son 2 ms


def _is_dialogue(options: argparse.Namespace) -> bool:
    return not (options.tuberia or options.json or options.message is not None)


def _converse(client: Client, options: argparse.Namespace) -> bool:
    """La conversación entera, en el modo elegido. Devuelve si no hubo errores del servidor que contar."""
    if options.tuberia:
        _pour(client)
        return True
    if options.repetir is not None:
        from .repeat import send_again

        interval = _PING_INTERVAL if options.intervalo is None else options.intervalo
        return send_again(client, options.message, options.repetir, interval, as_json=options.json)
    if options.message is not None:
        from .one_shot import send_one

        return send_one(client, options.message, as_json=options.json)
    if options.json:
        from .lines import send_lines

        return send_lines(client)
    from .dialogue import converse

    say(f"Conectado al servidor en {escape(client.address)}")
    converse(client, keep_history=not options.sin_historial)
    return True


def _pour(client: Client) -> None:
    from .pipe import pour

    pour(client)  # type: ignore[arg-type]  # es el Relay de main


def _parser(prog: str | None) -> SpanishParser:
    from .parser import SpanishParser, host_name, port_number, whole_number
    from .settings import CLIENT_LIMITS, add_limits, seconds

    defaults = Limits()
    parser = SpanishParser(prog, "Cliente de mensajes por TCP.", _EPILOG, "CLIENTE_TCP_", _EXIT_CODES)
    parser.add_argument(
        "--host",
        type=host_name,
        default="localhost",
        help="máquina del servidor, o unix:RUTA si es un socket de Unix (%(default)s)",
    )
    parser.add_argument("--puerto", type=port_number(1), default=5000, help="puerto del servidor (%(default)s)")
    parser.add_argument(
        "--espera",
        type=seconds(),
        metavar="SEGUNDOS",
        help=f"segundos de espera para conectar ({defaults.connect_timeout:g}) y para cada respuesta entera "
        f"({defaults.reply_deadline:g}, y {defaults.reply_timeout:g} sin recibir nada)",
    )
    parser.add_argument(
        "--saludo", action="store_true", help="el servidor habla primero: lo que diga al conectar no es una respuesta"
    )
    parser.add_argument("--sin-historial", action="store_true", help="no guarda los mensajes para la próxima vez")
    parser.add_argument(
        "-q", "--tuberia", action="store_true", help="para tuberías: una respuesta por línea de la entrada, y nada más"
    )
    parser.add_argument("--json", action="store_true", help="para programas: un objeto JSON por respuesta")
    parser.add_argument(
        "--repetir",
        type=whole_number(0, LARGEST),
        metavar="N",
        help="envía el MENSAJE N veces (0: hasta Ctrl-C), o hasta que falle la red, y resume los tiempos, como ping",
    )
    parser.add_argument(
        "--intervalo",
        type=seconds(zero=True),
        metavar="SEGUNDOS",
        help=f"entre el principio de uno y el del siguiente; 0, en cuanto llegue la respuesta ({_PING_INTERVAL:g})",
    )
    parser.add_argument("--tls", action="store_true", help="cifra la conversación y comprueba quién es el servidor")
    parser.add_files(
        {
            "--tls-ca": "certificados en que confiar (los del sistema)",
            "--tls-cert": "certificado de este cliente, si el servidor lo pide",
            "--tls-clave": "su clave, si no está en el mismo fichero",
        }
    )
    add_limits(parser, CLIENT_LIMITS)
    parser.add_argument("words", nargs="*", metavar="MENSAJE", help="lo que se envía, en vez de leer la entrada")
    return parser


def _options(parser: SpanishParser, argv: list[str] | None) -> argparse.Namespace:
    options = parser.parse_args(argv)
    if options.tls and unix_path(options.host) is not None:
        parser.error("--tls no vale con un socket de Unix, que no sale de la máquina")
    parser.require(options, "--tls", "--tls-ca", "--tls-cert", "--tls-clave")
    parser.require(options, "--tls-cert", "--tls-clave")
    options.message = " ".join(options.words) if options.words else None
    _check_mode(parser, options)
    return options


def _limits(parser: SpanishParser, options: argparse.Namespace) -> Limits:
    from .settings import CLIENT_LIMITS, chosen_limits

    wait = dict.fromkeys(("connect_timeout", "handshake_timeout", "reply_timeout", "reply_deadline"), options.espera)
    return chosen_limits(parser, options, CLIENT_LIMITS, **(wait if options.espera else {}))


def _check_mode(parser: SpanishParser, options: argparse.Namespace) -> None:
    """Las opciones que no van juntas, y un mensaje que no se puede enviar, se dicen antes de conectar."""
    for other, given in (("--json", options.json), ("--repetir", options.repetir is not None)):
        if options.tuberia and given:
            parser.error(f"-q y {other} no van juntas")
    if options.tuberia and options.message is not None:
        parser.error("-q lee los mensajes de la entrada: va sin MENSAJE")
    if options.repetir is not None and options.message is None:
        parser.error("--repetir necesita un MENSAJE")
    if options.repetir is not None and options.message == GOODBYE:
        parser.error(f"{GOODBYE} termina la conversación: no se puede repetir")
    if options.intervalo is not None and options.repetir is None:
        parser.error("--intervalo necesita --repetir")
    if options.message is not None and options.message != GOODBYE:
        try:
            ClientProtocol().send(options.message)
        except MessageError as error:
            parser.error(f"ese MENSAJE no se puede enviar: {error}")


def _relay() -> type[Client]:
    from ..relay import Relay

    return Relay


def _no_greeting(client: Client | None, error: NetworkError) -> str:
    silent = isinstance(error, TimedOut) and not error.connecting
    return " Si no saluda al conectar, quita --saludo." * (silent and client is not None and client.greeting_due)


def _unanswered(client: Client | None) -> str:
    """Cuánto se quedó sin respuesta, si se sabe."""
    if client is None or not hasattr(client, "tally"):
        return ""
    from .pipe import unanswered

    return unanswered(client)  # type: ignore[arg-type]  # solo un Relay lleva la cuenta


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.tls:
        return None
    from ..tls import client_context  # y con él ssl: 10 ms que solo paga quien cifra

    return client_context(options.tls_ca, options.tls_cert, options.tls_clave)
