"""``deadlines.py`` con un reloj falso: qué vence, cuándo y en qué orden."""

from __future__ import annotations

from typing import Any

import pytest

from comunicacion_tcp.deadlines import Deadlines, PatientDeadlines, Rounds

from .support.fakes import FakeLoop


def running(seconds: float = 10) -> tuple[Deadlines[str], FakeLoop, list[tuple[float, str, object]]]:
    """Unos plazos, su reloj (que empieza en 100), y lo que va venciendo."""
    loop: Any = FakeLoop()
    expired: list[tuple[float, str, object]] = []
    return Deadlines(loop, seconds, lambda key, note: expired.append((loop.now, key, note))), loop, expired


def test_each_expires_in_its_time_with_one_timer() -> None:
    deadlines, loop, expired = running()
    deadlines.start("a", 1)
    loop.advance(3)
    deadlines.start("b")
    assert len(loop.timers) == 1
    loop.advance(100)
    assert expired == [(110, "a", 1), (113, "b", None)]
    assert not loop.timers


def test_starting_again_changes_nothing_and_restarting_does() -> None:
    deadlines, loop, expired = running()
    for key in "ab":
        deadlines.start(key)
    loop.advance(5)
    deadlines.start("a", "otra nota")
    deadlines.restart("b", "nota nueva")
    loop.advance(100)
    assert expired == [(110, "a", None), (115, "b", "nota nueva")]


def test_what_stops_does_not_expire() -> None:
    deadlines, loop, expired = running()
    deadlines.start("a")
    assert "a" in deadlines
    deadlines.stop("a")
    deadlines.stop("a")
    assert "a" not in deadlines
    loop.advance(4)
    deadlines.start("b")  # con el temporizador del que ya no está
    loop.advance(100)
    assert expired == [(114, "b", None)]


def test_zero_is_never() -> None:
    deadlines, loop, _ = running(0)
    deadlines.restart("a")
    assert "a" not in deadlines
    assert not loop.timers


def test_one_that_starts_while_another_expires() -> None:
    loop: Any = FakeLoop()
    times: list[float] = []

    def expire(key: str, note: object) -> None:
        times.append(loop.now)
        if len(times) < 3:
            deadlines.start(key)

    deadlines = Deadlines(loop, 10, expire)
    deadlines.start("a")
    loop.advance(100)
    assert times == [110, 120, 130]


def test_closed_nothing_expires() -> None:
    deadlines, loop, expired = running()
    deadlines.close()
    deadlines.start("a")
    deadlines.close()
    assert "a" not in deadlines
    deadlines.start("b")
    assert len([timer for timer in loop.timers if not timer.cancelled]) == 1  # el de antes no suena
    deadlines.close()
    loop.advance(100)
    assert not expired


def test_one_whose_end_fails_does_not_stop_the_others() -> None:
    loop: Any = FakeLoop()
    told: list[str] = []

    def expire(key: str, note: object) -> None:
        told.append(key)
        if key == "a":
            raise MemoryError

    deadlines = Deadlines(loop, 10, expire)
    deadlines.start("a")
    deadlines.start("b")
    with pytest.raises(MemoryError):
        loop.advance(10)
    deadlines.start("c")
    loop.advance(100)
    assert told == ["a", "b", "c"]


def test_every_time_the_loop_stops_what_arrived_in_time_is_read_first() -> None:
    deadlines, loop, expired = running()
    for number in range(3):
        deadlines.start(str(number))
        loop.now += 60
        loop.turn()
        assert len(expired) == number
        loop.advance(1)
        assert len(expired) == number + 1


def test_after_a_stopped_loop_what_arrived_in_time_is_read_first() -> None:
    deadlines, loop, expired = running()
    deadlines.start("a")
    deadlines.start("b")
    loop.now += 60  # una máquina suspendida, o un servicio que no volvía
    loop.turn()
    assert not expired
    deadlines.stop("a")  # se leyó lo suyo
    loop.advance(1)
    assert [key for _, key, _ in expired] == ["b"]
    deadlines.start("c")
    deadlines.stop("c")
    loop.advance(100)
    assert len(expired) == 1


# -- los que pueden volver a empezar ------------------------------------------------------------------------


def patient() -> tuple[PatientDeadlines[str], FakeLoop, dict[str, object], list[tuple[float, str]]]:
    """Unos plazos de 8 s, su reloj, lo que se ve de cada clave y lo que va venciendo."""
    loop: Any = FakeLoop()
    seen: dict[str, object] = {}
    expired: list[tuple[float, str]] = []
    deadlines = PatientDeadlines[str](loop, 8, lambda key: seen.get(key), lambda key: expired.append((loop.now, key)))
    return deadlines, loop, seen, expired


def test_one_that_sees_nothing_new_expires_in_its_time() -> None:
    deadlines, loop, seen, expired = patient()
    seen["b"] = 7
    deadlines.start("a")
    deadlines.start("b", 7)
    loop.advance(5)
    deadlines.restart("a")
    deadlines.start("b", 8)  # ya corre
    loop.advance(100)
    assert expired == [(108, "b"), (113, "a")]


def test_one_that_sees_something_new_begins_again() -> None:
    deadlines, loop, seen, expired = patient()
    deadlines.start("a")
    for turn in range(5):
        loop.advance(7)
        seen["a"] = turn
    loop.advance(8)
    assert not expired
    loop.advance(1)
    assert expired == [(144, "a")]


def test_one_with_nothing_to_wait_for_does_not_expire() -> None:
    deadlines, loop, seen, expired = patient()
    deadlines.start("a")
    seen["a"] = deadlines.OVER
    loop.advance(1)
    assert "a" not in deadlines
    loop.advance(100)
    assert not expired


# -- las rondas ---------------------------------------------------------------------------------------------


def test_everyone_is_looked_at_in_turns_and_again_after_a_while() -> None:
    loop: Any = FakeLoop()
    everyone = list(range(450))
    looked: list[tuple[float, int]] = []
    rounds = Rounds[int](loop, 10, everyone, lambda one: looked.append((loop.now, one)))
    loop.advance(9)
    assert not looked
    loop.now += 1
    loop.turn()
    assert len(looked) == 200
    loop.turn()
    loop.turn()
    assert looked == [(110, one) for one in range(450)]
    everyone.append(450)
    loop.advance(10)
    assert looked[450:] == [(120, one) for one in range(451)]
    rounds.close()
    loop.advance(100)
    assert len(looked) == 901


def test_one_that_cannot_be_looked_at_does_not_end_the_rounds() -> None:
    loop: Any = FakeLoop()
    looked: list[int] = []

    def look(one: int) -> None:
        looked.append(one)
        if one == 2:
            raise MemoryError

    Rounds[int](loop, 10, [1, 2, 3], look)
    for _ in range(2):
        with pytest.raises(MemoryError):
            loop.advance(10)
    assert looked == [1, 2, 1, 2]
