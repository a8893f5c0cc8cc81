"""``fresh_imports.py``: cada vez desde el fuente, solo lo de su carpeta, y si falla todo queda como estaba."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from comunicacion_tcp.errors import BadService
from comunicacion_tcp.fresh_imports import FreshImports, look

from .support.modules import folder_of_modules, write


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with folder_of_modules(tmp_path):
        yield tmp_path


def watched(imports: FreshImports, folder: Path) -> set[str]:
    """Los ficheros que mira, desde ``folder``."""
    return {os.path.relpath(path, folder) for path in imports.files}


def test_the_service_and_what_it_imports_from_its_folder(folder: Path) -> None:
    write(folder / "uno.py", "import html, json, comunicacion_tcp.backoff, dos.tres\nf = dos.tres.f\n")
    write(folder / "dos" / "__init__.py", "")
    write(folder / "dos" / "tres.py", "def f(text): return 'a'\n")
    write(folder / "ajeno.py", "")
    ours = sys.modules.get("comunicacion_tcp.backoff")
    with FreshImports("uno:f") as imports:
        assert imports.load().function("") == "a"
        assert watched(imports, folder) == {"uno.py", "dos/__init__.py", "dos/tres.py"}
        write(folder / "dos" / "tres.py", "def f(text): return 'bb'\n")
        assert imports.load().function("") == "bb"
    assert imports not in sys.meta_path
    assert ours is None or sys.modules["comunicacion_tcp.backoff"] is ours


def test_in_folders_without_init_and_with_relative_imports(folder: Path) -> None:
    write(folder / "paquete" / "servicio.py", "from .ayuda import word\ndef f(text): return word\n")
    write(folder / "paquete" / "ayuda.py", "word = 'a'\n")
    with FreshImports("paquete.servicio:f") as imports:
        assert imports.load().function("") == "a"
        assert watched(imports, folder) == {"paquete/servicio.py", "paquete/ayuda.py"}
        write(folder / "paquete" / "ayuda.py", "word = 'bb'\n")
        assert imports.load().function("") == "bb"


def test_a_change_of_the_same_size_in_the_same_second_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = folder / "gemelo.py"

    def save(word: str) -> None:
        write(path, f"def f(text): return '{word}'\n")
        os.utime(path, (1_000_000_000, 1_000_000_000))

    def usual() -> str:
        sys.modules.pop("gemelo", None)
        importlib.invalidate_caches()
        return str(importlib.import_module("gemelo").f(""))

    sys.path.insert(0, str(folder))
    save("viejo")
    assert usual() == "viejo"
    save("nuevo")
    assert usual() == "viejo"  # la trampa: Python se fía del .pyc
    sys.modules.pop("gemelo")
    with FreshImports("gemelo:f") as imports:
        assert imports.load().function("") == "nuevo"
        save("mejor")
        assert imports.load().function("") == "mejor"


def test_when_it_fails_the_modules_of_before_stay(folder: Path) -> None:
    write(folder / "uno.py", "import dos\ndef f(text):\n    import dos\n    return dos.word\n")
    write(folder / "dos.py", "word = 'a'\n")
    with FreshImports("uno:f") as imports:
        service = imports.load()
        before = {name: sys.modules[name] for name in ("uno", "dos")}
        write(folder / "uno.py", "import tres, dos\n1 / 0\n")
        write(folder / "dos.py", "word = 'bb'\n")
        write(folder / "tres.py", "")
        with pytest.raises(BadService):
            imports.load()
        assert before == {name: sys.modules[name] for name in ("uno", "dos")}
        assert "tres" not in sys.modules
        assert service.function("") == "a"
        assert watched(imports, folder) == {"uno.py", "dos.py", "tres.py"}
        assert imports.files == look(imports.files)  # el mismo fallo no se vuelve a intentar hasta que algo cambie
        write(folder / "uno.py", "import dos\ndef f(text): return dos.word\n")
        assert imports.load().function("") == "bb"
        assert watched(imports, folder) == {"uno.py", "dos.py"}


def test_a_module_that_is_missing_is_waited_for(folder: Path) -> None:
    write(folder / "uno.py", "import dos\nf = str.upper\n")
    with FreshImports("uno:f") as imports:
        with pytest.raises(BadService):
            imports.load()
        assert imports.files[str(folder / "dos.py")] is None
        write(folder / "dos.py", "x = (\n")
        with pytest.raises(BadService):
            imports.load()
        write(folder / "dos.py", "x = 1\n")
        assert imports.load().function("a") == "A"


def test_what_a_function_imports_later_is_watched_too(folder: Path) -> None:
    write(folder / "uno.py", "def f(text):\n    import dos\n    return dos.word\n")
    write(folder / "dos.py", "word = 'a'\n")
    with FreshImports("uno:f") as imports:
        service = imports.load()
        assert watched(imports, folder) == {"uno.py"}
        assert service.function("") == "a"
        assert watched(imports, folder) == {"uno.py", "dos.py"}


def test_what_is_installed_is_left_alone(folder: Path) -> None:
    installed = folder / "entorno" / "site-packages"
    write(installed / "biblioteca.py", "word = 'a'\n")
    write(folder / "uno.py", "import biblioteca\ndef f(text): return biblioteca.word\n")
    sys.path.append(str(installed))
    with FreshImports("uno:f") as imports:
        imports.load()
        library = sys.modules["biblioteca"]
        imports.load()
        assert sys.modules["biblioteca"] is library
        assert watched(imports, folder) == {"uno.py"}


def test_what_is_inside_python_is_still_of_python(folder: Path) -> None:
    write(folder / "uno.py", "import time\nf = time.strftime\n")
    write(folder / "time.py", "1 / 0\n")
    with FreshImports("uno:f") as imports:
        assert imports.load().function("hola") == "hola"


def test_a_service_may_empty_the_finders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    with FreshImports("mio:responder"):
        sys.meta_path.clear()
