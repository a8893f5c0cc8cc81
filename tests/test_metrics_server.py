"""Las métricas por HTTP: las dos preguntas de quien vigila, quien pregunta mal o despacio, abrir y cerrar."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from comunicacion_tcp import board, metrics_server
from comunicacion_tcp.board import Board
from comunicacion_tcp.errors import AddressInUse
from comunicacion_tcp.metrics_server import MetricsServer, open_metrics

from .support.measured import Web, full_board, web
from .support.prometheus import get
from .support.sockets import connect, receive_all
from .support.waiting import PATIENCE, wait_until


@pytest.fixture
def page() -> Iterator[Web]:
    with web(full_board()) as served:
        yield served


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


def raw(page: Web, entry: bytes) -> tuple[bytes, bytes]:
    """La cabecera y el cuerpo de lo que responde a ``entry``."""
    with connect(page.port) as sock:
        sock.sendall(entry)
        sock.shutdown(socket.SHUT_WR)
        head, _, body = receive_all(sock).partition(b"\r\n\r\n")
        return head, body


@pytest.mark.parametrize(
    ("entry", "status", "text"),
    [
        (b"GET /nada HTTP/1.1\r\n\r\n", 404, "aquí hay /metrics, /salud y /lista"),
        (b"POST /salud HTTP/1.1\r\n\r\n", 405, "solo se puede leer"),
        (b"RARO /salud HTTP/1.1\r\n\r\n", 405, "solo se puede leer"),
        (b"GET /salud HTTP/2.0\r\n\r\n", 505, "esa versión de HTTP no se admite"),
        (b"GET /salud HTTP/uno\r\n\r\n", 400, "no se entiende la petición"),
        (b"GET / salud HTTP/1.1\r\n\r\n", 400, "no se entiende la petición"),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 404, "aquí hay /metrics, /salud y /lista"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414, "la petición es demasiado larga"),
        (b"GET /salud HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431, "la petición es demasiado larga"),
        (b"GET /salud HTTP/1.1\r\n" + b"a: b\r\n" * 50_000 + b"\r\n", 431, "la petición es demasiado larga"),
    ],
    ids=range(10),
)
def test_an_error_is_one_plain_line_that_does_not_say_what_runs_it(
    page: Web, entry: bytes, status: int, text: str
) -> None:
    head, body = raw(page, entry)
    assert head.startswith(f"HTTP/1.0 {status} ".encode())
    assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in head
    assert b"\r\nServer:" not in head
    assert body.decode() == f"{text}\n"


@pytest.mark.parametrize("path", ["/salud", "/metrics", "/%6Detrics"])
@pytest.mark.parametrize("site", ["http://127.0.0.1:5001", "http://otra.example", ""])
def test_a_request_may_name_the_whole_address(page: Web, site: str, path: str) -> None:
    head, body = raw(page, f"GET {site}{path} HTTP/1.1\r\n\r\n".encode())
    assert head.startswith(b"HTTP/1.0 200 ")
    assert body
    assert b"\r\nServer:" not in head


def test_metrics_without_any_header(page: Web) -> None:
    # El analizador de cabeceras que cambió en Python 3.14 necesitaba alguna.
    head, body = raw(page, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert b"\r\nContent-Type: text/plain; version=0.0.4" in head
    assert b"comunicacion_tcp_messages_total" in body


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("text/plain; version=zz", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain; version=", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=9.9.9", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0 x", "text/plain; version=0.0.4; charset=utf-8"),
        ('application/openmetrics-text; version="1.0.0"', "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text; version=9, application/openmetrics-text; version=1.0.0", "application/openmet"),
        ("\xff;=,;version;, */*", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_a_format_of_unknown_version_is_as_if_it_were_not_asked_for(page: Web, accept: str, given: str) -> None:
    answer = get(f"{page.url}/metrics", {"Accept": accept})
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(given)


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
    monkeypatch.setattr(metrics_server, "_DEADLINE", PATIENCE)  # hasta que estén todos
    monkeypatch.setattr(metrics_server, "_GLANCE", 0.1)
    before = set(threading.enumerate())

    def born() -> int:
        return len(set(threading.enumerate()) - before)  # los de otra prueba pueden estar acabando aún

    with web(full_board()) as page, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(page.port)) for _ in range(metrics_server._MOST)]
        for sock in slow:
            sock.sendall(b"GET /metrics HTTP/1.0\r\n")

        def dripping() -> bool:
            # Cada byte llega a tiempo, y el final no llega nunca.
            for sock in slow:
                with contextlib.suppress(OSError):
                    sock.sendall(b"a")
            return born() == 1

        wait_until(lambda: born() == 1 + metrics_server._MOST)
        monkeypatch.setattr(metrics_server, "_DEADLINE", 0.5)  # ahora que están todos
        wait_until(dripping, "que se corte a los lentos")
        assert get(f"{page.url}/salud").status == 200


def test_the_slow_ones_do_not_keep_out_who_asks_well(page: Web) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(page.port)) for _ in range(metrics_server._MOST)]
        for sock in slow:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n")
        wait_until(lambda: len(page.server._since) == metrics_server._MOST)
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
    server = open_metrics("127.0.0.1", 0, Board(), "asyncio")
    timer = threading.Timer(0.05, server.close)  # antes o después de que empiece: da igual
    timer.start()
    server.run()
    timer.join()


def test_it_gives_signs_of_life_at_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "_GLANCE", 0.01)
    server = open_metrics("127.0.0.1", 0, Board(), "asyncio")
    turns = []

    def turn() -> None:
        turns.append(1)
        if len(turns) == 10:  # sin que nadie pregunte nada
            server.close()

    server.run(turn=turn)
    assert len(turns) == 10


def test_closed_before_it_runs_it_does_not_run() -> None:
    server = open_metrics("127.0.0.1", 0, Board(), "asyncio")
    server.close()
    server.run()
