"""``loading.py``: de ``"modulo:funcion"`` a un servicio, y qué se sabe de lo que no se puede servir."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from comunicacion_tcp.errors import BadService
from comunicacion_tcp.loading import load_service

from .support.modules import folder_of_modules, write

SOURCE = """
import functools
from comunicacion_tcp.services import Service

def reverse(text): return text[::-1]
def optional(text, times=2, *more, **others): return text * times
async def later(text): return text
def two(one, other): return one
def only_named(*, text): return text
def none(): return ""
def pieces(text): yield text
async def later_pieces(text): yield text
hidden = functools.partial(two, "a")
forgetful = functools.lru_cache(reverse)
forgetful_of_two = functools.lru_cache(two)

def with_base(function):
    @functools.wraps(function)
    def inner(text): return function(text, "base")
    return inner
@with_base
def ask(text, base): return text + base

class Echo:
    def __call__(self, text): return "eco " + text
    def title(self, text): return text.title()
    def pieces(self, text): yield text
    @property
    def broken(self): raise ValueError("rota")
    @property
    def exit(self): raise SystemExit
class Pieces:
    def __call__(self, text): yield text
echo, many = Echo(), Pieces()
whole = Service(reverse, by_character=True)
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with folder_of_modules(tmp_path):
        write(tmp_path / "propio.py", SOURCE)
        yield tmp_path


def reason(name: str) -> BadService:
    """Por qué no se puede cargar ``name``."""
    with pytest.raises(BadService) as caught:
        load_service(name)
    assert caught.value.name == name
    return caught.value


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("reverse", "yah"),
        ("optional", "hayhay"),
        ("hidden", "a"),
        ("forgetful", "yah"),
        ("ask", "haybase"),
        ("echo", "eco hay"),
        ("echo.title", "Hay"),
        ("whole", "yah"),
    ],
)
def test_what_can_be_called_with_a_text(folder: Path, name: str, reply: str) -> None:
    assert load_service(f"propio:{name}").function("hay") == reply


def test_functions_of_c_and_coroutines_too(folder: Path) -> None:
    assert load_service("html:escape").function("<") == "&lt;"
    assert load_service("builtins:repr").function("a") == "'a'"
    load_service("propio:later")


def test_a_service_already_made_keeps_what_it_says(folder: Path) -> None:
    assert load_service("propio:whole").by_character
    assert not load_service("propio:reverse").by_character


@pytest.mark.parametrize(
    "name", ["", "propio", "propio:", ":reverse", "pro pio:reverse", "propio:a b", "propio:reverse:x", "1a:b", ".a:b"]
)
def test_what_is_not_module_and_function(folder: Path, name: str) -> None:
    assert reason(name).problem == "format"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("propio.py:reverse", "propio:reverse"),
        ("./propio.py:reverse", "propio:reverse"),
        ("propio.py", "propio:FUNCION"),
        ("a/b.py:f", "a.b:f"),
        ("a/b:f", "a.b:f"),
        ("../b.py:f", "b:f"),
        ("/x/y/b.py:f", "b:f"),
        ("C:\\x\\b.py:f", "b:f"),
    ],
)
def test_a_path_is_told_how_it_would_be_asked_for(folder: Path, name: str, hint: str) -> None:
    bad = reason(name)
    assert (bad.problem, bad.what) == ("file", hint)


@pytest.mark.parametrize(
    ("name", "problem", "what"),
    [
        ("number", "not_callable", "int"),
        ("Echo", "class", ""),
        ("pieces", "generator", ""),
        ("later_pieces", "generator", ""),
        ("echo.pieces", "generator", ""),
        ("many", "generator", ""),
        ("two", "arguments", "(one, other)"),
        ("forgetful_of_two", "arguments", "(one, other)"),
        ("only_named", "arguments", "(*, text)"),
        ("none", "arguments", "()"),
        ("Echo.title", "arguments", "(self, text)"),
        ("revers", "no_name", "revers"),
        ("echo.titel", "no_name", "echo.titel"),
        ("echo.broken", "import_failed", ""),
        ("echo.exit", "import_failed", ""),
    ],
)
def test_what_cannot_be_served(folder: Path, name: str, problem: str, what: str) -> None:
    bad = reason(f"propio:{name}")
    assert (bad.problem, bad.what) == (problem, what)


def test_a_name_that_is_not_there_is_told_the_nearest_or_all(folder: Path) -> None:
    assert reason("propio:revers").known == ("reverse",)
    assert reason("propio:echo.titel").known == ("title",)
    bad = reason("propio:zzz")
    assert bad.place == "propio.py"
    assert bad.known[:2] == ("ask", "forgetful")
    assert "Service" not in bad.known  # es de otro


@pytest.mark.parametrize("name", ["nada:f", "nada.dentro:f", "propio.dentro:f"])
def test_a_module_that_is_not_there(folder: Path, name: str) -> None:
    bad = reason(name)
    assert (bad.problem, bad.what) == ("no_module", "propio.dentro" if "propio" in name else "nada")


@pytest.mark.parametrize(
    ("source", "problem", "what", "place"),
    [
        ("import esto_no_existe", "missing_import", "esto_no_existe", "roto.py:1"),
        ("\nimport otro.mas", "missing_import", "otro.mas", "roto.py:2"),
        ("def f(:", "syntax", "invalid syntax", "roto.py:1"),
        ("import otro.malo", "syntax", "'(' was never closed", "otro/malo.py:2"),
        ("x = 1\n1 / 0", "import_failed", "", "roto.py:2"),
        ("eval('1 +')", "import_failed", "", "roto.py:1"),
        ("import json\njson.loads('{')", "import_failed", "", "roto.py:2"),
        ("import sys\nsys.exit(1)", "import_failed", "", "roto.py:2"),
        ("raise ModuleNotFoundError('sin nombre')", "import_failed", "", "roto.py:1"),
        ("raise BaseException", "import_failed", "", "roto.py:1"),
        ("from otro import nada", "import_failed", "", "roto.py:1"),
        ("x = '\0'", "import_failed", "", ""),
    ],
)
def test_a_module_that_cannot_be_imported_says_where(
    folder: Path, source: str, problem: str, what: str, place: str
) -> None:
    write(folder / "roto.py", source)
    write(folder / "otro" / "__init__.py", "")
    write(folder / "otro" / "malo.py", "\nx = (")
    bad = reason("roto:f")
    assert (bad.problem, bad.what, bad.place) == (problem, what, place)
    assert bad.cause
    assert "roto" not in sys.modules


def test_a_place_outside_the_folder_is_told_whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("otra")
    write(other / "lejano.py", "1 / 0")
    sys.path.append(str(other))
    assert reason("lejano:f").place == f"{other / 'lejano.py'}:1"


def test_an_interrupt_while_importing_is_of_who_asked_for_it(folder: Path) -> None:
    write(folder / "largo.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_service("largo:f")


def test_the_current_folder_goes_first_and_once(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("otra")
    write(other / "repetido.py", "def f(text): return 'de otra'")
    write(folder / "repetido.py", "def f(text): return 'de aquí'")
    sys.path.insert(0, str(other))
    assert load_service("repetido:f").function("") == "de aquí"
    load_service("propio:reverse")
    assert sys.path.count(str(folder)) == 1


def test_without_a_current_folder_what_is_installed_still_loads(tmp_path: Path) -> None:
    gone = tmp_path / "ida"
    gone.mkdir()
    with folder_of_modules(gone):
        gone.rmdir()
        assert load_service("html:escape").function("<") == "&lt;"
        bad = reason("html:nada")
        assert bad.place.endswith("html/__init__.py"), repr(bad.cause)
