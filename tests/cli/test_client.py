"""``cliente-tcp`` como lo vive una persona: cada cosa que puede salir mal es una frase, y su código de salida."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from comunicacion_tcp.limits import Limits

from ..support.programs import CLIENT, PROMPT, SERVER, SILENT, Program, environment, fails, run, running_server
from ..support.serving import served
from ..support.sockets import connect, foreign_server, free_port, receive_all, reset
from ..support.waiting import wait_until


def to(port: int, *options: str) -> list[str]:
    """El cliente hacia un puerto de esta máquina."""
    return [*CLIENT, "--host", "127.0.0.1", "--puerto", str(port), *options]


def test_nobody_listens() -> None:
    port = free_port()
    fails(run(to(port)), 1, f"No hay ningún servidor escuchando en 127.0.0.1:{port}.", "python3 Servidor_TCP.py")


def test_unknown_host() -> None:
    fails(
        run([*CLIENT, "--host", "no-existe.invalid"]), 1, "No se conoce la máquina de no-existe.invalid:5000.", "--host"
    )


def test_by_a_unix_socket(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/s"
    fails(run([*CLIENT, "--host", place]), 1, f"No hay ningún servidor en {place}.", "--host")
    with Program([*SERVER, "--host", place]) as server:
        server.wait_for(f"Servidor escuchando en {place}...")
        done = run([*CLIENT, "--host", place], "hola\nDESCONEXION\n")
        assert done.returncode == 0
        assert "Servidor: HOLA\n" in done.stdout.decode()
        server.wait_for(f"Conexión aceptada de ('{place}', ")
        fails(run([*SERVER, "--host", place]), 1, f"{place} ya está ocupado", "--host")
    fails(run([*SERVER, "--host", "unix:/no/existe/s"]), 1, "esa carpeta no existe")
    fails(run([*SERVER, "--host", f"unix:{tmp_path}/{'x' * 200}"]), 1, "demasiado larga")
    fails(run([*SERVER, "--host", "unix:"]), 2, "unix:RUTA")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--puerto", "0"], "de 1 a 65535, no '0'"),
        (["--puerto", "65536"], "no '65536'"),
        (["--puerto", "00000099999"], "no '00000099999'"),
        (["--espera", "1,5"], "con punto"),
        (["--puerto", "1e3"], "no '1e3'"),
        (["--puerto", "٣"], "no '٣'"),
        (["--puerto"], "--puerto necesita un valor"),
        (["--host", ""], "--host debe ser"),
        (["--espera", "0"], "segundos mayor que cero"),
        (["--espera", "nan"], "segundos mayor que cero"),
        (["--espera", "pronto"], "no 'pronto'"),
        (["--nada"], "no se entiende «--nada»"),
        (["--help=si"], "--help/--ayuda no lleva valor"),
    ],
)
def test_wrong_options(options: list[str], word: str) -> None:
    fails(run([*CLIENT, *options]), 2, word, "--help")


def test_help_is_in_spanish_and_lists_the_exit_codes() -> None:
    done = run([*CLIENT, "--help"])
    text = done.stdout.decode()
    assert done.returncode == 0
    for code in ("0 ", "1 ", "2 ", "130 "):
        assert re.search(rf"^  {code} +\S", text, re.MULTILINE)
    assert not re.search(r"usage|options|show this|default", text)


def hangs_up(sock: socket.socket) -> None:
    sock.recv(1024)


def cuts(sock: socket.socket) -> None:
    sock.recv(1024)
    reset(sock)


@pytest.mark.parametrize(("serve", "why"), [(hangs_up, "el servidor la cerró"), (cuts, "el otro extremo la cortó")])
def test_connection_lost(serve: Callable[[socket.socket], None], why: str) -> None:
    with foreign_server(serve) as port:
        done = run(to(port), "hola\nadios\n")
    fails(done, 1, f"Se perdió la conexión con 127.0.0.1:{port}: {why}.", "otra vez")


def test_a_server_that_does_not_answer() -> None:
    def serve(sock: socket.socket) -> None:
        receive_all(sock)

    with foreign_server(serve) as port:
        fails(run(to(port, "--espera", "0.05"), "hola\n"), 1, "0.05 s sin recibir nada", "--espera")


def test_a_machine_that_does_not_answer() -> None:
    # Una cola de conexiones llena, en Linux, deja sin contestar a quien llega.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(8):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        done = run(to(port, "--espera", "0.2"))
        for sock in waiting:
            sock.close()
    fails(done, 1, f"127.0.0.1:{port} no contesta: 0.2 s sin poder conectar.", "--espera")


def test_end_of_input_says_goodbye_by_itself() -> None:
    with running_server() as (server, port):
        done = run(to(port), "hola")
        assert done.stdout.decode() == (
            f"Conectado al servidor en 127.0.0.1:{port}\n"
            f"{PROMPT}hola\nServidor: HOLA\n{PROMPT}\nServidor: Conexión cerrada\n"
        )
        assert done.returncode == 0
        server.wait_for("Mensaje de desconexión recibido.")


def test_control_d_in_a_terminal() -> None:
    with running_server() as (_, port), Program(to(port), terminal=True) as client:
        client.wait_for(PROMPT)
        client.end_input()
        assert client.wait() == 0
        assert client.output.endswith(f"{PROMPT}\r\nServidor: Conexión cerrada\r\n")


def test_no_input_at_all() -> None:
    with running_server() as (_, port):
        command = 'exec "$0" "$@" <&-'
        done = subprocess.run(["bash", "-c", command, *to(port)], capture_output=True, timeout=30, env=environment())
        assert done.returncode == 0
        assert done.stdout.decode().endswith("Servidor: Conexión cerrada\n")
        done = run(to(port), "")
        assert done.returncode == 0


def test_control_d_after_some_text_in_a_terminal() -> None:
    with running_server() as (_, port), Program(to(port), terminal=True) as client:
        client.wait_for(PROMPT)
        client.type("hola\x04\x04")
        client.wait_for(f"{PROMPT}hola\r\nServidor: HOLA\r\n{PROMPT}")
        client.end_input()
        assert client.wait() == 0


def test_control_c_in_a_terminal() -> None:
    with running_server() as (server, port), Program(to(port), terminal=True) as client:
        client.wait_for(PROMPT)
        client.type("\x03")
        assert client.wait() == 130
        assert "\r\nInterrumpido" in client.output
        assert not SILENT.search(client.output)
        server.wait_for("se fue sin despedirse. Cerrando la conexión.")


def test_an_interrupt_while_waiting_for_a_reply() -> None:
    def serve(sock: socket.socket) -> None:
        receive_all(sock)

    with foreign_server(serve) as port, Program(to(port)) as client:
        client.type("hola\n")
        client.wait_for(f"{PROMPT}hola\n")
        client.signal(signal.SIGINT)
        assert client.wait() == 130
        assert client.errors.strip().startswith("Interrumpido")


def test_what_comes_from_the_server_is_escaped() -> None:
    nasty = "\x1b[2J\x07\x9b31m\u202eoculto\u2066\u2028\x00\x7f\r\ttab ñ😀"

    def serve(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(nasty.encode() + b"\xff\n")
        receive_all(sock)

    with foreign_server(serve) as port:
        done = run(to(port), "hola\n")
    shown = r"Servidor: \x1b[2J\x07\x9b31m\u202eoculto\u2066\u2028\0\x7f\r" + "\ttab ñ😀" + r"\xff"
    assert done.stdout.decode().splitlines()[2] == shown
    assert "El servidor cerró la conexión sin despedirse." in done.stdout.decode()


def test_what_is_echoed_is_escaped_too() -> None:
    with running_server() as (_, port):
        done = run(to(port), b"a\x1bb\r\n")
        assert rf"{PROMPT}a\x1bb" in done.stdout.decode().splitlines()


def test_a_line_that_is_not_text_is_not_sent_and_loses_nothing() -> None:
    with running_server() as (_, port):
        done = run(to(port), b"uno\n\xff\xfe\ndos\n")
    assert [line for line in done.stdout.decode().splitlines() if line.startswith("Servidor")] == [
        "Servidor: UNO",
        "Servidor: DOS",
        "Servidor: Conexión cerrada",
    ]
    assert done.stderr.decode().count("Ese mensaje no se envió") == 1
    assert rf"{PROMPT}\xff\xfe" in done.stdout.decode()
    assert done.returncode == 0


def test_a_reply_of_several_megabytes_is_shown_whole() -> None:
    message = "ΰ" * (500 * 1024)
    with running_server() as (_, port):
        done = run(to(port), message + "\n")
    assert f"Servidor: {message.upper()}" in done.stdout.decode().split("\n")


def test_a_server_that_greets() -> None:
    greeted = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"Bienvenido\n")
        greeted.set()
        sock.sendall(sock.recv(1024).upper())
        receive_all(sock)

    with foreign_server(serve) as port, Program(to(port)) as client:
        client.wait_for(PROMPT)
        assert greeted.wait(10)
        client.type("hola\n")
        client.wait_for("Servidor: Bienvenido\nServidor: HOLA\n")
        client.end_input()
        assert client.wait() == 0


def test_an_input_left_non_blocking_by_whoever_launched_us() -> None:
    with running_server() as (_, port):
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        with subprocess.Popen(to(port), stdin=reader, stdout=subprocess.PIPE, env=environment()) as client:
            os.close(reader)
            assert client.stdout
            wait_until(lambda: client.stdout and client.stdout.readline().startswith(b"Conectado"))
            os.write(writer, b"hola\n")
            os.close(writer)
            assert b"Servidor: HOLA\n" in client.stdout.read()


def test_only_a_newline_ends_a_line() -> None:
    with running_server() as (_, port):
        done = run(to(port), "a\rb\u0085c\u2028d\r\n")
    assert "Servidor: " + r"A\rB\x85C\u2028D" + "\n" in done.stdout.decode()
    assert done.stdout.decode().count("Servidor: ") == 2


def test_a_refusal_is_shown_whenever_it_arrives() -> None:
    # La negativa puede llegar justo entre mirar si hay algo y enviar.
    with served(limits=Limits(max_connections=1)) as running, connect(running.port):
        wait_until(lambda: running.server.conversations == 1)
        for _ in range(20):
            done = run(to(running.port), "hola\n")
            assert "Servidor: ERROR: el servidor está completo" in done.stdout.decode()


def test_a_closed_output_ends_quietly() -> None:
    with running_server() as (_, port):
        command = 'yes hola | "$0" "$@" | head -n 2'
        done = subprocess.run(["bash", "-c", command, *to(port)], capture_output=True, timeout=30, env=environment())
        assert done.stderr == b""
        assert done.stdout.decode().startswith("Conectado al servidor")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="este sistema no tiene /dev/full")
def test_a_full_disk_is_a_sentence() -> None:
    with running_server() as (_, port):
        command = 'exec "$0" "$@" >/dev/full'
        done = subprocess.run(["bash", "-c", command, *to(port)], capture_output=True, timeout=30, env=environment())
        fails(done, 1, "no queda espacio en el disco")
