"""La medida de la velocidad funciona: compila, mide, comprueba cada respuesta y da su tabla. Aquí no se mide nada."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.works import WORKS, Work

from .support.examples import ROOT
from .support.programs import environment
from .support.tools import need


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


def test_a_short_round_against_the_server_in_c() -> None:
    need("cc")
    need("taskset")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("hacen falta dos procesadores")
    works = "rr,p16,es100,bare,churn"
    short = ["--rondas", "1", "--segundos", "0.05", "--trabajos", works, "--servidores", "comunicacion_tcp"]
    command = [sys.executable, "-m", "benchmarks.run", *short]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| C, epoll (el límite) |") == 5
    assert done.stdout.count("| comunicacion_tcp |") == 5
