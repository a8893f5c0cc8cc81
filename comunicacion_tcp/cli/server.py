"""``servidor-tcp``: escucha, sirve mayúsculas y cuenta lo que pasa, una línea cada vez.

Aquí están las opciones. Servir es de ``serving.py``; hacerlo con varios procesos, de ``processes.py``.
"""

from __future__ import annotations

import argparse

from ..proxy_header import Trusted
from ..server import THREADS
from ..supervision import CUT_SHORT
from ..supervisor import CAN_FORK
from .log import FORMATS, LEVELS
from .parser import SpanishParser, host_and_port, host_name, one_of, port_number, whole_number
from .serving import AUTO, FAILED, HOST, OK, PORT, USAGE, Launch, serve
from .settings import SERVER_LIMITS, add_limits, chosen_limits
from .terminal import INTERRUPTED, answer_interrupts, close_output, prepare_streams

_MOST_THREADS = 1000  # con más, los hilos se estorban y el sistema puede no darlos: para eso está async def
_MOST_PROCESSES = 1024  # más que procesadores tienen casi todas las máquinas: otra cifra es un error al teclear
_EPILOG = """\
Ctrl-C o SIGTERM lo detienen: deja de aceptar, entrega lo debido y termina. La segunda vez, corta ya.
Con --procesos, SIGHUP lee otra vez la configuración, el certificado y el servicio, sin cortar a nadie.
Cada opción puede ir en el entorno: --puerto 7000 es SERVIDOR_TCP_PUERTO=7000. Y en el fichero de
--configuracion: puerto = 7000. La orden manda sobre el entorno, y el entorno sobre el fichero.
"""
_EXIT_CODES = {
    OK: "se detuvo porque se le pidió, o todo vale (--comprobar)",
    FAILED: "no pudo empezar (puerto ocupado, sin permiso, dirección ajena, un certificado o un servicio que no "
    "sirven)",
    USAGE: "opciones equivocadas",
    CUT_SHORT: "se detuvo, y tuvo que cortar conversaciones",
    INTERRUPTED: "Ctrl-C antes de acabar de comprobar (--comprobar)",
}


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """El programa. ``argv``: sus argumentos, o los del proceso. Devuelve el código de salida."""
    try:
        answer_interrupts()
        prepare_streams()
        launch = _read(argv, prog)
        if "comprobar" in launch.options:
            from .checking import check  # no hace falta para servir

            return check(launch)
        if not launch.options.procesos:
            return serve(launch)
        from .processes import in_processes  # lo que solo hace falta con varios, y no está en todos los sistemas

        outcome = in_processes(launch, lambda: _read(argv, prog))
        return outcome if isinstance(outcome, int) else serve(*outcome)
    except KeyboardInterrupt:  # antes de atender señales: aún no había nada que entregar
        return OK
    finally:
        close_output()


def _read(argv: list[str] | None, prog: str | None) -> Launch:
    """Lo que se pide en la orden, en el entorno y en el fichero. Si está mal, se dice y acaba, con un 2."""
    parser = _parser(prog)
    options = parser.parse_args(argv)
    parser.require(options, "--tls-cert", "--tls-clave", "--tls-ca")
    parser.require(options, "--servicio", "--recargar")
    if options.procesos and not CAN_FORK:
        parser.error("--procesos necesita un sistema con fork, como Linux o macOS; sin ella sirve un solo proceso")
    return Launch(options, chosen_limits(parser, options, SERVER_LIMITS))


def _parser(prog: str | None) -> SpanishParser:
    about = "Servidor de mensajes por TCP: responde cada mensaje en mayúsculas, o con la función de --servicio."
    parser = SpanishParser(prog, about, _EPILOG, "SERVIDOR_TCP_", _EXIT_CODES)
    where = "dirección donde escuchar, o unix:RUTA para un socket de Unix (%(default)s)"
    parser.add_argument("--host", type=host_name, default=HOST, help=where)
    parser.add_argument("--puerto", type=port_number(0), default=PORT, help="puerto; 0 toma uno libre (%(default)s)")
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
        "--procesos",
        type=number_of_processes,
        metavar="N",
        help="procesos que sirven a la vez, con otro que repone al que muere y, con SIGHUP, los cambia a todos por "
        "otros; auto, uno por procesador (sin ella, uno y sin nadie más)",
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
    parser.add_argument(
        "--proxy-de",
        type=networks,
        metavar="REDES",
        help="direcciones o redes, con comas (10.0.0.1,fd00::/8, o unix), de los balanceadores que hay delante: cada "
        "conexión debe empezar por una cabecera PROXY, que solo se les cree a ellos y dice de qué cliente es",
    )
    parser.add_argument(
        "--admite-http",
        action="store_true",
        help="atiende también a quien empieza por una petición de HTTP; sin ella se le cierra, para que ninguna página "
        "web pueda enviar mensajes con el navegador de quien la mira",
    )
    parser.add_configuration()
    # Sin valor si no se da: así no se puede pedir en el entorno ni en el fichero, donde impediría servir sin decirlo.
    parser.add_argument(
        "--comprobar",
        action="store_true",
        default=argparse.SUPPRESS,
        help="dice si las opciones, el servicio y los certificados valen, y termina sin servir",
    )
    add_limits(parser, SERVER_LIMITS)
    return parser


def number_of_processes(text: str) -> int | str:
    """El tipo de ``--procesos``: un número, o ``auto``."""
    try:
        return text if text == AUTO else whole_number(1, _MOST_PROCESSES)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, ni {AUTO}") from None


def networks(text: str) -> list[str]:
    """El tipo de ``--proxy-de``: direcciones y redes, separadas por comas."""
    names = [name.strip() for name in text.split(",")]
    try:
        Trusted(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"son redes separadas por comas, y {error}") from None
    return names
