"""``--proxy-de``: el programa de verdad detrás de un balanceador."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from ..support import proxy
from ..support.programs import SERVER, SILENT, Program, fails, run, running_server
from ..support.proxy import line, tcp4
from ..support.sockets import connect, receive, receive_all

ANA = ("192.0.2.7", 59319)


def test_the_log_says_who_the_client_is() -> None:
    with running_server("--proxy-de", "127.0.0.1") as (server, port):
        with connect(port) as sock:
            sock.sendall(tcp4(*ANA) + b"hola\nDESCONEXION\n")
            assert receive_all(sock) == "HOLA\nConexión cerrada\n".encode()
        server.wait_for(f"Conexión aceptada de {ANA}\nMensaje de desconexión recibido. Cerrando la conexión.\n")


def test_the_questions_of_the_balancer_do_not_fill_the_log() -> None:
    with running_server("--proxy-de", "127.0.0.0/8") as (server, port):
        for _ in range(3):
            with connect(port) as sock:
                sock.sendall(proxy.local() + b"DESCONEXION\n")
                assert receive_all(sock) == "Conexión cerrada\n".encode()
        with connect(port) as sock:
            sock.sendall(line(*ANA) + b"hola\n")
            server.wait_for(f"Conexión aceptada de {ANA}\n")
        assert server.output.count("\n") == 2


def test_who_does_not_come_from_the_balancer_reads_why() -> None:
    with running_server(env={"SERVIDOR_TCP_PROXY_DE": "10.0.0.0/8, fd00::/8,unix"}) as (server, port):
        with connect(port) as sock:
            sock.sendall(tcp4(*ANA))
            reply = "ERROR: a este servidor solo se llega por su balanceador; conéctate a él\n"
            assert receive_all(sock) == reply.encode()
        server.wait_for("Conexión rechazada de ('127.0.0.1', ")


def test_a_bad_header_is_a_line_that_nothing_from_outside_rules() -> None:
    with running_server("--proxy-de", "127.0.0.1") as (server, port):
        for sent, why in (
            (b"\x1b[2J\n", "no empieza por una cabecera PROXY; dile que la envíe, o quítalo de --proxy-de"),
            (b"PROXY TCP4 \x1b[2J 192.0.2.1 1 2\r\n", "en la cabecera PROXY hay una dirección que no lo es"),
        ):
            with connect(port) as sock:
                sock.sendall(sent)
                with contextlib.suppress(ConnectionResetError):
                    assert receive_all(sock) == b""
            server.wait_for(f", de un balanceador, no dijo a quién trae: {why}.\n")
        with connect(port) as sock:  # lo que dice una ruta tampoco
            sock.sendall(proxy.unix(b"/\x1b[2J\n\xff") + b"hola\n")
            assert receive(sock, 5) == b"HOLA\n"
            server.wait_for("Conexión aceptada de ('unix:/")
        assert "\x1b" not in server.output
        assert not SILENT.search(server.output + server.errors)


def test_a_header_has_the_deadline_of_a_handshake() -> None:
    with running_server("--proxy-de", "127.0.0.1", "--plazo-tls", "0.2") as (server, port), connect(port) as sock:
        with contextlib.suppress(ConnectionResetError):
            assert receive_all(sock) == b""
        server.wait_for("la cabecera PROXY no llegó a tiempo.\n")


def test_each_client_has_its_limit() -> None:
    options = ("--proxy-de", "127.0.0.1", "--max-por-direccion", "1")
    with running_server(*options) as (_, port), connect(port) as one, connect(port) as two, connect(port) as three:
        for sock, host, reply in (
            (one, "192.0.2.7", b"HOLA"),
            (two, "192.0.2.7", b"ERRO"),
            (three, "192.0.2.8", b"HOLA"),
        ):
            sock.sendall(line(host, 1) + b"hola\n")
            assert receive(sock, 4) == reply


def test_by_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Program([*SERVER, "--host", f"unix:{path}", "--proxy-de", "unix"]) as server:
        server.wait_for("...\n")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(line(*ANA))
            server.wait_for(f"Conexión aceptada de {ANA}\n")


@pytest.mark.parametrize("value", ["", "localhost", "10.0.0.1/8", "10.0.0.0/8,", "10.0.0.0/8 fd00::/8", "unix:/a"])
def test_what_is_not_a_network_is_a_sentence(value: str) -> None:
    fails(run([*SERVER, f"--proxy-de={value}"]), 2, "--proxy-de", "no es una", "red")
