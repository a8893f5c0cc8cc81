"""Lo que se enseña: cada métrica, una vez, con su valor, y como la quiere Prometheus."""

from __future__ import annotations

import gzip
import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from comunicacion_tcp import __version__, board, metrics
from comunicacion_tcp.board import Board
from comunicacion_tcp.metrics import FAMILIES, PREFIX, BoardCollector

from .support.measured import Web, full_board, web
from .support.prometheus import get, promtool

KINDS = ["text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"]


@pytest.fixture
def page() -> Iterator[Web]:
    with web(full_board()) as served:
        yield served


def test_every_metric_is_shown_once_under_one_prefix(page: Web) -> None:
    shown = list(parse(get(f"{page.url}/metrics").text))
    assert {family.name for family in shown} == {PREFIX + family.name for family in FAMILIES}
    assert len(shown) == len(FAMILIES)
    for family in shown:
        assert family.documentation.endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_the_values_are_the_sums_of_the_rows(page: Web, kind: str) -> None:
    read = parse_openmetrics if "openmetrics" in kind else parse
    answer = get(f"{page.url}/metrics", {"Accept": kind})
    assert answer.headers["Content-Type"].startswith(kind.partition(";")[0])
    samples = [sample for family in read(answer.text) for sample in family.samples]
    values = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    rows = [page.board.seat(0), page.board.seat(1), page.board.launcher]
    for family in metrics.COUNTERS:
        for value, column in family.columns.items():
            name = (family.full_name, value) if family.label else (family.full_name,)
            assert values[name] == sum(row.cells[column] for row in rows) > 0
    buckets = [values[f"{PREFIX}service_duration_seconds_bucket", le] for le in ("1e-05", "0.005", "20.0", "+Inf")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == values[f"{PREFIX}service_duration_seconds_count",]
    assert values[f"{PREFIX}service_duration_seconds_sum",] == page.board.total(board.SERVICE_SECONDS)
    assert values[f"{PREFIX}connections_open",] == 3
    assert values[f"{PREFIX}processes_serving",] == 1
    assert values[f"{PREFIX}processes_wanted",] == 2
    assert values[f"{PREFIX}start_time_seconds",] == 1.7e9
    assert values[f"{PREFIX}certificate_expiry_timestamp_seconds",] == 2e9
    (build,) = [name for name in values if name[0] == f"{PREFIX}build_info"]
    assert {__version__, "asyncio"} < set(build)


def test_without_tls_there_is_no_expiry() -> None:
    names = {family.name for family in BoardCollector(Board(), "asyncio").collect()}
    assert f"{PREFIX}certificate_expiry_timestamp_seconds" not in names


def test_who_only_finishes_what_it_has_adds_no_room_nor_certificate() -> None:
    made = full_board()
    old = made.seat(1)
    old.take(time.monotonic())
    old.cells[board.OPEN], old.cells[board.CAPACITY], old.cells[board.WANTED_CAPACITY] = 7, 10, 12
    old.cells[board.CERTIFICATE_EXPIRY] = 1e9  # el de antes de recargar, que ya no se enseña a nadie
    samples = [sample for family in BoardCollector(made, "asyncio").collect() for sample in family.samples]
    found = {sample.name.removeprefix(PREFIX): sample.value for sample in samples}
    assert found["connections_open"] == 3 + 7
    assert found["connections_capacity"] == 10 + 7
    assert found["connections_capacity_wanted"] == 7
    assert found["certificate_expiry_timestamp_seconds"] == 2e9


def test_what_is_used_is_the_last_there_is_unless_one_who_serves_could_not_read_it() -> None:
    made = Board(2)  # nadie recarga nada, ni hay quien lance a los demás
    for seat in (made.seat(0), made.seat(1)):
        seat.take(time.monotonic())
        seat.cells[board.ACCEPTING] = 1

    def good() -> dict[str, float]:
        samples = [sample for family in BoardCollector(made, "asyncio").collect() for sample in family.samples]
        return {one.labels["what"]: one.value for one in samples if one.name == f"{PREFIX}last_reload_successful"}

    assert good() == {"configuration": 1, "service": 1, "certificate": 1}
    made.seat(1).cells[board.RELOAD_FAILED["certificate"]] = 1
    assert good() == {"configuration": 1, "service": 1, "certificate": 0}
    made.launcher.cells[board.RELOAD_FAILED["configuration"]] = 1
    made.seat(1).cells[board.ACCEPTING] = 0  # lo suyo ya no se enseña a nadie nuevo
    assert good() == {"configuration": 0, "service": 1, "certificate": 1}


def test_promtool_finds_nothing_to_say(page: Web) -> None:
    done = promtool("check", "metrics", entry=get(f"{page.url}/metrics").text)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_comes_compressed_for_who_asks(page: Web) -> None:
    request = urllib.request.Request(f"{page.url}/metrics", headers={"Accept-Encoding": "gzip"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert PREFIX.encode() in gzip.decompress(answer.read())
