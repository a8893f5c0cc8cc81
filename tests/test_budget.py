"""``budget.py``, sin conexiones: qué se cuenta y a quién se suelta."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from comunicacion_tcp.budget import LEAST, Budget


def test_the_one_that_holds_most_is_let_go() -> None:
    budget: Budget[str] = Budget(100_000)
    assert budget.weigh("una", 30_000) == []
    assert budget.weigh("otra", 60_000) == []
    assert budget.weigh("una", 40_000) == []  # justo lo que cabe
    assert budget.weigh("nueva", 5_000) == ["otra"]
    assert budget.total == 45_000
    assert "otra" not in budget
    assert budget.weigh("enorme", 100_001) == ["enorme"]  # ni sola cabe: es la única que sobra
    assert budget.total == 45_000


def test_what_anyone_holds_does_not_count() -> None:
    budget: Budget[int] = Budget(LEAST)
    for holder in range(10):
        assert budget.weigh(holder, LEAST - 1) == []
    assert budget.total == 0
    assert budget.weigh(1, LEAST) == []
    assert budget.weigh(1, 0) == []
    assert 1 not in budget


def test_without_a_limit_nothing_is_counted() -> None:
    budget: Budget[int] = Budget(0)
    assert budget.weigh(1, 2**40) == []
    assert budget.total == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50_000)), max_size=50))
def test_it_never_holds_more_than_fits(steps: list[tuple[int, int]]) -> None:
    budget: Budget[int] = Budget(60_000)
    held: dict[int, int] = {}
    for holder, size in steps:
        excess = budget.weigh(holder, size)
        held[holder] = size if size >= LEAST else 0
        for one in excess:
            assert held[one] == max(held.values())
            held[one] = 0
        assert budget.total == sum(held.values()) <= 60_000
    for holder in held:
        budget.forget(holder)
    assert budget.total == 0
