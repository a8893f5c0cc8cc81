"""``cliente-tcp --repetir``: cuántas veces, cuándo, y el resumen; con un reloj de mentira y de verdad."""

from __future__ import annotations

import json
import re
import signal
import socket
import statistics
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comunicacion_tcp import Client
from comunicacion_tcp.cli.repeat import Times, send_again

from ..support.programs import CLIENT, SILENT, Program, environment, run, running_server
from ..support.serving import served
from ..support.sockets import foreign_server

SUMMARY = r"--- 127\.0\.0\.1:\d+: {} enviados, {} respondidos, {} perdidos\n"


def to(port: int, *arguments: str) -> list[str]:
    """El cliente hacia un puerto de esta máquina."""
    return [*CLIENT, "--host", "127.0.0.1", "--puerto", str(port), *arguments]


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_the_times_are_the_ones_of_statistics(values: list[float]) -> None:
    times = Times()
    for value in values:
        times.add(value)
    assert (times.count, times.least, times.most) == (len(values), min(values), max(values))
    assert times.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert times.deviation == pytest.approx(statistics.pstdev(values), abs=1e-3)


def test_without_any_there_is_no_deviation() -> None:
    assert Times().deviation == 0


@pytest.mark.parametrize(
    ("took", "waits"),
    [
        ([0.0, 0.0, 0.0], [1.0, 1.0]),
        ([0.25, 0.5, 0.0], [0.75, 0.5]),
        ([1.0, 0.0, 0.0], [1.0]),  # justo a tiempo: no se espera
        ([3.5, 0.0, 0.0], [1.0]),  # una muy lenta no deja una ráfaga detrás
    ],
)
def test_each_one_goes_out_on_its_turn(
    took: list[float], waits: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    slept: list[float] = []
    durations = iter(took)

    def service(text: str) -> str:
        return text.upper()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    class Slow(Client):
        def send(self, message: str) -> str:
            clock[0] += next(durations)
            return super().send(message)

    with served(service) as running, Slow("127.0.0.1", running.port) as client:
        assert send_again(client, "hola", len(took), 1.0, as_json=False, now=lambda: clock[0], sleep=sleep)
    assert slept == waits
    assert capsys.readouterr().out.count("HOLA\n") == len(took)


def test_what_is_printed() -> None:
    with running_server() as (_, port):
        done = run(to(port, "--repetir", "3", "--intervalo", "0", "hola"))
        assert done.returncode == 0
        lines = "".join(rf"{number}: \d+\.\d{{3}} ms  HOLA\n" for number in (1, 2, 3))
        summary = SUMMARY.format(3, 3, 0) + r"mínimo/media/máximo/desviación = (\d+\.\d{3}/){3}\d+\.\d{3} ms\n"
        assert re.fullmatch(lines + summary, done.stdout.decode())


def test_in_json() -> None:
    with running_server() as (_, port):
        done = run(to(port, "--json", "--repetir", "2", "--intervalo", "0", "hola"))
        *answers, summary = [json.loads(line) for line in done.stdout.splitlines()]
        assert [one["reply"] for one in answers] == ["HOLA", "HOLA"]
        assert (summary["sent"], summary["replies"], summary["lost"]) == (2, 2, 0)
        times = summary["milliseconds"]
        assert times["min"] <= times["mean"] <= times["max"]
        assert times["deviation"] >= 0


def test_an_error_reply_is_told_by_the_exit_code() -> None:
    with running_server("--max-mensaje", "16") as (_, port):
        done = run(to(port, "--repetir", "2", "--intervalo", "0", "x" * 17))
        assert done.returncode == 3
        assert re.search(SUMMARY.format(2, 2, 0), done.stdout.decode())


def test_control_c_ends_it_and_the_summary_is_seen() -> None:
    with running_server() as (_, port), Program(to(port, "--repetir", "0", "--intervalo", "600", "hola")) as client:
        client.wait_for("HOLA\n")
        client.signal(signal.SIGINT)
        assert client.wait() == 130
        assert re.search(SUMMARY.format(1, 1, 0), client.output)
        assert not SILENT.search(client.output + client.errors)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_server_that_leaves_is_a_lost_one(options: list[str]) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(sock.recv(1024).upper())
        sock.recv(1024)

    with foreign_server(serve) as port:
        done = run(to(port, "--repetir", "5", "--intervalo", "0", *options, "hola"))
    assert done.returncode == 1
    assert "Se perdió la conexión" in done.stderr.decode()
    if options:
        _, failed, summary = (json.loads(line) for line in done.stdout.splitlines())
        assert "Se perdió la conexión" in failed["error"]
        assert summary["lost"] == 1
    else:
        assert re.search(SUMMARY.format(2, 1, 1), done.stdout.decode())


def test_a_closed_output_ends_quietly() -> None:
    with running_server() as (_, port):
        command = '"$0" "$@" | head -n 1'
        arguments = ["bash", "-c", command, *to(port, "--repetir", "0", "--intervalo", "0", "hola")]
        done = subprocess.run(arguments, capture_output=True, timeout=30, env=environment())
        assert done.stderr == b""
        assert done.stdout.startswith(b"1: ")
