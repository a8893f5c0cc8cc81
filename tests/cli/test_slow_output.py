"""La salida del cliente cuando ahora no admite nada, o nunca: en cada modo espera y escribe el resto, o lo dice."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.programs import CLIENT, SERVER, environment, fails, run, running_server, state
from ..support.waiting import PATIENCE, wait_until

LINES = 1000
TEXT = "x" * 200  # con LINES respuestas, tres tuberías llenas

MODES = {
    "-q": ["-q"],
    "--json": ["--json"],
    "diálogo": [],
    "--repetir": ["--repetir", str(LINES), "--intervalo", "0", TEXT],
    "un mensaje": ["x" * 120_000],  # lo que admite Linux en un argumento (MAX_ARG_STRLEN)
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_server() as (_, port):
        yield port


def to(port: int, *options: str) -> list[str]:
    """El cliente hacia un puerto de esta máquina."""
    return [*CLIENT, "--host", "127.0.0.1", "--puerto", str(port), *options]


def waiting(descriptor: int) -> int:
    """Cuántos bytes hay en una tubería que nadie ha leído."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="solo Linux dice cuánto cabe en una tubería")
@pytest.mark.parametrize("mode", MODES)
def test_a_pipe_left_non_blocking_by_whoever_launched_us_loses_nothing(port: int, mode: str, tmp_path: Path) -> None:
    entry = tmp_path / "entrada"
    entry.write_text(f"{TEXT}\n" * LINES)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with (
        open(reader, "rb") as output,
        entry.open("rb") as source,
        subprocess.Popen(
            to(port, *MODES[mode]), stdin=source, stdout=writer, stderr=subprocess.PIPE, env=environment()
        ) as client,
    ):
        os.close(writer)
        # No se lee hasta que no cabe ni una página más (PIPE_BUF): ya se le ha dicho que ahora no.
        full = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) - select.PIPE_BUF
        wait_until(lambda: waiting(reader) >= full or client.poll() is not None)
        said = output.read().decode()
        assert client.stderr
        errors = client.stderr.read()
        assert (client.wait(PATIENCE), errors) == (0, b"")
    if mode == "un mensaje":
        assert said == MODES[mode][0].upper() + "\n"
    else:
        assert said.count(TEXT.upper()) == LINES


def test_an_error_waits_too(port: int) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # La salida de errores llena: lo que se le diga espera a que quepa.
    full = os.write(writer, b"." * 1_000_000)
    with (
        open(reader, "rb") as errors,
        subprocess.Popen(to(port, "-q", "--json"), stderr=writer, env=environment()) as client,
    ):
        os.close(writer)
        asleep = 0

        def waits() -> bool:  # o acabó, y entonces lo que falta lo dirá lo que se lea
            nonlocal asleep
            asleep = asleep + 1 if state(client.pid) == "S" else 0
            return asleep > 10 or client.poll() is not None

        wait_until(waits)
        assert errors.read(full) == b"." * full
        assert b"-q y --json no van juntas" in errors.read()
        assert client.wait(PATIENCE) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_closed_output_is_a_sentence_and_not_a_success(port: int, mode: str) -> None:
    done = run(["bash", "-c", 'exec "$0" "$@" >&-', *to(port, *MODES[mode])], "hola\n")
    fails(done, 1, "la salida está cerrada", "/dev/null")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="este sistema no tiene /dev/full")
@pytest.mark.parametrize("arguments", [*MODES.values(), ["--help"], ["--version"]], ids=[*MODES, "--help", "--version"])
def test_a_full_disk_is_a_sentence_and_not_a_success(port: int, arguments: list[str]) -> None:
    done = run(["bash", "-c", 'exec "$0" "$@" >/dev/full', *to(port, *arguments)], "hola\n")
    fails(done, 1, "no queda espacio en el disco")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="este sistema no tiene /dev/full")
def test_the_help_of_the_server_too() -> None:
    fails(run(["bash", "-c", 'exec "$0" "$@" >/dev/full', *SERVER, "--help"]), 1, "no queda espacio en el disco")
