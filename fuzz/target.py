"""Lo que atheris ejecuta: ``check``, mirando por dónde pasa en el protocolo y los servicios. Lo lanza ``run.py``.

Se instrumentan esas dos piezas y nada más: lo demás (el modelo, las pruebas) solo haría cada entrada más lenta.
"""

from __future__ import annotations

import shlex
import sys

import atheris

with atheris.instrument_imports(include=["comunicacion_tcp.protocol", "comunicacion_tcp.services"]):
    import comunicacion_tcp.protocol  # noqa: F401  # antes que nadie: lo ya importado no se instrumenta

from .check import check

if __name__ == "__main__":
    # libFuzzer se lanza a sí mismo con el primer argumento, tal cual, en una shell.
    atheris.Setup([f"{shlex.quote(sys.executable)} -m fuzz.target", *sys.argv[1:]], check)
    atheris.Fuzz()
