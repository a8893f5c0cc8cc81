"""``errors.py``: el árbol dibujado es el árbol de verdad."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import ssl
import sys
from typing import Any

import pytest

from comunicacion_tcp import errors
from comunicacion_tcp.addresses import format_address

from .support.programs import run


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


# -- viajar, copiar y comparar ------------------------------------------------------------------------------

KINDS: list[type[errors.ComunicacionError]] = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__ and issubclass(kind, errors.ComunicacionError)
]
REFUSED = ConnectionRefusedError(111, "Connection refused")
GIVEN: dict[type[errors.ComunicacionError], tuple[tuple[Any, ...], dict[str, Any]]] = {
    errors.TooLong: ((16,), {}),
    errors.TooSlow: ((2.5,), {}),
    errors.ServiceTimedOut: ((2.5,), {}),
    errors.BadProxyHeader: (("syntax",), {}),
    errors.HeldTooMuch: ((1000,), {}),
    errors.BadTLSFile: (("cert", "a.pem", "unreadable", FileNotFoundError(2, "No such file", "a.pem")), {}),
    errors.BadSocket: ((3, "web", "closed", OSError(9, "Bad file descriptor")), {}),
    errors.BadService: (("a:b", "no_name", "b"), {"place": "a.py:1", "known": ("c",), "cause": KeyError("b")}),
    errors.TimedOut: (("a:1", 2.5), {"connecting": False, "unfinished": True}),
    errors.TooMuchSaid: (("a:1", 1000), {"unasked": True}),
    errors.OutOfStep: (("a:1", "220 hola"), {}),
    errors.CertificateRejected: (("a:1", ssl.SSLError(1, "[SSL] mal"), "expired"), {}),
}
"""Con qué se hace uno de cada clase, si no es como los demás."""


def made(kind: type[errors.ComunicacionError]) -> errors.ComunicacionError:
    """Uno de esa clase, con lo que pueda tener."""
    usual: tuple[Any, ...] = ("a:1", REFUSED) if issubclass(kind, errors.NetworkError) else ("un texto",)
    if inspect.isfunction(kind.__init__) and len(inspect.signature(kind).parameters) == 0:
        usual = ()
    given, named = GIVEN.get(kind, (usual, {}))
    error = kind(*given, **named)
    error.__cause__ = ValueError("lo que pasó")
    if isinstance(error, errors.ConnectionLost):
        error.unanswered = 7
    return error


def facts(error: BaseException) -> dict[str, str]:
    """Todo lo que se sabe de él, en texto."""
    return {name: repr(value) for name, value in {**vars(error), "": str(error), "causa": error.__cause__}.items()}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_error_travels_is_copied_and_is_compared(kind: type[errors.ComunicacionError]) -> None:
    error = made(kind)
    ways = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for same in (*ways, copy.copy(error), copy.deepcopy(error)):
        assert type(same) is kind
        assert same is not error
        assert facts(same) == facts(error)
        assert same == error
        assert hash(same) == hash(error)
    assert error != made(errors.TimedOut if kind is not errors.TimedOut else errors.TooLong)
    assert error != "otra cosa"
    same.__cause__ = None
    assert same != error


def test_a_subclass_of_yours_travels_too() -> None:
    error = Mine("a:1", extra=["x"])
    same = pickle.loads(pickle.dumps(error))
    assert (type(same), same.extra, same.address, same) == (Mine, ["x"], "a:1", error)
    assert copy.copy(error).extra is error.extra
    assert copy.deepcopy(error).extra is not error.extra


class Mine(errors.NetworkError):
    """Un error de quien usa la biblioteca."""

    def __init__(self, address: str, *, extra: list[str]) -> None:
        super().__init__(address)
        self.extra = extra


class Demanding(Exception):
    """Una causa que no se deja rehacer: su clase pide más de lo que guarda."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} y {two}")


def test_a_cause_that_cannot_travel_arrives_as_its_text() -> None:
    for cause in (Demanding("esto", "aquello"), type("Local", (Exception,), {})("esto y aquello")):
        error = errors.BadService("a:b", "import_failed", cause=cause)
        for same in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert repr(same.cause) == repr(RuntimeError(f"{type(cause).__name__}: esto y aquello"))
        assert copy.copy(error).cause is cause


POOL = """
import multiprocessing
from tests.test_errors import KINDS, made

def fail(number):
    raise made(KINDS[number])

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:
        for number, kind in enumerate(KINDS):
            try:
                pool.apply_async(fail, (number,)).get(30)
            except kind as error:
                assert type(error) is kind and error.args == made(kind).args, kind
        print("todos")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="hace falta fork")
def test_a_pool_that_meets_one_does_not_hang() -> None:
    done = run([sys.executable, "-c", POOL])
    assert (done.stdout, done.stderr) == (b"todos\n", b"")


# -- lo que llevan ------------------------------------------------------------------------------------------


def test_network_errors_carry_their_facts() -> None:
    cause = OSError(1, "no")
    error = errors.ConnectionLost("localhost:5000", cause)
    assert (error.address, error.cause) == ("localhost:5000", cause)
    assert "localhost:5000" in str(error)
    late = errors.TimedOut("a:1", 2.5, connecting=True)
    assert (late.seconds, late.connecting) == (2.5, True)
