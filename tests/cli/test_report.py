"""``report.py``: una frase por suceso, con su gravedad, y nadie puede llenar la pantalla provocando los mismos."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

import pytest

from comunicacion_tcp.cli.log import LineHandler, Log, PlainFormatter
from comunicacion_tcp.cli.report import Ration, Reporter, WorkerReporter
from comunicacion_tcp.errors import (
    BadProxyHeader,
    BadService,
    BadTLSFile,
    ServerFull,
    ServiceFailed,
    TLSFailed,
    TooLong,
)
from comunicacion_tcp.observer import Observer

from ..support.fakes import FakeLoop

PEER = ("192.0.2.7", 4000)


class Book(LineHandler):
    """Guarda las líneas, y el registro de cada una."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[Any] = []
        super().__init__(PlainFormatter(), self.lines.append)

    def handle(self, record: logging.LogRecord) -> bool:
        """Guarda."""
        self.events.append(record)
        return super().handle(record)


def reporting(level: int = logging.INFO) -> tuple[Reporter, Book, FakeLoop]:
    """Quien cuenta, con un reloj falso, y dónde queda lo que cuenta."""
    loop, book = FakeLoop(), Book()
    return Reporter(Log(level, book), loop), book, loop  # type: ignore[arg-type]


def test_each_thing_that_happens_is_one_escaped_line() -> None:
    reporter, book, _ = reporting()
    failed = ServiceFailed("el servicio falló con este mensaje")
    failed.__cause__ = ValueError("a\x1b[2J\nb")
    reporter.accepted(PEER)
    reporter.said_goodbye(PEER)
    reporter.left(PEER)
    reporter.lost(PEER, ConnectionResetError(errno.ECONNRESET, "no"))
    reporter.refused(PEER, ServerFull())
    reporter.bad_message(PEER, TooLong(5))
    reporter.bad_message(PEER, failed)
    reporter.undelivered(PEER)
    reporter.cannot_accept(OSError(errno.EMFILE, "no"))
    reporter.cannot_accept(OSError(errno.EMFILE, "no"))
    assert book.lines == [
        "Conexión aceptada de ('192.0.2.7', 4000)",
        "Mensaje de desconexión recibido. Cerrando la conexión.",
        "El cliente ('192.0.2.7', 4000) se fue sin despedirse. Cerrando la conexión.",
        "Se perdió la conexión con ('192.0.2.7', 4000): el otro extremo la cortó.",
        "Conexión rechazada de ('192.0.2.7', 4000): el servidor está completo; inténtalo más tarde.",
        "Mensaje erróneo de ('192.0.2.7', 4000): el mensaje pasa de 5 bytes.",
        "Mensaje erróneo de ('192.0.2.7', 4000): el servicio falló con este mensaje "
        r"(ValueError: a\x1b[2J\nb).",
        "Conexión cortada con ('192.0.2.7', 4000): quedaban respuestas por entregar.",
        "Algo falló y se sigue sirviendo: no quedan descriptores de fichero; sube el límite con «ulimit -n».",
    ]


def test_events_are_named_like_the_methods_of_observer() -> None:
    reporter, book, _ = reporting()
    told: dict[str, Callable[[], None]] = {
        "accepted": lambda: reporter.accepted(PEER),
        "said_goodbye": lambda: reporter.said_goodbye(PEER),
        "left": lambda: reporter.left(PEER),
        "lost": lambda: reporter.lost(PEER, OSError("no")),
        "refused": lambda: reporter.refused(PEER, ServerFull()),
        "bad_message": lambda: reporter.bad_message(PEER, TooLong(5)),
        "undelivered": lambda: reporter.undelivered(PEER),
        "cannot_accept": lambda: reporter.cannot_accept(OSError("no")),
        "lowered": lambda: reporter.lowered(100, 10_000),
        "handshake_failed": lambda: reporter.handshake_failed(PEER, TLSFailed("aquí", problem="silent")),
        "proxy_header_bad": lambda: reporter.proxy_header_bad(PEER, BadProxyHeader("late")),
        "certificate_reread": lambda: reporter.certificate_reread(),
        "certificate_unusable": lambda: reporter.certificate_unusable(BadTLSFile("cert", "c.pem", "no_certificate")),
        "idle": lambda: reporter.idle(PEER),
    }
    for tell in told.values():
        tell()
    assert [event.event for event in book.events] == list(told)
    silent = {"closed"}  # ya se contó cómo acabó
    assert set(told) | silent == {name for name in vars(Observer) if not name.startswith("_")}


def crash(text: str) -> str:
    return str(int(text))


def failed(text: str = "a") -> ServiceFailed:
    """El error de un servicio que falló de verdad, con el camino de su excepción."""
    bad = ServiceFailed("el servicio falló con este mensaje")
    try:
        crash(text)
    except ValueError as error:
        bad.__cause__ = error
    return bad


def test_the_same_path_of_a_failure_is_written_once_in_a_while() -> None:
    reporter, book, loop = reporting()
    for port, text in enumerate("aab"):
        reporter.bad_message(("192.0.2.7", port), failed(text))
    assert [line.count("\n") > 0 for line in book.lines] == [True, False, False]
    assert [" in " in line for line in book.lines] == [True, False, False]
    assert "'b')." in book.lines[2]  # lo que cambia, la frase, se ve siempre
    loop.advance(10)
    reporter.bad_message(PEER, failed())
    assert " in crash\n" in book.lines[-1]


def test_a_flood_of_failures_is_a_few_lines_one_path_and_a_sum() -> None:
    reporter, book, loop = reporting()
    for port in range(1000):
        reporter.bad_message(("192.0.2.7", port), failed())
    loop.advance(10)
    assert len(book.lines) == 11
    assert sum("traceback" in event.fields for event in book.events) == 1
    assert book.lines[-1].startswith("... y 990 más en 10 s; lo último: ")
    assert "\n" not in book.lines[-1]


def test_the_service_that_is_read_again() -> None:
    reporter, book, _ = reporting()
    reporter.service_reloaded("mio:f")
    reporter.service_unusable(BadService("mio:f", "syntax", "invalid\x1b", place="mio.py:3", cause=SyntaxError("no")))
    assert book.lines == [
        "Servicio recargado: desde ahora responde el nuevo mio:f.",
        r"Se sigue con el servicio de antes. «mio» tiene algo que no es Python (mio.py:3): invalid\x1b. Corrígelo, y "
        "guárdalo en UTF-8.",
    ]
    assert [(event.event, event.levelno) for event in book.events] == [
        ("service_reloaded", logging.INFO),
        ("service_unusable", logging.ERROR),
    ]


def test_how_serious_each_thing_is() -> None:
    for level, names in (
        (logging.WARNING, ["lost", "refused", "cannot_accept", "stopped"]),
        (logging.ERROR, ["cannot_accept"]),
    ):
        reporter, book, _ = reporting(level)
        reporter.listening([PEER], usual=False, encrypted=True)
        reporter.accepted(PEER)
        reporter.said_goodbye(PEER)
        reporter.left(PEER)
        reporter.lost(PEER, OSError("no"))
        reporter.refused(PEER, ServerFull())
        reporter.cannot_accept(OSError("no"))
        reporter.stopping(2)
        reporter.stopped(1)
        assert [event.event for event in book.events] == names


def test_the_end() -> None:
    reporter, book, _ = reporting()
    reporter.stopping(0)  # nada que cerrar, nada que decir
    for number in (1, 2):
        reporter.stopping(number)
        reporter.stopped(number)
    reporter.stopped(0)
    assert book.lines == [
        "Deteniendo el servidor: 1 conexión por cerrar...",
        "Servidor detenido con 1 conexión sin entregar todo.",
        "Deteniendo el servidor: 2 conexiones por cerrar...",
        "Servidor detenido con 2 conexiones sin entregar todo.",
        "Servidor detenido.",
    ]


def test_trouble_is_told_in_a_line_and_not_repeated() -> None:
    reporter, book, loop = reporting()

    def fail(message: str, cause: BaseException | None = None) -> None:
        reporter.failed(loop, {"message": message, "exception": cause})  # type: ignore[arg-type]

    for _ in range(3):
        fail("accept", OSError(errno.EMFILE, "no"))
    fail("raro\x1b")
    fail("cerrando", OSError(errno.ENOTCONN, "no"))
    fail("accept", OSError(errno.EMFILE, "no"))
    loop.advance(10)
    fail("accept", OSError(errno.EMFILE, "no"))
    assert [line.partition(": ")[2][:21] for line in book.lines if "..." not in line] == [
        "no quedan descriptore",
        r"raro\x1b.",
        "no quedan descriptore",
    ]
    assert [line for line in book.lines if "..." in line] == [
        "... y 3 más en 10 s; lo último: Algo falló y se sigue sirviendo: no quedan descriptores de fichero; sube el "
        "límite con «ulimit -n».",
    ]


@pytest.mark.parametrize(
    ("event", "tell"),
    [
        ("refused", lambda reporter, peer: reporter.refused(peer, ServerFull())),
        ("undelivered", Reporter.undelivered),
        ("bad_message", lambda reporter, peer: reporter.bad_message(peer, TooLong(5))),
        ("lost", lambda reporter, peer: reporter.lost(peer, OSError("no"))),
        ("proxy_header_bad", lambda reporter, peer: reporter.proxy_header_bad(peer, BadProxyHeader("late"))),
    ],
)
def test_a_flood_is_a_few_lines_and_a_sum(event: str, tell: Callable[[Reporter, tuple[str, int]], None]) -> None:
    reporter, book, loop = reporting()
    for port in range(1000):
        tell(reporter, ("192.0.2.7", port))
    assert len(book.lines) == 10
    loop.advance(9.9)
    assert len(book.lines) == 10
    loop.advance(0.1)
    assert len(book.lines) == 11  # aunque no pase nada más
    assert book.lines[10].startswith("... y 990 más en 10 s; lo último: ")
    assert "('192.0.2.7', 999)" in book.lines[10]
    assert book.events[10].fields == {"count": 990, "seconds": 10}
    assert {one.event for one in book.events} == {event}
    assert len({one.levelno for one in book.events}) == 1
    loop.advance(100)
    tell(reporter, PEER)  # y otra vez desde el principio
    assert len(book.lines) == 12
    assert not book.lines[11].startswith("...")


def test_one_flood_does_not_hide_other_things() -> None:
    reporter, book, _ = reporting()
    for port in range(1000):
        reporter.refused(("192.0.2.7", port), ServerFull())
    for port in range(1000):
        reporter.accepted(("192.0.2.7", port))  # estas son el registro: todas
    reporter.undelivered(PEER)
    assert len(book.lines) == 10 + 1000 + 1


def test_what_was_hidden_is_summed_at_the_end() -> None:
    reporter, book, loop = reporting()
    for port in range(30):
        reporter.refused(("192.0.2.7", port), ServerFull())
    loop.advance(3)
    reporter.stopped(0)
    assert book.lines[-2].startswith("... y 20 más en 3 s; ")
    assert book.lines[-1] == "Servidor detenido."
    loop.advance(100)
    assert len(book.lines) == 12


def test_a_ration_counts_repeats_and_what_passes_of_its_lines() -> None:
    ration = Ration(logging.WARNING, 0.0)
    assert [ration.admits(line) for line in "aab"] == [True, False, True]
    assert (ration.hidden, ration.last) == (1, "a")
    assert [ration.admits(line) for line in "cdefghijkl"] == [True] * 8 + [False] * 2
    assert (ration.hidden, ration.last) == (3, "l")


def test_one_of_several_leaves_to_its_parent_what_is_everybodys() -> None:
    for first in (True, False):
        loop, book = FakeLoop(), Book()
        reporter = WorkerReporter(Log(logging.INFO, book), loop, first=first)  # type: ignore[arg-type]
        reporter.listening([("0.0.0.0", 1)], usual=False, encrypted=False)
        reporter.lowered(10, 20)
        reporter.service_reloaded("mio:f")
        reporter.stopping(3)
        for _ in range(20):
            reporter.refused(PEER, ServerFull())
        reporter.stopped(0)
        told = [event.event for event in book.events]
        assert told == ["lowered", "service_reloaded"] * first + ["refused", "refused"]
        reporter.stopped(1)
        assert "acaba con 1 conexión sin entregar todo" in book.lines[-1]
