"""``cliente-tcp``: sus opciones, qué hace con ellas y con qué código acaba.

El diálogo con la persona está en ``dialogue.py``; conectar, enviar y esperar es de ``comunicacion_tcp/client.py``.
"""

from __future__ import annotations

import argparse
import errno
import signal

from ..addresses import unix_path
from ..client import Client
from ..errors import BadTLSFile, NetworkError
from ..limits import Limits
from ..protocol import GOODBYE
from .dialogue import converse
from .parser import SpanishParser, host_name, port_number
from .sentences import bad_tls_file, conversation_failed, reason
from .settings import CLIENT_LIMITS, add_limits, chosen_limits, seconds
from .terminal import answer_interrupts, close_output, complain, escape, prepare_streams, say

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    import ssl

OK, NETWORK, USAGE, INTERRUPTED = 0, 1, 2, 130  # 130 = 128 + SIGINT, como en cualquier shell

_EPILOG = f"""\
Cada línea de la entrada es un mensaje. Con {GOODBYE}, o al acabar la entrada (Ctrl-D), el cliente se despide.
Una terminal no deja escribir líneas de más de 4095 bytes: los textos más largos, por una tubería.
Cada opción puede ir en el entorno: --puerto 7000 es CLIENTE_TCP_PUERTO=7000. La orden manda.
"""
_EXIT_CODES = {
    OK: "la conversación acabó bien",
    NETWORK: "falló la red (sin servidor, conexión perdida, sin respuesta), el cifrado, o no se pudo escribir la "
    "salida",
    USAGE: "opciones equivocadas",
    INTERRUPTED: "interrumpido con Ctrl-C",
}


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """El programa. ``argv``: sus argumentos, o los del proceso. Devuelve el código de salida."""
    try:
        answer_interrupts()
        prepare_streams()
        parser = _parser(prog)
        options = _options(parser, argv)
        wait = dict.fromkeys(("connect_timeout", "handshake_timeout", "reply_timeout"), options.espera)
        limits = chosen_limits(parser, options, CLIENT_LIMITS, **(wait if options.espera else {}))
        with Client(options.host, options.puerto, limits=limits, tls=_tls(options)) as client:
            say(f"Conectado al servidor en {escape(client.address)}")
            converse(client)
        return OK
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ya se está acabando: otro Ctrl-C solo estropearía el final
        complain("\nInterrumpido: la conversación se dejó sin despedida. Para terminar bien, escribe DESCONEXION.")
        return INTERRUPTED
    except NetworkError as error:
        complain(conversation_failed(error))
        return NETWORK
    except BadTLSFile as error:
        complain(bad_tls_file(error))
        return NETWORK
    except OSError as error:
        # Solo la entrada y la salida llegan hasta aquí. Si quien leía se fue (`| head`), no hay nada que explicar.
        if error.errno != errno.EPIPE:
            complain(f"No se puede seguir: {reason(error)}. Revisa la entrada y la salida del programa.")
        return NETWORK
    finally:
        close_output()


def _parser(prog: str | None) -> SpanishParser:
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
        help="segundos de espera para conectar y para cada respuesta "
        f"({defaults.connect_timeout:g} y {defaults.reply_timeout:g})",
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
    return parser


def _options(parser: SpanishParser, argv: list[str] | None) -> argparse.Namespace:
    options = parser.parse_args(argv)
    if options.tls and unix_path(options.host) is not None:
        parser.error("--tls no vale con un socket de Unix, que no sale de la máquina")
    parser.require(options, "--tls", "--tls-ca", "--tls-cert", "--tls-clave")
    parser.require(options, "--tls-cert", "--tls-clave")
    return options


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.tls:
        return None
    from ..tls import client_context  # y con él ssl: 10 ms que solo paga quien cifra

    return client_context(options.tls_ca, options.tls_cert, options.tls_clave)
