"""``output.py``: una salida que no admite nada, o que no vuelve, no detiene al servidor ni le cambia el final."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from comunicacion_tcp.cli.output import Backlog, CarefulOutput, Output, Turn, by_lines, not_for_long, sink_of

from ..support.examples import ROOT
from ..support.ports import listening_port
from ..support.programs import SERVER, Program, environment, insist, running_server
from ..support.sockets import connect, fill, fill_pipe, receive_all
from ..support.waiting import PATIENCE, wait_until


def notice(count: int) -> str:
    """La línea que dice cuántas se perdieron."""
    return f"perdidas {count}"


# -- lo que falta por escribir, sin hilos -------------------------------------------------------------------


def backlog(room: int = 20, encoding: str = "utf-8") -> Backlog:
    """Vacía."""
    return Backlog(room, encoding, notice)


def lines(data: bytes) -> list[str]:
    """``data``, en líneas enteras."""
    assert data.endswith(os.linesep.encode())
    return data.decode().splitlines()


def test_lines_are_taken_once_and_in_order() -> None:
    pending = backlog()
    assert pending.take() == b""
    pending.add("una")
    pending.add("")
    pending.add("dos")
    assert lines(pending.take()) == ["una", "", "dos"]
    assert pending.take() == b""


def test_what_does_not_fit_is_counted_and_told_where_it_is_missing() -> None:
    pending = backlog()
    pending.add("x" * 9)
    pending.add("y" * 9)
    for _ in range(3):
        pending.add("z")
    assert lines(pending.take()) == ["x" * 9, "y" * 9, "perdidas 3"]
    pending.add("otra vez")
    assert lines(pending.take()) == ["otra vez"]


def test_after_a_loss_nothing_fits_until_it_is_told() -> None:
    # Una línea corta que cupiera detrás de una larga perdida parecería ir antes que ella.
    pending = backlog()
    pending.add("x" * 100)
    pending.add("y")
    assert lines(pending.take()) == ["perdidas 2"]


def test_what_could_not_be_written_goes_first_and_takes_room() -> None:
    pending = backlog()
    pending.add("x" * 19)
    data = pending.take()
    pending.add("y" * 9)
    pending.give_back(data[5:])
    pending.add("z" * 9)
    assert lines(pending.take()) == ["x" * 14, "y" * 9, "perdidas 1"]


def test_what_the_encoding_does_not_know_is_escaped() -> None:
    pending = backlog(encoding="cp1252")
    pending.add("ñ ΰ \udcff")
    assert pending.take() == b"\xf1 \\u03b0 \\udcff" + os.linesep.encode()


# -- con su hilo, y una salida falsa ------------------------------------------------------------------------


class Sink:
    """Una salida que admite ``most`` bytes cada vez y ``space`` en total, falla o no vuelve cuando la prueba quiere."""

    def __init__(self) -> None:
        self.written = b""
        self.calls = 0
        self.most = self.space = 1 << 30
        self.error: Exception | None = None
        self.full = False
        self.open = threading.Event()
        self.open.set()

    def __call__(self, data: memoryview) -> int | None:
        self.calls += 1
        assert self.open.wait(PATIENCE)
        if self.error:
            raise self.error
        if self.full:
            return None
        if not self.space:
            raise OSError(28, "no queda sitio")
        admitted = data[: min(self.most, self.space)]
        self.space -= len(admitted)
        self.written += admitted
        return len(admitted)


@contextlib.contextmanager
def writing(room: int = 1000) -> Iterator[tuple[Output, Sink]]:
    """Una salida en marcha sobre un ``Sink``; al acabar no deja su hilo."""
    sink = Sink()
    output = Output(sink, "utf-8", notice, room)
    try:
        yield output, sink
    finally:
        sink.open.set()
        sink.full = False
        output.close(PATIENCE)


def test_everything_is_written_before_closing() -> None:
    with writing(room=1 << 20) as (output, sink):
        sink.most = 7
        for number in range(1000):
            output.write(str(number))
        output.close(PATIENCE)
        assert lines(sink.written) == [str(number) for number in range(1000)]


def test_a_line_is_seen_without_asking() -> None:
    with writing() as (output, sink):
        for text in ("una", "dos"):
            output.write(text)
            wait_until(lambda text=text: sink.written.endswith(f"{text}{os.linesep}".encode()))  # type: ignore[misc]


def test_many_lines_are_written_together() -> None:
    with writing(room=1 << 20) as (output, sink):
        sink.open.clear()
        output.write("primera")
        wait_until(lambda: sink.calls == 1)
        for _ in range(1000):
            output.write("más")
        sink.open.set()
        output.close(PATIENCE)
        assert len(lines(sink.written)) == 1001
        assert sink.calls == 2


def test_a_sink_that_does_not_return_holds_nobody() -> None:
    with writing(room=100) as (output, sink):
        sink.open.clear()
        output.write("primera")
        wait_until(lambda: sink.calls == 1)
        for _ in range(30):
            output.write("x" * 9)
        output.close(0.01)  # vuelve, aunque el hilo siga ahí
        assert sink.written == b""
        sink.open.set()
        output.close(PATIENCE)
        assert lines(sink.written) == ["primera", *["x" * 9] * 10, "perdidas 20"]


@pytest.mark.parametrize("error", [OSError(28, "no"), BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_an_error_is_retried_without_losing_the_thread(error: Exception) -> None:
    with writing() as (output, sink):
        sink.error = error
        output.write("una")
        wait_until(lambda: sink.calls >= 1)
        output.write("dos")
        wait_until(lambda: sink.calls >= 2)
        sink.error = None
        wait_until(lambda: b"dos" in sink.written)  # aunque no haya una línea más
        assert lines(sink.written) == ["una", "dos"]


def test_a_line_cut_by_an_error_is_finished_later() -> None:
    with writing() as (output, sink):
        sink.space = 4
        output.write("una larga")
        wait_until(lambda: sink.calls >= 2)
        sink.space = 1 << 30
        output.write("otra")
        output.close(PATIENCE)
        assert lines(sink.written) == ["una larga", "otra"]


def test_an_output_that_admits_nothing_now_is_asked_again() -> None:
    with writing() as (output, sink):
        sink.full = True
        output.write("una")
        wait_until(lambda: sink.calls >= 3)
        sink.full = False
        wait_until(lambda: sink.written)
        assert lines(sink.written) == ["una"]


def test_an_output_broken_to_the_end_does_not_hold_the_end() -> None:
    with writing() as (output, sink):
        sink.error = OSError(28, "no")
        output.write("una")
        output.close(PATIENCE)
        assert not output._thread.is_alive()
        assert sink.written == b""


def test_each_kind_of_stream() -> None:
    write, _ = sink_of(None)
    assert write(memoryview(b"nadie lo ve")) == 11

    class TextOnly:
        """Como la salida de IDLE."""

        def __init__(self) -> None:
            self.text = io.StringIO()
            self.write = self.text.write
            self.flush = self.text.flush

    stream = TextOnly()
    write, encoding = sink_of(stream)
    write(memoryview(f"señor{os.linesep}".encode(encoding)))
    assert stream.text.getvalue() == "señor\n"
    raw = io.BytesIO()
    text = io.TextIOWrapper(raw, encoding="cp1252")
    write, encoding = sink_of(text)
    assert (write(memoryview(b"abc")), encoding, raw.getvalue()) == (3, "cp1252", b"abc")


# -- el programa de verdad ----------------------------------------------------------------------------------

_LITTLE_ROOM = """
import sys
from comunicacion_tcp.cli import output
output.Output.__init__.__defaults__ = (4096,)
from comunicacion_tcp.cli.server import main
sys.exit(main(["--puerto", "0", *sys.argv[1:]]))
"""


@contextlib.contextmanager
def server_writing_to(
    reader: int, writer: int, command: Sequence[str] = (*SERVER, "--puerto", "0")
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """El servidor con ``writer`` de salida, de la que solo se ha leído la primera línea: ``(proceso, puerto)``."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, env=environment()
    ) as process:
        try:
            os.close(writer)
            first = b""
            while not first.endswith(b"\n"):
                first += os.read(reader, 1)
            match = re.match(rb"Servidor escuchando en .*?:(\d+)", first)
            assert match
            yield process, int(match[1])
        finally:
            if process.poll() is None:
                process.kill()


def converse(port: int, times: int) -> None:
    """``times`` conversaciones enteras, una detrás de otra."""
    for _ in range(times):
        with connect(port) as sock:
            sock.sendall(b"hola\nDESCONEXION\n")
            assert receive_all(sock) == "HOLA\nConexión cerrada\n".encode()


def ends_well(process: subprocess.Popen[bytes], code: int = 0) -> None:
    """Acaba con ese código, y sin quejarse."""
    assert process.wait(PATIENCE) == code
    assert process.stderr
    assert process.stderr.read() == b""


def read_all(descriptor: int, data: bytearray) -> None:
    """Lleva a ``data`` lo que quede por leer."""
    while more := os.read(descriptor, 65536):
        data += more


@contextlib.contextmanager
def stalled_pipe() -> Iterator[tuple[int, int]]:
    """Los dos lados de una tubería de 4 KiB, la menor de Linux; el de escribir lo cierra quien lo toma."""
    reader, writer = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    try:
        yield reader, writer
    finally:
        os.close(reader)


def test_a_pipe_that_nobody_reads() -> None:
    with (
        stalled_pipe() as (reader, writer),
        server_writing_to(reader, writer, [sys.executable, "-c", _LITTLE_ROOM]) as (process, port),
    ):
        converse(port, 400)
        process.send_signal(signal.SIGTERM)
        ends_well(process)


def test_a_pipe_read_again_tells_how_many_lines_were_lost() -> None:
    with (
        stalled_pipe() as (reader, writer),
        server_writing_to(reader, writer, [sys.executable, "-c", _LITTLE_ROOM]) as (process, port),
    ):
        converse(port, 400)
        said = bytearray()
        thread = threading.Thread(target=read_all, args=(reader, said))
        thread.start()
        wait_until(lambda: accounted(said) == 2 * 400, "que se sepa de todas las líneas")
        converse(port, 1)
        wait_until(lambda: accounted(said) == 2 * 401)
        process.send_signal(signal.SIGTERM)
        ends_well(process)
        thread.join(PATIENCE)
        assert b"perdidas" in said
        assert said.endswith(b"Servidor detenido.\n")


def accounted(said: bytearray) -> int:
    """Cuántas líneas de conversaciones se han escrito o se dice que se perdieron."""
    text = said.decode(errors="ignore")
    lost = sum(map(int, re.findall(r"^\.\.\. (\d+) líneas? perdidas?: .*\n", text, re.MULTILINE)))
    return lost + len(re.findall(r"^(?:Conexión aceptada|Mensaje de desc).*\n", text, re.MULTILINE))


@pytest.mark.parametrize("blocking", [True, False])
def test_two_signals_end_it_with_its_output_stalled(blocking: bool) -> None:
    with stalled_pipe() as (reader, writer):
        os.set_blocking(writer, blocking)
        with server_writing_to(reader, writer) as (process, port), connect(port) as sock:
            converse(port, 100)
            fill(sock)  # no leerá nunca: el servidor le esperaría medio minuto
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not listens(port))
            insist(process, signal.SIGTERM)
            ends_well(process, 3)


def listens(port: int) -> bool:
    """Si alguien acepta ahí."""
    with contextlib.suppress(OSError):
        connect(port).close()
        return True
    return False


def test_a_pipe_closed_by_who_read_it() -> None:
    reader, writer = os.pipe()
    with server_writing_to(reader, writer) as (process, port):
        os.close(reader)
        converse(port, 200)
        process.send_signal(signal.SIGTERM)
        ends_well(process)


def test_a_stopped_terminal() -> None:
    with running_server(terminal=True) as (server, port):
        server.type("\x13")  # Ctrl-S
        wait_until(lambda: is_stopped(server))
        converse(port, 200)
        assert "Conexión aceptada" not in server.output
        server.type("\x11")  # Ctrl-Q
        server.wait_for("Cerrando la conexión.\r\n", times=200)
        server.type("\x13")
        wait_until(lambda: is_stopped(server))
        converse(port, 200)
        server.signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


def is_stopped(server: Program) -> bool:
    """Si su terminal tiene la salida parada: el eco de lo que se teclea no vuelve."""
    before = server.output
    server.type("x")
    with contextlib.suppress(AssertionError):
        wait_until(lambda: server.output != before, patience=0.3)  # repite al momento, o en una máquina ocupada casi
    return server.output == before


def test_full_device() -> None:
    with open("/dev/full", "wb") as full:
        command = [*SERVER, "--puerto", "0"]
        with subprocess.Popen(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, env=environment()) as process:
            try:
                port = listening_port(process.pid)
                converse(port, 200)
                process.send_signal(signal.SIGTERM)
                ends_well(process)
            finally:
                if process.poll() is None:
                    process.kill()


def test_a_full_disk_that_is_freed(tmp_path: Path) -> None:
    # Un disco de 64 KiB en un espacio de montaje propio: nadie más lo ve, y desaparece con el proceso.
    alone = ["unshare", "--mount", "sh", "-c"]
    mount = 'mount -t tmpfs -o size=64k none "$0"'
    if os.geteuid() or not shutil.which("unshare") or subprocess.run([*alone, mount, tmp_path]).returncode:
        pytest.skip("hace falta poder montar un disco pequeño (ser root, y unshare)")
    command = f'{mount}; cd "$0"; head -c 1000000 /dev/zero >lleno 2>&1; cd "$1"; shift; exec "$@" >"$0/registro"'
    with Program([*alone, command, str(tmp_path), str(ROOT), *SERVER, "--puerto", "0"]) as server:
        port = listening_port(server.process.pid)
        inside = Path(f"/proc/{server.process.pid}/root{tmp_path}")
        converse(port, 200)
        assert (inside / "registro").read_bytes() == b""
        (inside / "lleno").unlink()
        wait_until(lambda: (inside / "registro").read_text().count("Cerrando la conexión.\n") == 200)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.errors == ""


def test_unbuffered_python() -> None:
    with Program([sys.executable, "-u", *SERVER[1:], "--puerto", "0"]) as server:
        converse(server.port, 1)
        server.wait_for("Cerrando la conexión.\n")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.output.endswith("Servidor detenido.\n")


# -- sin hilo, y con otros escribiendo en el mismo sitio ----------------------------------------------------


def test_a_careful_output_writes_only_what_fits_and_the_rest_later() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with open(writing, "w", encoding="utf-8") as stream, open(reading, "rb", buffering=0) as reader:
        output = CarefulOutput(stream, notice, Turn())
        sent = [f"{number:04} " + "x" * 100 for number in range(200)]
        for line in sent:
            output.write(line)
        seen = b""
        while seen.count(b"\n") < len(sent):
            seen += reader.read(65536)
            output.flush()
        assert lines(seen) == sent


def test_a_careful_output_that_is_closed_or_full_loses_nothing_but_its_lines() -> None:
    other, full = io.StringIO(), os.open("/dev/full", os.O_WRONLY)
    with open(full, "w", buffering=1) as stream:
        for place in (None, other, stream):
            output = CarefulOutput(place, notice, Turn())
            for _ in range(3):
                output.write("nada")
    assert other.getvalue().splitlines() == ["nada"] * 3


def test_a_write_that_was_not_to_wait_and_waits_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    fill_pipe(writing)
    with open(writing, "w") as stream, open(reading, "rb", buffering=0) as reader:
        output = CarefulOutput(stream, notice, Turn())
        monkeypatch.setattr(output, "_admits", lambda: True)  # otro proceso la llenó en medio
        before = signal.getsignal(signal.SIGALRM)
        output.write("hola")
        assert signal.getsignal(signal.SIGALRM) == before
        reader.read(1024 * 1024)
        output.flush()
        assert reader.read(100) == b"hola" + os.linesep.encode()


def test_a_deadline_insists_and_is_heeded_once() -> None:
    # El primer aviso puede recibirlo otro hilo, y el que espera no se entera; y después de uno no debe venir otro.
    with pytest.raises(TimeoutError), not_for_long(PATIENCE):
        assert signal.getitimer(signal.ITIMER_REAL)[1] > 0
        try:
            signal.raise_signal(signal.SIGALRM)
        finally:
            signal.raise_signal(signal.SIGALRM)
    assert signal.getitimer(signal.ITIMER_REAL)[1] == 0


def test_a_deadline_is_off_before_nobody_heeds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    set_handler, left = signal.signal, []

    def put(number: int, handler: Any) -> object:
        left.append(signal.getitimer(signal.ITIMER_REAL)[0])
        return set_handler(number, handler)

    with not_for_long(PATIENCE):
        monkeypatch.setattr(signal, "signal", put)
    assert left == [0.0]


@pytest.mark.parametrize("size", [10, 4096, 4097, 9000])
def test_several_lines_go_together_if_they_are_whole(size: int) -> None:
    written: list[bytes] = []
    put = by_lines(lambda data: written.append(bytes(data)) or len(data), Turn())  # type: ignore[func-returns-value]
    line = b"x" * (size - 1) + b"\n"
    data = line * 10
    left = memoryview(data)
    while left:
        left = left[put(left) or 0 :]
    assert b"".join(written) == data
    assert all(part.endswith(b"\n") for part in written)
    assert max(map(len, written)) <= max(4096, size)


def test_a_long_line_is_not_left_half_written() -> None:
    answers: list[int | None] = [None, 100, None, 0, 5000, -1]
    written = b""

    def sink(data: memoryview) -> int | None:
        nonlocal written
        most = answers.pop(0)
        if most == -1:
            raise BrokenPipeError
        written += bytes(data[: most or 0])
        return most and min(most, len(data))

    put = by_lines(sink, Turn())
    line = memoryview(b"x" * 4999 + b"\n")
    assert put(line) is None
    assert put(line) == 5000
    assert written == bytes(line)
    with pytest.raises(BrokenPipeError):
        put(line)
    answers[:] = [100, -1]
    assert put(line) == 100
