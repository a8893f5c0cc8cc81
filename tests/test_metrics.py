"""Lo que se enseña: cada métrica como la quiere Prometheus, las preguntas de quien vigila, y quien pregunta mal."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from comunicacion_tcp import __version__, board, metrics
from comunicacion_tcp.board import Board
from comunicacion_tcp.errors import AddressInUse
from comunicacion_tcp.metrics import FAMILIES, PREFIX, BoardCollector, MetricsServer, open_metrics

from .support.prometheus import get, promtool
from .support.sockets import connect, receive_all
from .support.waiting import wait_until

KINDS = ["text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"]


class Web:
    """Las métricas de ``board`` servidas en ``url``."""

    def __init__(self, server: MetricsServer, made: Board) -> None:
        self.server = server
        self.board = made
        self.port = server.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"


def full_board() -> Board:
    """Una pizarra de dos puestos con algo en cada columna; el primero lo ocupa un proceso que sirve."""
    made = Board(2, wanted=2, started=1.7e9)
    for place, row in enumerate((made.seat(0), made.seat(1), made.launcher)):
        for column in range(board._FIRST_STATE):
            row.cells[column] = column + 1 + place
    row = made.seat(0)
    row.take(time.monotonic())
    row.cells[board.ACCEPTING], row.cells[board.OPEN], row.cells[board.CAPACITY] = 1, 3, 10
    row.cells[board.CERTIFICATE_EXPIRY] = 2e9
    return made


@contextlib.contextmanager
def web(made: Board) -> Iterator[Web]:
    """Las métricas de ``made``, por HTTP; al acabar no queda nada."""
    before = set(threading.enumerate())
    server = open_metrics("127.0.0.1", 0, made, "asyncio")
    server.start()
    try:
        yield Web(server, made)
    finally:
        server.close()
    wait_until(lambda: set(threading.enumerate()) <= before, "que acaben los hilos de las métricas")


@pytest.fixture
def page() -> Iterator[Web]:
    with web(full_board()) as served:
        yield served


# -- lo que se enseña ---------------------------------------------------------------------------------------


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


def test_promtool_finds_nothing_to_say(page: Web) -> None:
    done = promtool("check", "metrics", entry=get(f"{page.url}/metrics").text)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_comes_compressed_for_who_asks(page: Web) -> None:
    request = urllib.request.Request(f"{page.url}/metrics", headers={"Accept-Encoding": "gzip"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert PREFIX.encode() in gzip.decompress(answer.read())


# -- por HTTP -----------------------------------------------------------------------------------------------


def test_alive_and_ready(page: Web) -> None:
    for path in ("/salud", "/lista"):
        answer = get(page.url + path)
        assert (answer.status, answer.text) == (200, "bien\n")
    page.board.seat(0).cells[board.OPEN] = 10
    assert get(f"{page.url}/salud").status == 200
    answer = get(f"{page.url}/lista")
    assert (answer.status, answer.text) == (503, "completo\n")
    page.board.seat(0).cells[board.HEARTBEAT] -= 60
    for path in ("/salud", "/lista"):
        answer = get(page.url + path)
        assert (answer.status, answer.text) == (503, "atascado\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/favicon.ico", "/metrics/../salud"])
def test_there_is_nothing_else(page: Web, path: str) -> None:
    assert get(page.url + path).status == 404


@pytest.mark.parametrize("path", ["/metrics", "/salud", "/nada"])
def test_a_head_is_a_get_without_its_body(page: Web, path: str) -> None:
    whole, head = get(page.url + path), get(page.url + path, method="HEAD")
    assert head.status == whole.status
    assert head.text == ""
    assert head.headers["Content-Length"] == str(len(whole.text.encode()))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_can_only_be_read(page: Web, method: str) -> None:
    answer = get(f"{page.url}/metrics", method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_it_does_not_say_what_runs_it(page: Web) -> None:
    assert get(page.url).headers["Server"] == "comunicacion_tcp"


@pytest.mark.parametrize(
    "entry",
    [
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9\r\n\r\n",
        b"GET /metrics?name[]=%ff&%zz HTTP/1.0\r\n\r\n",
        b"GET " + b"x" * 100_000,
        b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 50_000,
        b"GET /metrics HTTP/1.1\r\nContent-Length: 99999\r\n\r\n",
    ],
    ids=range(8),
)
def test_odd_requests_harm_nobody(page: Web, entry: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with connect(page.port) as sock, contextlib.suppress(OSError):
        sock.sendall(entry)
        sock.shutdown(socket.SHUT_WR)
        receive_all(sock)
    assert get(f"{page.url}/salud").status == 200
    assert capfd.readouterr() == ("", "")


def test_who_leaves_without_reading_harms_nobody(page: Web, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        with connect(page.port) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert get(f"{page.url}/salud").status == 200
    assert capfd.readouterr() == ("", "")


def test_the_slow_ones_are_few_and_do_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_GLANCE", 0.1)
    before = set(threading.enumerate())

    def born() -> int:
        return len(set(threading.enumerate()) - before)  # los de otra prueba pueden estar acabando aún

    with web(full_board()) as page, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(page.port)) for _ in range(metrics._MOST)]
        for sock in slow:
            sock.sendall(b"GET /metrics HTTP/1.0\r\n")

        def dripping() -> bool:
            # Cada byte llega a tiempo, y el final no llega nunca.
            for sock in slow:
                with contextlib.suppress(OSError):
                    sock.sendall(b"a")
            return born() == 1

        wait_until(lambda: len(page.server._since) == metrics._MOST and born() == 1 + metrics._MOST)
        monkeypatch.setattr(metrics, "_DEADLINE", 0.5)  # ahora que están todos
        wait_until(dripping, "que se corte a los lentos")
        assert get(f"{page.url}/salud").status == 200


def test_the_slow_ones_do_not_keep_out_who_asks_well(page: Web) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(page.port)) for _ in range(metrics._MOST)]
        for sock in slow:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n")
        wait_until(lambda: len(page.server._since) == metrics._MOST)
        for path in ("/salud", "/metrics"):
            assert get(page.url + path).status == 200
        assert receive_all(slow[0]) == b""  # su sitio, el más antiguo, es el que hizo falta
    wait_until(lambda: not page.server._since)


# -- abrir y cerrar -----------------------------------------------------------------------------------------


def test_a_busy_port_is_the_error_of_any_server(page: Web) -> None:
    with pytest.raises(AddressInUse):
        open_metrics("127.0.0.1", page.port, Board(), "asyncio")


def test_a_name_of_two_addresses_is_served_in_both() -> None:
    server = open_metrics("localhost", 0, full_board(), "asyncio")
    server.start()
    try:
        for host, port, *_ in server.addresses:
            at = f"[{host}]" if ":" in host else host
            assert get(f"http://{at}:{port}/salud").status == 200
    finally:
        server.close()


@pytest.mark.parametrize("how", [MetricsServer.close, MetricsServer.release])
def test_what_never_ran_leaves_nothing(how: Callable[[MetricsServer], Any]) -> None:
    server = open_metrics("127.0.0.1", 0, Board(), "asyncio")
    port = server.addresses[0][1]
    how(server)
    with pytest.raises(ConnectionRefusedError):
        connect(port)


def test_closing_twice_is_closing() -> None:
    server = open_metrics("127.0.0.1", 0, Board(), "asyncio")
    server.start()
    server.close()
    server.close()


def test_run_in_the_main_thread_ends_when_told() -> None:
    # Como en un proceso nacido solo para esto: quien lo acaba es una señal, en medio de run().
    server = open_metrics("127.0.0.1", 0, Board(), "asyncio")

    def close() -> None:
        wait_until(lambda: server._running, "que empiece")
        server.close()

    closer = threading.Thread(target=close)
    closer.start()
    server.run()
    closer.join()


def test_closed_before_running_it_does_not_run() -> None:
    server = open_metrics("127.0.0.1", 0, Board(), "asyncio")
    server.close()
    server.run()
