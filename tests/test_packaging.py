"""El paquete instalado de verdad, en un entorno vacío: sus órdenes, sus tipos y ninguna dependencia."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .support.examples import ROOT
from .support.programs import Program, environment, run
from .support.tools import need


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """La carpeta de órdenes de un entorno en el que solo está instalado este paquete."""
    folder = tmp_path_factory.mktemp("instalado")
    # Sin aislamiento: hatchling ya está entre las herramientas fijadas, y así no hay nada que descargar.
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    # Sin pip: instala el de aquí, y hacer el entorno cuesta la décima parte.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    pip("--python", folder / "venv" / "bin" / "python", "install", "--quiet", "--no-index", wheel)
    return folder


def pip(*options: str | Path) -> bytes:
    """Lo que escribe ``pip`` con esas opciones."""
    command = [sys.executable, "-m", "pip", *options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment()).stdout


def test_the_commands_hold_the_conversation(installed: Path) -> None:
    folder = installed / "venv" / "bin"
    with Program([str(folder / "servidor-tcp"), "--puerto", "0"]) as server:
        done = run([str(folder / "cliente-tcp"), "--puerto", str(server.port)], "hola\nDESCONEXION\n")
        assert done.stdout.decode().endswith("Servidor: Conexión cerrada\n")
        assert (done.returncode, done.stderr) == (0, b"")


def test_the_manual_and_the_completions_are_where_they_are_looked_for(installed: Path) -> None:
    source, target = ROOT / "share", installed / "venv" / "share"
    paths = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    assert len(paths) == 8  # dos programas: bash, zsh, fish y el manual
    for path in paths:
        assert (target / path).read_bytes() == (source / path).read_bytes()
    man = need("man")
    done = run(
        [man, "-w", "cliente-tcp"], env={"PATH": f"{installed / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    )
    assert Path(done.stdout.decode().strip()) == target / "man" / "man1" / "cliente-tcp.1"


def test_the_page_of_the_package_leads_somewhere(installed: Path) -> None:
    code = "from importlib.metadata import metadata; print(metadata('comunicacion-tcp').as_string())"
    page = run([str(installed / "venv" / "bin" / "python"), "-I", "-c", code], env={"PYTHONUTF8": "1"}).stdout.decode()
    links = re.findall(r"\]\(([^)]*)\)", page)
    [repository] = re.findall(r"^Project-URL: Repository, (https://.*)$", page, re.MULTILINE)
    assert len(links) == len(re.findall(r"\]\(", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert all(link.startswith("https://") for link in links)
    ours = [link.removeprefix(f"{repository}/") for link in links if link.startswith(repository)]
    assert {"blob/HEAD/docs/protocolo.md", "raw/HEAD/docs/rendimiento-cpu.svg", "blob/HEAD/README.md#rendimiento"} <= {
        *ours
    }
    for link in ours:
        assert (ROOT / link.split("/", 2)[2].partition("#")[0]).exists(), link


def test_pytest_finds_the_plugin(installed: Path) -> None:
    code = "from importlib.metadata import entry_points as e; print(*[p.value for p in e(group='pytest11')])"
    done = run([str(installed / "venv" / "bin" / "python"), "-I", "-c", code])
    assert done.stdout.decode().split() == ["comunicacion_tcp.pytest_plugin"]


def test_the_extra_brings_uvloop(installed: Path, tmp_path: Path) -> None:
    # Sin red: un uvloop de mentira, que solo tiene nombre. Se pregunta a pip qué instalaría.
    with zipfile.ZipFile(tmp_path / "uvloop-0.18.0-py3-none-any.whl", "w") as archive:
        info = "uvloop-0.18.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: uvloop\nVersion: 0.18.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    python = installed / "venv" / "bin" / "python"
    ask = ("--dry-run", "--quiet", "--ignore-installed", "--report", "-", "--no-index")
    places = ("--find-links", installed, "--find-links", tmp_path)
    report = pip("--python", python, "install", *ask, *places, "comunicacion-tcp[rapido]")
    names = {found["metadata"]["name"] for found in json.loads(report)["install"]}
    assert names == {"comunicacion-tcp", "uvloop"}


def test_the_wheel_has_types_and_nothing_else(installed: Path) -> None:
    (wheel,) = installed.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(archive.read(name).decode() for name in names if name.endswith("METADATA"))
    assert "comunicacion_tcp/py.typed" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"comunicacion_tcp"}
    # Sin dependencias: lo que haya es de un extra.
    assert all("extra ==" in line for line in metadata.splitlines() if line.startswith("Requires-Dist"))
    assert "Provides-Extra: rapido" in metadata
    assert "Provides-Extra: interactivo" in metadata
    assert "Provides-Extra: metricas" in metadata
    assert "Requires-Python: >=3.10" in metadata
