"""``servidor-tcp --procesos``: varios procesos de verdad, que mueren, se cuelgan, se recargan y se detienen."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comunicacion_tcp.board import RELOAD_FAILED
from comunicacion_tcp.cli import processes
from comunicacion_tcp.cli import server as module
from comunicacion_tcp.cli.serving import Launch
from comunicacion_tcp.cli.under_systemd import Manager
from comunicacion_tcp.systemd import Notifier

from ..support.certificates import Certificates
from ..support.modules import write
from ..support.programs import (
    SERVER,
    SILENT,
    TAKE_TERMINAL,
    Program,
    alive,
    children_of,
    environment,
    fails,
    run,
    running_server,
    state,
)
from ..support.sockets import ask, connect, fill, fill_pipe, receive, receive_all
from ..support.waiting import PATIENCE, wait_until

# --plazo-proceso en las pruebas que lo agotan: con 1, en una máquina ocupada se pasa a veces un hijo sano.
DEADLINE = "2"
WHO = "import os\ndef f(texto): return str(os.getpid())\n"


def children(program: Program) -> set[int]:
    """Los procesos que sirven."""
    return children_of(program.process.pid)


@contextlib.contextmanager
def serving(*options: str, processes: int = 2, cwd: Path | None = None) -> Iterator[tuple[Program, int]]:
    """El servidor con varios procesos; al salir, comprueba que no queda ninguno."""
    given = {"cwd": cwd} if cwd else {}
    with running_server("--procesos", str(processes), *options, **given) as (server, port):  # type: ignore[arg-type]
        seen = children(server)
        assert len(seen) == processes
        yield server, port
        seen |= children(server) if server.process.poll() is None else set()
    wait_until(lambda: not any(map(alive, seen)), "que no quede ninguno huérfano")
    assert not SILENT.search(server.output + server.errors)


def ends(server: Program, code: int = 0) -> None:
    """Se le pide acabar, y acaba con ``code`` sin quejas."""
    server.signal(signal.SIGTERM)
    assert server.wait() == code, server.output + server.errors
    assert server.errors == ""


def everybody(port: int, wanted: int) -> None:
    """Habla hasta que le hayan respondido ``wanted`` procesos distintos."""
    seen: set[str] = set()

    def talk() -> bool:
        with connect(port) as sock:
            seen.add(ask(sock, "quién"))
        return len(seen) >= wanted

    wait_until(talk, f"que respondan {wanted} procesos")


# -- servir -------------------------------------------------------------------------------------------------


def test_they_all_serve_the_same_and_one_line_says_so(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", WHO)
    with serving("--servicio", "mio:f", processes=3, cwd=tmp_path) as (server, port):
        everybody(port, 3)
        crowd = f"con 3 procesos (padre: {server.process.pid})"  # a él van SIGHUP y SIGTERM
        places = rf"127\.0\.0\.1:{port}( y \[::1\]:{port})?"  # localhost, lo que sea en esta máquina
        assert re.match(rf"Servidor escuchando en {places}, {re.escape(crowd)}\.\.\.\n", server.output)
        ends(server)
        assert server.output.endswith("Servidor detenido.\n")
        assert server.output.count("Servidor") == 2


def test_auto_is_one_for_each_processor() -> None:
    wanted = len(os.sched_getaffinity(0))
    with running_server("--procesos", "auto") as (server, _):
        assert 1 <= len(children(server)) <= wanted
        ends(server)


@pytest.mark.parametrize("text", ["0", "-1", "muchos", "1.5", "100000"])
def test_a_number_that_cannot_be(text: str) -> None:
    fails(run([*SERVER, "--procesos", text]), 2, "--procesos debe ser un número de 1 a 1024", "auto")


def test_where_the_system_has_no_fork_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "CAN_FORK", False)
    with pytest.raises(SystemExit) as exit_info:
        module.main(["--procesos", "2"])
    assert exit_info.value.code == 2
    assert "necesita un sistema con fork" in capsys.readouterr().err


def test_the_lines_of_several_do_not_mix_in_a_pipe() -> None:
    with Program([*SERVER, "--puerto", "0", "--procesos", "3", "--registro", "json"]) as server:
        server.wait_for("}\n")
        start = json.loads(server.output.splitlines()[0])
        port = start["addresses"][0]["port"]
        for _ in range(30):
            crowd = [connect(port) for _ in range(30)]
            for sock in crowd:
                sock.sendall(b"DESCONEXION\n")
            for sock in crowd:
                receive_all(sock)
                sock.close()
        server.wait_for('"said_goodbye"', times=900)
        workers = children(server)
        ends(server)
        events = [json.loads(line) for line in server.output.splitlines()]
    accepted = [event["process"] for event in events if event["event"] == "accepted"]
    assert len(accepted) == 900
    assert set(accepted) <= workers
    assert (start["event"], start["processes"], start["process"]) == ("listening", 3, server.process.pid)


def test_not_even_the_longest_lines_of_several_mix_in_a_pipe(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def f(texto): raise ValueError(texto)")
    options = ("--servicio", "mio:f", "--registro", "json", "--procesos", "4")
    with Program([*SERVER, "--puerto", "0", *options], cwd=tmp_path) as server:
        server.wait_for("}\n")
        port = json.loads(server.output.splitlines()[0])["addresses"][0]["port"]
        for _ in range(8):
            crowd = [connect(port) for _ in range(20)]
            for number, sock in enumerate(crowd):
                sock.sendall(("\N{GRINNING FACE}" * 600 + f"{number}\nDESCONEXION\n").encode())
            for sock in crowd:
                receive_all(sock)
                sock.close()
        server.wait_for('"said_goodbye"', times=160)
        ends(server)
        assert max(len(line) for line in server.output.splitlines()) > select.PIPE_BUF
        for line in server.output.splitlines():
            assert json.loads(line)["level"]


def test_a_unix_socket_lives_as_long_as_the_parent(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Program([*SERVER, "--host", f"unix:{path}", "--procesos", "2"]) as server:
        server.wait_for("con 2 procesos")
        victim = min(children(server))
        os.kill(victim, signal.SIGTERM)
        wait_until(lambda: victim not in children(server) and len(children(server)) == 2)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            assert ask(sock, "hola") == "HOLA"
        ends(server)
    assert not path.exists()


# -- morir --------------------------------------------------------------------------------------------------


def test_a_death_loses_nobody_that_was_waiting() -> None:
    with serving() as (server, port):
        victims = children(server)
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all(state(pid) == "T" for pid in victims))
        waiting = [connect(port) for _ in range(50)]
        for number, sock in enumerate(waiting):
            sock.sendall(f"hola {number}\n".encode())
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        for number, sock in enumerate(waiting):
            with sock:
                assert receive(sock, 7) == f"HOLA {number}\n".encode()[:7]
        server.wait_for("ha acabado sin que nadie se lo pidiera (señal SIGKILL): se pone otro", times=2)
        ends(server)


def test_only_its_own_conversations_are_cut(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", WHO)
    with serving("--servicio", "mio:f", cwd=tmp_path) as (server, port), contextlib.ExitStack() as stack:
        talks: dict[int, list[socket.socket]] = {}
        while len(talks) < 2:
            sock = stack.enter_context(connect(port))
            talks.setdefault(int(ask(sock, "quién")), []).append(sock)
        victim, survivor = talks
        os.kill(victim, signal.SIGKILL)
        for sock in talks[victim]:
            with contextlib.suppress(ConnectionResetError):
                assert receive_all(sock) == b""
        for sock in talks[survivor]:
            assert ask(sock, "sigo") == str(survivor)
        wait_until(lambda: len(children(server) - {victim}) == 2)
        server.wait_for("sirve ya.")
        everybody(port, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_asked_to_end_by_its_number_delivers_and_is_replaced(number: signal.Signals) -> None:
    with serving(processes=1) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "HOLA"
        (victim,) = children(server)
        os.kill(victim, number)
        if number == signal.SIGTERM:
            assert receive_all(sock) == b""
            wait_until(lambda: children(server) and victim not in children(server))
        with connect(port) as other:
            assert ask(other, "hola") == "HOLA"
        assert (victim in children(server)) == (number == signal.SIGINT)  # la de la terminal es para el padre


# -- colgarse -----------------------------------------------------------------------------------------------


def test_one_stopped_is_replaced_and_its_siblings_serve() -> None:
    with serving("--plazo-proceso", DEADLINE) as (server, port):
        victim = min(children(server))
        os.kill(victim, signal.SIGSTOP)
        with connect(port) as sock:
            assert ask(sock, "hola") == "HOLA"
        server.wait_for("sin dar señales de vida: se corta.")
        wait_until(lambda: victim not in children(server) and len(children(server)) == 2)
        assert re.search(rf"\nEl proceso {victim} lleva \d+ s sin dar señales de vida: se corta\.\n", server.output)
        ends(server)


def test_one_whose_service_never_gives_the_loop_back_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def f(texto):\n    while texto == 'bucle': pass\n    return texto")
    options = ("--servicio", "mio:f", "--hilos", "0", "--plazo-proceso", DEADLINE)
    with serving(*options, cwd=tmp_path) as (server, port), connect(port) as sock:
        sock.sendall(b"bucle\n")
        server.wait_for("sin dar señales de vida: se corta.")
        with contextlib.suppress(ConnectionResetError):
            assert receive_all(sock) == b""
        with connect(port) as other:
            assert ask(other, "hola") == "hola"


def test_coming_back_from_a_long_stop_nobody_dies() -> None:
    with serving("--plazo-proceso", DEADLINE) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "HOLA"
        everyone = [server.process.pid, *children(server)]
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all(state(pid) == "T" for pid in everyone))
        then = time.monotonic()
        wait_until(lambda: time.monotonic() > then + 3, "que venza cualquier plazo de quien no da señales de vida")
        for pid in reversed(everyone):
            os.kill(pid, signal.SIGCONT)
        assert ask(sock, "sigo") == "SIGO"
        server.signal(signal.SIGHUP)
        server.wait_for("Recargado")
        assert "El proceso" not in server.output
        ends(server)


# -- no empezar ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--servicio", "nada:f"), "No hay ningún módulo «nada»"),
        (("--tls-cert", "nada.pem"), "nada.pem"),
    ],
)
def test_one_that_cannot_start_says_why_only_once(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = run([*SERVER, "--puerto", "0", "--procesos", "4", *options], cwd=tmp_path)
    fails(done, 1, words)
    assert "Ningún proceso ha conseguido servir a la primera, y no se intenta más." in done.stdout.decode()


def test_a_busy_port_is_a_sentence() -> None:
    with running_server() as (_, port):
        fails(run([*SERVER, "--puerto", str(port), "--procesos", "2"]), 1, "ya está ocupado")


def test_if_only_some_can_start_it_says_it_serves(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", f"import os\nos.mkdir({str(tmp_path / 'solo-uno')!r})\n{WHO}")
    with Program([*SERVER, "--puerto", "0", "--procesos", "3", "--servicio", "mio:f"], cwd=tmp_path) as server:
        with connect(server.port) as sock:
            assert int(ask(sock, "quién")) in children(server)
        assert "sin llegar a servir" in server.output
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_one_that_dies_at_the_start_is_tried_a_few_times(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "import os\nprint('nazco', flush=True)\nos.kill(os.getpid(), 9)")
    done = run([*SERVER, "--puerto", "0", "--procesos", "4", "--servicio", "mio:f"], cwd=tmp_path)
    assert done.returncode == 1
    *attempts, last = done.stdout.decode().splitlines()
    assert [line.partition(" se prueba")[2] for line in attempts] == [
        f" otra vez en {delay} s." for delay in (0.1, 0.2, 0.4, 0.8)
    ]
    assert "(señal SIGKILL)" in attempts[0]
    assert last == "Ningún proceso ha conseguido servir en 5 intentos, y no se intenta más."
    assert done.stderr.decode().count("nazco") == 5


# -- recargar -----------------------------------------------------------------------------------------------


def test_reloading_changes_the_service_and_cuts_nobody(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def f(texto): return 'antes'")
    with serving("--servicio", "mio:f", cwd=tmp_path) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "antes"
        old = children(server)
        write(tmp_path / "mio.py", "def f(texto): return 'después'")
        server.signal(signal.SIGHUP)
        server.wait_for("Recargado: sirven procesos nuevos, y los de antes acaban lo que tienen.")
        assert ask(sock, "hola") == "antes"
        with connect(port) as other:
            assert ask(other, "hola") == "después"
        sock.sendall(b"DESCONEXION\n")
        receive_all(sock)
        wait_until(lambda: not old & children(server), "que se vayan los de antes")
        ends(server)


def test_reloading_reads_the_configuration_again(tmp_path: Path) -> None:
    configuration = tmp_path / "servidor.conf"
    configuration.write_text("procesos = 1\nmax-mensaje = 100\n")
    with Program([*SERVER, "--puerto", "0", "--configuracion", str(configuration)]) as server:
        port = server.port
        configuration.write_text("procesos = 3\nmax-mensaje = 20\n# y nada más\n")
        server.signal(signal.SIGHUP)
        server.wait_for("Recargado")
        wait_until(lambda: len(children(server)) == 3)
        with connect(port) as sock:
            assert ask(sock, "x" * 50) == "ERROR: el mensaje pasa de 20 bytes"
        configuration.write_text("procesos = 3\nmax-mensaje = -1\n")
        before = children(server)
        server.signal(signal.SIGHUP)
        server.wait_for("Se sigue con la configuración de antes.")
        assert f"de antes. Servidor_TCP.py: {configuration}, línea 2: max-mensaje debe ser" in server.output
        assert server.errors == ""
        with connect(port) as sock:
            assert ask(sock, "x" * 50) == "ERROR: el mensaje pasa de 20 bytes"
        assert children(server) == before


def test_reloading_changes_the_deadlines_and_how_it_is_told(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "import time\ndef f(texto):\n    time.sleep(2.5)\n    return texto")
    configuration = tmp_path / "servidor.conf"
    configuration.write_text(f"procesos = 4\nplazo-proceso = {DEADLINE}\n")  # menos de lo que tarda el servicio
    options = ("--servicio", "mio:f", "--hilos", "0", "--configuracion", str(configuration))
    with Program([*SERVER, "--puerto", "0", *options], cwd=tmp_path) as server:
        port = server.port
        configuration.write_text("plazo-proceso = 60\nregistro = json\n")
        server.signal(signal.SIGHUP)
        server.wait_for('"event": "reloaded"')
        wait_until(lambda: len(children(server)) == 1, "que quede uno, porque ya no se piden más")
        with connect(port) as sock:
            assert ask(sock, "lento") == "lento"
        ends(server)
        assert "worker" not in server.output
        assert '"event": "stopped"' in server.output


@pytest.mark.parametrize("kind", ["gone", "folder", "endless", "fifo"])
def test_a_configuration_that_cannot_be_read_keeps_the_old_and_stops_nobody(kind: str, tmp_path: Path) -> None:
    configuration = tmp_path / "servidor.conf"
    configuration.write_text("procesos = 1\n")
    with Program([*SERVER, "--puerto", "0", "--configuracion", str(configuration)]) as server:
        port = server.port
        before = children(server)
        configuration.unlink()
        if kind == "folder":
            configuration.mkdir()
        elif kind == "endless":
            configuration.symlink_to("/dev/zero")
        elif kind == "fifo":
            os.mkfifo(configuration)
        server.signal(signal.SIGHUP)
        server.wait_for("Se sigue con la configuración de antes. Servidor_TCP.py: ")
        assert children(server) == before
        with connect(port) as sock:
            assert ask(sock, "hola") == "HOLA"
        ends(server)


def test_the_address_does_not_change_by_reloading(tmp_path: Path) -> None:
    configuration = tmp_path / "servidor.conf"
    configuration.write_text("puerto = 0\n")
    with Program([*SERVER, "--procesos", "1", "--configuracion", str(configuration)]) as server:
        port = server.port
        configuration.write_text("puerto = 1\n")
        server.signal(signal.SIGHUP)
        server.wait_for("Aviso: --host y --puerto no cambian al recargar.")
        server.wait_for("Recargado")
        with connect(port) as sock:
            assert ask(sock, "hola") == "HOLA"


def test_reloading_brings_the_new_certificate(certificates: Certificates, tmp_path: Path) -> None:
    served = tmp_path / "servido.pem"
    shutil.copy(certificates.server, served)

    def serial(port: int) -> object:
        context = ssl.create_default_context(cafile=certificates.ca)
        with connect(port) as raw, context.wrap_socket(raw, server_hostname="localhost") as sock:
            return (sock.getpeercert() or {})["serialNumber"]

    with Program([*SERVER, "--puerto", "0", "--procesos", "2", "--tls-cert", str(served)]) as server:
        port = server.port
        before = serial(port)
        served.write_text("esto no es un certificado")
        server.signal(signal.SIGHUP)
        server.wait_for("Se sigue con los procesos de antes")
        assert serial(port) == before
        shutil.copy(certificates.issue("renovado.pem", "localhost"), served)
        server.signal(signal.SIGHUP)
        server.wait_for("Recargado")
        wait_until(lambda: serial(port) != before)


@pytest.mark.parametrize("written", ["", "procesos = 1\n"], ids=["empty", "half"])
def test_a_reload_does_not_take_the_service_away(written: str, tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def f(texto): return texto[::-1]")
    configuration = tmp_path / "servidor.conf"
    configuration.write_text("servicio = mio:f\nprocesos = 1\n")
    with Program([*SERVER, "--puerto", "0", "--configuracion", "servidor.conf"], cwd=tmp_path) as server:
        port = server.port
        before = children(server)
        configuration.write_text(written)
        server.signal(signal.SIGHUP)
        server.wait_for("Se sigue con la configuración de antes. En la nueva falta lo que no puede faltar (--servicio)")
        with connect(port) as sock:
            assert ask(sock, "hola") == "aloh"
        assert children(server) == before
        # El fichero del servicio tampoco puede faltar: siguen los de antes, y se dice.
        configuration.write_text("servicio = mio:f\nprocesos = 1\n")
        (tmp_path / "mio.py").unlink()
        server.signal(signal.SIGHUP)
        server.wait_for("No hay ningún módulo «mio»")
        with connect(port) as sock:
            assert ask(sock, "hola") == "aloh"
        assert children(server) == before
        ends(server)


@pytest.mark.parametrize("written", ["", "procesos = 1\n", "proxy-de = unix\n"], ids=["empty", "half", "other"])
def test_a_reload_does_not_take_protection_away(written: str, certificates: Certificates, tmp_path: Path) -> None:
    configuration = tmp_path / "servidor.conf"
    configuration.write_text(f"tls-cert = {certificates.server}\nproxy-de = 127.0.0.1\nprocesos = 1\n")
    with Program([*SERVER, "--puerto", "0", "--configuracion", str(configuration)]) as server:
        port = server.port
        before = children(server)
        configuration.write_text(written)
        server.signal(signal.SIGHUP)
        lost = "--tls-cert" if "proxy-de" in written else "--tls-cert, --proxy-de"
        server.wait_for(f"En la nueva falta lo que no puede faltar ({lost}): ponlo;")
        assert children(server) == before
        context = ssl.create_default_context(cafile=certificates.ca)
        with connect(port) as raw:
            raw.sendall(b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n")
            with context.wrap_socket(raw, server_hostname="localhost") as sock:
                assert ask(sock, "hola") == "HOLA"
        ends(server)


def test_reading_the_configuration_for_too_long_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def again() -> Launch:
        while True:  # en una línea cualquiera de la lectura, no esperando al disco
            pass

    monkeypatch.setattr(processes, "_READING", 0.05)
    with contextlib.ExitStack() as stack:
        fleet_reading(again, stack)._reload()
    assert "Se sigue con la configuración de antes. Leer la nueva lleva más de 0.05 s" in capsys.readouterr().out


def fleet_reading(again: Callable[[], Launch], stack: contextlib.ExitStack) -> processes._Fleet:
    """Un padre sin hijos, que lee otra vez lo que se pide con ``again``."""
    launch = module._read(["--puerto", "0", "--procesos", "1"], None)
    return processes._Fleet(launch, again, [], Manager(Notifier(), []), None, [], stack)


def test_a_bad_reading_is_not_forgotten_when_an_earlier_reload_ends(capsys: pytest.CaptureFixture[str]) -> None:
    readings = [module._read(["--puerto", "0", "--procesos", "2"], None)]
    with contextlib.ExitStack() as stack:
        fleet = fleet_reading(lambda: readings.pop() if readings else sys.exit(2), stack)
        failed = fleet._row.cells
        fleet._reload()
        fleet._reload()  # mientras empieza la otra, algo mal escrito
        fleet.reloaded()
        assert failed[RELOAD_FAILED["configuration"]] == 1
        fleet._last_unusable = False
        fleet.reloaded()
        assert failed[RELOAD_FAILED["configuration"]] == 0
    assert capsys.readouterr().out.count("Se sigue con la configuración de antes.") == 1


def test_what_dies_is_told_with_when_it_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack:
        fleet = fleet_reading(lambda: sys.exit(2), stack)
        fleet.died(7, -9, 0.0)
        fleet.died(8, 1, 0.4)
    assert capsys.readouterr().out.splitlines() == [
        "El proceso 7 ha acabado sin que nadie se lo pidiera (señal SIGKILL): se pone otro.",
        "El proceso 8 ha acabado sin que nadie se lo pidiera (código 1): se pone otro dentro de 0.4 s.",
    ]


def test_a_service_that_no_longer_loads_keeps_the_old(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def f(texto): return 'antes'")
    with serving("--servicio", "mio:f", cwd=tmp_path) as (server, port):
        before = children(server)
        write(tmp_path / "mio.py", "def f(")
        server.signal(signal.SIGHUP)
        server.wait_for("antes de que sirvieran todos (código 1). «mio» tiene algo que no es Python (mio.py:1)")
        wait_until(lambda: children(server) == before)
        with connect(port) as sock:
            assert ask(sock, "hola") == "antes"
        assert server.errors == ""


def test_one_that_cannot_be_replaced_says_why(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "def f(texto): return 'antes'")
    with serving("--servicio", "mio:f", cwd=tmp_path) as (server, port):
        (tmp_path / "mio.py").unlink()
        os.kill(min(children(server)), signal.SIGKILL)
        server.wait_for(" s. No hay ningún módulo «mio»")
        assert "ha acabado sin llegar a servir (código 1): se prueba otra vez en " in server.output
        with connect(port) as sock:
            assert ask(sock, "hola") == "antes"
        assert server.errors == ""


def test_whoever_stays_too_long_is_said_goodbye() -> None:
    with serving("--plazo-relevo", "0.5", processes=1) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "HOLA"
        server.signal(signal.SIGHUP)
        assert receive_all(sock) == b""
        wait_until(lambda: len(children(server)) == 1)
        ends(server)


# -- acabar -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_delivers_what_all_owe(number: signal.Signals) -> None:
    with serving(processes=3) as (server, port), contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connect(port)) for _ in range(20)]
        for sock in crowd:
            sock.sendall(b"hola\n" * 1000)
        for sock in crowd:
            receive(sock, 5)
        server.signal(number)
        for sock in crowd:
            assert receive_all(sock) == b"HOLA\n" * 999
        assert server.wait() == 0
        assert server.output.endswith("Servidor detenido.\n")


def test_the_second_signal_ends_at_once() -> None:
    with serving("--plazo-parada", "3600") as (server, port), connect(port) as sock:
        fill(sock)
        server.signal(signal.SIGTERM)
        server.wait_for("Deteniendo el servidor")
        server.insist(signal.SIGTERM)
        assert server.wait() == 3
        assert "acaba con 1 conexión sin entregar todo." in server.output
        assert server.output.endswith("Servidor detenido con conversaciones sin entregar todo.\n")


def test_when_the_parent_is_killed_they_deliver_and_end(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "import time\ndef f(texto):\n    time.sleep(0.5)\n    return texto")
    with serving("--servicio", "mio:f", cwd=tmp_path) as (server, port), connect(port) as sock:
        sock.sendall(b"hola\n")
        server.wait_for("Conexión aceptada")
        server.signal(signal.SIGKILL)
        assert receive_all(sock) == b"hola\n"


@pytest.mark.parametrize(
    "stuck",
    ["while True: pass", "time.sleep(1000)", "re.match('(a+)+$', 'a' * 60 + 'b')"],
    ids=["busy", "asleep", "in C"],
)
def test_when_the_parent_is_killed_not_even_a_stuck_one_stays(stuck: str, tmp_path: Path) -> None:
    write(tmp_path / "mio.py", f"import re, time\ndef f(texto):\n    print('atascado', flush=True)\n    {stuck}")
    options = ("--servicio", "mio:f", "--hilos", "0", "--plazo-proceso", DEADLINE)
    with serving(*options, processes=1, cwd=tmp_path) as (server, port), connect(port) as sock:
        sock.sendall(b"hola\n")
        wait_until(lambda: "atascado" in server.errors)
        server.signal(signal.SIGKILL)
        assert receive_all(sock) == b""


def test_when_the_parent_is_killed_one_that_is_starting_does_not_stay(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "import time\nprint('nazco', flush=True)\ntime.sleep(1000)")
    command = [*SERVER, "--puerto", "0", "--procesos", "2", "--servicio", "mio:f"]
    with Program(command, cwd=tmp_path) as server:
        wait_until(lambda: "nazco" in server.errors)
        newborn = children(server)
        server.signal(signal.SIGKILL)
        wait_until(lambda: not any(map(alive, newborn)), "que no quede ninguno huérfano")


def test_no_signal_is_lost_among_many() -> None:
    with serving(processes=1) as (server, _):
        for _ in range(3000):
            server.signal(signal.SIGHUP)
        ends(server)
        assert server.output.endswith("Servidor detenido.\n")


def test_in_a_terminal_one_interrupt_stops_them_all_well() -> None:
    with running_server("--procesos", "2", terminal=True) as (server, port), connect(port) as sock:
        assert ask(sock, "hola") == "HOLA"
        server.type("\x03")
        assert server.wait() == 0
        assert receive_all(sock) == b""
        assert server.output.endswith("Servidor detenido.\r\n")


# Lo que hace nohup, sin llevarse la salida a un fichero.
NOHUP = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.mark.parametrize("before", [[], [sys.executable, "-c", NOHUP]], ids=["", "nohup"])
def test_when_its_terminal_is_closed_it_ends_unless_it_was_asked_not_to(before: list[str]) -> None:
    master, slave = os.openpty()
    command = [sys.executable, "-c", TAKE_TERMINAL, *before, *SERVER, "--puerto", "0", "--procesos", "2"]
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment(), start_new_session=True
    ) as process:
        os.close(slave)
        wait_until(lambda: len(children_of(process.pid)) == 2)
        said = b""
        while b"procesos" not in said:
            said += os.read(master, 65536)
        workers = children_of(process.pid)
        os.close(master)
        if before:
            wait_until(lambda: len(children_of(process.pid) - workers) == 2, "que recargue")
            workers = children_of(process.pid)
            process.terminate()
        process.wait(PATIENCE)
        wait_until(lambda: not any(map(alive, workers)))


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", ""], ids=["full", "closed", "unread"])
def test_whatever_its_output_is_it_replaces_reloads_and_ends(redirection: str, tmp_path: Path) -> None:
    path = tmp_path / "s"

    def replied() -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(path))
            return ask(sock, "hola") == "HOLA"
        return False

    def renewed(before: set[int]) -> bool:
        now = children_of(parent)
        return len(now) == 2 and not now & before and replied()

    unread, full = os.pipe()
    fill_pipe(full)
    command = shlex.join([*SERVER, "--host", f"unix:{path}", "--procesos", "2", "--registro", "json"])
    with subprocess.Popen(["bash", "-c", f"exec {command} {redirection}"], stdout=full, env=environment()) as process:
        parent = process.pid
        wait_until(lambda: renewed(set()), "que sirvan")
        for _ in range(3):
            before = children_of(parent)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda before=before: renewed(before), "que se repongan")  # type: ignore[misc]
        before = children_of(parent)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: renewed(before), "que se recarguen")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    os.close(unread)
    os.close(full)


# -- el primer proceso de una máquina -----------------------------------------------------------------------


def test_as_the_first_process_it_stops_and_buries_the_orphans(tmp_path: Path) -> None:
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() or not shutil.which("unshare") or subprocess.run([*alone, "true"]).returncode:
        pytest.skip("hace falta poder crear un espacio de procesos (ser root, y unshare)")
    # Un nieto que se queda sin padre: quien lo hereda es el proceso 1.
    write(
        tmp_path / "mio.py",
        "import subprocess\n"
        "def f(texto):\n"
        "    if texto == 'nieto':\n"
        "        subprocess.run(['sh', '-c', 'sleep 0.1 &'])\n"
        "    return subprocess.run(['ps', '-e', '-o', 'pid=,stat='], capture_output=True, text=True)"
        ".stdout.replace(chr(10), ';')\n",
    )
    command = [*alone, *SERVER, "--puerto", "0", "--procesos", "2", "--servicio", "mio:f"]
    with Program(command, cwd=tmp_path) as server, connect(server.port) as sock:
        first, *_ = (line.split() for line in ask(sock, "hola").split(";"))
        assert first[0] == "1"
        ask(sock, "nieto")
        wait_until(lambda: "Z" not in ask(sock, "hola"), "que no queden muertos sin enterrar")
        (one,) = children(server)  # el proceso 1, visto desde fuera
        os.kill(one, signal.SIGTERM)
        assert receive_all(sock) == b""
        assert server.wait() == 0
        assert server.output.endswith("Servidor detenido.\n")
