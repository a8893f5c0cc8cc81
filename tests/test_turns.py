"""``turns.py`` con un reloj falso: quién va, en qué orden y cuánto cabe en una vuelta."""

from __future__ import annotations

from collections import Counter

import pytest

from comunicacion_tcp.turns import Turns

from .support.fakes import FakeLoop


class Crowd:
    """Unos cuantos con trabajo; cada turno de uno dura ``cost`` segundos y le quita una unidad."""

    def __init__(self, work: dict[str, int], cost: float, seconds: float) -> None:
        self.loop = FakeLoop()
        self.now = 0.0
        self.served: list[str] = []
        self.turns: Turns[str] = Turns(self.loop, seconds, self.serve, clock=lambda: self.now)
        self._work, self._cost = work, cost
        for one in work:
            self.turns.ask(one)

    def serve(self, one: str) -> None:
        """Su turno."""
        self.now += self._cost
        self.served.append(one)
        self._work[one] -= 1
        if self._work[one]:
            self.turns.ask(one)

    def turn(self) -> list[str]:
        """Una vuelta del bucle: a quién le tocó."""
        before = len(self.served)
        self.loop.turn()
        return self.served[before:]


@pytest.mark.parametrize("many", [1, 10, 100, 500])
def test_the_work_of_a_turn_of_the_loop_does_not_depend_on_how_many_wait(many: int) -> None:
    crowd = Crowd({f"{number}": 1000 for number in range(many)}, cost=0.5, seconds=2)
    for _ in range(50):
        assert len(crowd.turn()) == 4
        assert len(crowd.loop.timers) == 1  # y nadie más pide vuelta


def test_everyone_goes_once_before_anyone_goes_twice() -> None:
    crowd = Crowd(dict.fromkeys("abcde", 3), cost=1, seconds=2)
    order = [one for _ in range(7) for one in crowd.turn()]
    order += crowd.turn()
    assert order == list("abcde" * 3)
    assert not crowd.turn()
    assert not crowd.loop.timers


def test_one_that_arrives_goes_behind_those_that_waited_and_before_their_second_turn() -> None:
    crowd = Crowd(dict.fromkeys("abc", 9), cost=2, seconds=2)
    assert crowd.turn() == ["a"]
    crowd._work["z"] = 1
    crowd.turns.ask("z")
    assert [crowd.turn() for _ in range(4)] == [["b"], ["c"], ["a"], ["z"]]


def test_asking_twice_is_asking_once() -> None:
    crowd = Crowd({"a": 1}, cost=0, seconds=1)
    crowd.turns.ask("a")
    assert len(crowd.turns) == 1
    assert crowd.turn() == ["a"]
    assert not crowd.turn()


def test_a_turn_longer_than_the_time_there_is_ends_the_round() -> None:
    crowd = Crowd(dict.fromkeys("ab", 2), cost=50, seconds=2)
    assert [crowd.turn() for _ in range(5)] == [["a"], ["b"], ["a"], ["b"], []]


def test_without_a_turn_only_when_nobody_waits_and_a_fifth_of_the_time() -> None:
    crowd = Crowd({}, cost=0, seconds=2)

    def work(seconds: float) -> bool:
        if not crowd.turns.begin():
            return False
        crowd.now += seconds
        crowd.turns.end()
        return True

    crowd.now = 50
    assert [work(1.5) for _ in range(4)] == [True, True, False, False]  # empezó dentro de los dos segundos
    crowd.now = 59.5
    assert not work(1)
    crowd.now = 60
    assert work(0.5)
    crowd._work["a"] = 1
    crowd.turns.ask("a")
    assert not work(0.5)
    crowd.turn()
    assert work(0.5)


def test_one_whose_turn_fails_does_not_stop_the_others() -> None:
    loop = FakeLoop()
    served: Counter[str] = Counter()

    def serve(one: str) -> None:
        served[one] += 1
        if one == "a":
            raise MemoryError

    turns = Turns(loop, 1, serve, clock=lambda: 0)
    for one in "abc":
        turns.ask(one)
    with pytest.raises(MemoryError):
        loop.turn()
    loop.turn()
    turns.ask("d")
    loop.turn()
    assert served == Counter("abcd")
