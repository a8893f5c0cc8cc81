"""``Backoff``: las esperas crecen, tienen tope y se echan a suertes."""

from __future__ import annotations

from itertools import islice

import pytest

from comunicacion_tcp.backoff import Backoff


def test_the_delays_double_up_to_the_most() -> None:
    delays = Backoff(first=1, most=5).delays(lambda: 1.0)
    assert list(islice(delays, 6)) == [1, 2, 4, 5, 5, 5]


def test_each_delay_is_drawn_whole() -> None:
    draws = iter([0.0, 0.5, 0.25])
    assert list(islice(Backoff(first=1, most=8).delays(lambda: next(draws)), 3)) == [0, 1, 1]


def test_the_attempts_end() -> None:
    assert len(list(Backoff(attempts=3).delays(lambda: 1.0))) == 3


@pytest.mark.parametrize("numbers", [{"first": 0}, {"first": 2, "most": 1}, {"most": float("inf")}, {"attempts": -1}])
def test_impossible_numbers(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="debe ser"):
        Backoff(**numbers)  # type: ignore[arg-type]
