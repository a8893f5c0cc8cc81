"""``records.py``: valores que no cambian y que se quejan de lo que no cuadra."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import comunicacion_tcp
from comunicacion_tcp.records import Record
from comunicacion_tcp.services import uppercase


class Point(Record):
    """Un valor de ejemplo."""

    x: int
    y: int = 0

    def check(self) -> None:
        if self.x < 0:
            raise ValueError("x debe ser cero o más")


def test_fields_come_in_order_or_by_name() -> None:
    assert Point(1, 2) == Point(y=2, x=1) == Point(1, y=2)
    assert (Point(1).x, Point(1).y) == (1, 0)
    assert Point.fields() == ("x", "y")


@pytest.mark.parametrize(
    ("values", "named", "text"),
    [
        ((), {}, "falta x"),
        ((), {"y": 1}, "falta x"),
        ((1, 2, 3), {}, "de más"),
        ((1,), {"x": 1}, "de más"),
        ((1,), {"z": 1}, "no tiene z; tiene x, y"),
    ],
)
def test_what_does_not_fit_is_a_type_error(values: tuple[int, ...], named: dict[str, int], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Point(*values, **named)


def test_the_class_may_refuse_values() -> None:
    with pytest.raises(ValueError, match="cero o más"):
        Point(-1)


def test_a_class_inherits_the_fields_of_its_base() -> None:
    class Place(Point):
        name: str = ""

    class Same(Point):
        pass

    assert Place.fields() == ("x", "y", "name")
    assert (Place(1, 2, "aquí").name, Place(x=1).y, Same(3).x) == ("aquí", 0, 3)


def test_nothing_changes_afterwards() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="otro con x distinto"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="no cambia"):
        del point.x
    assert point == Point(1)


def test_equal_by_value_and_class() -> None:
    class Place(Record):
        x: int
        y: int = 0

    assert Point(1) != Place(1)
    assert Point(1) != Point(2)
    assert Point(1) != (1, 0)
    assert len({Point(1), Point(1, 0), Point(2)}) == 2


def test_shown_copied_and_pickled_whole() -> None:
    assert repr(Point(1)) == "Point(x=1, y=0)"
    assert (
        copy.copy(Point(1, 2)) == copy.deepcopy(Point(1, 2)) == pickle.loads(pickle.dumps(Point(1, 2))) == Point(1, 2)
    )


def records(kind: type[Record] = Record) -> Iterator[type[Record]]:
    """Cada clase de valores del paquete."""
    for one in kind.__subclasses__():
        if one.__module__.startswith(comunicacion_tcp.__name__ + "."):
            yield one
        yield from records(one)


def test_each_record_of_the_package_travels_is_copied_and_is_compared() -> None:
    for module in pkgutil.walk_packages(comunicacion_tcp.__path__, comunicacion_tcp.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = set(records())
    assert {"Limits", "Service", "Backoff", "ProxyHeader"} <= {kind.__name__ for kind in found}
    for kind in found:
        # Los tipos no se comprueban: de lo que no tiene valor por defecto vale uno cualquiera.
        given: dict[str, Any] = {name: (1, "dos") for name in kind.fields() if not hasattr(kind, name)}
        value = uppercase if kind is type(uppercase) else kind(**given)
        ways = [pickle.loads(pickle.dumps(value, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
        for same in (*ways, copy.copy(value), copy.deepcopy(value)):
            assert type(same) is kind
            assert same == value
            assert hash(same) == hash(value)
            assert repr(same) == repr(value)
