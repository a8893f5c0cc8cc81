# -*- coding: utf-8 -*-
"""El servidor, sin instalar nada: ``python3 Servidor_TCP.py``. Todo lo que hace está en ``comunicacion_tcp``."""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # hasta que el programa lo atienda, Ctrl-C acaba y no se queja

import comunicacion_tcp  # noqa: E402, F401 - antes que nada, pregunta por la versión de Python
from comunicacion_tcp.cli.server import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
