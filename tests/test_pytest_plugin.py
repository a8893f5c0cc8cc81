"""``pytest_plugin.py`` en un proyecto ajeno de verdad: otro pytest, en otra carpeta, con sus propias pruebas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .support.examples import ROOT, blocks
from .support.programs import environment, run
from .support.waiting import PATIENCE

# Las pruebas de ese proyecto: su cliente habla con sockets, y no sabe nada de esta biblioteca.
_CLIENT = """
import socket
import pytest

def ask(server, text):
    with socket.create_connection((server.host, server.port), timeout=30) as sock:
        sock.sendall(text.encode() + b"\\n")
        return sock.makefile(encoding="utf-8").readline()
"""


def run_project(folder: Path, tests: str, *options: str, **files: str) -> str:
    """Ejecuta las pruebas de un proyecto, que deben acabar bien; devuelve lo que cuenta pytest."""
    (folder / "test_suyo.py").write_text(_CLIENT + tests, encoding="utf-8")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    # Solo con el plugin y lo que se diga, como si estuviera instalado; y los avisos, fallos.
    plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "comunicacion_tcp.pytest_plugin", "-W", "error", "-v", *options]
    # Son varios Python que empiezan: en una máquina ocupada, más de lo que tarda cualquier otra orden.
    done = subprocess.run(command, capture_output=True, timeout=3 * PATIENCE, cwd=folder, env=environment(plugins))
    text = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, text
    return text


def test_a_server_for_each_test_that_asks(tmp_path: Path) -> None:
    tests = """
@pytest.mark.parametrize("text", ["hola", "señor"])
def test_one(servidor_tcp, text):
    assert ask(servidor_tcp, text) == text.upper() + "\\n"
    assert servidor_tcp.host == "127.0.0.1"
    assert servidor_tcp.addresses == [("127.0.0.1", servidor_tcp.port)]

def test_a_client_that_stays_connected(servidor_tcp, request):
    sock = socket.create_connection((servidor_tcp.host, servidor_tcp.port), timeout=30)
    request.addfinalizer(sock.close)
    sock.sendall(b"a medias")
"""
    assert "3 passed" in run_project(tmp_path, tests)


def test_the_service_is_replaced_as_any_fixture(tmp_path: Path) -> None:
    tests = """
def test_of_the_project(servidor_tcp):
    assert ask(servidor_tcp, "hola") == "aloh\\n"

@pytest.mark.parametrize("servicio_tcp", [str.title])
def test_of_a_test(servidor_tcp):
    assert ask(servidor_tcp, "hola a todos") == "Hola A Todos\\n"

class TestOfAClass:
    @pytest.fixture
    def servicio_tcp(self):
        self.received = []
        def answer(text):
            self.received.append(text)
            return "OK"
        return answer

    def test_what_arrives(self, servidor_tcp):
        assert ask(servidor_tcp, "orden 7") == "OK\\n"
        assert self.received == ["orden 7"]
"""
    conftest = """
import pytest

@pytest.fixture
def servicio_tcp():
    return lambda text: text[::-1]
"""
    assert "3 passed" in run_project(tmp_path, tests, conftest=conftest)


def test_the_example_of_the_page(tmp_path: Path) -> None:
    tests, script = blocks("docs/pruebas.md", "python")
    assert "2 passed" in run_project(tmp_path, tests)
    assert run([sys.executable, "-c", script]).stdout == b"Hola A Todos\n"


def test_several_processes_at_once(tmp_path: Path) -> None:
    tests = """
@pytest.mark.parametrize("number", range(20))
def test_each(servidor_tcp, number):
    assert ask(servidor_tcp, f"n{number}") == f"N{number}\\n"
"""
    assert "20 passed" in run_project(tmp_path, tests, "-p", "xdist", "-n", "2")


def test_it_is_explained_in_the_list_of_fixtures(tmp_path: Path) -> None:
    text = run_project(tmp_path, "def test_nothing(): pass", "--fixtures")
    for words in ("servidor_tcp -- ", "servicio_tcp -- ", "en un puerto libre", "define tu propia fixture"):
        assert words in text


def test_a_project_that_does_not_use_it_does_not_pay_for_it() -> None:
    module = "comunicacion_tcp.pytest_plugin"
    code = f"import sys, pytest; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["comunicacion_tcp", module]
