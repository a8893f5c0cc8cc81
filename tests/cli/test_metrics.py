"""``--metricas``, con el programa de verdad: dónde se dan, qué cuentan, y qué se dice si no se puede."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from comunicacion_tcp.board import Board
from comunicacion_tcp.cli import metrics as module
from comunicacion_tcp.errors import AddressInUse, AddressNotOurs, NetworkError, PortNotAllowed, UnknownHost

from ..support.certificates import Certificates
from ..support.examples import ROOT
from ..support.loops import python_path
from ..support.programs import SERVER, Program, fails, run, running_server
from ..support.prometheus import get
from ..support.sockets import ask, connect, fill, receive_all
from ..support.waiting import wait_until


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
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
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
    fails(done, 1, "prometheus-client", "pip install 'comunicacion-tcp[metricas]'")


def test_without_the_extra_everything_else_works() -> None:
    with running_server(env=without_the_extra()) as (_, port), connect(port) as sock:
        assert ask(sock, "hola") == "HOLA"


def test_something_else_missing_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from comunicacion_tcp import metrics

    def broken(*_: object) -> None:
        raise ModuleNotFoundError("falta otra cosa", name="otra")

    monkeypatch.setattr(metrics, "open_metrics", broken)
    with pytest.raises(ModuleNotFoundError, match="otra cosa"):
        module.open_metrics(("127.0.0.1", 0), Board())


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
    from comunicacion_tcp import metrics

    def failing(*_: object) -> None:
        raise error("sitio:9100", PermissionError(13, "no"))

    monkeypatch.setattr(metrics, "open_metrics", failing)
    with pytest.raises(module.CannotMeasure, match=rf"en sitio:9100: {words}\. Elige otro sitio con --metricas\."):
        module.open_metrics(("sitio", 9100), Board())


@pytest.mark.parametrize("place", ["", "9100", ":9100", "localhost", "localhost:", "::1:9100", "[]:1", "a:70000"])
def test_what_is_not_a_place(place: str) -> None:
    fails(run([*SERVER, f"--metricas={place}"]), 2, "--metricas", "debe ser")
