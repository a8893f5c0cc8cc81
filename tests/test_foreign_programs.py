"""Programas ajenos de verdad contra el servidor: los que la gente ya tiene a mano."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support.model import HTTP
from .support.modules import write
from .support.programs import Program, environment, run, running_server
from .support.sockets import ask, connect, receive_all
from .support.tools import need

REPLIES = "HOLA SEÑOR\nConexión cerrada\n"
PATIENT = ("-t", "10")  # socat espera medio segundo al otro lado, acabada su entrada, si no se le pide más


@pytest.fixture
def port() -> Iterator[int]:
    with running_server() as (_, port):
        yield port


def openbsd_nc() -> str:
    """El nc de OpenBSD: con ese nombre hay otros, y a veces es un enlace a cualquiera."""
    path = need("nc.openbsd", "nc")
    usage = subprocess.run([path, "-h"], capture_output=True, text=True)
    if "OpenBSD" not in usage.stdout + usage.stderr:
        need("nc.openbsd")
    return path


def test_nc_with_lines(port: int) -> None:
    done = run([openbsd_nc(), "127.0.0.1", str(port)], "hola señor\nDESCONEXION\n")
    assert (done.stdout.decode(), done.returncode) == (REPLIES, 0)


def test_nc_that_ends_its_input_without_goodbye(port: int) -> None:
    done = run([openbsd_nc(), "-N", "127.0.0.1", str(port)], "uno\ndos\ntres")
    assert done.stdout.decode() == "UNO\nDOS\nTRES"


def test_nc_with_crlf(port: int) -> None:
    done = run([openbsd_nc(), "-C", "127.0.0.1", str(port)], "hola señor\nDESCONEXION\n")
    assert done.stdout.decode() == REPLIES.replace("\n", "\r\n")


def test_nc_at_a_terminal(port: int) -> None:
    with Program([openbsd_nc(), "127.0.0.1", str(port)], terminal=True) as nc:
        nc.type("hola\n")
        nc.wait_for("HOLA\r\n")
        nc.type("DESCONEXION\n")
        nc.wait_for("Conexión cerrada\r\n")
        nc.end_input()  # con la entrada en una terminal, nc espera a que también ella acabe
        assert nc.wait() == 0


def test_ncat(port: int) -> None:
    done = run([need("ncat"), "127.0.0.1", str(port)], "hola señor\nDESCONEXION\n")
    assert (done.stdout.decode(), done.returncode) == (REPLIES, 0)


def test_ncat_without_terminator(port: int) -> None:
    done = run([need("ncat"), "127.0.0.1", str(port)], "hola señor")
    assert done.stdout.decode() == "HOLA SEÑOR"


def test_socat(port: int) -> None:
    done = run([need("socat"), *PATIENT, "-", f"TCP:127.0.0.1:{port}"], "hola señor\nDESCONEXION\n")
    assert (done.stdout.decode(), done.returncode) == (REPLIES, 0)


def test_socat_with_crlf(port: int) -> None:
    done = run([need("socat"), *PATIENT, "-", f"TCP:127.0.0.1:{port},crlf"], "hola señor\nDESCONEXION\n")
    assert done.stdout.decode() == REPLIES  # socat traduce de ida y de vuelta


def test_telnet_at_a_terminal(port: int) -> None:
    with Program([need("telnet"), "127.0.0.1", str(port)], terminal=True) as telnet:
        telnet.wait_for("Escape character")
        telnet.type("hola\n")
        telnet.wait_for("HOLA\r\n")
        telnet.type("DESCONEXION\n")
        telnet.wait_for("Conexión cerrada\r\n")
        telnet.wait_for("Connection closed by foreign host.")
        telnet.wait()


def test_bash_and_its_dev_tcp(port: int) -> None:
    script = r"""
        exec 3<>/dev/tcp/127.0.0.1/$0
        printf 'hola señor\n' >&3; IFS= read -r first <&3
        printf 'DESCONEXION\r\n' >&3; IFS= read -r last <&3
        printf '%s|%s|' "$first" "$last"; cat <&3
    """
    done = subprocess.run([need("bash"), "-c", script, str(port)], capture_output=True, timeout=30, env=environment())
    assert done.stdout.decode() == "HOLA SEÑOR|Conexión cerrada\r|"


# -- clientes sin terminador, como los escribe todo el mundo -----------------------------------------------------


def test_the_client_of_the_original_exercise(port: int) -> None:
    with connect(port) as sock:
        for message in ("hola", "¿qué tal?", "x" * 1000, "DESCONEXIO", "adiós, señora"):
            sock.sendall(message.encode())
            reply = sock.recv(1024)
            while len(reply) < len(message.upper().encode()):
                reply += sock.recv(1024)
            assert reply.decode() == message.upper()
        sock.sendall(b"DESCONEXION")
        assert sock.recv(1024).decode() == "Conexión cerrada"
        assert sock.recv(1024) == b""


def test_a_bare_client_that_leaves_right_after_its_goodbye() -> None:
    with running_server() as (server, port):
        with connect(port) as sock:
            sock.sendall(b"hola")
            assert sock.recv(1024) == b"HOLA"
            sock.sendall(b"DESCONEXION")
        server.wait_for("Mensaje de desconexión recibido. Cerrando la conexión.")


def test_a_bare_client_that_ends_its_side(port: int) -> None:
    with connect(port) as sock:
        sock.sendall("año".encode())
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock).decode() == "AÑO"


# -- quien se equivoca de puerta --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hello",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03" + bytes(range(256)),
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\xff\xfd\x03\xff\xfb\x18hola\r\n",
    ],
    ids=["HTTP", "TLS", "SSH", "telnet"],
)
def test_other_protocols_get_an_answer_and_break_nothing(hello: bytes) -> None:
    with running_server() as (server, port):
        with connect(port) as sock:
            sock.sendall(hello)
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock)
        with connect(port) as sock:
            sock.sendall(b"hola\nDESCONEXION\n")
            assert receive_all(sock) == "HOLA\nConexión cerrada\n".encode()
        assert server.errors == ""
        assert not re.search("[^\n -~áéíóúñ]", server.output)


def test_what_a_web_page_may_send_reaches_no_service(tmp_path: Path) -> None:
    # Lo que hace un navegador por una página: fetch("http://localhost:5000/", {method: "POST", body: "..."}).
    write(tmp_path / "orden.py", "def obedecer(texto):\n    open('oído', 'a').write(texto + '\\n')\n    return texto\n")

    def post(port: int) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/", b"VOLT:RANG 1000\n", {"Origin": "https://mal.example"})
        assert connection.sock
        with connection.sock as sock:
            sock.shutdown(socket.SHUT_WR)
            return receive_all(sock)

    with running_server("--servicio", "orden:obedecer", cwd=tmp_path) as (server, port):
        assert post(port) == HTTP + b"\r\n"
        server.wait_for("esto es HTTP, y este servidor no lo habla")
        with connect(port) as sock:
            assert ask(sock, "VOLT:RANG 1") == "VOLT:RANG 1"
    assert (tmp_path / "oído").read_text() == "VOLT:RANG 1\n"
    with running_server("--servicio", "orden:obedecer", "--admite-http", cwd=tmp_path) as (_, port):
        assert post(port).endswith(b"VOLT:RANG 1000\n")
