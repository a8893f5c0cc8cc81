"""``deploy/systemd``: lo que dice systemd de las unidades, y que sus números son los del servidor.

Con un systemd en marcha se prueban a mano: ``python3 -m tools.try_deploy``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from comunicacion_tcp.cli import serving
from comunicacion_tcp.limits import DEFAULT_LIMITS
from comunicacion_tcp.supervision import CUT_SHORT, END_PATIENCE, START_PATIENCE

from .support.deployed import check_options
from .support.examples import ROOT, blocks
from .support.tools import need

FOLDER = ROOT / "deploy" / "systemd"
SERVICE = (FOLDER / "servidor-tcp.service").read_text(encoding="utf-8")
SOCKET = (FOLDER / "servidor-tcp.socket").read_text(encoding="utf-8")
DROP_INS = {re.match("# (.*)", block)[1]: block for block in blocks("deploy/systemd/README.md", "ini")}  # type: ignore[index]


def value(unit: str, key: str) -> str:
    """El valor de ``key`` en una unidad, si está una vez."""
    (found,) = re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)
    return str(found)


def machine(folder: Path, *drop_ins: str) -> Path:
    """Un disco de pega con las unidades donde van, y lo que ellas ejecutan: systemd mira que exista."""
    units = folder / "etc" / "systemd" / "system"
    shutil.copytree("/lib/systemd/system", folder / "lib" / "systemd" / "system", symlinks=True)
    units.mkdir(parents=True)
    for name in ("servidor-tcp.service", "servidor-tcp.socket"):
        shutil.copy(FOLDER / name, units)
    for drop_in in drop_ins:
        place = units / "servidor-tcp.service.d" / drop_in
        place.parent.mkdir(exist_ok=True)
        place.write_text(DROP_INS[drop_in], encoding="utf-8")
    for command in ("opt/comunicacion_tcp/bin/servidor-tcp", "bin/kill"):
        (folder / command).parent.mkdir(parents=True, exist_ok=True)
        (folder / command).write_text("#!/bin/sh\n")
        (folder / command).chmod(0o755)
    return folder


def analyze(root: Path, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [need("systemd-analyze"), verb, f"--root={root}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("drop_ins", [[], ["sin-red.conf"], ["tls.conf"], [*DROP_INS]], ids=str)
def test_systemd_has_nothing_to_say_of_the_units(tmp_path: Path, drop_ins: list[str]) -> None:
    need("systemd-analyze")
    done = analyze(machine(tmp_path, *drop_ins), "verify", "--man=no", "servidor-tcp.service", "servidor-tcp.socket")
    # Una opción que no conoce no es para él un error: solo lo dice.
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("drop_ins", "exposure"), [([], "1.1"), (["sin-red.conf"], "0.6")], ids=str)
def test_the_service_exposes_as_little_as_the_page_says(tmp_path: Path, drop_ins: list[str], exposure: str) -> None:
    need("systemd-analyze")
    most = str(round(float(exposure) * 10))
    root = machine(tmp_path, *drop_ins)
    done = analyze(root, "security", "--offline=yes", f"--threshold={most}", "--no-pager", "servidor-tcp.service")
    assert f"exposure level for servidor-tcp.service: {exposure}" in done.stdout
    assert done.returncode == 0
    assert exposure in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_numbers_of_the_units_are_those_of_the_server() -> None:
    limits = DEFAULT_LIMITS
    assert float(value(SERVICE, "TimeoutStopSec")) > limits.drain + END_PATIENCE
    assert float(value(SERVICE, "TimeoutStartSec")) > 2 * START_PATIENCE  # el primero, y después los demás
    assert float(value(SERVICE, "WatchdogSec")) > limits.service_timeout
    wanted = limits.max_connections + limits.reserve
    assert int(value(SERVICE, "LimitNOFILE")) >= wanted
    assert int(value(SOCKET, "Backlog")) == limits.backlog
    assert int(value(SERVICE, "RestartPreventExitStatus")) == serving.USAGE
    assert {place.rpartition(":")[2] for place in re.findall("^ListenStream=(.*)$", SOCKET, re.MULTILINE)} == {
        str(serving.PORT)
    }


def test_who_ends_badly_ends_alone_and_who_was_asked_to_end_did_not_fail() -> None:
    # A un proceso muerto lo repone su padre; systemd, si le dejan, los pararía a todos.
    assert value(SERVICE, "OOMPolicy") == "continue"
    assert int(value(SERVICE, "SuccessExitStatus")) == CUT_SHORT


def test_it_waits_for_the_network_and_does_not_give_up_in_seconds() -> None:
    for order in ("Wants", "After"):
        assert value(SERVICE, order) == "network-online.target"
    pause, attempts = int(value(SERVICE, "RestartSec")), int(value(SERVICE, "StartLimitBurst"))
    insisting, within = pause * attempts, int(value(SERVICE, "StartLimitIntervalSec"))
    assert insisting >= 120
    # Y acaba rindiéndose aunque cada intento tarde lo suyo: si no cupieran en el plazo, no lo haría nunca.
    assert within >= 2 * insisting


def test_the_options_of_the_units_exist() -> None:
    options = check_options(value(SERVICE, "ExecStart").split()[1:], FOLDER / "servidor-tcp.conf")
    assert options.puerto == serving.PORT
    assert options.nivel == "aviso"  # lo dice la configuración: se ha leído
    first, second = re.findall(r"^ExecReload=(.*)$", SERVICE, re.MULTILINE)
    assert first == f"{value(SERVICE, 'ExecStart')} --comprobar"
    assert second == "/bin/kill -HUP $MAINPID"
    variables = re.findall(r"SERVIDOR_TCP_(\w+)=(\S+)", "".join(DROP_INS.values()))
    assert len(variables) == 2
    check_options([f"--{name.lower().replace('_', '-')}={text}" for name, text in variables])
