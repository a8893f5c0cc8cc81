"""``cliente-tcp -q``: lo que entra y lo que sale, byte a byte, y cómo acaba cuando algo va mal."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from comunicacion_tcp.cli.pipe import Bar, Output, Screen, unanswered
from comunicacion_tcp.relay import Relay

from ..support.programs import CLIENT, PROMPT, Program, environment, fails, run, running_server
from ..support.sockets import foreign_server, receive
from ..support.waiting import wait_until

# Ejecuta lo que se le diga y cuenta en un fichero la memoria que llegó a ocupar, en KiB.
_MEASURED = "import os, resource, sys; child = os.fork() or os.execv(sys.argv[2], sys.argv[2:]); " + (
    "status = os.wait4(child, 0); open(sys.argv[1], 'w').write(str(status[2].ru_maxrss)); "
    "sys.exit(os.waitstatus_to_exitcode(status[1]))"
)


def to(port: int, *options: str) -> list[str]:
    """El cliente, con -q, hacia un puerto de esta máquina."""
    return [*CLIENT, "--host", "127.0.0.1", "--puerto", str(port), "-q", *options]


def shell(command: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """``command`` en bash; ``"$0" "$@"`` son ``arguments``."""
    return subprocess.run(["bash", "-c", command, *arguments], capture_output=True, timeout=60, env=environment())


@pytest.mark.parametrize(
    ("entry", "replies"),
    [
        ("", ""),
        ("uno\ndos\n", "UNO\nDOS\n"),
        ("uno\r\n\r\ndos", "UNO\r\n\r\nDOS"),
        ("uno\nDESCONEXION\ndos\n", "UNO\nConexión cerrada\n"),
        (b"a\x1b[31m\n\xff\n", "A\x1b[31M\nERROR: el mensaje no es UTF-8 válido\n"),
    ],
)
def test_byte_by_byte(entry: str | bytes, replies: str) -> None:
    with running_server() as (_, port):
        done = run(to(port), entry)
        assert (done.returncode, done.stdout.decode(), done.stderr) == (0, replies, b"")


def test_as_an_environment_variable() -> None:
    with running_server() as (_, port):
        done = run([*CLIENT, "--puerto", str(port)], "hola\n", {"CLIENTE_TCP_TUBERIA": "1"})
        assert (done.stdout, done.returncode) == (b"HOLA\n", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="mide la memoria como la cuenta Linux")
@pytest.mark.parametrize("by_pipe", [False, True])
def test_a_million_lines_in_flat_memory(tmp_path: Path, by_pipe: bool) -> None:
    entry, output, memory = tmp_path / "entrada", tmp_path / "salida", tmp_path / "memoria"
    with running_server() as (_, port):
        used = []
        for lines in (1_000, 1_000_000):
            entry.write_bytes(b"".join(b"%07d hola servidor mensajes\n" % number for number in range(lines)))
            feed = f"cat {entry} |" if by_pipe else f"<{entry}"
            command = [sys.executable, "-c", _MEASURED, str(memory), *to(port)]
            done = shell(f'{feed} "$0" "$@" >{output}', *command)
            assert (done.returncode, done.stderr) == (0, b"")
            assert output.read_bytes() == entry.read_bytes().upper()
            used.append(int(memory.read_text()))
        assert used[1] < used[0] + 4096  # KiB; la entrada son 28 MiB


@pytest.mark.skipif(sys.platform != "linux", reason="mide la memoria como la cuenta Linux")
def test_one_endless_line_in_flat_memory(tmp_path: Path) -> None:
    memory = tmp_path / "memoria"
    with running_server() as (_, port):
        command = [sys.executable, "-c", _MEASURED, str(memory), *to(port)]
        done = shell('head -c 64000000 /dev/zero | tr "\\0" a | "$0" "$@" | wc -c', *command)
        assert done.stdout.strip() == b"64000000"
        assert done.stderr == b""
        assert int(memory.read_text()) < 40 * 1024


def test_each_line_is_answered_at_once() -> None:
    with running_server() as (_, port), Program(to(port, "--espera", "5")) as client:
        for line in ("uno", "dos"):
            client.type(line + "\n")
            client.wait_for(line.upper() + "\n")
        client.end_input()
        assert client.wait() == 0


def test_no_input_at_all() -> None:
    with running_server() as (_, port):
        for redirection in ("<&-", "</dev/null"):
            done = shell(f'exec "$0" "$@" {redirection}', *to(port))
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_closed_output_ends_quietly() -> None:
    with running_server() as (_, port):
        done = shell('yes hola | "$0" "$@" | head -n 1', *to(port))
        assert (done.stdout, done.stderr) == (b"HOLA\n", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="este sistema no tiene /dev/full")
def test_a_full_disk_is_a_sentence() -> None:
    with running_server() as (_, port):
        fails(shell('echo hola | "$0" "$@" >/dev/full', *to(port)), 1, "no queda espacio en el disco")


def test_streams_left_non_blocking_by_whoever_launched_us() -> None:
    with running_server() as (_, port):
        ours, theirs = socket.socketpair()  # la entrada y la salida: un solo socket, que se llena
        theirs.setblocking(False)
        number = theirs.fileno()
        with ours, subprocess.Popen(to(port), stdin=number, stdout=number, env=environment()) as client:
            theirs.close()
            data = b"hola\n" * 500_000

            def send() -> None:
                ours.sendall(data)
                ours.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            ours.settimeout(30)
            assert receive(ours, len(data)) == data.upper()
            sender.join()
            assert client.wait(30) == 0


def test_a_server_that_dies_halfway() -> None:
    def serve(sock: socket.socket) -> None:
        receive(sock, 12)
        sock.sendall(b"UNO\n")

    with foreign_server(serve) as port:
        done = run(to(port), "uno\ndos\nsol\n")
    assert done.stdout == b"UNO\n"
    fails(done, 1, "Se perdió la conexión", "Mensajes enviados sin respuesta: 2.")


def test_a_server_that_does_not_answer() -> None:
    over = threading.Event()

    def serve(sock: socket.socket) -> None:
        over.wait(30)

    with foreign_server(serve) as port:
        fails(run(to(port, "--espera", "0.1"), "uno\n"), 1, "0.1 s sin recibir nada", "sin respuesta: 1.")
        over.set()


def test_control_c_is_a_sentence() -> None:
    over = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.sendall(receive(sock, 4).upper())
        over.wait(30)

    with foreign_server(serve) as port, Program(to(port)) as client:
        client.type("uno\ndos\n")
        client.wait_for("UNO\n")
        client.signal(signal.SIGINT)
        assert client.wait() == 130
        assert client.errors.strip() == (
            "Interrumpido: la conversación se dejó sin despedida. Mensajes enviados sin respuesta: 1."
        )
        over.set()


def test_a_reader_stuck_on_a_device_does_not_keep_it_alive() -> None:
    # En /dev/zero lee un hilo; el servidor se va, y el programa acaba con él a medias.
    def serve(sock: socket.socket) -> None:
        sock.recv(1024)

    with foreign_server(serve) as port:
        done = shell('exec "$0" "$@" </dev/zero', *to(port))
        assert done.returncode == 1
        assert b"conexi" in done.stderr


@pytest.mark.parametrize(
    ("arrived", "said"),
    [
        ("", " Mensajes enviados sin respuesta: 2."),
        ("UNO\nDO", " Mensajes enviados sin respuesta: 1. La última respuesta llegó a medias."),
        ("UNO", " Ninguna respuesta acabó en salto de línea: no se sabe cuáles faltan."),
        ("UNO\nDOS\nTRES\n", " Llegaron más líneas que mensajes: no se sabe si faltaba alguna."),
        ("UNO\nDOS\n", ""),
    ],
)
def test_what_is_known_to_be_missing(arrived: str, said: str) -> None:
    relay = Relay()
    relay.tally.send(bytearray(b"uno\ndos\n"), 8)
    if arrived:
        relay.tally.receive(arrived.encode(), len(arrived))
    assert unanswered(relay) == said


# -- la salida, sin esperar por ella


def filled(output: Output, data: bytes) -> bytes:
    """Escribe ``data`` en ``output`` hasta que se queda con algo; devuelve todo lo que se le dio."""
    given = b""
    while not output.write(memoryview(data)):
        given += data
    return given + data


def drained(output: Output, reader: int) -> bytes:
    """Lo que se lee al otro lado mientras ``output`` escribe lo que guardaba."""
    arrived = b""
    while output.write(memoryview(b"")):
        arrived += os.read(reader, 1 << 20)
    return arrived


@pytest.fixture(params=["una tubería", "una tubería, sin /proc", "un socket", "una terminal"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Los dos descriptores de una salida que se llena: donde se escribe, y donde se lee."""
    if request.param == "un socket":
        pair = socket.socketpair()
        writer, reader = (sock.detach() for sock in pair)
    elif request.param == "una terminal":
        reader, writer = os.openpty()
        tty.setraw(writer)
    else:
        reader, writer = os.pipe()
    if "sin" in request.param:

        def nowhere(path: str, flags: int) -> int:
            raise FileNotFoundError(path)

        monkeypatch.setattr(os, "open", nowhere)
    yield writer, reader
    os.close(writer)
    os.close(reader)


def test_an_output_keeps_what_does_not_fit_and_never_waits(ends: tuple[int, int]) -> None:
    writer, reader = ends
    with Output(writer) as output:
        given = filled(output, bytes(range(256)) * 16)
        arrived = drained(output, reader)
        assert os.get_blocking(writer)  # los demás que la tienen abierta la encuentran como estaba
        while len(arrived) < len(given):
            arrived += os.read(reader, 1 << 20)
        assert arrived == given


def test_an_output_that_is_a_file_keeps_nothing_and_goes_where_it_was(tmp_path: Path) -> None:
    with (tmp_path / "salida").open("wb") as file:
        file.write(b"antes\n")
        file.flush()
        with Output(file.fileno()) as output:
            assert not output.write(memoryview(b"hola\n" * 100_000))
    assert (tmp_path / "salida").read_bytes() == b"antes\n" + b"hola\n" * 100_000


def test_a_stopped_terminal_does_not_stop_us() -> None:
    reader, writer = os.openpty()
    with Output(writer) as output:
        termios.tcflow(writer, termios.TCOOFF)  # Ctrl-S
        assert output.write(memoryview(b"hola"))
        termios.tcflow(writer, termios.TCOON)
        assert not output.write(memoryview(b""))
        assert os.read(reader, 4) == b"hola"
    os.close(writer)
    os.close(reader)


# -- en una terminal ----------------------------------------------------------------------------------------


def test_in_a_terminal_the_replies_are_escaped_and_nothing_else_is_said() -> None:
    with running_server() as (_, port), Program(to(port), terminal=True) as client:
        client.type("a\x1b[31m\n")
        client.wait_for("A\\x1b[31M\r\n")
        client.end_input()
        assert client.wait() == 0
        assert PROMPT not in client.output


def test_the_screen_escapes_the_same_however_it_is_cut() -> None:
    data = "uno\r\nd\ros ñ\x1b\n\r\n".encode() + b"\xff\n"
    shown = "uno\nd\\ros ñ\\x1b\n\n\\xff\n"
    for first in range(len(data) + 1):
        screen = Screen()
        assert screen.show(memoryview(data[:first])) + screen.show(memoryview(data[first:])) == shown


def test_the_bar() -> None:
    bar = Bar(1000, 80)
    assert bar.at(0, 10.0) == f"\r[{'.' * 40}]   0 %"
    assert bar.at(500, 10.1) == ""  # hace nada que se dibujó
    assert bar.at(500, 10.3) == f"\r[{'#' * 20}{'.' * 20}]  50 %"
    assert bar.at(2000, 11.0) == f"\r[{'#' * 40}] 100 %"  # el fichero creció
    assert bar.end() == f"\r{' ' * 48}\r"
    assert Bar(1000, 80).end() == ""


@pytest.mark.parametrize("columns", [0, 5, 12, 20, 200])
def test_the_bar_fits(columns: int) -> None:
    bar = Bar(10, columns)
    drawn = bar.at(10, 0.0)
    assert len(drawn) - 1 <= max(columns - 1, len("[] 100 %"))
    assert bar.end() == f"\r{' ' * (len(drawn) - 1)}\r"


def test_the_bar_is_seen_only_where_it_does_not_mix(tmp_path: Path) -> None:
    entry = tmp_path / "entrada"
    entry.write_bytes(b"hola\n" * 1000)
    drawn = re.compile(r"\r\[#*\.*\] +\d+ %")
    with running_server() as (_, port):
        for command, seen in (
            (f'"$0" "$@" <{entry} >{tmp_path}/salida', True),
            (f'cat {entry} | "$0" "$@" >{tmp_path}/salida', False),  # no se sabe cuánto es
            (f'"$0" "$@" <{entry}', False),  # la salida es esa misma terminal
            (f'"$0" "$@" <{entry} >{tmp_path}/salida 2>/dev/null', False),
        ):
            with Program(["/bin/bash", "-c", command, *to(port)], terminal=True) as client:
                assert client.wait() == 0
                assert bool(drawn.search(client.output)) == seen
                if seen:
                    assert client.output.endswith(" \r")  # se borra
                    assert (tmp_path / "salida").read_bytes() == b"HOLA\n" * 1000


def test_two_at_once() -> None:
    with running_server() as (_, port), Program(to(port)) as one, Program(to(port)) as other:
        one.type("uno\n")
        other.type("dos\n")
        one.wait_for("UNO\n")
        other.wait_for("DOS\n")
        for client in (one, other):
            client.end_input()
            assert client.wait() == 0
        wait_until(lambda: one.output == "UNO\n")
        assert other.output == "DOS\n"
