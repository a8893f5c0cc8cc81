"""La pizarra: las sumas no retroceden aunque mueran procesos, y qué quiere decir sano y listo."""

from __future__ import annotations

import subprocess
import sys

import pytest

from comunicacion_tcp import board
from comunicacion_tcp.board import Board, Row

from .support.examples import ROOT

NOW = 1000.0


def serving(*, seats: int = 1) -> Board:
    """Una pizarra en la que sirven todos, con sitio para dos conversaciones cada uno."""
    made = Board(seats, wanted=seats)
    for number in range(seats):
        start(made.seat(number))
    return made


def start(row: Row) -> None:
    """Un proceso ocupa ``row`` y acepta."""
    row.take(NOW)
    row.cells[board.CAPACITY] = 2
    row.cells[board.ACCEPTING] = 1


def test_every_column_has_its_own_cell() -> None:
    columns: list[int] = []
    for name, value in vars(board).items():
        if name.isupper() and not name.startswith("_") and name not in ("BOUNDS", "BEAT", "TYPE_CHECKING"):
            columns += value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    assert sorted(columns) == list(range(board._WIDTH))


def test_who_takes_a_seat_goes_on_counting_and_starts_anew() -> None:
    made = serving(seats=2)
    first, second = made.seat(0), made.seat(1)
    first.cells[board.ACCEPTED] += 3
    second.cells[board.ACCEPTED] += 4
    first.cells[board.OPEN] = 3
    first.take(NOW)
    first.cells[board.ACCEPTED] += 1
    assert made.total(board.ACCEPTED) == 8
    assert first.cells[board.OPEN] == 0
    assert made.total(board.CLOSED) == 3  # con él acabaron las que tenía


def test_what_dead_processes_counted_is_never_lost() -> None:
    # Diez hijos, uno tras otro en el mismo puesto, y a cada uno lo mata el sistema en medio de lo que hacía.
    code = """
import os, signal, sys
from comunicacion_tcp import board
made = board.Board(2)
last = 0
for turn in range(10):
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        row = made.seat(turn % 2)
        row.take(1.0)
        row.cells[board.OPEN] += 1
        for _ in range(1000):
            row.cells[board.MESSAGES["ok"]] += 1
        os.write(told, b"x")
        while True:
            row.cells[board.SENT_BYTES] += 1
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    made.seat(turn % 2).leave()
    sent = made.total(board.SENT_BYTES)
    assert made.total(board.MESSAGES["ok"]) == 1000 * (turn + 1)
    assert sent >= last and sent == int(sent)
    assert not made.present and made.total(board.OPEN) == 0
    last = sent
print("bien")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("bien\n", "")


def test_ready_while_someone_accepts_and_has_room() -> None:
    made = serving(seats=2)
    assert (made.sickness(NOW), made.unreadiness(NOW)) == ("", "")
    first, second = made.seat(0), made.seat(1)
    first.cells[board.OPEN] = 2
    assert made.unreadiness(NOW) == ""
    second.cells[board.OPEN] = 2
    assert made.unreadiness(NOW) == "completo"
    second.cells[board.OPEN] = 1
    second.cells[board.ACCEPTING] = 0
    assert made.unreadiness(NOW) == "completo"
    assert [row.cells[board.OPEN] for row in made.serving(NOW)] == [2]


def test_not_ready_before_the_start_nor_while_stopping() -> None:
    made = Board()
    assert (made.sickness(NOW), made.unreadiness(NOW)) == ("", "arrancando")
    start(made.seat(0))
    made.launcher.cells[board.STOPPING] = 1
    assert (made.sickness(NOW), made.unreadiness(NOW)) == ("", "deteniendo")


@pytest.mark.parametrize(("quiet", "word"), [(9.0, ""), (11.0, "atascado")])
def test_a_loop_that_does_not_turn_is_stuck(quiet: float, word: str) -> None:
    made = serving()
    assert made.sickness(NOW + quiet) == made.unreadiness(NOW + quiet) == word


def test_one_stuck_process_is_sick_but_the_others_serve() -> None:
    made = serving(seats=2)
    made.seat(1).cells[board.HEARTBEAT] = NOW - 60
    assert (made.sickness(NOW), made.unreadiness(NOW)) == ("atascado", "")
    made.seat(1).leave()  # quien lo lanzó lo vio morir
    assert made.sickness(NOW) == ""
