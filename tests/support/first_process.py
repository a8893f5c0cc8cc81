"""El servidor como en un contenedor, sin contenedores: proceso 1, sin root ni privilegios, y con todo el disco de solo
lectura.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .examples import ROOT
from .loops import python_path
from .programs import Program
from .tools import missing
from .waiting import wait_until

NOBODY = 65532  # el usuario de la imagen
_TOOLS = ("unshare", "setpriv", "mount", "sh")
# El repositorio y Python pueden estar en carpetas en las que ese usuario no entra: se ponen donde sí.
_PREPARE = """
set -e
mount -t tmpfs none /mnt
mkdir /mnt/app /mnt/python /mnt/extra
mount --bind "$1" /mnt/app
mount --bind "$2" /mnt/python
mount --bind "$3" /mnt/extra
mount -t tmpfs -o ro none /tmp
for place in /mnt /mnt/app /mnt/python /mnt/extra /; do mount -o remount,bind,ro "$place"; done
shift 3
cd /
exec setpriv --reuid NOBODY --regid NOBODY --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
""".replace("NOBODY", str(NOBODY))


@contextlib.contextmanager
def first_process(extra: Path, *options: str, until: str = "Servidor escuchando") -> Iterator[tuple[Program, int]]:
    """El servidor, en cuanto escribe ``until``, también si es con los errores, y el número que tiene fuera. ``extra``:
    una carpeta de la que puede importar un servicio."""
    if os.geteuid() or not all(map(shutil.which, _TOOLS)):
        missing("hacen falta root y unshare")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode:
        missing("el sistema no deja crear espacios de nombres")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    server = [f"/mnt/python/bin/{version}", "-B", "/mnt/app/Servidor_TCP.py", "--host", "127.0.0.1", "--puerto", "0"]
    prepare = ["sh", "-c", _PREPARE, "sh", str(ROOT), sys.base_prefix, str(extra)]
    alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
    path = ":".join(["/mnt/extra", *python_path().values()]).replace(str(ROOT), "/mnt/app")
    # Un Python que no es el del sistema puede buscar su biblioteca donde ese usuario no entra.
    env = {"PYTHONPATH": path, "LD_LIBRARY_PATH": "/mnt/python/lib"}
    with Program([*alone, *prepare, *server, *options], env=env) as program:
        try:
            wait_until(
                lambda: until in program.output + program.errors,
                lambda: f"que diga {until!r}; dijo {program.output!r} {program.errors!r}",
            )
            (pid,) = children(program.process.pid)
            yield program, pid
        finally:
            # Con el proceso 1 acaban todos los de su espacio. A él no lo mata que muera unshare: ya no es de root.
            for pid in children(program.process.pid):
                os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Los procesos cuyo padre es ``pid``, también los muertos que nadie ha recogido."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # acabó mientras se miraba
                # Detrás del nombre, que va entre paréntesis y puede llevarlos: estado y padre (proc(5)).
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(folder.name))
    return found


def end(program: Program, pid: int, number: signal.Signals) -> int:
    """Le envía una señal desde fuera de su espacio, y espera a que acabe: su código de salida."""
    os.kill(pid, number)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "que acabe")
    return program.wait()
