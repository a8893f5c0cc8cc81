"""``log.py``: cada suceso es una línea, en la forma que se pida, y nada de lo que llega de fuera manda en ella ni en el
camino de una excepción que vaya debajo."""

from __future__ import annotations

import json
import logging
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comunicacion_tcp.cli.log import (
    NAME,
    Clock,
    DatedFormatter,
    Event,
    JsonFormatter,
    PlainFormatter,
    lines_lost,
    logging_to,
)

from ..support.ports import listening_port
from ..support.programs import SERVER, Program
from ..support.sockets import connect, receive, receive_all, reset
from ..support.waiting import wait_until

PEER = ("192.0.2.7", 4000)
HOSTILE = "a\r\nb\x1b[2J\x85\u202e\u2028\0\udcff\x7fñ"
TAME = r"a\r\nb\x1b[2J\x85\u202e\u2028\0\xff\x7fñ"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d")


def foreign(text: str, error: BaseException | None = None) -> logging.LogRecord:
    """Un registro de una biblioteca cualquiera."""
    caught = (type(error), error, None) if error else None
    return logging.LogRecord("asyncio", logging.CRITICAL, "", 0, "dijo %s", (text,), caught)


@pytest.fixture
def madrid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """La hora de un sitio que la cambia dos veces al año."""
    if not hasattr(time, "tzset"):
        pytest.skip("este sistema no deja cambiar de zona horaria")
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("formatter", [PlainFormatter(), DatedFormatter(), JsonFormatter()])
@pytest.mark.parametrize(
    "record",
    [
        Event(logging.INFO, "lost", HOSTILE, {"peer": (HOSTILE, 1), "cause": ValueError(HOSTILE), "why": HOSTILE}),
        foreign(HOSTILE, ValueError(HOSTILE)),
    ],
)
def test_nothing_from_outside_rules_the_line(formatter: logging.Formatter, record: logging.LogRecord) -> None:
    line = formatter.format(record)
    assert not re.search(r"[\0-\x1f\x7f-\x9f\u2028\u202e\udcff]", line)
    if isinstance(formatter, JsonFormatter):
        assert line.isascii()
        line = str(json.loads(line)).replace("\\\\", "\\")
        assert not re.search(r"[\0-\x1f\x7f-\x9f\u2028\u202e\udcff]", line)
    assert TAME in line


def test_with_date_and_level() -> None:
    line = DatedFormatter().format(Event(logging.WARNING, "refused", "Conexión rechazada", {}))
    stamp, level, rest = line.split(" ", 2)
    assert STAMP.fullmatch(stamp)
    assert (level, rest) == ("aviso", "Conexión rechazada")
    assert DatedFormatter().format(foreign("eso", ValueError("no"))).split(" ", 1)[1] == (
        "critical dijo eso (ValueError: no)"
    )


def test_json_has_the_data_apart() -> None:
    event = Event(logging.ERROR, "lost", "frase", {"peer": PEER, "cause": ValueError("no"), "addresses": [PEER]})
    shown = json.loads(JsonFormatter().format(event))
    assert STAMP.fullmatch(shown.pop("time"))
    peer = {"host": "192.0.2.7", "port": 4000}
    assert shown == {
        "level": "error",
        "event": "lost",
        "message": "frase",
        "peer": peer,
        "cause": {"type": "ValueError", "message": "no"},
        "addresses": [peer],
    }
    assert json.loads(JsonFormatter().format(foreign("eso")))["event"] == "asyncio"


BELOW = ['File "mio.py", line 1, in f', "  raise " + HOSTILE]


def test_a_trace_goes_below_its_line_and_rules_nothing() -> None:
    event = Event(logging.WARNING, "bad_message", HOSTILE, {"traceback": BELOW})
    below = f'\n    File "mio.py", line 1, in f\n      raise {TAME}'
    assert PlainFormatter().format(event) == TAME + below
    assert DatedFormatter().format(event).endswith(f" aviso {TAME}{below}")


def test_in_json_a_trace_is_in_the_same_line() -> None:
    line = JsonFormatter().format(Event(logging.WARNING, "bad_message", HOSTILE, {"traceback": BELOW}))
    assert line.isascii()
    assert "\n" not in line
    shown = json.loads(line)
    assert shown["message"] == TAME
    assert shown["traceback"] == [BELOW[0], f"  raise {TAME}"]


def test_a_trace_is_written_also_when_only_the_sentence_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with logging_to(lines.append, PlainFormatter(), logging.INFO) as log:
        log.tell(logging.WARNING, "bad_message", "frase", {"traceback": BELOW[:1]})
    assert lines == ["frase\n    " + BELOW[0]]


def test_an_exception_that_cannot_speak_does_not_spoil_its_line() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    shown = json.loads(JsonFormatter().format(Event(logging.WARNING, "bad_message", "frase", {"cause": Mute()})))
    assert shown["cause"] == {"type": "Mute", "message": "no se sabe decir"}
    huge = Event(logging.WARNING, "bad_message", "frase", {"cause": ValueError("x" * 1_000_000)})
    assert len(JsonFormatter().format(huge)) < 1000


def test_the_hour_follows_the_changes_of_the_year(madrid: None) -> None:
    clock = Clock()
    assert clock.show(1_774_745_999.9996) == "2026-03-29T01:59:59.999+01:00"
    assert clock.show(1_774_746_000.0) == "2026-03-29T03:00:00.000+02:00"
    assert clock.show(1_774_746_000.25) == "2026-03-29T03:00:00.250+02:00"


def test_an_event_is_a_whole_log_record() -> None:
    # Cualquier Handler o Formatter de la biblioteca estándar, o de otro, lo entiende.
    event = Event(logging.WARNING, "lost", "100 % frase", {})
    usual = vars(foreign("eso"))
    assert not [field for field in usual if not hasattr(event, field)]
    shown = logging.Formatter("%(name)s %(levelname)s %(asctime)s %(message)s %(process)d").format(event)
    assert re.fullmatch(rf"{NAME} WARNING [-\d]+ [:\d]+,\d{{3}} 100 % frase \d+", shown)


def test_what_is_less_serious_is_left_out_and_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with logging_to(lines.append, PlainFormatter(), logging.WARNING) as log:
        for level in (logging.INFO, logging.WARNING):
            log.tell(level, "refused", f"nivel\n{level}", {"peer": PEER})
        logging.getLogger("asyncio").warning("socket.send() raised exception.")
        logging.getLogger("asyncio").info("nada")
    assert lines == [r"nivel\n30", "socket.send() raised exception."]
    assert logging.getLogger().handlers == []


@pytest.mark.parametrize("where", ["", NAME], ids=["la raíz", "el nuestro"])
@pytest.mark.parametrize("propagate", [False, True])
def test_who_wants_our_events_has_them_whole_and_safe_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch, where: str, propagate: bool
) -> None:
    lines: list[str] = []
    other = Keeper()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(where), "handlers", [other])
    monkeypatch.setattr(logging.getLogger(NAME), "propagate", propagate)
    with logging_to(lines.append, PlainFormatter(), logging.WARNING) as log:
        for level in (logging.INFO, logging.WARNING):
            log.tell(level, "refused", f"nivel\n{level}", {"peer": PEER})
    assert lines == [r"nivel\n30"]  # y nuestra línea, una vez
    heard = where == NAME or propagate
    assert [(record.getMessage(), record.__dict__["fields"]) for record in other.kept] == [
        (r"nivel\n30", {"peer": PEER})
    ] * heard


def test_who_configures_the_root_writes_what_others_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    other = Keeper()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with logging_to(lines.append, PlainFormatter(), logging.WARNING) as log:
        logging.getLogger().addHandler(other)
        logging.getLogger("suyo").warning("una vez")
        log.tell(logging.WARNING, "refused", "nuestro", {})
    assert lines == ["nuestro"]
    assert [record.getMessage() for record in other.kept] == ["una vez"]


def test_nothing_a_service_does_with_logging_silences_us(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    public = logging.getLogger(NAME)
    with logging_to(lines.append, PlainFormatter(), logging.INFO) as log:
        monkeypatch.setattr(public, "disabled", True)
        monkeypatch.setattr(public, "level", logging.CRITICAL)
        monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        log.tell(logging.INFO, "accepted", "se cuenta", {"peer": PEER})
        log.tell(logging.WARNING, "bad_message", "y esto", {"traceback": BELOW[:1]})
    assert lines == ["se cuenta", "y esto\n    " + BELOW[0]]


def caught() -> Exception:
    """Una excepción que pasó por aquí, debida a otra."""
    try:
        try:
            raise KeyError(HOSTILE)
        except KeyError as cause:
            raise ValueError("no") from cause
    except ValueError as error:
        return error


def test_the_trace_of_anothers_record_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    record = foreign("eso", caught())
    plain = PlainFormatter().format(record).split("\n")
    assert plain[0] == "dijo eso (ValueError: no)"
    assert plain[1].endswith("in caught")
    assert plain[2].strip() == 'raise ValueError("no") from cause'
    assert any(line.strip().startswith("debido a KeyError: ") for line in plain)
    assert DatedFormatter().format(record).split("\n")[1:] == plain[1:]
    shown = json.loads(JsonFormatter().format(record))
    assert shown["message"] == plain[0]
    assert [line.strip() for line in shown["traceback"]] == [line.strip() for line in plain[1:]]


def test_a_trace_already_written_and_a_stack_are_told_too() -> None:
    # Así deja QueueHandler lo que viene de otro hilo o de otro proceso.
    record = foreign("eso")
    record.exc_text, record.stack_info = "Traceback\x1b:\nValueError: no", "Stack:\n  aquí"
    assert PlainFormatter().format(record).split("\n    ") == [
        "dijo eso",
        r"Traceback\x1b:",
        "ValueError: no",
        "Stack:",
        "  aquí",
    ]


def test_data_of_anothers_record_is_not_ours() -> None:
    record = foreign("eso")
    record.__dict__["fields"] = "las suyas"
    assert PlainFormatter().format(record) == "dijo eso"
    assert "fields" not in json.loads(JsonFormatter().format(record))


class Keeper(logging.Handler):
    """Guarda los registros."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Uno más."""
        self.kept.append(record)


def test_lost_lines() -> None:
    assert lines_lost(1).getMessage() == "... 1 línea perdida: la salida estaba atascada."
    assert lines_lost(7).getMessage() == "... 7 líneas perdidas: la salida estaba atascada."
    shown = json.loads(JsonFormatter().format(lines_lost(7)))
    assert (shown["event"], shown["level"], shown["count"]) == ("lines_lost", "warning", 7)


# -- los programas de verdad --------------------------------------------------------------------------------

# Un servicio que falla diciendo lo que le mandaron y algo peor.
_FAILING = """
def fail(text):
    raise ValueError(text + "\\n\\x1b[31m\\u202e\\u2028\\x85")
"""


def failing(folder: Path, *options: str) -> Program:
    """El servidor de siempre con ese servicio."""
    (folder / "mio.py").write_text(_FAILING, encoding="utf-8")
    return Program([*SERVER, "--puerto", "0", "--servicio", "mio:fail", *options], cwd=folder)


def events(program: Program) -> list[dict[str, Any]]:
    """Las líneas enteras que ha escrito, leídas como JSON."""
    return [json.loads(line) for line in program.output.rpartition("\n")[0].split("\n") if line]


def test_json_lines_tell_everything_and_nothing_rules_them(tmp_path: Path) -> None:
    with failing(tmp_path, "--registro", "json") as server:
        wait_until(lambda: events(server))
        port = events(server)[0]["addresses"][0]["port"]

        def heard(name: str) -> None:
            wait_until(lambda: events(server)[-1]["event"] == name, f"{name}; dijo {server.output!r}")

        with connect(port) as sock:
            peer = dict(zip(("host", "port"), sock.getsockname(), strict=True))
            sock.sendall("\x1b[2J\u202ehola\n".encode())
            heard("bad_message")
            sock.sendall(b"DESCONEXION\n")
            receive_all(sock)
        heard("said_goodbye")
        with connect(port):
            pass
        heard("left")
        sock = connect(port)
        heard("accepted")
        reset(sock)
        heard("lost")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        told = events(server)
        assert [event["event"] for event in told] == [
            *("listening", "accepted", "bad_message", "said_goodbye"),
            *("accepted", "left", "accepted", "lost", "stopped"),
        ]
        assert told[1]["peer"] == told[2]["peer"] == told[3]["peer"] == peer
        assert told[2]["level"] == "warning"
        assert told[2]["cause"] == {
            "type": "ValueError",
            "message": r"\x1b[2J\u202ehola\n\x1b[31m\u202e\u2028\x85",
        }
        assert not re.search(r"[^\n -~]", server.output)
        assert server.errors == ""


def test_hostile_text_in_the_plain_log(tmp_path: Path) -> None:
    with failing(tmp_path) as server, connect(server.port) as sock:
        sock.sendall("\x1b[2J\u202ehola\n".encode())
        server.wait_for(r"(ValueError: \x1b[2J\u202ehola\n\x1b[31m\u202e\u2028\x85).")
        server.wait_for("line 3, in fail\n      raise ValueError(text + ")
        assert not re.search(r"[\0-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", server.output)
        assert len(server.output.splitlines()) == 5


def test_dated_lines_and_only_the_serious_ones() -> None:
    with Program([*SERVER, "--puerto", "0", "--registro", "fecha"]) as server:
        server.wait_for("...\n")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        for line, text in zip(
            server.output.splitlines(), ["Servidor escuchando en ", "Servidor detenido."], strict=True
        ):
            assert re.match(rf"{STAMP.pattern} info {text}", line)


def test_only_what_is_serious_enough() -> None:
    with Program([*SERVER, "--puerto", "0", "--nivel", "aviso"]) as server:
        with connect(listening_port(server.process.pid)) as sock:
            sock.sendall(b"\xff\n")
            error = "ERROR: el mensaje no es UTF-8 válido\n".encode()
            assert receive(sock, len(error)) == error
        server.wait_for("Mensaje erróneo")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert len(server.output.splitlines()) == 1
