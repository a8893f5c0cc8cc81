"""La medida de la velocidad funciona: compila, mide, comprueba cada respuesta y da su tabla. Aquí no se mide nada."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import processes, report
from benchmarks.clients import PipeClient, WrongOutput, pour
from benchmarks.results import ClientCost, PipeSample, Results, Sample
from benchmarks.servers import Competitor, compile_c
from benchmarks.works import WORKS, Work

from .support.examples import ROOT
from .support.programs import environment
from .support.tools import need
from .support.waiting import wait_until

BENCH = [sys.executable, "-m", "benchmarks.run"]


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.key)
def test_each_work_sends_messages_of_its_size_and_expects_upper_case(work: Work, tmp_path: Path) -> None:
    path, sent, received = work.write(tmp_path)
    data = path.read_bytes()
    assert len(data) == (sent + received) * work.connections
    request, reply = data[:sent], data[sent : sent + received]
    assert request.decode().upper().encode().removesuffix(b"DESCONEXION\n") == reply.removesuffix(
        "Conexión cerrada\n".encode()
    )
    messages = request.removesuffix(b"DESCONEXION\n")
    assert len(messages) == work.depth * work.size
    assert work.bare or all(len(line) == work.size - 1 for line in messages.splitlines())
    assert data[:sent] != data[sent + received : 2 * sent + received]  # cada conexión, los suyos


def test_what_people_read_is_what_was_measured() -> None:
    page, readme = ((ROOT / path).read_text(encoding="utf-8") for path in ("docs/rendimiento.md", "README.md"))
    start, end = "<!-- Desde aquí lo escribe make bench -->", "<!-- Hasta aquí -->"
    measured, shown = (text.partition(start)[2].partition(end)[0].strip() for text in (page, readme))
    for row in shown.splitlines():
        assert row in measured
    for work in WORKS:
        assert f"### {work.title}" in measured
    for figure in re.findall(r"\]\(([\w-]+\.svg)\)", page):
        assert (ROOT / "docs" / figure).read_text(encoding="utf-8").startswith("<?xml")


def test_the_tables_and_figures_are_written_between_their_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rendimiento.md", "README.md"):
        (tmp_path / name).write_text(
            "antes\n<!-- Desde aquí lo escribe make bench -->\nviejo\n<!-- Hasta aquí -->\ndespués\n", encoding="utf-8"
        )
    monkeypatch.setattr(report, "PAGE", tmp_path / "rendimiento.md")
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    for name in ("_cpu_figure", "_latency_figure"):  # matplotlib no está entre las herramientas de las pruebas
        monkeypatch.setattr(report, name, lambda path, results: None)
    limit, ours = Competitor("C", version="cc 1"), Competitor("el nuestro", version="Python", ours=True)
    absent = Competitor("otro", missing="no está instalado", ours=True)
    results = Results([limit, ours, absent], 2, 0.5)
    for work in WORKS:
        results.samples[work.key] = {
            "C": [Sample(2.0, 1.0, 5e5, 1, 2), Sample(4.0, 1.0, 4e5, 1, 2)],
            "el nuestro": [Sample(3.0, 1.0, 3e5, 1, 2), Sample(6.0, 1.0, 2e5, 1, 2)],
        }
        results.failures[work.key] = {"malo": "malo: perdió una respuesta"}
    results.idle = {"C": 80.0}
    results.client = [ClientCost("python3", {"nada": (10.0, 1.0)})]
    results.services = {"rr": {"mayúsculas": [Sample(2.0, 1.0, 5e5, 1, 2)], "en hilos": [Sample(50.0, 9.0, 2e4, 1, 2)]}}
    results.lines = 1_000_000
    results.pipe = {
        "cliente-tcp -q": [PipeSample(0.1, 1e7), PipeSample(0.2, 1e7)],
        "otro": [PipeSample(0.15, 1e6), PipeSample(0.3, 1e6)],
        "uno que no está": [],
        "uno que pierde": [],
    }
    results.pipe_failures = {"uno que pierde": "uno que pierde: código 0, 3 bytes."}
    report.write_docs(results)
    page, readme = ((tmp_path / name).read_text(encoding="utf-8") for name in ("rendimiento.md", "README.md"))
    for text in (page, readme):
        assert text.startswith("antes\n<!-- Desde")
        assert text.endswith("<!-- Hasta aquí -->\ndespués\n")
        assert "viejo" not in text
        assert f"| **el nuestro** |{' 1.50 |' * len(WORKS)}\n" in text
        assert f"| **otro** |{' FALTA |' * len(WORKS)}\n" in text
        assert (
            "1 000 000 líneas por `cliente-tcp -q` son 0.150 s de procesador del cliente. Veces eso: `otro` 1.50."
            in text
        )
    assert "| otro | 0.225 | 0.150-0.300 | 1.50 | 1 000 000 |" in page
    assert "| CPU us/mensaje | petición y respuesta, ASCII |" in page
    assert "| en hilos | 50.0 |" in page
    assert "| uno que no está | FALTA |  |  |  |" in page
    assert "| uno que pierde | FALLA |  |  |  |\n\nFALLA uno que pierde: código 0, 3 bytes." in page
    assert "FALTA: no está instalado" in page
    assert "malo: perdió una respuesta" in page
    assert "| petición y respuesta, ASCII | el nuestro | 1.70 | 1.50 | sí |" in page


def test_without_the_clients_the_page_is_the_rest() -> None:
    results = Results([], 1, 1)
    assert report.pipe_table(results) == report.pipe_line(results) == report.services_table(results) == ""


def test_a_client_that_loses_a_reply_has_no_cost(tmp_path: Path) -> None:
    need("taskset")
    entry = tmp_path / "lineas"
    entry.write_bytes(b"hola\n")
    for command in (["true"], ["false"], ["cat"]):
        client = PipeClient("malo", lambda port, command=command: command)  # type: ignore[misc]
        with pytest.raises(WrongOutput, match="malo"):
            pour(client, 0, entry, 1, min(os.sched_getaffinity(0)), environment())


@pytest.mark.parametrize("options", [["--trabajos", "nada"], ["--docs", "--servidores", "trio"]])
def test_impossible_measures_are_refused(options: list[str]) -> None:
    done = subprocess.run([*BENCH, *options], cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 2


def test_the_server_in_c_gives_all_it_owes_to_who_stops_sending_and_reads_late(tmp_path: Path) -> None:
    need("cc")
    lines = (b"hola" * 16 + b"\n") * 500_000  # 32 MB: más de lo que guarda el sistema
    with subprocess.Popen([str(compile_c("reference.c", tmp_path))], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout
            with socket.create_connection(("127.0.0.1", int(server.stdout.readline()))) as sock:
                sock.settimeout(30)
                sock.sendall(lines)
                sock.shutdown(socket.SHUT_WR)
                with sock.makefile("rb") as replies:
                    assert replies.read() == lines.upper()
        finally:
            server.kill()


def need_what_it_needs() -> None:
    """Salta la prueba donde `make bench` no puede medir."""
    need("cc")
    need("taskset")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("hacen falta dos procesadores")


def test_stopped_halfway_it_leaves_no_server_running() -> None:
    need_what_it_needs()
    command = [*BENCH, "--trabajos", "rr", "--servidores", "nadie", "--segundos", "60"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as bench:
        started: list[Path] = []

        def has_started() -> bool:
            with contextlib.suppress(OSError):  # los que compilan van y vienen
                for child in Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split():
                    process = Path("/proc") / child
                    if (process / "cmdline").read_bytes().split(b"\0")[0].endswith(b"/reference"):
                        links = [os.readlink(link) for link in (process / "fd").iterdir()]
                        # El que escucha y el de un cliente: si ya se mide, quien lo lanzó sabe que lo lanzó.
                        if sum(link.startswith("socket:") for link in links) > 1:
                            started.append(process)
            return bool(started)

        wait_until(has_started, "que el servidor en C atienda a alguien")
        bench.terminate()
        bench.communicate()
        assert bench.returncode == 1
        wait_until(lambda: not started[0].exists(), "que acabe el servidor")


def test_a_short_round_against_the_server_in_c() -> None:
    need_what_it_needs()
    works = "rr,p16,es100,bare,churn,client,pipe"
    short = [
        "--rondas",
        "1",
        "--segundos",
        "0.05",
        "--lineas",
        "5000",
        "--trabajos",
        works,
        "--servidores",
        "comunicacion_tcp",
    ]
    command = [*BENCH, *short]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| C, epoll (el límite) |") == 5
    assert done.stdout.count("| comunicacion_tcp |") == 5
    assert done.stdout.count("| un mensaje |") == 2
    assert "### los clientes: 5 000 líneas" in done.stdout
    assert re.search(r"^\| cliente-tcp -q \| \d", done.stdout, re.MULTILINE)


# -- varios procesos ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", processes.ARRIVALS)
def test_whoever_arrives_is_somebodys(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need("taskset")
    monkeypatch.setattr(processes, "_CONNECTIONS", 20)
    monkeypatch.setattr(processes, "_BURST", 5)
    taken, cost = processes.shares(processes.our_server(2, fast=False), processes.ARRIVALS[title])
    assert len(taken) == 2
    assert sum(taken) == 20
    assert cost > 0


@pytest.mark.parametrize("measure", ["reparto", "velocidad", "memoria", "balanceador"])
def test_each_measure_of_several_processes_in_short(
    measure: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need_what_it_needs()
    if measure == "balanceador":
        need("haproxy")
    monkeypatch.setattr(processes, "_CONNECTIONS", 20)
    monkeypatch.setattr(processes, "_BURST", 5)
    monkeypatch.setattr(processes, "_IDLE", 20)
    monkeypatch.setattr(processes, "_BALANCED", 20)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # la de pytest se queda como estaba
    options = ["--medidas", measure, "--bucles", "asyncio", "--rondas", "1", "--segundos", "0.05"]
    monkeypatch.setattr("sys.argv", ["processes", *options])
    assert processes.main() == 0
    rows = capsys.readouterr().out.splitlines()[2:-1]
    assert len(rows) == {"reparto": 6, "velocidad": 9, "memoria": 1, "balanceador": 1}[measure]
    assert all(re.search(r"\d", row) for row in rows)


def test_a_measure_of_several_processes_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["processes", "--medidas", "nada"])
    with pytest.raises(SystemExit):
        processes.main()
