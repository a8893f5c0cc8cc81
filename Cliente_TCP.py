# -*- coding: utf-8 -*-
"""El cliente, sin instalar nada: ``python3 Cliente_TCP.py``. Todo lo que hace está en ``comunicacion_tcp``."""

import sys

import comunicacion_tcp  # noqa: F401 - antes que nada, pregunta por la versión de Python
from comunicacion_tcp.cli.client import main

if __name__ == "__main__":
    sys.exit(main())
