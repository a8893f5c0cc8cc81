"""``reloading.py``: al guardar, responde lo nuevo a quien ya estaba; y si no sirve, lo de antes."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comunicacion_tcp.cli import reloading
from comunicacion_tcp.errors import BadService
from comunicacion_tcp.services import Service
from comunicacion_tcp.watch import Look

from ..support.loops import run_loop
from ..support.modules import write
from ..support.programs import running_server
from ..support.sockets import ask, connect
from ..support.waiting import PATIENCE, wait_until


def test_a_good_edit_answers_the_next_message_of_who_was_already_there(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "import ayuda\ndef responder(texto): return texto + ayuda.final")
    write(tmp_path / "ayuda.py", "final = '1'")
    options = ("--servicio", "mio:responder", "--recargar")
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "a") == "a1"
        write(tmp_path / "ayuda.py", "final = '2'")  # del mismo tamaño
        server.wait_for("Servicio recargado: desde ahora responde el nuevo mio:responder.\n")
        assert ask(sock, "a") == "a2"
        write(tmp_path / "mio.py", "async def responder(texto): return texto + '3'")
        wait_until(lambda: ask(sock, "a") == "a3", "que responda el nuevo")
        assert server.output.count("Conexión aceptada") == 1
        assert server.errors == ""


def test_a_bad_edit_is_told_once_and_the_old_one_goes_on_until_it_is_fixed(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def responder(texto): return texto + '1'")
    options = ("--servicio", "mio:responder", "--recargar")
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        for source, words in (
            ("def responder(texto: return texto", "«mio» tiene algo que no es Python (mio.py:1)"),
            ("import ayuda\ndef responder(texto): return texto + ayuda.final", "«mio» importa «ayuda» (mio.py:1)"),
        ):
            write(tmp_path / "mio.py", source)
            server.wait_for(f"Se sigue con el servicio de antes. {words}")
            assert ask(sock, "a") == "a1"
        write(tmp_path / "ayuda.py", "final = '2'")  # lo que faltaba: mio.py no cambia
        server.wait_for("Servicio recargado")
        assert ask(sock, "a") == "a2"
        assert server.output.count("Se sigue con el servicio de antes") == 2
        (tmp_path / "mio.py").rename(tmp_path / "mio.bak")
        write(tmp_path / "nuevo.py", "def responder(texto): return texto + '3'")
        (tmp_path / "nuevo.py").rename(tmp_path / "mio.py")
        server.wait_for("Servicio recargado", times=2)
        assert ask(sock, "a") == "a3"
        assert server.errors == ""


def test_a_module_that_never_ends_importing_stops_nothing(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def responder(texto): return texto + '1'")
    options = ("--servicio", "mio:responder", "--recargar", "--registro", "fecha")
    with running_server(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        source = "import pathlib\npathlib.Path('empezado').touch()\nwhile True: pass"
        write(tmp_path / "mio.py", source)
        wait_until((tmp_path / "empezado").exists, "que lo importe")
        assert ask(sock, "a") == "a1"
        server.wait_for("error Se sigue con el servicio de antes. «mio» lleva demasiado importándose")
        assert ask(sock, "a") == "a1"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.output.endswith("Servidor detenido.\n")
        assert server.errors == ""


# -- sin ficheros -------------------------------------------------------------------------------------------


class Newsroom:
    """Hace de servidor y de quien cuenta: apunta lo que se les pide."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.heard = asyncio.Event()

    def change_service(self, service: Service) -> None:
        self.told.append(service)

    def service_reloaded(self, name: str) -> None:
        self.told.append(name)
        self.heard.set()

    def service_unusable(self, bad: BadService) -> None:
        self.told.append((bad.problem, type(bad.cause)))
        self.heard.set()


class Imports:
    """Un servicio que siempre ha cambiado. ``load``: lo que pasa al importarlo."""

    name = "mio:f"

    def __init__(self, path: Path, load: Callable[[], Service]) -> None:
        self.files: dict[str, Look] = {str(path): None}
        self.load = load


def told(path: Path, load: Callable[[], Service], monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Lo primero que se cuenta cuando importar hace ``load``."""
    path.touch()
    monkeypatch.setattr(reloading, "_LOOK_EVERY", 0.001)

    async def main() -> list[object]:
        newsroom: Any = Newsroom()
        imports: Any = Imports(path, load)
        task = asyncio.ensure_future(reloading.keep_fresh(imports, newsroom, [newsroom]))
        await asyncio.wait_for(newsroom.heard.wait(), PATIENCE)
        task.cancel()
        return list(newsroom.told)

    return run_loop(main())


def test_what_is_loaded_is_put_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(str.title)
    assert told(tmp_path / "a", lambda: service, monkeypatch)[:2] == [service, "mio:f"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RecursionError])
def test_whatever_is_thrown_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def load() -> Service:
        raise error

    assert told(tmp_path / "a", load, monkeypatch)[0] == ("import_failed", error)


def test_without_another_thread_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert told(tmp_path / "a", lambda: Service(str.title), monkeypatch)[0] == ("import_failed", RuntimeError)


def test_what_takes_long_is_told_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "_TOO_LONG", 0.001)
    end = threading.Event()

    def load() -> Service:
        assert end.wait(PATIENCE)
        return Service(str.title)

    assert told(tmp_path / "a", load, monkeypatch) == [("endless", type(None))]
    end.set()
