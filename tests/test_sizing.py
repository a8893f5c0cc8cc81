"""La cuenta de ``docs/escalado.md``: sale de lo medido, se puede hacer a mano, y la página dice lo que da."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import sizing
from tools.sizing import MACHINE, PROFILES, Machine, Profile, each_balancer, each_process, plan

from .support.examples import ROOT

QUIET, CHATTY = PROFILES
PAGE = (ROOT / "docs" / "escalado.md").read_text(encoding="utf-8")


def column(page: str, title: str, head: str) -> dict[str, float]:
    """De la tabla que hay bajo ``title``, lo que pone cada fila en la columna ``head``."""
    lines = [line for line in page.partition(f"### {title}\n")[2].partition("\n#")[0].splitlines() if line[:1] == "|"]
    index = lines[0].strip("| ").split(" | ").index(head)
    rows = [line.strip("| ").split(" | ") for line in lines[2:]]
    return {" ".join(cells[:index]): float(cells[index]) for cells in rows}


def test_the_page_shows_the_table_that_comes_out() -> None:
    start = "<!-- Desde aquí lo escribe tools.sizing -->"
    assert PAGE.partition(start)[2].partition("<!-- Hasta aquí -->")[0].strip() == sizing.show().strip()


def test_what_the_sums_start_from_is_what_was_measured_rounded_for_the_worse() -> None:
    speed = (ROOT / "docs" / "rendimiento.md").read_text(encoding="utf-8")
    ours, several = "comunicacion_tcp", column(PAGE, "La velocidad", "CPU us/mensaje")
    message, connection = (
        max(column(speed, work, "CPU us/mensaje")[ours], several[f"{work} asyncio 2"]) / 1e6
        for work in ("petición y respuesta, ASCII", "conectar, un mensaje y DESCONEXION")
    )
    idle = column(PAGE, "La memoria", "bytes por callada, en el proceso")
    kernel = column(PAGE, "La memoria", "en el núcleo")
    process = column(PAGE, "La memoria", "cada proceso, MiB")
    balancer = {
        head: max(column(PAGE, "Un balanceador delante", head).values())
        for head in ("CPU us/mensaje", "CPU us/conexión", "bytes por callada, en el proceso", "en el núcleo")
    }
    pairs = [
        (sizing.MESSAGE, message),
        (sizing.CONNECTION, connection),
        (sizing.MEMORY, max(idle.values()) + max(kernel.values())),
        (sizing.PROCESS, max(process.values()) * 2**20),
        (sizing.BALANCER_MESSAGE, balancer["CPU us/mensaje"] / 1e6),
        (sizing.BALANCER_CONNECTION, balancer["CPU us/conexión"] / 1e6),
        (sizing.BALANCER_MEMORY, balancer["bytes por callada, en el proceso"] + balancer["en el núcleo"]),
    ]
    for assumed, measured in pairs:
        assert measured <= assumed <= 2 * measured, pairs


def test_the_figures_of_the_page_are_the_ones_of_the_sums() -> None:
    for name, value in (
        ("`M`, procesador por mensaje", f"{sizing.MESSAGE * 1e6:.0f} us"),
        ("`C`, procesador por conexión (llega, dice algo, se despide)", f"{sizing.CONNECTION * 1e6:.0f} us"),
        ("`B`, bytes por conexión", sizing.number(sizing.MEMORY)),
        ("`P`, bytes por proceso", f"{sizing.PROCESS >> 20} MiB"),
        (
            "las mismas de un HAProxy",
            f"{sizing.BALANCER_MESSAGE * 1e6:.0f} us, {sizing.BALANCER_CONNECTION * 1e6:.0f} us, "
            f"{sizing.number(sizing.BALANCER_MEMORY)}",
        ),
    ):
        assert re.search(rf"^\| {re.escape(name)} \| {re.escape(value)} \|", PAGE, re.MULTILINE), name


def test_the_example_of_the_page_by_hand() -> None:
    per_client = 12e-6 / 1 + 130e-6 / 600
    assert per_client == pytest.approx(12.2e-6, rel=0.01)
    each, limit = each_process(CHATTY, MACHINE)
    assert (each, limit) == (int(0.5 / per_client), "procesador")
    assert round(each, -3) == 41_000
    memory = (16 * 2**30 * 0.5 / 8 - 8 * 2**20) / 7_400
    assert round(memory, -3) == 144_000
    assert round(10 / 130e-6, -3) == 77_000
    got = plan(1_000_000, CHATTY)
    assert got.machines == 4 + 1
    assert got.bits == pytest.approx(1_000_000 * 280 * 8)
    for shown in ("41 000", "144 000", "77 000", "327 000"):
        assert shown in PAGE


def test_with_tls_memory_runs_out_first() -> None:
    assert round(sizing.MEMORY_TLS, -3) == 24_000
    assert round((16 * 2**30 * 0.5 / 8 - sizing.PROCESS) / sizing.MEMORY_TLS, -3) == 44_000
    assert "`B` pasa de 7 400 a 24 000 bytes" in PAGE
    assert "44 000 por proceso" in PAGE


@pytest.mark.parametrize(
    ("profile", "machine", "limit"),
    [
        (Profile("sin parar", 0.001, 3600), MACHINE, "procesador"),
        (QUIET, Machine(8, 2**30), "memoria"),
        (QUIET, MACHINE, "volver"),
    ],
)
def test_whatever_runs_out_first_rules(profile: Profile, machine: Machine, limit: str) -> None:
    assert each_process(profile, machine)[1] == limit


def test_balancers_run_out_of_processor_or_memory() -> None:
    assert each_balancer(CHATTY, MACHINE) == int(8 * 0.5 / (25e-6 + 110e-6 / 600))
    assert each_balancer(QUIET, MACHINE) == int(8 * 2**30 / sizing.BALANCER_MEMORY)


def test_there_is_always_one_to_spare() -> None:
    assert plan(1, QUIET).machines == plan(1, QUIET).balancers == 2
    assert sizing.with_spare(20) == 22
    assert sizing.with_spare(20.1) == 24


@pytest.mark.parametrize(("bits", "text"), [(999, "0.999 kbit/s"), (2.24e6, "2.24 Mbit/s"), (2.24e11, "224 Gbit/s")])
def test_a_speed_reads_well(bits: float, text: str) -> None:
    assert sizing.speed(bits) == text


def test_the_program_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "escalado.md"
    page.write_text(
        "antes\n<!-- Desde aquí lo escribe tools.sizing -->\nviejo\n<!-- Hasta aquí -->\n", encoding="utf-8"
    )
    monkeypatch.setattr(sizing, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["sizing", "--docs"])
    assert sizing.main() == 0
    assert sizing.show() in page.read_text(encoding="utf-8")
    assert "viejo" not in page.read_text(encoding="utf-8")


def test_the_program_shows_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["sizing"])
    assert sizing.main() == 0
    assert capsys.readouterr().out == sizing.show()
