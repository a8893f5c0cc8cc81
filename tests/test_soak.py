"""La medida de la fiabilidad funciona: el oráculo caza cada respuesta mala, y cada escenario acaba con sus cifras, en
corto. Aquí no se mide nada: cuánto da cada uno es cosa de `make soak`."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from soak import run
from soak.load import Load, Spec
from soak.oracle import Flood, Oracle, WrongReply, reply, request
from soak.relay import relay
from soak.results import Failed, Outcome, Scenario, Unavailable
from soak.scale import QUICK
from soak.scenarios import SCENARIOS, processes
from soak.scenarios.crowds import slope
from soak.server import TcpLine

from .support.examples import ROOT
from .support.programs import environment
from .support.serving import served
from .support.sockets import foreign_server
from .support.tools import need
from .support.waiting import wait_until

SOAK = [sys.executable, "-m", "soak.run"]
TOOLS = {
    "accept_errors": ["strace"],
    "vanished": ["ip"],
    "hostile_net": ["ip", "tc"],
    "clock": ["faketime"],
    "tls_silent": ["openssl"],
    "largest_message": ["openssl"],
}

# -- el oráculo ---------------------------------------------------------------------------------------------


def test_a_good_conversation_byte_by_byte() -> None:
    oracle = Oracle(7)
    sent = oracle.take(3)
    assert sent == b"".join(request(7, sequence) for sequence in range(3))
    answers = sent.decode().upper().encode()
    assert answers != sent.upper()  # llevan acentos, y una ß que crece
    completed = [oracle.receive(answers[index : index + 1]) for index in range(len(answers))]
    assert sum(completed) == 3
    assert oracle.owed == 0
    oracle.say_goodbye()
    assert oracle.owed == 1
    oracle.receive("Conexión cerrada\n".encode())
    oracle.finish()


@pytest.mark.parametrize(
    ("arrives", "why"),
    [
        (reply(7, 0).replace(b"|", b"!"), "cambiada"),
        (b"ERROR: el servidor no puede\n", "cambiada"),
        (request(7, 0), "cambiada"),  # sin poner en mayúsculas
        (reply(8, 0), "de la conexión 8"),
        (reply(7, 1), "llega la 1"),
        (reply(7, 0) + reply(7, 0), "repetida la 0"),
        (reply(7, 0) + reply(7, 1) + reply(7, 2), "no se ha enviado"),
        ("Conexión cerrada\n".encode(), "cambiada"),  # nadie se ha despedido
    ],
)
def test_wrong_replies_are_caught(arrives: bytes, why: str) -> None:
    oracle = Oracle(7)
    oracle.take(2)
    with pytest.raises(WrongReply, match=why):
        oracle.receive(arrives)


@pytest.mark.parametrize("arrives", [b"", reply(7, 0), reply(7, 0) + reply(7, 1)[:-1]])
def test_lost_replies_are_caught(arrives: bytes) -> None:
    oracle = Oracle(7)
    oracle.take(2)
    oracle.receive(arrives)
    with pytest.raises(WrongReply, match=r"perdidas|media respuesta"):
        oracle.finish()


def test_a_farewell_before_the_last_reply_is_caught() -> None:
    oracle = Oracle(7)
    oracle.take()
    oracle.say_goodbye()
    with pytest.raises(WrongReply):
        oracle.receive("Conexión cerrada\n".encode())


@pytest.mark.parametrize("bad", [False, True])
def test_a_flood_is_checked_however_it_is_cut(bad: bool) -> None:
    flood = Flood(3, 4, bad=bad)
    sent = flood.take() + flood.take()
    assert sent.count(b"\n") == 8
    answers = "ERROR: el mensaje no es UTF-8 válido\n".encode() * 8 if bad else sent.upper()
    for start in range(0, len(answers), 7):
        flood.receive(answers[start : start + 7])
    assert flood.received == 8
    flood.finish()
    with pytest.raises(WrongReply, match="de más"):
        flood.receive(answers[:1])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[:-1]],
        lambda lines: [line.replace(b"C3", b"C4") for line in lines],
        lambda lines: lines[:-1],
    ],
    ids=["cambiadas de orden", "sin la primera", "repetida", "de otra", "sin la última"],
)
def test_a_spoilt_flood_is_caught(spoil: object) -> None:
    flood = Flood(3, 4)
    lines = flood.take().upper().splitlines(keepends=True)
    with pytest.raises(WrongReply):
        flood.receive(b"".join(spoil(lines)))  # type: ignore[operator]
        flood.finish()


# -- las cargas, con servidores que mienten -----------------------------------------------------------------


def loses_one(sock: socket.socket) -> None:
    lines = sock.makefile("rb")
    for number, line in enumerate(lines):
        if number != 2:
            sock.sendall(line.decode().upper().encode())


def answers_in_lower_case(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


def hangs_up(sock: socket.socket) -> None:
    sock.recv(65536)


def hangs_up_halfway(sock: socket.socket) -> None:
    sock.sendall(sock.makefile("rb").readline().decode().upper().encode()[:-1])


@pytest.mark.parametrize("flood", [False, True])
@pytest.mark.parametrize("lie", [loses_one, answers_in_lower_case, hangs_up, hangs_up_halfway])
def test_a_load_notices_a_server_that_lies(lie: Callable[[socket.socket], None], flood: bool) -> None:
    with (
        foreign_server(lie) as port,
        Load(Spec(port, 1, every=0.01, flood=flood)) as load,
        pytest.raises(WrongReply, match="conexión 1"),
    ):
        while True:
            load.measure(0.05)


def dies_at_the_third(sock: socket.socket) -> None:
    lines = sock.makefile("rb")
    for _ in range(2):
        sock.sendall(lines.readline().decode().upper().encode())
    sock.sendall(lines.readline().decode().upper().encode()[:5])


def test_a_load_that_returns_counts_who_was_cut() -> None:
    with foreign_server(dies_at_the_third) as port, Load(Spec(port, 2, every=0.01, returns=True)) as load:
        cut: list[int] = []

        def many() -> bool:
            cut.extend(load.measure(0.02).cut)
            return len(set(cut)) > 4

        wait_until(many, "que a los dos les corten, vuelvan y les corten otra vez")
        assert all(cut)


@pytest.mark.parametrize("lie", [loses_one, answers_in_lower_case])
def test_a_load_that_returns_still_notices_a_lie(lie: Callable[[socket.socket], None]) -> None:
    with (
        foreign_server(lie) as port,
        Load(Spec(port, 1, every=0.01, returns=True)) as load,
        pytest.raises(WrongReply, match="conexión 1"),
    ):
        while True:
            load.measure(0.05)


def test_what_the_dead_left_half_said_must_be_the_beginning_of_what_it_owed() -> None:
    for said, good in ((b"", True), (reply(7, 0)[:5], True), (reply(7, 1)[:5], False), (b"OTRA", False)):
        oracle = Oracle(7)
        oracle.take(2)
        oracle.receive(said)
        with contextlib.nullcontext() if good else pytest.raises(WrongReply, match="cortada en"):
            oracle.cut()


def test_a_load_that_is_answered_ends_well() -> None:
    with served() as running, Load(Spec(running.port, 3, every=0.01, churn=50)) as load:
        wait_until(lambda: load.measure(0.05).replaced, "que se renueven conexiones")
        wait_until(lambda: load.measure(0.05).messages, "que haya respuestas")
        load.finish()


# -- lo que se deduce de lo medido --------------------------------------------------------------------------


def test_the_slope_is_per_minute() -> None:
    assert slope([(0, 5), (1, 7), (2, 9)]) == pytest.approx(120)
    assert slope([(0, 5), (1, 5)]) == 0
    assert slope([(1, 5)]) == 0


@pytest.mark.parametrize(
    ("cut", "why"), [([1, 9], "1 conversaciones que no eran"), ([1, 1, 0, 2], "4 conversaciones, y .* tenía 3")]
)
def test_only_the_conversations_of_the_dead_may_be_cut(cut: list[int], why: str) -> None:
    processes.check_cuts([1, 0, 3], {1, 2, 3})  # 0: la de quien no llegó a saber su puerto
    with pytest.raises(Failed, match=why):
        processes.check_cuts(cut, {1, 2, 3})


def test_a_line_of_proc_net_tcp() -> None:
    row = (
        "   1: 0100007F:8CA0 0100007F:1388 01 00000010:00000003 00:00000000 00000000     0        0 1 1 0 20 4 30 10 -1"
    )
    assert TcpLine.parse(row) == TcpLine(local=36000, remote=5000, state=1, unacknowledged=16, unread=3, inode=1)


def test_the_bad_path_loses_and_reorders() -> None:
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(3)]
    (here, one), (there, two), (stop, stopped) = pairs
    with contextlib.ExitStack() as stack:
        for pair in pairs:
            for sock in pair:
                stack.enter_context(sock)
        sent = [bytes([number]) for number in range(100)]
        for packet in sent:
            here.send(packet)
        ends = one.fileno(), two.fileno()
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(relay, ends, stopped.fileno(), loss=0.2, delay=0.01, late=0.3, more=0.05)
            there.settimeout(3)  # nada tarda tanto, ni en una máquina ocupada: detrás no viene más
            arrived: list[bytes] = []
            with contextlib.suppress(TimeoutError):
                while True:
                    arrived.append(there.recv(10))
            stop.send(b"ya")
        counts = working.result()
    assert set(arrived) < set(sent)
    assert arrived != sorted(arrived)
    assert counts["pasaron"] == len(arrived) == len(sent) - counts["perdidos"]
    assert counts["desordenados"] > 0


def test_the_table_is_written_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "fiabilidad.md"
    page.write_text(
        "antes\n<!-- Desde aquí lo escribe make soak -->\nviejo\n| fila | medido |\n| --- | --- |\n"
        "| 3 | viejo |\n| 20 | a\\|b \\| c |  |\n| 1 | la de entonces | sí |\n<!-- Hasta aquí -->\n| 4 | después |\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(run, "PAGE", page)

    def scenario(outcome: Outcome | Exception) -> Scenario:
        def play(_: object) -> Outcome:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return Scenario("clave", 3, "lo que se le hace", "lo que se promete", play)

    outcomes: list[Outcome | Exception] = [
        Outcome(["una cifra", "otra"], True),
        Outcome(["mala"], False),
        Unavailable("falta algo"),
        WrongReply("a|b"),
        TimeoutError(),
    ]
    rows = [run.row(scenario(outcome), QUICK) for outcome in outcomes]
    assert [good for _, good, _ in rows] == [True, True, True, False, False]
    run.write_docs([cells for cells, _, _ in rows])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("antes\n<!-- Desde")
    assert text.endswith("<!-- Hasta aquí -->\n| 4 | después |\n")
    assert "viejo" not in text
    written = re.findall(r"^\| \d+ .*", text.partition("<!-- Hasta")[0], re.MULTILINE)
    assert [row.split()[1] for row in written] == ["1", "3", "3", "3", "3", "3", "20"]  # en orden, con lo no medido
    assert written[0] == "| 1 | la de entonces | sí |"
    assert written[-1] == "| 20 | a\\|b \\| c |  |"
    start = "| 3 | lo que se le hace (`clave`) | lo que se promete |"
    assert f"{start} una cifra; otra | sí |" in text
    assert f"{start} mala | no |" in text
    assert f"{start} no se puede aquí: falta algo |  |" in text
    assert f"{start} FALLA: a\\|b | no |" in text
    assert f"{start} FALLA: el servidor no contesta en 30 s | no |" in text


def test_a_scenario_with_its_own_table_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "fiabilidad.md"
    page.write_text(
        "antes\n<!-- Desde aquí lo escribe make soak: clave -->\nvieja\n<!-- Hasta aquí -->\ndespués\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(run, "PAGE", page)
    own = [["entrada", "ns"], ["malos", "7"]]
    scenario = Scenario("clave", 3, "lo que se le hace", "lo que se promete", lambda _: Outcome(["una"], True, own))
    _, good, table = run.row(scenario, QUICK)
    assert good
    run.write_own_table("clave", table)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("antes\n<!-- Desde")
    assert "| entrada | ns |\n| --- | --: |\n| malos | 7 |\n\n<!-- Hasta aquí -->\ndespués\n" in text
    assert "vieja" not in text


# -- los escenarios, en corto -------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.key)
def test_each_scenario_in_short(scenario: Scenario) -> None:
    for tool in TOOLS.get(scenario.key, []):
        need(tool)
    try:
        outcome = scenario.run(QUICK)  # una respuesta mala, o algo sin soltar, lanza
    except Unavailable as error:
        pytest.skip(str(error))
    assert outcome.figures


@pytest.mark.parametrize("options", [["--escenarios", "nada"], ["--docs", "--rapido"]])
def test_impossible_measures_are_refused(options: list[str]) -> None:
    done = subprocess.run([*SOAK, *options], cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 2


def test_the_program_shows_its_table() -> None:
    command = [*SOAK, "--rapido", "--escenarios", "restart"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    # Si cumple o no depende de lo ocupada que esté la máquina: no es cosa de una prueba.
    assert re.search(r"^\| 20 \| .* \(`restart`\) \| .* \| (sí|no) \|$", done.stdout, re.MULTILINE)


def test_stopped_halfway_it_leaves_no_process_running() -> None:
    command = [*SOAK, "--escenarios", "churn"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as soak:
        children: list[str] = []

        def has_both() -> bool:
            children[:] = Path(f"/proc/{soak.pid}/task/{soak.pid}/children").read_text().split()
            return len(children) == 2

        wait_until(has_both, "que estén el servidor y la carga")
        soak.terminate()
        soak.communicate()
        assert soak.returncode == 1
        wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), "que acaben")
