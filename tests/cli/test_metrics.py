"""``--metricas``, con el programa de verdad: dónde se dan, qué cuentan, y qué se dice si no se puede."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from comunicacion_tcp.board import Board
from comunicacion_tcp.cli import metrics as module
from comunicacion_tcp.errors import AddressInUse, AddressNotOurs, NetworkError, PortNotAllowed, UnknownHost
from comunicacion_tcp.server import Server

from ..support.certificates import Certificates
from ..support.examples import ROOT
from ..support.loops import python_path
from ..support.modules import write
from ..support.programs import SERVER, Program, fails, run, running_server
from ..support.prometheus import get
from ..support.sockets import ask, connect, fill, receive_all
from ..support.waiting import wait_until

several = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="mira en /proc a los procesos de Linux")


def address_of(server: Program) -> str:
    """Dónde dijo que da las métricas, sin la ruta."""
    server.wait_for("/metrics\n")
    match = re.search(r"^Métricas en (http://\S+)/metrics$", server.output, re.MULTILINE)
    assert match, server.output
    return match[1]


def values(url: str) -> dict[tuple[str, ...], float]:
    """Cada valor, por su nombre sin el prefijo y sus etiquetas."""
    samples = [sample for family in parse(get(f"{url}/metrics").text) for sample in family.samples]
    return {
        (sample.name.removeprefix("comunicacion_tcp_"), *sample.labels.values()): sample.value for sample in samples
    }


_GREEDY = """
import os, resource

def llenar(texto):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            os.dup(2)
    except OSError:
        return "no queda ninguno"
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="los límites de los procesos de Linux")
def test_without_descriptors_it_still_says_that_it_is_alive(tmp_path: Path) -> None:
    write(tmp_path / "voraz.py", _GREEDY)
    with running_server("--servicio", "voraz:llenar", "--metricas", "127.0.0.1:0", cwd=tmp_path) as (server, port):
        url = address_of(server)
        with connect(port) as sock:
            assert ask(sock, "hola") == "no queda ninguno"
            for path in ("/salud", "/lista", "/salud", "/metrics"):  # la segunda vez, con el mismo descriptor
                assert get(url + path).status == 200


def without_the_extra() -> Mapping[str, str]:
    """El entorno en que prometheus_client no está."""
    hidden = str(ROOT / "tests" / "support" / "without_prometheus_client")
    return {"PYTHONPATH": os.pathsep.join([hidden, *python_path().values()])}


@pytest.mark.parametrize("place", ["127.0.0.1:0", "[::1]:0"])
def test_it_says_where_and_counts_what_it_serves(place: str) -> None:
    with running_server("--metricas", place) as (server, port):
        url = address_of(server)
        assert url.startswith("http://" + place.removesuffix("0"))
        assert get(f"{url}/salud").text == get(f"{url}/lista").text == "bien\n"
        with connect(port) as sock:
            sock.sendall("señor\nDESCONEXION\n".encode())
            reply = receive_all(sock)
        wait_until(lambda: values(url)["connections_closed_total",] == 1)
        found = values(url)
        assert found["messages_total", "ok"] == found["goodbyes_total",] == found["processes_serving",] == 1
        assert found["sent_bytes_total",] == len(reply)
        assert found["connections_capacity",] == found["connections_capacity_wanted",] > 0
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.output.endswith("Servidor detenido.\n")
        assert server.errors == ""


def test_nothing_is_said_of_each_request() -> None:
    with running_server("--metricas", "127.0.0.1:0") as (server, _):
        url = address_of(server)
        said = server.output
        for path in ("/metrics", "/salud", "/nada", "/%ff"):
            get(url + path)
        assert (server.output, server.errors) == (said, "")


def test_while_stopping_it_is_alive_but_not_ready() -> None:
    with running_server("--metricas", "127.0.0.1:0", "--plazo-parada", "3600") as (server, port), connect(port) as sock:
        url = address_of(server)
        fill(sock)
        server.signal(signal.SIGTERM)
        server.wait_for("Deteniendo el servidor")
        wait_until(lambda: get(f"{url}/lista").text == "deteniendo\n")
        assert get(f"{url}/salud").status == 200
        server.insist(signal.SIGTERM)
        assert server.wait() == 3
        assert "sin entregar todo" in server.output


def test_full_is_not_ready() -> None:
    with running_server("--metricas", "127.0.0.1:0", "--max-conexiones", "1") as (server, port), connect(port) as sock:
        url = address_of(server)
        assert ask(sock, "hola") == "HOLA"
        answer = get(f"{url}/lista")
        assert (answer.status, answer.text) == (503, "completo\n")
        with connect(port) as other:
            assert receive_all(other).startswith(b"ERROR")
        assert values(url)["connections_refused_total", "server_full"] == 1


def test_a_service_of_ones_own_in_threads() -> None:
    with running_server("--metricas", "127.0.0.1:0", "--servicio", "examples.palabras:responder") as (server, port):
        url = address_of(server)
        with connect(port) as sock:
            assert ask(sock, "hola mundo") == "mundo hola"
        found = values(url)
        assert found["messages_total", "ok"] == found["service_duration_seconds_count",] == 1


def test_with_tls_the_expiry_is_that_of_the_certificate(certificates: Certificates) -> None:
    with running_server("--metricas", "127.0.0.1:0", "--tls-cert", certificates.server) as (server, _):
        found = values(address_of(server))
        assert found["certificate_expiry_timestamp_seconds",] == certificates.serving().expiry()


def test_the_log_tells_it_too() -> None:
    with Program([*SERVER, "--puerto", "0", "--registro", "json", "--metricas", "127.0.0.1:0"]) as server:
        server.wait_for('"measuring"')
        line = next(line for line in server.output.splitlines() if '"measuring"' in line)
        (address,) = json.loads(line)["addresses"]
        assert get(f"http://127.0.0.1:{address['port']}/salud").status == 200


def test_the_environment_asks_for_it_too() -> None:
    with running_server(env={"SERVIDOR_TCP_METRICAS": "127.0.0.1:0", **python_path()}) as (server, _):
        assert get(f"{address_of(server)}/salud").status == 200


# -- cuando no se puede -------------------------------------------------------------------------------------


def test_without_the_extra_it_says_what_to_install() -> None:
    done = run([*SERVER, "--puerto", "0", "--metricas", "127.0.0.1:0"], env=without_the_extra())
    fails(done, 1, "prometheus-client", "pip install prometheus-client", "pip install '.[metricas]'")


def test_without_the_extra_everything_else_works() -> None:
    with running_server(env=without_the_extra()) as (_, port), connect(port) as sock:
        assert ask(sock, "hola") == "HOLA"


def test_something_else_missing_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        """A prometheus_client le falta algo suyo."""

        def find_spec(self, name: str, *_: object) -> None:
            if name == "prometheus_client":
                raise ModuleNotFoundError("falta otra cosa", name="otra")

    monkeypatch.delitem(sys.modules, "prometheus_client", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="otra cosa"):
        module.need_prometheus()


def test_a_busy_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run([*SERVER, "--puerto", "0", "--metricas", f"127.0.0.1:{port}"])
        fails(done, 1, f"127.0.0.1:{port}", "ocupado", "--metricas")
        assert b"escuchando" not in done.stdout


def test_a_busy_server_port_leaves_no_metrics_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ["--host", "127.0.0.1", "--puerto", str(taken.getsockname()[1])]
        fails(run([*SERVER, *options, "--metricas", "127.0.0.1:0"]), 1, "--puerto")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AddressInUse, "el puerto ya está ocupado"),
        (AddressNotOurs, "esa dirección no es de esta máquina"),
        (UnknownHost, "no se conoce esa máquina"),
        (PortNotAllowed, "el sistema no lo permite"),
    ],
)
def test_each_reason_is_told(error: type[NetworkError], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from comunicacion_tcp import metrics_server

    def failing(*_: object) -> None:
        raise error("sitio:5001", PermissionError(13, "no"))

    monkeypatch.setattr(metrics_server, "open_metrics", failing)
    with pytest.raises(module.CannotMeasure, match=rf"en sitio:5001: {words}\. Elige otro sitio con --metricas\."):
        module.open_metrics(("sitio", 5001), Board())


@pytest.mark.parametrize("place", ["", "5001", ":5001", "localhost", "localhost:", "::1:5001", "[]:1", "a:70000"])
def test_what_is_not_a_place(place: str) -> None:
    fails(run([*SERVER, f"--metricas={place}"]), 2, "--metricas", "debe ser")


# -- con varios procesos ------------------------------------------------------------------------------------


def children(server: Program) -> set[int]:
    """Los hijos del programa que viven."""
    found = set()
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return found


def talk(port: int, times: int) -> None:
    """Unas cuantas conversaciones, de un mensaje cada una."""
    for _ in range(times):
        with connect(port) as sock:
            sock.sendall(b"hola\nDESCONEXION\n")
            assert receive_all(sock) == "HOLA\nConexión cerrada\n".encode()


@several
def test_several_processes_are_counted_as_one() -> None:
    with running_server("--metricas", "127.0.0.1:0", "--procesos", "3") as (server, port):
        url = address_of(server)
        assert len(children(server)) == 4
        talk(port, 30)
        wait_until(lambda: values(url)["connections_closed_total",] == 30)
        found = values(url)
        assert found["messages_total", "ok"] == found["goodbyes_total",] == 30
        assert found["processes_serving",] == found["processes_wanted",] == 3
        assert found["process_restarts_total",] == found["connections_open",] == 0
        assert get(f"{url}/salud").text == get(f"{url}/lista").text == "bien\n"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.output.endswith("Servidor detenido.\n")
        with pytest.raises(OSError, match="refused"):
            get(url)


@several
def test_counts_never_go_back_when_processes_are_killed() -> None:
    with running_server("--metricas", "127.0.0.1:0", "--procesos", "2") as (server, port):
        url = address_of(server)
        web = helper_of(server, url)
        with connect(port) as lost:
            assert ask(lost, "hola") == "HOLA"
            sent = 1
            for turn in range(1, 4):
                talk(port, 10)
                sent += 10
                wait_until(lambda sent=sent: values(url)["messages_total", "ok"] == sent)  # type: ignore[misc]
                for child in children(server) - {web}:
                    os.kill(child, signal.SIGKILL)
                wait_until(lambda turn=turn: values(url)["process_restarts_total",] == 2 * turn)  # type: ignore[misc]
                assert values(url)["messages_total", "ok"] == sent
                wait_until(lambda: values(url)["processes_serving",] == 2)
                assert values(url)["connections_open",] == 0
        server.signal(signal.SIGTERM)
        server.wait()


def helper_of(server: Program, url: str) -> int:
    """Cuál de los hijos da las métricas: el que no tiene el socket del servidor, sino el de ellas."""
    place = int(url.rpartition(":")[2])
    for child in children(server):
        if listens(child, place):
            return child
    raise AssertionError("nadie da las métricas")


def listens(pid: int, port: int) -> bool:
    """Si ese proceso tiene abierto un socket a la escucha en ``port``."""
    inodes = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    open_files = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            open_files.add(os.readlink(one))
    return bool(inodes & open_files)


@several
def test_who_gives_the_metrics_is_replaced_and_holds_nothing_of_the_server() -> None:
    with running_server("--metricas", "127.0.0.1:0", "--procesos", "2") as (server, port):
        url = address_of(server)
        first = helper_of(server, url)
        # Lo primero que hace al nacer, y puede hacerlo cuando los que sirven ya sirven.
        wait_until(lambda: not listens(first, port), "que suelte los sockets del servidor")
        assert [child for child in children(server) if listens(child, int(url.rpartition(":")[2]))] == [first]
        talk(port, 3)
        os.kill(first, signal.SIGTERM)  # a todos se les envía al detener la máquina, y este espera a los demás
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(children(server) - {first}) == 3)
        assert get(f"{url}/salud").status == 200
        assert values(url)["messages_total", "ok"] == 3
        assert values(url)["process_restarts_total",] == 0
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@several
def test_when_the_parent_is_killed_nobody_stays() -> None:
    with running_server("--metricas", "127.0.0.1:0", "--procesos", "2") as (server, _):
        address_of(server)
        born = children(server)
        assert len(born) == 3
        server.process.kill()
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() and not is_dead(child) for child in born))


def is_dead(pid: int) -> bool:
    """Si acabó y nadie ha recogido aún cómo."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@several
def test_while_they_stop_it_is_told() -> None:
    options = ("--metricas", "127.0.0.1:0", "--procesos", "2", "--plazo-parada", "3600")
    with running_server(*options) as (server, port), connect(port) as sock:
        url = address_of(server)
        fill(sock)
        server.signal(signal.SIGTERM)
        wait_until(lambda: get(f"{url}/lista").text == "deteniendo\n")
        assert get(f"{url}/salud").status == 200
        server.insist(signal.SIGTERM)
        assert server.wait() == 3


@several
def test_a_reload_is_counted_and_goes_on_counting(tmp_path: Path) -> None:
    file = tmp_path / "servidor.conf"
    file.write_text("procesos = 2\n")
    with running_server("--metricas", "127.0.0.1:0", "--configuracion", str(file)) as (server, port):
        url = address_of(server)
        talk(port, 5)
        with connect(port) as staying:
            assert ask(staying, "hola") == "HOLA"
            file.write_text("procesos = 3\n")
            server.signal(signal.SIGHUP)
            wait_until(lambda: values(url)["configuration_reloads_total", "ok"] == 1)
            wait_until(lambda: values(url)["processes_serving",] == values(url)["processes_wanted",] == 3)
            assert ask(staying, "sigue") == "SIGUE"
            found = values(url)
            assert found["last_reload_successful", "configuration"] == 1
            assert found["connections_open",] == 1
            assert found["messages_total", "ok"] == 7
            file.write_text("procesos = muchos\n")
            server.signal(signal.SIGHUP)
            wait_until(lambda: values(url)["configuration_reloads_total", "failed"] == 1)
            assert values(url)["processes_serving",] == 3
            # No se olvida de que no pudo ser hasta que puede.
            assert values(url)["last_reload_successful", "configuration"] == 0
            file.write_text("procesos = 1\n")
            server.signal(signal.SIGHUP)
            wait_until(lambda: values(url)["configuration_reloads_total", "ok"] == 2)
            assert values(url)["last_reload_successful", "configuration"] == 1
            # Y si lo leído está bien, pero con ello no arranca nadie, tampoco.
            file.write_text("servicio = no_existe:nada\n")
            server.signal(signal.SIGHUP)
            wait_until(lambda: values(url)["configuration_reloads_total", "failed"] == 2)
            assert values(url)["last_reload_successful", "configuration"] == 0
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@several
def test_with_several_what_cannot_be_is_said_too() -> None:
    options = [*SERVER, "--puerto", "0", "--procesos", "2", "--metricas"]
    fails(run([*options, "127.0.0.1:0"], env=without_the_extra()), 1, "prometheus-client", "pip install")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        fails(run([*options, f"127.0.0.1:{taken.getsockname()[1]}"]), 1, "ocupado", "--metricas")


def test_without_threads_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(module.CannotMeasure, match="ulimit -u"):
        module.MetricsAlone(Server(), None, ("127.0.0.1", 0))
