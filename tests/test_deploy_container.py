"""``deploy/container``: la receta de la imagen, y el servidor como proceso 1, sin root y sin poder escribir.

La imagen de verdad se construye y se ejecuta a mano: ``python3 -m tools.try_deploy``.
"""

from __future__ import annotations

import json
import os
import re
import signal
from fnmatch import fnmatch
from pathlib import Path

import pytest

from comunicacion_tcp.cli.client import _parser as client_parser
from comunicacion_tcp.cli.server import _parser as server_parser
from comunicacion_tcp.limits import DEFAULT_LIMITS

from .support.deployed import check_options
from .support.examples import ROOT, blocks
from .support.first_process import NOBODY, children, end, first_process
from .support.ports import listening_port
from .support.programs import CLIENT, run, running_server
from .support.sockets import ask, connect, free_port, receive_all
from .support.waiting import wait_until

FOLDER = ROOT / "deploy" / "container"
PAGE = "deploy/container/README.md"
RECIPE = re.sub(r" *\\\n *", " ", (FOLDER / "Containerfile").read_text(encoding="utf-8"))
FINAL = RECIPE.rpartition("\nFROM ")[2]
in_one_and_in_several = pytest.mark.parametrize("processes", [[], ["--procesos", "2"]], ids=["uno", "varios"])


def instructions(recipe: str, name: str) -> list[str]:
    """Lo que va detrás de cada ``name``."""
    return re.findall(rf"^{name} +(.*)$", recipe, re.MULTILINE)


# -- la receta ---------------------------------------------------------------------------------------------


def test_what_the_recipe_copies_exists_and_is_sent() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = [name for line in instructions(RECIPE, "COPY") if "--from" not in line for name in line.split()[:-1]]
    assert "*" in lines
    assert {*copied} == sent
    assert all((ROOT / name).exists() for name in copied)
    assert not any(fnmatch(name, "*.pem") for name in copied)


def test_the_final_image_has_only_what_was_installed() -> None:
    assert instructions(FINAL, "COPY") == ["--from=build /opt/comunicacion_tcp /opt/comunicacion_tcp"]
    assert not instructions(FINAL, "RUN")


def test_both_parts_have_the_same_python_and_a_fixed_one() -> None:
    assert [line.split()[0] for line in instructions(RECIPE, "FROM")] == ["${BASE}", "${BASE}"]
    (base,) = instructions(RECIPE, "ARG")
    assert re.fullmatch(r"BASE=docker\.io/library/python:3\.\d+(\.\d+)?-slim-\w+", base)
    # Y lo que se instala, con las versiones con que se prueba.
    (tools, _, installed) = instructions(RECIPE, "RUN")
    for line in (tools, installed):
        assert "--constraint requirements-dev.txt" in line
    pinned = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    for name in ("hatchling", "uvloop", "prometheus.client"):
        assert re.search(rf"^{name}==", pinned, re.MULTILINE)


def test_the_signals_reach_the_server() -> None:
    # Con corchetes: sin ellos iría dentro de una shell, que como proceso 1 no le pasa ninguna.
    assert json.loads(instructions(FINAL, "ENTRYPOINT")[0]) == ["servidor-tcp"]
    assert instructions(FINAL, "STOPSIGNAL") == ["SIGTERM"]
    assert DEFAULT_LIMITS.drain <= 10  # lo que docker y podman esperan antes de matar


def test_the_options_of_the_image_exist() -> None:
    variables = re.findall(r"SERVIDOR_TCP_(\w+)=(\S+)", FINAL)
    arguments = json.loads(instructions(FINAL, "CMD")[-1])
    options = check_options([*arguments, *(f"--{name.lower()}={value}" for name, value in variables)])
    assert [str(options.puerto)] == instructions(FINAL, "EXPOSE")
    assert options.host == "0.0.0.0"
    (user,) = instructions(FINAL, "USER")
    assert user == f"{NOBODY}:{NOBODY}"


def test_the_options_the_page_shows_exist() -> None:
    runs = [line for line in "".join(blocks(PAGE, "sh")).splitlines() if line.startswith("podman run ")]
    used = [text.split() for line in runs if (text := line.partition(" comunicacion-tcp ")[2])]
    assert len(used) == 2
    for options in used:
        check_options(options)
    variables = re.findall(r"(SERVIDOR|CLIENTE)_TCP_([A-Z_]+)", (ROOT / PAGE).read_text(encoding="utf-8"))
    known = {"SERVIDOR": server_parser("servidor-tcp"), "CLIENTE": client_parser("cliente-tcp")}
    assert len(variables) > 3
    for program, name in variables:
        assert f"--{name.lower().replace('_', '-')}" in known[program]._option_string_actions


def test_the_health_check_tells_the_living_from_the_dead() -> None:
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", FINAL, re.MULTILINE)
    program, *arguments = json.loads(check)
    assert program == "cliente-tcp"
    with running_server("--servicio", "examples.palabras:responder") as (_, port):
        done = run([*CLIENT, *arguments], env={"CLIENTE_TCP_PUERTO": str(port)})
        assert (done.returncode, done.stderr) == (0, b"")
    done = run([*CLIENT, *arguments], env={"CLIENTE_TCP_PUERTO": str(free_port())})
    assert done.returncode == 1


# -- como en un contenedor ---------------------------------------------------------------------------------


@in_one_and_in_several
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_ends_well_as_the_first_process(
    tmp_path: Path, processes: list[str], number: signal.Signals
) -> None:
    with first_process(tmp_path, *processes) as (server, pid):
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.MULTILINE)
        assert re.search(rf"^Uid:\s+{NOBODY}\s", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        with connect(listening_port(pid)) as sock:
            assert ask(sock, "hola señor") == "HOLA SEÑOR"
            assert end(server, pid, number) == 0
            assert receive_all(sock) == b""
        assert server.output.endswith("Servidor detenido.\n")
        assert server.errors == ""


def test_with_several_processes_nobody_stays_dead_and_unburied(tmp_path: Path) -> None:
    # Un servicio que deja huérfanos: en un contenedor los hereda el proceso 1, y si no los recoge se acumulan.
    (tmp_path / "huerfanos.py").write_text(
        "import subprocess\n\n\n"
        "def responder(texto):\n"
        "    subprocess.run(['sh', '-c', 'sleep 0.5 &'], check=True)\n"
        "    return texto\n"
    )
    tmp_path.chmod(0o755)
    with first_process(tmp_path, "--procesos", "2", "--servicio", "huerfanos:responder") as (server, pid):
        workers = sorted(children(pid))
        assert len(workers) == 2
        with connect(listening_port(pid)) as sock:
            seen = set()
            for _ in range(5):
                assert ask(sock, "hola") == "hola"
                seen |= {*children(pid)}
            assert len(seen) > 2  # los hubo
        wait_until(lambda: sorted(children(pid)) == workers, "que se recojan los huérfanos")
        # Y a un proceso muerto lo sustituye otro.
        os.kill(workers[0], signal.SIGKILL)
        server.wait_for("sirve ya.")
        assert len(children(pid)) == 2
        assert workers[0] not in children(pid)
        assert end(server, pid, signal.SIGTERM) == 0


def test_it_cannot_write_anywhere(tmp_path: Path) -> None:
    (tmp_path / "escritor.py").write_text(
        "import os\n\n\ndef responder(texto):\n    try:\n        open(texto, 'w')\n"
        "    except OSError as error:\n        return os.strerror(error.errno)\n    return 'escrito'\n"
    )
    tmp_path.chmod(0o755)
    with first_process(tmp_path, "--servicio", "escritor:responder") as (_, pid), connect(listening_port(pid)) as sock:
        for place in ("/nada", "/tmp/nada", "/mnt/app/nada", "/mnt/extra/nada"):
            assert ask(sock, place) == "Read-only file system"
