"""Lo que dice la documentación es verdad: cada ejemplo y cada orden se ejecutan."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from comunicacion_tcp.cli.server import _read as read
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.protocol import ServerProtocol
from soak.scenarios import SCENARIOS

from .support.driving import play
from .support.examples import ROOT, Conversation, blocks, documented_conversations
from .support.model import EOF
from .support.ports import default_port
from .support.programs import SERVER, Program, run, running_server
from .support.serving import served
from .support.sockets import connect, receive, receive_all
from .support.tools import need

CONVERSATIONS = documented_conversations()
each_example = pytest.mark.parametrize("example", CONVERSATIONS, ids=lambda example: f"línea {example.line}")


def test_there_are_examples_of_every_section() -> None:
    assert len(CONVERSATIONS) >= 15


@each_example
def test_protocol_examples_against_the_core(example: Conversation) -> None:
    conversation = ServerProtocol()
    for turn in example.turns:
        assert play(conversation, turn.sent) == turn.received
    assert conversation.ended == example.ends


def test_protocol_examples_against_a_real_server() -> None:
    # Con un silencio más largo que el de verdad: una máquina ocupada puede tardar 20 ms entre dos envíos seguidos.
    with served(limits=Limits(goodbye_silence=0.5)) as running:
        for example in CONVERSATIONS:
            with connect(running.port) as sock:
                for turn in example.turns:
                    for step in turn.sent:
                        if step == EOF:
                            sock.shutdown(1)
                        elif isinstance(step, bytes):
                            sock.sendall(step)
                        # El silencio es la espera de la respuesta que solo él provoca.
                    assert receive(sock, len(turn.received)) == turn.received, example
                if example.ends:
                    assert receive_all(sock) == b"", example


# -- el README ----------------------------------------------------------------------------------------------


def commands(page: str) -> list[str]:
    """Cada línea de cada bloque ``sh``."""
    return [line for block in blocks(page, "sh") for line in block.splitlines()]


def test_the_english_readme_has_the_same_commands_and_examples() -> None:
    for language in ("sh", "python"):
        assert blocks("README.en.md", language) == blocks("README.md", language)
    spanish = blocks("README.md", "text")
    for block in blocks("README.en.md", "text"):
        assert block in spanish


def test_every_command_shown_is_run_by_a_test() -> None:
    known = {
        "python3 Servidor_TCP.py": "cli/test_golden.py",
        "python3 Cliente_TCP.py": "cli/test_golden.py",
        r"printf 'hola señor\nDESCONEXION\n' | nc localhost 5000": "aquí mismo",
        "python3 Servidor_TCP.py --host 0.0.0.0": "cli/test_golden.py",
        "python3 Cliente_TCP.py --host IP-DEL-SERVIDOR": "cli/test_client.py, con 127.0.0.1",
        "python3 Servidor_TCP.py --host unix:mensajes.sock": "cli/test_client.py",
        "python3 Cliente_TCP.py --host unix:mensajes.sock": "cli/test_client.py",
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=mensajes "
        "-addext subjectAltName=IP:IP-DEL-SERVIDOR -keyout clave.pem -out cert.pem": "cli/test_tls.py, con 127.0.0.1",
        "python3 Servidor_TCP.py --host 0.0.0.0 --tls-cert cert.pem --tls-clave clave.pem": "cli/test_tls.py",
        "python3 Cliente_TCP.py --host IP-DEL-SERVIDOR --tls --tls-ca cert.pem": "cli/test_tls.py, con 127.0.0.1",
        "python3 Cliente_TCP.py hola mundo": "aquí mismo",
        "python3 Cliente_TCP.py -q < entrada.txt > salida.txt": "aquí mismo",
        "python3 Cliente_TCP.py --json hola": "aquí mismo",
        "python3 Cliente_TCP.py --repetir 3 --intervalo 0 hola": "aquí mismo",
        "python3 Servidor_TCP.py --servicio examples.palabras:responder": "test_examples.py",
        "python3 Servidor_TCP.py --procesos auto": "cli/test_processes.py",
        "python3 Servidor_TCP.py --host 0.0.0.0 --proxy-de 10.0.0.1": "cli/test_proxy.py, con 127.0.0.1",
        "entorno/bin/python -m pip install '.[metricas]'": "test_packaging.py, sin red",
        "entorno/bin/servidor-tcp --metricas localhost:5001": "cli/test_metrics.py, en un puerto libre",
        "source entorno/share/bash-completion/completions/cliente-tcp": "test_share.py y test_packaging.py",
        "entorno/bin/python -m pip install '.[interactivo]'": "test_packaging.py, sin red",
        "python3 -m venv entorno": "test_packaging.py",
        "entorno/bin/python -m pip install .": "test_packaging.py",
        "entorno/bin/servidor-tcp --puerto 7000": "test_packaging.py",
        "entorno/bin/cliente-tcp --puerto 7000": "test_packaging.py",
        "entorno/bin/python -m pip install '.[rapido]'": "test_packaging.py, sin red",
        ".venv/3.11/bin/python -m pytest tests/test_protocol.py": "la ejecuta quien ejecuta esto",
        "python3 Servidor_TCP.py --servicio examples.instrumento:responder --hilos 0": "test_examples.py",
        "python3 Servidor_TCP.py --servicio examples.agenda_sqlite:responder": "test_examples.py",
        "servidor-tcp --servicio mio:responder": "aquí mismo, sin instalar",
        "servidor-tcp --servicio mio:responder --recargar": "aquí mismo, sin instalar",
        "make test": "la ejecuta quien ejecuta esto",
        "make test-all": ".ci/run",
        "make coverage": "la misma orden que make test, midiendo",
        "make mutants": "test_mutants.py, sin cambiar nada",
        "make fuzz": "aquí mismo",
        "make bench": "test_benchmarks.py, más corta",
        "make soak": "test_soak.py, más corta",
        "make share": "test_share.py, sin escribir",
        "make types-public": "a mano; los tipos que se leen en marcha, test_types.py",
        "make test-new": "a mano, siendo root: tools/new_pythons",
        "make format": "aquí mismo",
        "make clean": "aquí mismo",
    }
    pages = ["README.md", "CONTRIBUTING.md", "docs/servicios.md", "examples/README.md"]
    assert {command for page in pages for command in commands(page)} == set(known)


def test_the_pipe_to_nc() -> None:
    command = next(line for line in commands("README.md") if "nc localhost" in line)
    need("nc")
    with default_port(), Program(SERVER) as server:
        server.wait_for("Servidor escuchando...")
        done = run([need("bash"), "-c", command])
        assert done.stdout.decode() == blocks("README.md", "text")[2]


@pytest.mark.parametrize(("page", "count"), [("README.md", 1), ("docs/biblioteca.md", 4)])
def test_the_examples_of_the_library(page: str, count: int) -> None:
    # Cada uno lleva debajo lo que escribe.
    text = (ROOT / page).read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(examples) == len(blocks(page, "python")) == count
    for code, shown in examples:
        done = run([sys.executable, "-W", "error", "-c", code])
        assert (done.stdout.decode(), done.stderr) == (shown, b"")


def test_the_commands_for_scripts(tmp_path: Path) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8").partition("En un script")[2]
    one, *others = re.findall(r"^python3 Cliente_TCP.py .*", page.partition("## Sirve")[0], re.MULTILINE)
    assert len(others) == 3
    (tmp_path / "entrada.txt").write_text("uno\ndos\n", encoding="utf-8")
    script = f"cd {tmp_path}; "
    with default_port(), Program(SERVER) as server:
        server.wait_for("Servidor escuchando...")
        for command, shown in (
            (one, r"HOLA MUNDO\n"),
            (others[0] + "; cat salida.txt", r"UNO\nDOS\n"),
            (others[1], r'{"message": "hola", "reply": "HOLA", "milliseconds": [\d.]+}\n'),
            (others[2], r"(\d: +[\d.]+ ms  HOLA\n){3}--- localhost:5000: 3 enviados, 3 respondidos, 0 perdidos\n.*\n"),
        ):
            there = command.replace("python3 Cliente_TCP.py", f"{sys.executable} {ROOT / 'Cliente_TCP.py'}")
            done = run([need("bash"), "-c", script + there])
            assert re.fullmatch(shown, done.stdout.decode()), (command, done)
            assert done.stderr == b""


@pytest.mark.parametrize("target", ["test", "test-all", "fuzz", "bench", "soak", "share", "format", "clean"])
def test_the_makefile_knows_what_is_promised(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert f"make {target}" in run([need("make"), "help"]).stdout.decode()


def test_the_map_of_the_code_is_the_code() -> None:
    page = next(block for block in blocks("README.md", "text") if "comunicacion_tcp/\n" in block)
    drawn = set(re.findall(r"^  (\w+(?:\.py|/))", page, re.MULTILINE))
    real = {path.name + "/" * path.is_dir() for path in (ROOT / "comunicacion_tcp").iterdir()}
    assert drawn == {name for name in real if not name.startswith("_") and name != "py.typed"}


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "README.en.md", "CONTRIBUTING.md", "examples/README.md"),
        *("docs/protocolo.md", "docs/fiabilidad.md", "docs/servicios.md", "docs/pruebas.md"),
        *("docs/biblioteca.md", "docs/procesos.md", "docs/escalado.md", "docs/rendimiento.md", "SECURITY.md"),
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        assert ((ROOT / page).parent / link).exists(), link


# -- docs/servicios.md ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", commands("docs/servicios.md"))
def test_the_first_service_is_served_with_the_command_shown(tmp_path: Path, command: str) -> None:
    (source,) = blocks("docs/servicios.md", "python")
    (tmp_path / "mio.py").write_text(source, encoding="utf-8")
    program, *options = command.split()
    assert program == "servidor-tcp"
    with running_server(*options, cwd=tmp_path) as (_, port), connect(port) as sock:
        sock.sendall(b"hola\n")
        reply = b"Has escrito 4 letras\n"
        assert receive(sock, len(reply)) == reply


def test_a_failure_looks_as_shown(tmp_path: Path) -> None:
    (shown,) = blocks("docs/servicios.md", "text")
    (tmp_path / "mio.py").write_text("def responder(texto):\n    return 1 / 0\n", encoding="utf-8")
    with running_server("--servicio", "mio:responder", cwd=tmp_path) as (server, port), connect(port) as sock:
        sock.sendall(b"hola\n")
        server.wait_for("return 1 / 0\n")
        real = re.sub(r"\('127.0.0.1', \d+\)", "('127.0.0.1', 59319)", server.output.partition("Mensaje")[2])
        assert "Mensaje" + real.replace(str(tmp_path), "/home/ana") == shown


# -- docs/fiabilidad.md -------------------------------------------------------------------------------------


def test_every_promise_of_reliability_names_what_tests_it() -> None:
    page = (ROOT / "docs" / "fiabilidad.md").read_text(encoding="utf-8").partition("## Dónde se prueba cada cosa")[2]
    rows = re.findall(r"^\| (\d+) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 41))
    keys = {scenario.key: scenario.row for scenario in SCENARIOS}
    for number, _, places in rows:
        for place in places.split("; "):
            where, *names = re.findall(r"`([^`]+)`", place)
            assert names, place
            for name in names:
                if where == "soak":
                    assert keys.pop(name) == int(number)
                else:
                    assert f"def {name}(" in (ROOT / where).read_text(encoding="utf-8")
    assert not keys  # y ningún escenario se queda sin su fila


# -- varios procesos ----------------------------------------------------------------------------------------


def test_the_file_of_options_shown_is_one(tmp_path: Path) -> None:
    (shown,) = blocks("docs/procesos.md", "text")
    path = tmp_path / "servidor-tcp.conf"
    path.write_text(shown, encoding="utf-8")
    options, limits = read(["--configuracion", str(path)], None)
    assert (options.puerto, options.procesos, options.registro, limits.max_connections) == (7000, "auto", "fecha", 5000)


def test_the_page_of_the_log_names_every_event_and_its_level() -> None:
    page = (ROOT / "docs/registro.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", page, re.MULTILINE))
    spanish = {"INFO": "info", "WARNING": "aviso", "ERROR": "error", "WARNING if cut else INFO": "info o aviso"}
    told: dict[str, set[str]] = {}
    for name in ("report.py", "processes.py", "log.py"):
        source = (ROOT / "comunicacion_tcp/cli" / name).read_text(encoding="utf-8")
        for level, event in re.findall(r'(?:tell|_some|Event)\(\s*([A-Z][\w ]+), "(\w+)"', source):
            told.setdefault(event, set()).add(spanish.get(level, "info o aviso"))
    assert {event: "info o aviso" if event == "stopped" else level for event, (level, *_) in told.items()} == listed


def test_the_page_of_the_processes_tells_the_limits() -> None:
    page = (ROOT / "docs/procesos.md").read_text(encoding="utf-8")
    for number in (f"{Limits().worker_timeout:g}", f"{Limits().handover:g}"):
        assert f"({number})" in page
