"""``watch.py``: un cambio se ve cuando ya está quieto, y lo que falta se espera."""

from __future__ import annotations

from comunicacion_tcp.watch import Look, Watch

OLD, HALF, NEW = (1, 10, 7), (2, 0, 7), (3, 12, 7)


def seen(read: dict[str, Look], *looks: dict[str, Look]) -> list[bool]:
    """Lo que dice ``Watch`` de cada mirada."""
    watch = Watch()
    return [watch.changed(read, look) for look in looks]


def test_nothing_has_changed() -> None:
    assert seen({"a": OLD}, {"a": OLD}, {"a": OLD}) == [False, False]


def test_a_change_counts_when_seen_twice() -> None:
    assert seen({"a": OLD}, {"a": OLD}, {"a": NEW}, {"a": NEW}) == [False, False, True]


def test_a_file_being_written_is_waited_for() -> None:
    assert seen({"a": OLD}, {"a": HALF}, {"a": NEW}, {"a": NEW}) == [False, False, True]


def test_a_deleted_file_is_waited_for_and_another_in_its_place_is_a_change() -> None:
    other = (*OLD[:2], 8)  # la misma hora y tamaño: se le puso otro encima
    assert seen({"a": OLD}, {"a": None}, {"a": None}, {"a": other}, {"a": other}) == [False, False, False, True]
    assert seen({"a": OLD}, {"a": None}, {"a": None}, {"a": OLD}, {"a": OLD}) == [False] * 4


def test_a_deleted_file_does_not_hide_the_change_of_another() -> None:
    look = {"a": NEW, "b": None}
    assert seen({"a": OLD, "b": OLD}, look, look) == [False, True]


def test_a_file_that_was_missed_and_appears_is_a_change() -> None:
    assert seen({"a": OLD, "b": None}, {"a": OLD, "b": NEW}, {"a": OLD, "b": NEW}) == [False, True]


def test_a_clock_set_back_is_a_change_too() -> None:
    assert seen({"a": NEW}, {"a": OLD}, {"a": OLD}) == [False, True]


def test_what_was_read_is_no_longer_a_change() -> None:
    watch = Watch()
    assert [watch.changed({"a": OLD}, {"a": NEW}) for _ in range(2)] == [False, True]
    assert not watch.changed({"a": NEW}, {"a": NEW})
