"""El servidor de verdad como lo arranca systemd: con el ``systemd-socket-activate`` de verdad, o como él lo haría."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from comunicacion_tcp.cli.under_systemd import how_it_goes

from ..support.examples import ROOT
from ..support.programs import SERVER, Program, environment, fails, run, running_server
from ..support.sockets import ask, connect, free_port, receive, receive_all
from ..support.tools import need
from ..support.waiting import PATIENCE, wait_until

# Lo que hace systemd al arrancar un servicio con sockets: ponerlos desde el 3, y decirlo en su entorno.
_GIVE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "mensajes"}
os.execv(sys.argv[2], sys.argv[2:])
"""


def given(sock: socket.socket, *options: str, env: dict[str, str] | None = None) -> Program:
    """El servidor, con ``sock`` en el descriptor 3."""
    command = [sys.executable, "-c", _GIVE, str(sock.fileno()), *SERVER, *options]
    return Program(command, pass_fds=[sock.fileno()], env=env)


in_one_and_in_several = pytest.mark.parametrize("processes", [[], ["--procesos", "2"]], ids=["uno", "varios"])


class Manager:
    """El lado de systemd que recibe los avisos: ``lines`` es lo oído hasta ahora. Oye en un hilo: en la cola de Linux
    caben diez (unix(7), max_dgram_qlen), y los que llegan con ella llena se pierden."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.place)
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while notice := self._sock.recv(4096):
            self.lines += notice.decode().split("\n")

    def heard(self, line: str, times: int = 1) -> bool:
        """Si ya se oyó ``line``."""
        return self.lines.count(line) >= times

    def wait_for(self, line: str, times: int = 1) -> None:
        """Espera a oír ``line``."""
        wait_until(lambda: self.heard(line, times), f"que avise {line!r}; avisó {self.lines}")

    def is_quiet(self, seconds: float) -> bool:
        """Si en ``seconds`` segundos no oye nada."""
        before = len(self.lines)
        threading.Event().wait(seconds)
        return len(self.lines) == before

    def close(self) -> None:
        """Oye lo que ya estuviera enviado, y nada más."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", self.place)  # un aviso vacío no lo envía nadie más
            self._thread.join(PATIENCE)
        self._sock.close()


@in_one_and_in_several
def test_the_real_socket_activation(processes: list[str]) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    tool = need("systemd-socket-activate")
    with Program([tool, "-l", address, "-E", "PYTHONPATH", *SERVER, *processes]) as server:
        wait_until(lambda: "Listening on" in server.errors, "que systemd-socket-activate escuche")
        with connect(port) as sock:  # hasta ahora el servidor ni siquiera ha arrancado
            assert ask(sock, "hola") == "HOLA"
            sock.sendall(b"DESCONEXION\n")
            assert receive_all(sock) == "Conexión cerrada\n".encode()
        server.wait_for(f"Servidor escuchando en {address}")
        assert "Aviso" not in server.output
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.output.endswith("Servidor detenido.\n")


@in_one_and_in_several
def test_two_sockets_of_two_kinds(tmp_path: Path, processes: list[str]) -> None:
    port, path = free_port(), tmp_path / "mensajes.sock"
    command = [need("systemd-socket-activate"), "-l", f"127.0.0.1:{port}", "-l", str(path), "-E", "PYTHONPATH", *SERVER]
    command += processes
    with Program(command) as server:
        wait_until(lambda: server.errors.count("Listening on") == 2, "que systemd-socket-activate escuche")
        with socket.socket(socket.AF_UNIX) as near:
            near.settimeout(PATIENCE)
            near.connect(str(path))
            assert ask(near, "hola") == "HOLA"
            with connect(port) as far:
                assert ask(far, "adiós") == "ADIÓS"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert path.exists()  # es de systemd: el servidor siguiente escuchará en él


@in_one_and_in_several
def test_who_comes_during_a_restart_waits_and_is_served(processes: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with given(sock, *processes) as server, connect(port) as old:
            assert ask(old, "hola") == "HOLA"
            server.signal(signal.SIGTERM)
            assert receive_all(old) == b""
            assert server.wait() == 0
        with connect(port) as new:  # nadie acepta: espera en la cola
            new.sendall(b"sigo\n")
            with given(sock, *processes) as server:
                assert receive(new, 5) == b"SIGO\n"


def test_who_was_queued_when_it_stopped_is_for_the_next_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with given(sock) as server:
            server.wait_for("...\n")
            server.signal(signal.SIGSTOP)
            with connect(port) as queued:
                server.signal(signal.SIGTERM)
                server.signal(signal.SIGCONT)
                code = server.wait()
                assert code == 0
                taken = "Conexión aceptada" in server.output
                queued.sendall(b"sigo\n")
                with given(sock) as successor:
                    successor.wait_for("...\n")
                    # O lo aceptó el primero justo antes de ver la señal, y lo despidió bien, o lo sirve el segundo.
                    assert receive(queued, 5) == (b"" if taken else b"SIGO\n")
                    successor.signal(signal.SIGTERM)
                    assert successor.wait() == 0


@in_one_and_in_several
def test_a_chosen_address_is_told_to_be_useless(processes: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, given(sock, "--puerto", "0", *processes) as server:
        server.wait_for("no donde dicen --host y --puerto")
        assert f"Servidor escuchando en 127.0.0.1:{sock.getsockname()[1]}" in server.output


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="sin IPv6 no hay sockets de las dos familias")
def test_a_socket_of_both_families_tells_each_address_as_it_is() -> None:
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock,
        given(sock, "--max-por-direccion", "1") as server,
        connect(sock.getsockname()[1]) as client,
    ):
        server.wait_for(f"Conexión aceptada de ('127.0.0.1', {client.getsockname()[1]})\n")
        # Y las cuenta por separado: no son todas de la misma red.
        with connect(sock.getsockname()[1], source="127.0.0.2") as other:
            assert ask(other, "hola") == "HOLA"


@pytest.mark.parametrize("kind", ["datagram", "conversation", "file", "closed"])
@in_one_and_in_several
def test_something_that_cannot_listen_is_one_sentence(kind: str, processes: list[str]) -> None:
    one, other = socket.socketpair()
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with one, other, datagram, open(os.devnull) as file:
        number = {"datagram": datagram, "conversation": one}.get(kind, file).fileno()
        script = _GIVE if kind != "closed" else _GIVE.replace("os.execv", "os.close(3)\nos.execv")
        command = [sys.executable, "-c", script, str(number), *SERVER, *processes]
        done = subprocess.run(
            command, capture_output=True, timeout=PATIENCE, cwd=ROOT, env=environment(), pass_fds=[number]
        )
        fails(done, 1, "descriptor 3, «mensajes»,", "ListenStream=")
        assert done.stdout == b""


# -- los avisos --------------------------------------------------------------------------------------------


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path / "avisos")) as manager:
        yield manager


def test_the_notices_of_a_whole_life(systemd: Manager) -> None:
    # Un aviso cada 0,1 s: la cola tarda uno en llenarse si quien los oye, en una máquina ocupada, no llega a leerlos.
    env = {"NOTIFY_SOCKET": systemd.place, "WATCHDOG_USEC": "200000"}
    with running_server(env=env) as (server, port), connect(port) as sock:
        systemd.wait_for("READY=1")
        assert systemd.lines[0] == "READY=1"
        systemd.wait_for("WATCHDOG=1", times=3)
        assert ask(sock, "hola") == "HOLA"
        systemd.wait_for("STATUS=Atendiendo 1 conversación.")
        server.signal(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        assert receive_all(sock) == b""
        assert server.wait() == 0
        assert systemd.lines.count("READY=1") == systemd.lines.count("STOPPING=1") == 1
        assert systemd.lines.index("READY=1") < systemd.lines.index("WATCHDOG=1") < systemd.lines.index("STOPPING=1")


def test_a_stuck_loop_stops_saying_it_is_alive(systemd: Manager, tmp_path: Path) -> None:
    # Sin hilos, un servicio que no vuelve atasca el bucle: es lo que WatchdogSec= remedia.
    (tmp_path / "atasco.py").write_text(
        "import time\n\n\ndef responder(texto):\n    time.sleep(60)\n    return texto\n"
    )
    env = {"NOTIFY_SOCKET": systemd.place, "WATCHDOG_USEC": "40000"}
    options = ["--servicio", "atasco:responder", "--hilos", "0"]
    with running_server(*options, env=env, cwd=tmp_path) as (_, port), connect(port) as sock:
        systemd.wait_for("WATCHDOG=1", times=2)
        sock.sendall(b"hola\n")
        # Calla: en diez veces el intervalo no se oye ni uno.
        wait_until(lambda: systemd.is_quiet(0.2), "que calle")


@in_one_and_in_several
def test_one_that_cannot_start_is_never_ready(systemd: Manager, processes: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run([*SERVER, "--host", "127.0.0.1", "--puerto", port, *processes], env={"NOTIFY_SOCKET": systemd.place})
        fails(done, 1, "ocupado")
    systemd.close()
    assert not systemd.heard("READY=1")


def test_what_a_service_starts_inherits_neither_the_sockets_nor_the_name_of_systemd(
    systemd: Manager, tmp_path: Path
) -> None:
    source = """
        import os
        import subprocess

        LOOK = "env | grep -cE '^(LISTEN_|NOTIFY_|WATCHDOG_)'; test -e /proc/self/fd/3 && echo abierto || echo cerrado"


        def responder(texto):
            return " ".join(subprocess.run(["sh", "-c", LOOK], capture_output=True, text=True).stdout.split())
    """
    (tmp_path / "hijo.py").write_text(textwrap.dedent(source))
    env = {"NOTIFY_SOCKET": systemd.place, "WATCHDOG_USEC": "4000000", "PYTHONPATH": str(tmp_path)}
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        given(sock, "--servicio", "hijo:responder", env=env),
        connect(sock.getsockname()[1]) as client,
    ):
        assert ask(client, "hola") == "0 cerrado"


def test_the_notices_of_several_processes_and_of_a_reload(systemd: Manager, tmp_path: Path) -> None:
    configuration = tmp_path / "servidor.conf"
    configuration.write_text("nivel = info\n")
    env = {"NOTIFY_SOCKET": systemd.place, "WATCHDOG_USEC": "40000"}
    options = ["--puerto", "0", "--procesos", "2", "--configuracion", str(configuration)]
    with Program([*SERVER, *options], env=env) as server:
        systemd.wait_for("READY=1")
        server.wait_for("Servidor escuchando")  # cuando lo dice, ya lo ha dicho
        systemd.wait_for("STATUS=Sirven 2 procesos.")
        systemd.wait_for("WATCHDOG=1", times=3)
        server.signal(signal.SIGHUP)
        systemd.wait_for("READY=1", times=2)
        assert systemd.lines.count("RELOADING=1") == 1
        assert systemd.lines[systemd.lines.index("RELOADING=1") + 1].startswith("MONOTONIC_USEC=")
        # Lo que no se puede leer deja las cosas como estaban, y systemd tampoco se queda esperando.
        configuration.write_text("nivel = ninguno\n")
        server.signal(signal.SIGHUP)
        systemd.wait_for("READY=1", times=3)
        server.wait_for("Se sigue con la configuración de antes.")
        server.signal(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        assert server.wait() == 0
    assert systemd.lines.count("RELOADING=1") == 2


@pytest.mark.parametrize(
    ("conversations", "sentence"),
    [
        (0, "Escuchando; ahora no hay ninguna conversación."),
        (1, "Atendiendo 1 conversación."),
        (12, "Atendiendo 12 conversaciones."),
    ],
)
def test_how_it_goes(conversations: int, sentence: str) -> None:
    assert how_it_goes(conversations) == sentence
