"""Lo que se da hecho para Prometheus y Grafana, con un Prometheus de verdad que mira a un servidor de verdad."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comunicacion_tcp.board import HANDSHAKES_FAILED, MESSAGES, PROXY_HEADERS_BAD, REFUSED, RELOAD_FAILED
from comunicacion_tcp.metrics import FAMILIES, PREFIX

from .cli.test_metrics import address_of
from .support.certificates import Certificates
from .support.encrypted import encrypted
from .support.examples import ROOT
from .support.programs import running_server
from .support.prometheus import Prometheus, prometheus, promtool
from .support.waiting import wait_until

FOLDER = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
MESSAGES_SENT = 50


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Prometheus]:
    """Un Prometheus que ya ha visto a un servidor responder ``MESSAGES_SENT`` mensajes, antes y después."""
    options = ("--tls-cert", certificates.server, "--metricas", "127.0.0.1:0")
    with running_server(*options) as (server, port):
        target = address_of(server).removeprefix("http://")
        with (
            prometheus(tmp_path_factory.mktemp("prometheus"), target) as running,
            encrypted(port, certificates.trusting()) as client,
        ):
            wait_until(lambda: running.value(f"{PREFIX}connections_open") == 1)
            for _ in range(MESSAGES_SENT):
                client.send(b"hola\n")
                assert client.receive(5) == b"HOLA\n"
            wait_until(lambda: running.value(f'{PREFIX}messages_total{{result="ok"}}') == MESSAGES_SENT)
            yield running


@pytest.mark.timeout(300)
def test_prometheus_knows_what_the_server_did(watched: Prometheus) -> None:
    for expression, value in (
        ('up{job="comunicacion_tcp"}', 1),
        (f"sum({PREFIX}messages_total)", MESSAGES_SENT),
        (f"{PREFIX}received_bytes_total", MESSAGES_SENT * 5),
    ):
        wait_until(lambda what=expression, value=value: watched.value(what) == value, expression)  # type: ignore[misc]
    # La primera vez que miró aún no había ninguno: lo que cuenta es el aumento, que además se extrapola.
    increase = f'increase({PREFIX}messages_total{{result="ok"}}[5m])'
    wait_until(lambda: (watched.value(increase) or 0) > 0, increase)
    kinds = json.loads(_read(f"{watched.url}/api/v1/metadata"))["data"]
    for family in FAMILIES:
        # Según el formato en que las pidió, una que cuenta se llama con «_total» o sin él.
        (known,) = kinds.get(family.full_name) or kinds[PREFIX + family.name]
        assert known["help"] == family.help


def _read(url: str) -> str:
    from .support.prometheus import get

    return get(url).text


@pytest.mark.timeout(300)
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_finds_data(panel: dict[str, Any], watched: Prometheus) -> None:
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", "1m")
        for variable in ("$job", "$instance"):
            query = query.replace(variable, ".*")
        assert "$" not in query
        assert f"{PREFIX}" in query

        def found(query: str = query) -> bool:
            return any(not math.isnan(float(one["value"][1])) for one in watched.query(query))

        wait_until(found, f"que haya datos de {query}")


def test_the_dashboard_can_be_imported() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


def test_promtool_accepts_every_file(tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"
    shutil.copytree(FOLDER, folder)  # promtool no escribe nada, pero que no pueda
    assert promtool("check", "config", "prometheus.yml", cwd=folder).returncode == 0
    done = promtool("check", "rules", "alerts.yml", cwd=folder)
    assert done.returncode == 0, done.stdout
    done = promtool("test", "rules", "alerts_test.yml", cwd=folder)
    assert done.returncode == 0, done.stdout


def test_every_alert_is_seen_firing_and_silent() -> None:
    alerts = re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text(encoding="utf-8"))
    tests = (FOLDER / "alerts_test.yml").read_text(encoding="utf-8")
    assert len(alerts) == len(set(alerts)) > 10
    firing = re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", tests)
    silent = re.findall(r"alertname: (\w+), exp_alerts: \[\]", tests)
    assert {*firing} == {*silent} == {*alerts}


def test_alerts_and_panels_ask_only_for_what_there_is() -> None:
    known = {family.full_name for family in FAMILIES}
    known |= {f"{PREFIX}service_duration_seconds_{end}" for end in ("bucket", "sum", "count")}
    for text in ((FOLDER / "alerts.yml").read_text(encoding="utf-8"), json.dumps(DASHBOARD)):
        assert set(re.findall(rf"\b{PREFIX}\w+", text)) <= known
    labels = {*MESSAGES, *REFUSED, *HANDSHAKES_FAILED, *PROXY_HEADERS_BAD, *RELOAD_FAILED, "ok", "failed"}
    for text in ((FOLDER / "alerts.yml").read_text(encoding="utf-8"), json.dumps(DASHBOARD)):
        for values in re.findall(r'(?:result|reason|problem|what)=~?\\?"([\w|]+)', text):
            assert set(values.split("|")) <= labels


def test_the_page_tells_every_metric() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    table = page.partition("| métrica |")[2].splitlines()[2:]
    assert table == [
        f"| `{family.full_name.removeprefix(PREFIX)}` | {_kind(family.kind.__name__)} | "
        + ", ".join(f"`{label}`" for label in family.label.split(", ") if label)
        + f" | {family.help} |"
        for family in FAMILIES
    ]


def _kind(name: str) -> str:
    return {"CounterMetricFamily": "contador", "GaugeMetricFamily": "medida", "HistogramMetricFamily": "histograma"}[
        name
    ]
