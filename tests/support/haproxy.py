"""HAProxy de verdad, con los ficheros de ``deploy/haproxy``: solo cambian los puertos, las rutas y el tamaño."""

from __future__ import annotations

import contextlib
import csv
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .examples import ROOT
from .programs import Program
from .sockets import free_port
from .tools import need
from .waiting import PATIENCE, wait_until

DEPLOY = ROOT / "deploy" / "haproxy"
_SERVERS = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]
_ATTEMPTS = 5  # el puerto libre que se le da puede tomarlo otro antes que él


class Balancer:
    """Un HAProxy en marcha. ``port``: donde atiende; ``folder``, donde está su socket."""

    def __init__(self, program: Program, folder: Path, ports: dict[str, int]) -> None:
        self.program = program
        self.socket = str(folder / "admin.sock")
        self.ports = ports

    @property
    def port(self) -> int:
        """El de los clientes sin cifrar."""
        return self.ports["5000"]

    def starts(self) -> bool:
        """Espera a que atienda; si no puede, no."""
        wait_until(lambda: self.program.process.poll() is not None or self._answers(), "que arranque HAProxy")
        return self.program.process.poll() is None

    def _answers(self) -> bool:
        try:
            return bool(self.ask("show info"))
        except OSError:
            return False

    def ask(self, command: str) -> str:
        """Lo que responde por su socket a ``command``."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(self.socket)
            sock.sendall(command.encode() + b"\n")
            answer = b""
            while more := sock.recv(65536):
                answer += more
        return answer.decode().strip()

    def stat(self, server: str, backend: str = "servidores") -> dict[str, str]:
        """Lo que dice de un servidor (``show stat``); vacío si no lo conoce."""
        lines = self.ask("show stat").removeprefix("# ").splitlines()
        for row in csv.DictReader(lines):
            if (row["pxname"], row["svname"]) == (backend, server):
                return row
        return {}

    def wait_for(self, server: str, status: str, backend: str = "servidores") -> None:
        """Espera a que ``server`` esté ``status``: ``"UP"``, ``"DOWN"``, ``"DRAIN"``."""
        what = f"que {server} esté {status}; {self.program.output} {self.program.errors}"
        wait_until(lambda: self.stat(server, backend)["status"].split()[0] == status, what)

    def wait_for_all(self, backend: str = "servidores") -> None:
        """Espera a que los tres respondan a sus preguntas."""
        for server in ("uno", "dos", "tres"):
            self.wait_for(server, "UP", backend)
            self._wait_until_checked(server, backend)

    def _wait_until_checked(self, server: str, backend: str) -> None:
        wait_until(lambda: self.stat(server, backend)["check_status"] == "L7OK", f"que {server} responda")


def configured(folder: Path, name: str, changes: dict[str, str]) -> str:
    """El fichero ``name`` de ``deploy/haproxy`` con esos cambios, cada uno en un solo sitio: su ruta."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, (name, old)
        text = text.replace(old, new)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@contextlib.contextmanager
def balancing(
    servers: Sequence[int], *, cert: str = "", passed_through: bool = False, options: str = "", patience: str = "2m"
) -> Iterator[Balancer]:
    """Un HAProxy delante de los tres servidores que hay en esos puertos de 127.0.0.1. ``cert``: con el que cifra él.
    ``passed_through``: si los que cifran son ellos. ``options``: más, para cada servidor.
    ``patience``: su ``tcp-ut``, el plazo de un cliente que no lee."""
    with tempfile.TemporaryDirectory(prefix="haproxy-") as name, contextlib.ExitStack() as stack:
        for attempt in range(1, _ATTEMPTS + 1):
            ports = {number: free_port() for number in ("5000", "5002", "5003")}
            files = _files(Path(name), servers, ports, cert, passed_through, options, patience)
            command = [need("haproxy"), "-db", *(part for file in files for part in ("-f", file))]
            balancer = Balancer(stack.enter_context(Program(command)), Path(name), ports)
            if balancer.starts() or attempt == _ATTEMPTS:
                break
        assert balancer.starts(), balancer.program.errors
        yield balancer


def _files(
    folder: Path,
    servers: Sequence[int],
    ports: dict[str, int],
    cert: str,
    passed_through: bool,
    options: str,
    patience: str,
) -> list[str]:
    def bind(port: str) -> dict[str, str]:
        return {f"    bind :{port} tcp-ut 2m": f"    bind 127.0.0.1:{ports[port]} tcp-ut {patience}"}

    def real(inside: str) -> dict[str, str]:
        """Los servidores, que en el fichero atienden en el puerto ``inside``."""
        return {
            f"{host}:{inside}": f"127.0.0.1:{there} {options}" for host, there in zip(_SERVERS, servers, strict=True)
        }

    changes = {
        "/run/haproxy/admin.sock user haproxy group haproxy": str(folder / "admin.sock"),
        "    chroot /var/lib/haproxy\n    user haproxy\n    group haproxy\n": "",
        "log /dev/log local0": "log stdout format raw local0",
        "maxconn 28000": "maxconn 500",  # los descriptores de quien prueba
        **bind("5000"),
        **real("5000"),
    }
    files = [configured(folder, "haproxy.cfg", changes)]
    if cert:
        files.append(configured(folder, "tls.cfg", {"/etc/haproxy/mensajes.pem": cert, **bind("5002")}))
    if passed_through:
        files.append(configured(folder, "tls-de-paso.cfg", {**bind("5003"), **real("5443")}))
    return files
