"""``--comprobar``: si lo que se pide vale, sin escuchar ni servir. Para antes de recargar, o de arrancar.

Las opciones ya las miró ``parser.py``; aquí, lo que nombran: el servicio, los ficheros de TLS y lo que hace falta para
las métricas. No si el puerto está libre: mientras el servidor está en marcha, no lo está.
"""

from __future__ import annotations

import contextlib

from ..errors import BadService, BadTLSFile
from .metrics import CannotMeasure, need_prometheus
from .output import only_ours
from .sentences import bad_service, bad_tls_file
from .serving import FAILED, OK, Launch, end_anyway, load, tls_of
from .terminal import INTERRUPTED, close_output, complain, say


def check(launch: Launch) -> int:
    """Dice todo lo que no vale, o que todo vale; devuelve el código de salida."""
    try:
        code = _look_at(launch)
    except KeyboardInterrupt:
        code = INTERRUPTED  # lo que no se acabó de mirar puede no valer
    end_anyway(close_output, code)  # el servicio puede haber dejado un hilo
    return code


def _look_at(launch: Launch) -> int:
    options = launch.options
    wrong = []
    try:
        with only_ours():  # lo que escriba un módulo al importarse no es la respuesta
            load(options)
    except BadService as bad:
        wrong.append(bad_service(bad))
    try:
        tls_of(options)
    except BadTLSFile as bad:
        wrong.append(bad_tls_file(bad))
    try:
        if options.metricas:
            need_prometheus()
    except CannotMeasure as error:
        wrong.append(str(error))
    for line in wrong:
        complain(line)
    if not wrong:
        with contextlib.suppress(OSError):  # si la salida no lo admite, queda el código
            say("Todo vale: las opciones y lo que nombran.")
    return FAILED if wrong else OK
