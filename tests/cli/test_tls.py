"""Los dos programas cifrando, como los vive quien los ejecuta: lo que promete el README, y cada frase."""

from __future__ import annotations

import shlex
import shutil
import socket
import ssl
from pathlib import Path

import pytest

from comunicacion_tcp.cli import sentences
from comunicacion_tcp.errors import BadTLSFile, CertificateRejected, ConnectionLost, TLSFailed, Truncated
from comunicacion_tcp.tls import _BY_CODE, _BY_REASON

from ..support.certificates import Certificates
from ..support.encrypted import encrypted
from ..support.examples import blocks
from ..support.programs import CLIENT, PROMPT, SERVER, Program, fails, run, running_server
from ..support.sockets import connect, foreign_server, receive_all
from ..support.tools import need

TALK = "hola\nDESCONEXION\n"


def test_what_the_readme_promises(tmp_path: Path) -> None:
    lines = [line for block in blocks("README.md", "sh") for line in block.splitlines()]
    make, serve, talk = (line.replace("IP-DEL-SERVIDOR", "127.0.0.1") for line in lines if "cert.pem" in line)

    def command(line: str, program: list[str]) -> list[str]:
        words = shlex.split(line)[2:]
        return program + [str(tmp_path / word) if word.endswith(".pem") else word for word in words]

    assert run([need("bash"), "-c", f"cd {shlex.quote(str(tmp_path))} && {make}"]).returncode == 0
    with Program([*command(serve, SERVER), "--puerto", "0"]) as server:
        done = run([*command(talk, CLIENT), "--puerto", str(server.port)], TALK)
        assert done.stderr.decode() == ""
        assert done.stdout.decode().endswith("Servidor: Conexión cerrada\n")
        assert "Servidor: HOLA\n" in done.stdout.decode()
        # Sin la copia del certificado no hay de quién fiarse.
        fails(run([*CLIENT, "--host", "127.0.0.1", "--puerto", str(server.port), "--tls"], TALK), 1, "--tls-ca")
        assert "Aviso" not in server.output
        assert server.errors == ""


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)])
def test_in_clear_beyond_this_machine_there_is_a_warning(host: str, warned: bool) -> None:
    with running_server("--host", host) as (server, port), connect(port):
        server.wait_for("Conexión aceptada")
        lines = server.output.splitlines()
        assert lines[0].startswith("Servidor escuchando en ")
        assert lines[1].startswith("Aviso: ") == warned
        assert ("--tls-cert" in server.output) == warned


def test_certificates_on_both_sides(certificates: Certificates) -> None:
    cert, key = certificates.split()
    own, own_key = certificates.split("cliente.pem")
    with running_server("--tls-cert", cert, "--tls-clave", key, "--tls-ca", certificates.ca) as (server, port):
        client = [*CLIENT, "--puerto", str(port), "--tls", "--tls-ca", certificates.ca]
        done = run([*client, "--tls-cert", own, "--tls-clave", own_key], TALK)
        assert "Servidor: HOLA\n" in done.stdout.decode()
        assert (done.returncode, done.stderr) == (0, b"")
        for entry in (TALK, ""):  # la negativa se cuenta igual al preguntar que al despedirse
            fails(run(client, entry), 1, "pide un certificado de cliente", "--tls-cert")
        fails(run([*client, "--tls-cert", certificates.foreign], TALK), 1, "no acepta el certificado de --tls-cert")
        server.wait_for("no se completó: no trajo certificado")
        server.wait_for("no se completó: su certificado no lo firma una autoridad de --tls-ca")
        assert server.errors == ""


def test_a_plain_client_is_told_what_to_do(certificates: Certificates) -> None:
    with running_server("--tls-cert", certificates.server) as (server, port):
        done = run([*CLIENT, "--puerto", str(port)], TALK)
        assert "ERROR: este servidor solo habla TLS" in done.stdout.decode()
        assert "--tls" in done.stdout.decode()
        server.wait_for("el otro extremo no habla TLS")
        assert server.errors == ""


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("expired", ["está caducado", "la hora"]),
        ("early", ["aún no vale", "la hora"]),
        ("foreign", ["una autoridad que esta máquina no conoce", "--tls-ca"]),
        ("wrong_name", ["es de otro nombre", "--host"]),
    ],
)
def test_who_the_server_is_not(certificates: Certificates, file: str, words: list[str]) -> None:
    with running_server("--tls-cert", getattr(certificates, file)) as (_, port):
        fails(run([*CLIENT, "--puerto", str(port), "--tls", "--tls-ca", certificates.ca], TALK), 1, *words)


def test_a_server_that_does_not_speak_tls(certificates: Certificates) -> None:
    def hang_up(sock: socket.socket) -> None:
        sock.recv(1000)

    def greet(sock: socket.socket) -> None:
        sock.sendall(b"220 hola\r\n")
        receive_all(sock)

    for serve, wait, word in (
        (hang_up, "20", "colgó a mitad del saludo TLS"),
        (greet, "20", "no habla TLS"),
        (receive_all, "0.5", "--espera"),
    ):
        with foreign_server(serve) as port:  # type: ignore[arg-type]  # lo que devuelva da igual
            fails(run([*CLIENT, "--puerto", str(port), "--tls", "--espera", wait], TALK), 1, word, "Quita --tls")


def test_versions_not_in_common(certificates: Certificates) -> None:
    # Un servidor que solo habla lo retirado: su negativa al saludo es esta, byte a byte (RFC 5246, 7.2.2).
    def old(sock: socket.socket) -> None:
        sock.recv(5000)
        sock.sendall(b"\x15\x03\x01\x00\x02\x02\x46")

    with foreign_server(old) as port:
        fails(run([*CLIENT, "--puerto", str(port), "--tls"], TALK), 1, "ninguna versión de TLS en común")


def test_a_truncated_conversation_is_an_error(certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)

    def cut(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.recv(100)
            wrapped.sendall(b"ENTERA\nA ME")
            wrapped.shutdown(socket.SHUT_RDWR)

    with foreign_server(cut) as port:
        client = [*CLIENT, "--puerto", str(port), "--tls", "--tls-ca", certificates.ca]
        for entry in ("", "hola\n"):
            done = run(client, entry)
            fails(done, 1, "Se perdió la conexión", "sin el aviso de cierre de TLS")
            assert "Servidor: ENTERA\n" in done.stdout.decode()
            assert "A ME" not in done.stdout.decode()


@pytest.mark.parametrize("program", [SERVER, CLIENT])
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--tls-clave", "k.pem"], "--tls-clave necesita --tls"),
        (["--tls-ca", "c.pem"], "--tls-ca necesita --tls"),
        (["--tls-cert", ""], "--tls-cert debe ser el nombre de un fichero"),
    ],
)
def test_options_that_do_not_fit(program: list[str], options: list[str], word: str) -> None:
    fails(run([*program, *options]), 2, word)


def test_a_unix_socket_has_no_name_to_check() -> None:
    fails(run([*CLIENT, "--host", "unix:s", "--tls"]), 2, "--tls no vale con un socket de Unix")


def test_the_client_needs_the_certificate_of_a_key() -> None:
    fails(run([*CLIENT, "--tls", "--tls-clave", "k.pem"]), 2, "--tls-clave necesita --tls-cert")


def test_files_that_are_no_good_are_sentences(certificates: Certificates, tmp_path: Path) -> None:
    cert, key = certificates.split()
    missing = str(tmp_path / "no-existe.pem")
    junk = certificates.write("basura-cli.pem", b"hola\n")
    for options, words in (
        (["--tls-cert", missing], ["No se puede leer", missing, "ese fichero no existe"]),
        (["--tls-cert", str(tmp_path)], ["No se puede leer", "es una carpeta"]),
        (["--tls-cert", junk, "--tls-clave", key], ["--tls-cert no sirve", "no es un certificado"]),
        (["--tls-cert", cert], ["no lleva una clave", "--tls-clave"]),
        (
            ["--tls-cert", cert, "--tls-clave", certificates.client],
            ["una clave que no es la del certificado", "--tls-clave"],
        ),
    ):
        fails(run([*SERVER, "--puerto", "0", *options]), 1, *words)
        fails(run([*CLIENT, "--tls", *options]), 1, *words)
    fails(run([*SERVER, "--tls-cert", cert, "--tls-clave", key, "--tls-ca", junk]), 1, "--tls-ca no sirve")


def test_a_key_with_a_password_never_asks_for_it(certificates: Certificates, tmp_path: Path) -> None:
    cert, key = certificates.split()
    locked = str(tmp_path / "cerrada.pem")
    assert run([need("openssl"), "pkey", "-in", key, "-aes128", "-passout", "pass:x", "-out", locked]).returncode == 0
    # En una terminal, que es donde OpenSSL la preguntaría.
    with Program([*SERVER, "--puerto", "0", "--tls-cert", cert, "--tls-clave", locked], terminal=True) as server:
        assert server.wait() == 1
        assert "contraseña" in server.output
        assert len(server.output.splitlines()) == 1


def test_a_renewed_certificate_is_told_in_a_line(certificates: Certificates, tmp_path: Path) -> None:
    path = tmp_path / "vivo.pem"
    shutil.copyfile(certificates.server, path)
    with running_server("--tls-cert", str(path)) as (server, port):
        path.write_bytes(Path(certificates.server).read_bytes()[:300])
        with encrypted(port, certificates.trusting()):
            server.wait_for("Se sigue con el certificado de antes. ")
        path.write_bytes(Path(certificates.server).read_bytes())
        # Se vuelve a mirar a los dos segundos: hasta entonces, quien llega entra con el de antes.
        while "leído otra vez" not in server.output:
            with encrypted(port, certificates.trusting()) as client:
                client.send(b"hola\n")
                assert client.receive(5) == b"HOLA\n"
        assert server.output.count("Se sigue con el certificado de antes. ") == 1
        assert server.errors == ""


def test_in_a_terminal_it_is_the_conversation_of_always(certificates: Certificates) -> None:
    with running_server("--tls-cert", certificates.server) as (_, port):
        command = [*CLIENT, "--puerto", str(port), "--tls", "--tls-ca", certificates.ca]
        with Program(command, terminal=True) as client:
            client.wait_for(PROMPT)
            client.type("hola\n")
            client.wait_for("Servidor: HOLA\r\n")
            client.type("\x04")
            assert client.wait() == 0
            assert client.output.endswith("Servidor: Conexión cerrada\r\n")


def test_every_problem_has_its_sentence() -> None:
    for problem in {*_BY_REASON.values(), "silent", "cut", "other"}:
        sentence = sentences.conversation_failed(TLSFailed("allí:5000", ssl.SSLError(1, "raro\x1b"), problem))
        assert "allí:5000" in sentence
        assert "{" not in sentence
        assert "\x1b" not in sentence
        assert sentence.endswith(".")
        assert sentences.handshake_failed(TLSFailed("allí:5000", ssl.SSLError(1, "raro"), problem))
    for problem in {*_BY_CODE.values(), "other"}:
        sentence = sentences.conversation_failed(CertificateRejected("allí:5000", ssl.SSLError(1, "raro"), problem))
        assert "allí:5000" in sentence
        assert sentence.endswith(".")
        assert sentences.handshake_failed(CertificateRejected("allí:5000", ssl.SSLError(1, "raro"), problem))


def test_a_cut_says_whether_tls_said_goodbye() -> None:
    assert "aviso de cierre de TLS" in sentences.conversation_failed(Truncated("allí:5000"))
    assert "aviso de cierre de TLS" not in sentences.conversation_failed(ConnectionLost("allí:5000"))
    assert "\x1b" not in sentences.bad_tls_file(BadTLSFile("cert", "\x1b[2J", "no_key"))
