"""Una respuesta a medias, o que falta, no es nunca un éxito: en cada modo, acabe el servidor como acabe, y con TLS.

La tabla entera de ``-q`` se prueba sin red en ``tests/test_relay.py``.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from ..support.certificates import Certificates
from ..support.programs import CLIENT, fails, run
from ..support.sockets import foreign_server, reset
from ..support.waiting import PATIENCE

CLEAR, TLS = "sin cifrar", "con TLS"
FIN, RST, SILENCE = "FIN", "RST", "silencio"
ENDS = [FIN, RST, SILENCE]
MODES = {
    "-q": (["-q"], "uno\ndos\n"),
    "--json": (["--json"], "uno\ndos\n"),
    "diálogo": ([], "uno\ndos\n"),
    "--repetir": (["--repetir", "2", "--intervalo", "0", "uno"], ""),
}
ONE = {"un mensaje": ["uno"], "--json uno": ["--json", "uno"]}

every_way = pytest.mark.parametrize("ciphered", [CLEAR, TLS])
every_end = pytest.mark.parametrize("end", ENDS)

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def scripted(
    talk: Talk, end: str, ciphered: str, certificates: Certificates, *, wait: Sequence[str] = ("--espera", "0.3")
) -> Iterator[list[str]]:
    """Un servidor que con cada cliente hace ``talk`` y acaba así. Da la orden para llegar a él, que si calla lleva
    ``wait``.

    El FIN lleva delante, con TLS, su aviso de cierre.
    """
    over = threading.Event()

    def serve(sock: socket.socket) -> None:
        if ciphered == TLS:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates.server)
            with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as session:
                talk(session)
                finish(session)
        else:
            talk(sock)
            finish(sock)

    def finish(sock: socket.socket) -> None:
        if end == RST:
            if isinstance(sock, ssl.SSLSocket):
                sock = socket.socket(fileno=sock.detach())  # por debajo de TLS
            reset(sock)
        elif end == SILENCE:
            over.wait(PATIENCE)
        elif isinstance(sock, ssl.SSLSocket):
            with contextlib.suppress(OSError):  # ssl.SSLError también lo es: el cliente ya no está para contestar
                sock.unwrap()

    with foreign_server(serve) as port:
        tls = ["--tls", "--tls-ca", certificates.ca] if ciphered == TLS else []
        yield [*CLIENT, "--host", "127.0.0.1", "--puerto", str(port), *tls, *(wait if end == SILENCE else ())]
        over.set()


def lines(sock: socket.socket) -> Iterator[bytes]:
    """Las líneas que llegan."""
    with sock.makefile("rb") as stream:
        yield from stream


def half_of_the_second(sock: socket.socket) -> None:
    arrived = lines(sock)
    sock.sendall(next(arrived).upper())
    sock.sendall(next(arrived).upper()[:2])


@every_way
@every_end
@pytest.mark.parametrize("mode", MODES)
def test_half_a_reply_in_a_conversation_of_lines(
    certificates: Certificates, mode: str, end: str, ciphered: str
) -> None:
    options, entry = MODES[mode]
    with scripted(half_of_the_second, end, ciphered, certificates) as client:
        done = run([*client, *options], entry)
    fails(done, 1)
    # Un RST puede llevarse lo que no se había leído; y un plazo corto, en una máquina cargada, vencer antes.
    assert b"UNO" in done.stdout or end != FIN


@every_way
@pytest.mark.parametrize("mode", ONE)
def test_one_message_cut_after_two_bytes(certificates: Certificates, mode: str, ciphered: str) -> None:
    def talk(sock: socket.socket) -> None:
        sock.sendall(next(lines(sock)).upper()[:2])

    with scripted(talk, RST, ciphered, certificates) as client:
        done = run([*client, *ONE[mode]])
    fails(done, 1)
    if mode == "un mensaje":
        assert done.stdout == b""
    else:
        assert "reply" not in json.loads(done.stdout)


@pytest.mark.parametrize("mode", ["un mensaje", "diálogo"])
def test_a_farewell_cut_by_a_reset(certificates: Certificates, mode: str) -> None:
    def talk(sock: socket.socket) -> None:
        data = b""
        while not data.endswith(b"DESCONEXION"):
            data += sock.recv(1024)
        sock.sendall(b"Conexi")

    with scripted(talk, RST, CLEAR, certificates) as client:
        arguments, entry = (["DESCONEXION"], "") if mode == "un mensaje" else ([], "DESCONEXION\n")
        fails(run([*client, *arguments], entry), 1)


@every_way
@every_end
def test_three_bytes_for_a_thousand_lines(certificates: Certificates, end: str, ciphered: str) -> None:
    def talk(sock: socket.socket) -> None:
        arrived = lines(sock)
        for _ in range(1000):
            next(arrived)
        sock.sendall(b"HOL")

    with scripted(talk, end, ciphered, certificates) as client:
        done = run([*client, "-q"], "hola\n" * 1000)
    fails(done, 1)
    if end == FIN:
        assert done.stdout == b"HOL"
        assert "no se sabe cuáles faltan" in done.stderr.decode()


@every_way
def test_a_slow_reply_behind_one_of_several_lines_is_waited_for(certificates: Certificates, ciphered: str) -> None:
    slow = threading.Event()

    def talk(sock: socket.socket) -> None:
        arrived = lines(sock)
        next(arrived)
        sock.sendall(b"una\ndos\ntres\ncuatro\n")
        next(arrived)
        assert next(arrived, None) is None  # el cliente ya cerró su lado
        slow.wait(0.2)  # más de lo que se espera a que acabe una respuesta sin salto de línea (--silencio)
        sock.sendall(b"cinco\n")

    with scripted(talk, FIN, ciphered, certificates) as client:
        done = run([*client, "-q", "--silencio", "0.05"], "ayuda\nlento\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"una\ndos\ntres\ncuatro\ncinco\n", b"")


@every_way
@pytest.mark.parametrize("end", [RST, SILENCE])
def test_more_lines_than_messages_and_no_end_is_not_known_to_be_everything(
    certificates: Certificates, end: str, ciphered: str
) -> None:
    def talk(sock: socket.socket) -> None:
        arrived = lines(sock)
        next(arrived)
        sock.sendall(b"una\ndos\ntres\ncuatro\n")
        next(arrived)

    with scripted(talk, end, ciphered, certificates) as client:
        fails(run([*client, "-q"], "ayuda\nlento\n"), 1)


@every_way
@pytest.mark.parametrize(("arguments", "end"), [(["-q"], FIN), (["hola"], FIN), (["hola"], SILENCE)])
def test_a_server_that_never_sends_newlines_has_answered_one_message(
    certificates: Certificates, arguments: list[str], end: str, ciphered: str
) -> None:
    def talk(sock: socket.socket) -> None:
        next(lines(sock))
        sock.sendall(b"HOLA")

    with scripted(talk, end, ciphered, certificates, wait=()) as client:
        done = run([*client, *arguments], "hola\n")
    assert (done.returncode, done.stdout.rstrip(b"\n"), done.stderr) == (0, b"HOLA", b"")
