"""``cliente-tcp hola mundo`` y ``--json``: la respuesta sola en la salida, y un código que un script entiende."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from pathlib import Path

import pytest

from comunicacion_tcp.limits import Limits

from ..support.certificates import Certificates
from ..support.programs import CLIENT, SERVER, Program, environment, fails, run, running_server
from ..support.serving import served
from ..support.sockets import connect, foreign_server, free_port, receive_all
from ..support.waiting import wait_until


def to(port: int, *arguments: str) -> list[str]:
    """El cliente hacia un puerto de esta máquina."""
    return [*CLIENT, "--host", "127.0.0.1", "--puerto", str(port), *arguments]


def test_a_reply_that_never_ends_is_a_sentence() -> None:
    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(b"x" * 1_000_000)

    with foreign_server(serve) as port:
        for options in ([], ["--json"], ["--repetir", "2"]):
            done = run(to(port, "--max-respuesta", "1M", *options, "hola"))
            assert done.returncode == 1
            assert "en una respuesta que no acaba, más de 1048576 bytes" in done.stderr.decode()
        # 500 MB de direcciones: lo que ocupa Python, y cientos de veces una respuesta de las largas.
        limited = 'ulimit -v 500000; exec "$@"'
        done = run(["bash", "-c", limited, "bash", *to(port, "--max-respuesta", "2047M", "hola")])
    fails(done, 1, "No queda memoria")


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        (["hola", "mundo"], "HOLA MUNDO\n"),
        (["señor  añejo"], "SEÑOR  AÑEJO\n"),
        (["--", "-raro"], "-RARO\n"),
        (["-5"], "-5\n"),
        ([""], "\n"),
        (["a\x1b[31m\tb"], "A\x1b[31M\tB\n"),  # por una tubería, los bytes que llegaron
        (["DESCONEXION"], "Conexión cerrada\n"),
    ],
)
def test_one_message_and_its_reply(words: list[str], reply: str) -> None:
    with running_server() as (server, port):
        done = run(to(port, *words), b"esto no se lee\n")
        assert (done.returncode, done.stdout.decode(), done.stderr) == (0, reply, b"")
        server.wait_for("Mensaje de desconexión recibido.")  # se despide: en el servidor no parece un corte


def test_the_reply_is_utf_8_whatever_the_terminal_speaks() -> None:
    with running_server() as (_, port):
        done = run(to(port, "hola ñ"), env={"PYTHONIOENCODING": "cp1252"})
        assert done.stdout == "HOLA Ñ\n".encode()


def test_in_a_terminal_it_is_escaped() -> None:
    with running_server() as (_, port), Program(to(port, "a\x1bb"), terminal=True) as client:
        assert client.wait() == 0
        assert client.output == "A\\x1bB\r\n"


def test_without_any_input_or_terminal_as_under_cron() -> None:
    with running_server() as (_, port):
        for redirection in ("<&-", "</dev/null"):
            command = f'exec "$0" "$@" {redirection}'
            for arguments in (["hola"], ["--json", "hola"], ["--repetir", "2", "--intervalo", "0", "hola"]):
                done = subprocess.run(
                    ["bash", "-c", command, *to(port, *arguments)], capture_output=True, timeout=30, env=environment()
                )
                assert done.returncode == 0
                assert b"HOLA" in done.stdout
                assert done.stderr == b""


def test_an_error_of_the_server_is_the_reply_and_another_exit_code() -> None:
    with running_server("--max-mensaje", "16") as (_, port):
        done = run(to(port, "x" * 17))
        assert (done.returncode, done.stdout.decode()) == (3, "ERROR: el mensaje pasa de 16 bytes\n")
        done = run(to(port, "--json", "x" * 17))
        assert done.returncode == 3
        assert json.loads(done.stdout)["reply"] == "ERROR: el mensaje pasa de 16 bytes"


def test_a_refusal_is_the_reply_whenever_it_arrives() -> None:
    with served(limits=Limits(max_connections=1)) as running, connect(running.port):
        wait_until(lambda: running.server.conversations == 1)
        for _ in range(10):
            done = run(to(running.port, "hola"))
            assert done.returncode == 3
            assert done.stdout.decode().startswith("ERROR: el servidor está completo")
            assert done.stderr == b""


def test_a_foreign_server_that_ignores_goodbyes_does_not_detain_it() -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(sock.recv(1024).strip()[::-1])
        receive_all(sock)
        sock.settimeout(None)

    with foreign_server(serve) as port:
        done = run(to(port, "hola", "--espera", "29"))
        assert (done.returncode, done.stdout) == (0, b"aloh\n")


@pytest.mark.parametrize("options", [[], ["--json"], ["--repetir", "3", "--intervalo", "0"], ["-q"]])
def test_nobody_listens(options: list[str]) -> None:
    words = [] if "-q" in options else ["hola"]
    fails(run(to(free_port(), *options, *words)), 1, "No hay ningún servidor escuchando")


def test_a_server_that_does_not_answer() -> None:
    def serve(sock: socket.socket) -> None:
        receive_all(sock)

    with foreign_server(serve) as port:
        fails(run(to(port, "--espera", "0.05", "hola")), 1, "0.05 s sin recibir nada", "--espera")
        done = run(to(port, "--espera", "0.05", "--json", "hola"))
        fails(done, 1, "0.05 s sin recibir nada")
        assert json.loads(done.stdout) == {"message": "hola", "error": done.stderr.decode().rstrip("\n")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a\nb"], "ese MENSAJE no se puede enviar: un mensaje no puede llevar saltos de línea"),
        (["a\r"], "retorno de carro"),
        (["-q", "hola"], "-q lee los mensajes de la entrada"),
        (["-q", "--json"], "-q y --json no van juntas"),
        (["-q", "--repetir", "2"], "-q y --repetir no van juntas"),
        (["--repetir", "2"], "--repetir necesita un MENSAJE"),
        (["--repetir", "0"], "--repetir necesita un MENSAJE"),
        (["--repetir", "x", "hola"], "--repetir debe ser un número de 0 a"),
        (["--repetir", "2", "DESCONEXION"], "no se puede repetir"),
        (["--intervalo", "2", "hola"], "--intervalo necesita --repetir"),
        (["--repetir", "2", "--intervalo", "-1", "hola"], "--intervalo"),
        (["hola", "--puerto", "1", "mundo"], "no se entiende «mundo»"),
    ],
)
def test_what_cannot_be_asked(arguments: list[str], words: str) -> None:
    fails(run([*CLIENT, *arguments]), 2, words, "--help")


def test_a_message_that_is_not_text_is_not_sent() -> None:
    command = 'exec "$0" "$@" $\'\\xff\''
    done = subprocess.run(["bash", "-c", command, *CLIENT], capture_output=True, timeout=30, env=environment())
    fails(done, 2, "no es Unicode válido")


def test_json_is_one_object_in_ascii() -> None:
    with running_server() as (_, port):
        done = run(to(port, "--json", "señor"))
        assert done.stdout.isascii()
        (line,) = done.stdout.splitlines()
        answer = json.loads(line)
        assert list(answer) == ["message", "reply", "milliseconds"]
        assert (answer["message"], answer["reply"]) == ("señor", "SEÑOR")
        assert isinstance(answer["milliseconds"], float)
        assert json.loads(run(to(port, "--json", "DESCONEXION")).stdout)["reply"] == "Conexión cerrada"


def test_over_tls_and_a_unix_socket(certificates: Certificates, tmp_path: Path) -> None:
    with running_server("--tls-cert", certificates.server) as (_, port):
        done = run([*CLIENT, "--puerto", str(port), "--tls", "--tls-ca", certificates.ca, "hola"])
        assert (done.returncode, done.stdout) == (0, b"HOLA\n")
    place = f"unix:{tmp_path}/s"
    with Program([*SERVER, "--host", place]) as server:
        server.wait_for("Servidor escuchando en")
        for arguments, entry, reply in ((["hola"], "", b"HOLA\n"), (["-q"], "a\nb\n", b"A\nB\n")):
            done = run([*CLIENT, "--host", place, *arguments], entry)
            assert (done.returncode, done.stdout) == (0, reply)
