"""``errors.py``: el árbol dibujado es el árbol de verdad."""

from __future__ import annotations

import inspect
import re

import pytest

from comunicacion_tcp import errors
from comunicacion_tcp.addresses import format_address


def test_the_drawn_tree_is_the_real_one() -> None:
    assert errors.__doc__
    drawn = re.findall(r"^ {4}([│ ├└─]*)(\w+)", errors.__doc__, re.MULTILINE)
    parents: list[str] = []
    tree = {}
    for branch, name in drawn:
        depth = len(branch) // 4
        parents[depth:] = [name]
        tree[name] = parents[depth - 1] if depth else "Exception"
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__
    }
    assert tree == real


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [("localhost", 5000, "localhost:5000"), ("127.0.0.1", 1, "127.0.0.1:1"), ("::1", 7, "[::1]:7")],
)
def test_addresses_as_a_person_writes_them(host: str, port: int, text: str) -> None:
    assert format_address(host, port) == text


def test_network_errors_carry_their_facts() -> None:
    cause = OSError(1, "no")
    error = errors.ConnectionLost("localhost:5000", cause)
    assert (error.address, error.cause) == ("localhost:5000", cause)
    assert "localhost:5000" in str(error)
    late = errors.TimedOut("a:1", 2.5, connecting=True)
    assert (late.seconds, late.connecting) == (2.5, True)
