"""``deploy/`` de verdad: construye la imagen, la ejecuta, y prueba las unidades en un systemd dentro de otra.

Se ejecuta a mano (``python3 -m tools.try_deploy``), en Debian y siendo root: descarga, tarda unos minutos, y no todas
las máquinas dejan hacer contenedores. Lo que se puede probar en cualquiera está en ``tests/test_deploy_*.py``.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNITS = ROOT / "deploy" / "systemd"
IMAGE, BASE, MACHINE = "comunicacion-tcp", "comunicacion-tcp-base", "comunicacion-tcp-systemd"
NAME = "comunicacion-tcp-prueba"
CLIENT = "/opt/comunicacion_tcp/bin/cliente-tcp"
_PATIENCE = 60.0  # segundos que se espera a que algo pase
_LIMITS = ["--ulimit", "nofile=16384:16384", "--ulimit", "nproc=4096:4096"]  # los de una máquina sin CAP_SYS_RESOURCE
_DEBIAN = "python3,python3-venv,ca-certificates"
# Un cliente que envía hasta que el servidor no le admite más, y no lee nada.
_NEVER_READS = """
import socket, time
sock = socket.create_connection(("127.0.0.1", 5000))
sock.settimeout(1)
try:
    while True:
        sock.sendall(b"hola\\n" * 1000)
except OSError:
    print("lleno", flush=True)
time.sleep(60)
"""
_HARDENED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]


class Podman:
    """La orden ``podman``, siempre con el mismo programa que crea los contenedores."""

    def __init__(self, runtime: str) -> None:
        self._command = ["podman", "--runtime", runtime]

    def __call__(self, *arguments: str, fails: bool = False, entry: bytes | None = None) -> str:
        """Lo que escribe. Si acaba mal, ``SystemExit``; con ``fails``, si acaba bien."""
        command = [*self._command, *arguments]
        done = subprocess.run(command, input=entry, capture_output=True, timeout=600)
        if bool(done.returncode) != fails:
            text = (done.stdout + done.stderr).decode(errors="replace")
            sys.exit(f"mal: {shlex.join(command)}\n{text}")
        return done.stdout.decode().strip()


def main() -> None:
    """El programa."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", help="imagen con Python de la que partir; sin ella, una hecha con debootstrap")
    parser.add_argument("--runtime", default="runc" if shutil.which("runc") else "crun", help="runc o crun")
    parser.add_argument("--build", default="", help="más opciones para podman build (certificados, red...)")
    options = parser.parse_args()
    podman = Podman(options.runtime)
    with tempfile.TemporaryDirectory() as folder:
        if not options.base:
            make_base(podman, Path(folder) / "base", BASE, _DEBIAN)
        build(podman, options.base or BASE, options.build)
        try_image(podman)
        make_base(
            podman,
            Path(folder) / "systemd",
            f"{MACHINE}-base",
            f"{_DEBIAN},systemd,dbus,libpam-systemd,procps,iproute2",
        )
        try_units(podman, Path(folder))


def make_base(podman: Podman, folder: Path, name: str, packages: str) -> None:
    """Una imagen con un Debian mínimo y ``packages``: sin registro de imágenes del que traer otra."""
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as tar:
        assert tar.stdout
        podman("import", "-", name, entry=tar.stdout.read())
    shutil.rmtree(folder)
    good(f"base {name}")


def build(podman: Podman, base: str, extra: str) -> None:
    """La imagen, con la receta de verdad."""
    recipe = str(ROOT / "deploy" / "container" / "Containerfile")
    options = ["--format", "docker", "--build-arg", f"BASE={base}", *_LIMITS, *shlex.split(extra)]
    podman("build", *options, "--tag", IMAGE, "--file", recipe, str(ROOT))
    good("la imagen se construye")


def try_image(podman: Podman) -> None:
    """Que sirve sin root ni disco, que su sonda distingue, y que acaba bien."""
    for arguments in (["--procesos", "2"], ["--nivel", "info"]):
        podman("run", "--detach", "--rm", "--name", NAME, *_HARDENED, *_LIMITS, IMAGE, *arguments)
        try:
            wait_until(lambda: '"listening"' in podman("logs", NAME), "que escuche")
            same(podman("exec", NAME, "cliente-tcp", "--host", "127.0.0.1", "hola señor"), "HOLA SEÑOR")
            podman("healthcheck", "run", NAME)
            same(podman("exec", NAME, "id", "-u"), "65532")
            podman("exec", NAME, "touch", "/nada", fails=True)
            started = time.monotonic()
        finally:
            podman("stop", "--time", "30", NAME)
        good(f"la imagen con {shlex.join(arguments)}: sirve, su sonda va y para en {time.monotonic() - started:.1f} s")
    podman("run", "--detach", "--name", NAME, *_LIMITS, "--entrypoint", "sleep", IMAGE, "60")
    try:
        podman("healthcheck", "run", NAME, fails=True)
    finally:
        podman("rm", "--force", "--time", "0", NAME)
    good("sin servidor, la sonda lo dice")


def try_units(podman: Podman, folder: Path) -> None:
    """Las unidades, en un systemd de verdad."""
    recipe = [
        f"FROM {IMAGE} AS app",
        f"FROM {MACHINE}-base",
        "COPY --from=app /opt/comunicacion_tcp /opt/comunicacion_tcp",
        "COPY servidor-tcp.service servidor-tcp.socket /etc/systemd/system/",
        "COPY servidor-tcp.conf /etc/",
    ]
    (folder / "Containerfile").write_text("\n".join(recipe), encoding="utf-8")
    podman("build", *_LIMITS, "--tag", MACHINE, "--file", str(folder / "Containerfile"), str(UNITS))
    podman(*["run", "--detach", "--name", NAME, "--systemd=always", "--privileged", *_LIMITS], MACHINE, "/sbin/init")
    try:
        _try_units(lambda script: podman("exec", "--env", "LANG=C.UTF-8", NAME, "sh", "-ec", script))
    finally:
        podman("rm", "--force", "--time", "0", NAME)


def _try_units(run: Callable[[str], str]) -> None:
    wait_until(lambda: run("systemctl is-system-running || true") in ("running", "degraded"), "que systemd arranque")
    run("mount --make-rshared /")  # en una máquina lo hace systemd; en un contenedor no, y LoadCredential= lo necesita

    def show(name: str) -> str:
        return run(f"systemctl show --property={name} --value servidor-tcp")

    run("systemctl start servidor-tcp")
    same(run(f"{CLIENT} hola"), "HOLA")
    wait_until(lambda: show("StatusText").startswith("Sirve"), "que cuente cómo va")
    status = run(f"cat /proc/{show('MainPID')}/status")
    for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"):
        contains(status, line)
    good(f"el servicio arranca con todo cerrado: {run('systemd-analyze security servidor-tcp').splitlines()[-1]}")

    before = show("MainPID")
    run("systemctl reload servidor-tcp")
    same(show("MainPID"), before)
    same(show("ActiveState"), "active")
    contains(run("journalctl --unit servidor-tcp"), "Reloaded servidor-tcp.service")
    same(run(f"{CLIENT} hola"), "HOLA")
    run("cp /etc/servidor-tcp.conf /tmp/buena.conf; echo 'puerto = mil' >> /etc/servidor-tcp.conf")
    contains(run("systemctl reload servidor-tcp 2>&1 || echo FALLA"), "FALLA")
    contains(run("journalctl --unit servidor-tcp"), "puerto")
    run("cp /tmp/buena.conf /etc/servidor-tcp.conf; systemctl reload servidor-tcp")
    same(show("MainPID"), before)
    same(run(f"{CLIENT} hola"), "HOLA")
    good("se recarga; y con algo mal, lo dice y sigue")

    run("kill -9 $(systemctl show --property=MainPID --value servidor-tcp)")
    wait_until(lambda: show("NRestarts") == "1" and show("ActiveState") == "active", "que vuelva tras un kill -9")
    drop_in(run, "perro.conf", "[Service]\nWatchdogSec=2\n")
    run("systemctl restart servidor-tcp")
    run("kill -STOP $(systemctl show --property=MainPID --value servidor-tcp)")
    wait_until(lambda: show("NRestarts") == "1" and show("ActiveState") == "active", "que vuelva tras atascarse")
    contains(run("journalctl --unit servidor-tcp"), "Watchdog timeout")
    drop_in(run, "perro.conf", "")
    run("systemctl stop servidor-tcp")
    same(show("Result"), "success")
    good("muerto o atascado, vuelve; y para bien")

    run("systemctl start servidor-tcp")
    run(f"python3 -c {shlex.quote(_NEVER_READS)} >/tmp/lleno 2>&1 &")
    wait_until(lambda: run("cat /tmp/lleno") == "lleno", "que el servidor no admita más de quien no lee")
    run("systemctl stop servidor-tcp")
    contains(run("journalctl --unit servidor-tcp"), "sin entregar todo")
    same(show("Result"), "success")  # de un servicio que falló, sería «exit-code»
    good("corta a quien no lee, y no por eso queda como fallido")

    run("sed -i 's/^host = .*/host = 10.77.0.1/' /etc/servidor-tcp.conf")
    run("systemctl start servidor-tcp || true")
    wait_until(lambda: int(show("NRestarts")) > 5, "que insista, aunque la dirección no esté")
    run("ip address add 10.77.0.1/32 dev lo")
    wait_until(lambda: show("ActiveState") == "active", "que arranque cuando está la dirección")
    same(run(f"{CLIENT} --host 10.77.0.1 hola"), "HOLA")
    run("systemctl stop servidor-tcp; sed -i 's/^host = .*/host = 0.0.0.0/' /etc/servidor-tcp.conf")
    good("una dirección que llega tarde la espera")

    run("systemctl start servidor-tcp.socket")
    same(run(f"{CLIENT} por socket"), "POR SOCKET")
    asked = 100
    loop = f"for i in $(seq {asked}); do {CLIENT} mensaje || echo FALLO; done >/tmp/salida 2>&1"
    again = "for i in 1 2 3; do sleep 0.5; systemctl restart servidor-tcp; done"
    run(f"({loop}) & {again}; wait")
    same(run("sort /tmp/salida | uniq --count | tr --squeeze-repeats ' '"), f"{asked} MENSAJE")
    good(f"con los puertos de systemd, {asked} clientes y tres reinicios por medio: ninguno lo nota")

    run("systemctl stop servidor-tcp.socket servidor-tcp.service")
    page = (UNITS / "README.md").read_text(encoding="utf-8")
    drop_in(run, "sin-red.conf", page.partition("# sin-red.conf\n")[2].partition("```")[0])
    run("systemctl start servidor-tcp.socket")
    same(run(f"{CLIENT} sin red"), "SIN RED")
    good(f"sin red propia: {run('systemd-analyze security servidor-tcp').splitlines()[-1]}")

    subject = "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    run("mkdir --mode=700 /etc/servidor-tcp")
    run(
        "cd /etc/servidor-tcp; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 "
        f"{subject} -keyout clave.pem -out cert.pem 2>/dev/null; chmod 600 clave.pem"
    )
    drop_in(run, "tls.conf", page.partition("# tls.conf\n")[2].partition("```")[0])
    run("systemctl restart servidor-tcp")
    same(run(f"{CLIENT} --tls --tls-ca /etc/servidor-tcp/cert.pem cifrado"), "CIFRADO")
    run("systemctl reload servidor-tcp")
    same(run(f"{CLIENT} --tls --tls-ca /etc/servidor-tcp/cert.pem cifrado"), "CIFRADO")
    good("con TLS, y la clave que solo lee root; también tras recargar")


def drop_in(run: Callable[[str], str], name: str, text: str) -> None:
    """Pone ``text`` en las modificaciones del servicio."""
    place = "/etc/systemd/system/servidor-tcp.service.d"
    run(f"mkdir -p {place}; printf %s {shlex.quote(text)} >{place}/{name}; systemctl daemon-reload")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Vuelve cuando se cumple; si tarda, ``SystemExit`` diciendo qué faltó."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"mal: no llegó a cumplirse: {what}")
        time.sleep(0.2)


def same(found: str, wanted: str) -> None:
    """Si no son lo mismo, ``SystemExit``."""
    if found.strip() != wanted:
        sys.exit(f"mal: se esperaba {wanted!r} y salió {found!r}")


def contains(text: str, part: str) -> None:
    """Si no está, ``SystemExit``."""
    if part not in text:
        sys.exit(f"mal: falta {part!r} en {text!r}")


def good(what: str) -> None:
    """Lo cuenta."""
    print(f"bien: {what}", flush=True)


if __name__ == "__main__":
    main()
