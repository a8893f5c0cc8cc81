"""``servidor-tcp`` como lo vive quien lo ejecuta: sus frases, sus señales y sus códigos de salida."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from comunicacion_tcp.cli import server as module

from ..support.loops import FAST
from ..support.ports import listening_port
from ..support.programs import CLIENT, SERVER, SILENT, Program, fails, run, running_server
from ..support.sockets import connect, fill, receive, receive_all, reset
from ..support.tools import need
from ..support.waiting import PATIENCE, wait_until


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_delivers_what_is_owed_and_ends_well(number: signal.Signals) -> None:
    message = "ñ".encode() * 1000 + b"\n"
    with running_server() as (server, port), connect(port) as sock, connect(port) as idle:
        server.wait_for("Conexión aceptada", times=2)
        sender = threading.Thread(target=sock.sendall, args=(message * 100,))
        sender.start()
        first = receive(sock, len(message))
        sender.join()
        server.signal(number)
        rest = receive_all(sock)
        assert receive_all(idle) == b""
        assert server.wait() == 0
        # Todo lo respondido son respuestas enteras y en orden: las 100, que ya estaban todas de camino.
        assert first + rest == message.decode().upper().encode() * 100
        assert "Deteniendo el servidor" in server.output
        assert server.output.endswith("Servidor detenido.\n")
        assert server.errors == ""


def test_the_second_signal_ends_at_once() -> None:
    # Con todo el tiempo del mundo para entregar: si una segunda señal no lo acaba, nada lo hace.
    with running_server("--plazo-parada", "3600") as (server, port), connect(port) as sock:
        fill(sock)
        server.signal(signal.SIGTERM)
        server.wait_for("Deteniendo el servidor")
        server.insist(signal.SIGTERM)
        assert server.wait() == 3
        assert "Servidor detenido con 1 conexión sin entregar todo." in server.output


@pytest.mark.parametrize("options", [[], ["--procesos", "1"]], ids=["alone", "processes"])
def test_two_signals_together_are_not_a_hurry(options: list[str]) -> None:
    # Con Ctrl-C avisa la terminal, y quizá otra vez quien lo lanzó (timeout --foreground, un script con trap).
    with running_server("--plazo-parada", "3600", *options) as (server, port), connect(port) as sock:
        fill(sock)
        server.signal(signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        server.signal(signal.SIGCONT)
        server.wait_for("Deteniendo el servidor")
        sock.settimeout(PATIENCE)
        assert receive_all(sock)
        assert server.wait() == 0  # se entregó todo


def test_two_signals_with_nothing_owed_end_well() -> None:
    with running_server() as (server, port), connect(port) as idle:
        server.wait_for("Conexión aceptada")
        server.signal(signal.SIGTERM)
        server.wait_for("Deteniendo el servidor: 1 conexión por cerrar...")
        server.signal(signal.SIGTERM)
        assert receive_all(idle) == b""
        assert server.wait() == 0
        assert server.output.endswith("Servidor detenido.\n")
        assert server.errors == ""


def test_a_signal_that_another_thread_receives_stops_it_too() -> None:
    # Como le pasa a uno que estaba parado: el sistema se la da a cualquiera de sus hilos, y el del bucle espera.
    tgkill = getattr(ctypes.CDLL(None), "tgkill", None)
    if not tgkill:
        pytest.skip("este sistema no deja elegir el hilo")
    with running_server() as (server, _):
        pid = server.process.pid
        others = {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()} - {pid}
        assert tgkill(pid, min(others), signal.SIGTERM) == 0
        assert server.wait() == 0
        assert server.output.endswith("Servidor detenido.\n")


@pytest.mark.parametrize("program", [SERVER, CLIENT])
def test_an_interrupt_while_loading_is_not_a_traceback(program: list[str]) -> None:
    # Justo después de la línea que lo atiende, y antes de que el programa tome el mando.
    slow = "import sys, signal, runpy, os; sys.modules['comunicacion_tcp.cli.parser'] = None; "
    kill = (
        "type('K', (), {'find_spec': lambda s, *a: os.kill(os.getpid(), signal.SIGINT) if 'cli' in a[0] else None})()"
    )
    code = f"{slow}sys.meta_path.insert(0, {kill}); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = run([sys.executable, "-c", code, program[1]])
    assert done.returncode == -signal.SIGINT
    assert done.stderr == b""


def fails_at_once(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """Falló sin haber llegado a decir nada en la salida."""
    assert done.stdout == b""
    fails(done, code, *words)


def test_a_busy_port_is_a_sentence() -> None:
    with running_server() as (_, port):
        fails_at_once(run([*SERVER, "--puerto", str(port)]), 1, f"localhost:{port} ya está ocupado", "--puerto")


def test_a_foreign_address_is_a_sentence() -> None:
    fails_at_once(run([*SERVER, "--host", "192.0.2.1"]), 1, "192.0.2.1:5000 no es de esta máquina", "--host")


def test_an_unknown_host_is_a_sentence() -> None:
    fails(
        run([*SERVER, "--host", "no-existe.invalid"]), 1, "No se conoce la máquina de no-existe.invalid:5000", "--host"
    )


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--puerto", "-1"], "de 0 a 65535"),
        (["--host"], "--host necesita un valor"),
        (["hola"], "«hola»"),
        (["--registro", "xml"], "--registro debe ser llano, fecha o json"),
        (["--nivel", "7"], "info, aviso o error"),
    ],
)
def test_wrong_options(options: list[str], word: str) -> None:
    fails_at_once(run([*SERVER, *options]), 2, word)


def test_help_is_in_spanish() -> None:
    done = run([*SERVER, "--help"])
    assert done.returncode == 0
    assert done.stdout.decode().startswith("uso: Servidor_TCP.py")
    assert not re.search(r"usage|options|show this|default", done.stdout.decode())


def refusing(what: str, cause: str) -> list[str]:
    """El programa en un sistema que a ``what`` responde con ``cause``."""
    refuse = f"def refuse(*_): raise {cause}\n{what} = refuse\n"
    program = "from comunicacion_tcp.cli.server import main\nsys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", f"import socket, sys, threading\n{refuse}{program}"]


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("PermissionError(13, 'no')", ["El sistema no permite escuchar en localhost:80.", "1024"]),
        ("OSError(5, 'no')", ["No se puede escuchar en localhost:80", "el sistema dice"]),
    ],
)
def test_what_the_system_refuses(cause: str, words: list[str]) -> None:
    fails(run([*refusing("socket.socket.bind", cause), "--puerto", "80"]), 1, *words)


def test_a_system_without_another_thread() -> None:
    cause = 'RuntimeError("can\'t start new thread")'
    fails(run([*refusing("threading.Thread.start", cause), "--puerto", "0"]), 1, "hilo")


def test_each_way_of_leaving_is_one_line() -> None:
    with running_server() as (server, port):
        with connect(port) as sock:
            sock.sendall(b"hola\n")
            left = sock.getsockname()
            assert receive(sock, 5) == b"HOLA\n"  # cerrar con respuestas sin leer sería cortar
        server.wait_for(f"El cliente {left} se fue sin despedirse. Cerrando la conexión.\n")
        sock = connect(port)
        lost = sock.getsockname()
        sock.sendall(b"hola\n")
        assert receive(sock, 5) == b"HOLA\n"
        reset(sock)
        server.wait_for(f"Se perdió la conexión con {lost}: el otro extremo la cortó.\n")
        with connect(port) as sock:
            bad = sock.getsockname()
            sock.sendall(b"\x1b[2J\xff\n")
            error = "ERROR: el mensaje no es UTF-8 válido\n".encode()
            assert receive(sock, len(error)) == error
            server.wait_for(f"Mensaje erróneo de {bad}: el mensaje no es UTF-8 válido.\n")
            assert len(server.output.splitlines()) == 7
        assert server.errors == ""
        assert "\x1b" not in server.output


@pytest.mark.parametrize("output", ["/dev/full", "&-"])
def test_serving_goes_on_without_an_output(output: str) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("este sistema no tiene /dev/full")
    command = f'exec "$0" "$@" >{output}'
    with Program(["bash", "-c", command, *SERVER, "--puerto", "0"]) as server:
        with connect(listening_port(server.process.pid)) as sock:
            sock.sendall(b"hola\nDESCONEXION\n")
            assert receive_all(sock) == "HOLA\nConexión cerrada\n".encode()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.errors == ""


def test_few_descriptors_are_told_at_the_start_and_never_run_out() -> None:
    command = 'ulimit -n 40; exec "$0" "$@"'
    with Program(["bash", "-c", command, *SERVER, "--puerto", "0"]) as server:
        port = server.port
        assert re.search(r"Aviso: se admiten \d+ conexiones a la vez, y no 10000", server.output)
        crowd = [connect(port) for _ in range(60)]
        server.wait_for("está completo")

        def attended() -> int:
            refused, _, _ = select.select(crowd, [], [], 0)  # ya tienen para leer por qué
            return server.output.count("Conexión aceptada") + len(refused)

        # Todas antes de irse: las que siguieran en la cola ocuparían después el sitio de la última.
        wait_until(lambda: attended() == len(crowd), "que las atienda o las rechace a todas")
        for sock in crowd:
            sock.close()
        admitted = server.output.count("Conexión aceptada")
        assert admitted >= 3
        server.wait_for("se fue sin despedirse", admitted)
        with connect(port) as sock:
            sock.sendall(b"hola\n")
            assert receive(sock, 5) == b"HOLA\n"
        assert "no quedan descriptores" not in server.output
        assert server.errors == ""


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="solo Linux deja cambiar el límite de otro proceso")
def test_out_of_descriptors_is_a_sentence_and_it_recovers() -> None:
    # El servidor guarda descriptores para que no pase: aquí se le quitan cuando ya está en marcha.
    with running_server() as (server, port):
        pid = server.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), hard))
        with connect(port) as sock:
            server.wait_for("no quedan descriptores")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            sock.sendall(b"hola\n")
            assert receive(sock, 5) == b"HOLA\n"
        assert server.output.count("no quedan descriptores") == 1
        assert server.errors == ""


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="solo Linux deja cambiar el límite de otro proceso")
def test_short_of_memory_it_loses_conversations_and_goes_on_with_the_next() -> None:
    with running_server() as (server, port):
        pid = server.process.pid
        size = int(re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]
        _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, ((size + 50_000) * 1024, hard))
        with contextlib.ExitStack() as crowd:
            for _ in range(100):  # el doble de lo que hay
                sock = crowd.enter_context(connect(port))
                with contextlib.suppress(ConnectionError):
                    sock.sendall(b"\n" + b"x" * 1_000_000)
            server.wait_for("no queda memoria")
        with connect(port) as later:
            later.sendall(b"sigo\n")
            assert receive(later, 5) == b"SIGO\n"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not SILENT.search(server.output + server.errors)


def test_calls_cut_by_a_signal_lose_nothing() -> None:
    calls = "recvfrom,sendto,read,write,writev,sendmsg,shutdown"
    with running_server() as (server, port), connect(port) as sock:
        strace = [need("strace"), "-qq", "-f", "-o", os.devnull, "-e", f"trace={calls}"]
        strace += ["-e", f"inject={calls}:error=EINTR:when=2+2", "-p", str(server.process.pid)]
        status = Path(f"/proc/{server.process.pid}/status")
        with subprocess.Popen(strace, stderr=subprocess.PIPE) as tracer:
            try:
                wait_until(lambda: "TracerPid:\t0\n" not in status.read_text() or tracer.poll() is not None)
                if tracer.poll() is not None:
                    assert tracer.stderr
                    pytest.skip(f"strace no puede mirar al servidor: {tracer.stderr.read().decode().strip()}")
                message = "señal ".encode() * 2000 + b"\n"
                sender = threading.Thread(target=sock.sendall, args=(message * 50 + b"DESCONEXION\n",))
                sender.start()
                assert receive_all(sock) == (message * 50).decode().upper().encode() + "Conexión cerrada\n".encode()
                sender.join()
            finally:
                tracer.terminate()
        server.wait_for("Mensaje de desconexión recibido")
        assert server.errors == ""


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="solo Linux dice qué tiene cargado un proceso")
def test_uvloop_is_used_when_installed(loop_kind: str) -> None:
    with running_server() as (server, _):
        assert ("uvloop" in Path(f"/proc/{server.process.pid}/maps").read_text()) == (loop_kind == FAST)


def test_as_a_module_and_as_installed_commands() -> None:
    module_command = [*SERVER[:1], "-m", "comunicacion_tcp"]
    done = run([*module_command, "servidor", "--help"])
    assert done.stdout.decode().startswith("uso: python3 -m comunicacion_tcp servidor")
    assert run([*module_command, "cliente", "--version"]).stdout.decode().startswith("comunicacion_tcp ")
    assert run([*module_command, "--help"]).returncode == 0
    done = run(module_command)
    assert (done.returncode, done.stdout) == (2, b"")
    assert "servidor|cliente" in done.stderr.decode()


def test_an_interrupt_before_serving_is_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(coroutine: object, resumed: object) -> int:
        coroutine.close()  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr("comunicacion_tcp.cli.serving.run", interrupt)
    assert module.main([]) == 0
