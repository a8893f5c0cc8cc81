"""El servidor cifrando, con sockets de verdad: entrega y cierra como sin cifrar, y nada sin cifrar pasa."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import re
import shutil
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comunicacion_tcp import tls as tls_module
from comunicacion_tcp.client import Client
from comunicacion_tcp.errors import (
    CertificateRejected,
    ConnectionLost,
    TLSFailed,
    Truncated,
    UnknownHost,
)
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.services import Service
from comunicacion_tcp.tls import ServerTLS

from .support.certificates import Certificates
from .support.encrypted import Crafted, Encrypted, encrypted
from .support.examples import documented_conversations
from .support.model import EOF, HTTP
from .support.programs import Program, run
from .support.serving import Served, served
from .support.sockets import connect, foreign_server, receive, receive_all, reset
from .support.tools import need
from .support.waiting import PATIENCE, wait_until

BYE = "Conexión cerrada".encode()
BYE_ENTRY = "hola\nDESCONEXION\n"
ONLY_TLS = b"ERROR: este servidor solo habla TLS"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
PATIENT = Limits(reply_silence=PATIENCE, reply_timeout=PATIENCE)


@contextlib.contextmanager
def ciphered(certificates: Certificates, **options: object) -> Iterator[Served]:
    """``served()``, cifrando."""
    with served(tls=certificates.serving(), **options) as running:  # type: ignore[arg-type]
        yield running


# -- lo mismo que sin cifrar --------------------------------------------------------------------------------


def test_the_documented_conversations_are_the_same(certificates: Certificates) -> None:
    with ciphered(certificates, limits=Limits(goodbye_silence=0.5)) as running:
        for example in documented_conversations():
            with encrypted(running.port, certificates.trusting()) as client:
                for turn in example.turns:
                    for step in turn.sent:
                        if step == EOF:
                            client.close()
                        elif isinstance(step, bytes):
                            client.send(step)
                    assert client.receive(len(turn.received)) == turn.received, example
                if example.ends:
                    assert client.receive_all() == b"", example


@each_version
def test_pipelined_messages_before_close_notify_all_get_their_reply(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    with (
        ciphered(certificates) as running,
        encrypted(running.port, certificates.trusting(version=version)) as client,
    ):
        client.send(b"hola\n" * 5000 + b"sin terminador")
        client.close()  # y sin FIN: basta el aviso
        assert client.receive_all() == b"HOLA\n" * 5000 + b"SIN TERMINADOR"
        wait_until(lambda: running.events.names == ["accepted", "left"])


@pytest.mark.parametrize("attempt", range(6))
def test_goodbye_with_junk_behind_and_a_megabyte_of_replies_pending(certificates: Certificates, attempt: int) -> None:
    messages = b"x" * 99 + b"\n"
    with (
        ciphered(certificates) as running,
        encrypted(running.port, certificates.trusting(version=VERSIONS[attempt % 2])) as client,
    ):
        data = client.wire(messages * 10_000 + b"DESCONEXION\n" + b"basura\n" * 150_000)
        sender = threading.Thread(target=client.sock.sendall, args=(data,))
        sender.start()
        assert client.receive_all() == messages.upper() * 10_000 + BYE + b"\n"
        sender.join()
        assert running.events.names == ["accepted", "said_goodbye"]


@pytest.mark.parametrize("attempt", range(6))
def test_close_notify_with_junk_behind_and_a_megabyte_of_replies_pending(
    certificates: Certificates, attempt: int
) -> None:
    # Cerrar nada más responder, con la basura sin leer, mandaría RST.
    messages = b"x" * 99 + b"\n"
    with (
        ciphered(certificates) as running,
        encrypted(running.port, certificates.trusting(version=VERSIONS[attempt % 2])) as client,
    ):
        data = client.wire(messages * 10_000)
        client.session.close()
        data += client.session.take_outgoing() + b"basura" * 100_000
        sender = threading.Thread(target=client.sock.sendall, args=(data,))
        sender.start()
        assert client.receive_all() == messages.upper() * 10_000
        sender.join()
        assert running.events.names == ["accepted", "left"]


def test_a_client_that_says_its_end_but_does_not_hang_up_does_not_stay(certificates: Certificates) -> None:
    with (
        ciphered(certificates, limits=Limits(linger=0.2, linger_quiet=0.1)) as running,
        encrypted(running.port, certificates.trusting()) as client,
    ):
        client.close()
        assert client.receive_all() == b""
        wait_until(lambda: running.server.conversations == 0)


@each_version
def test_after_our_end_not_even_good_tls_is_read(certificates: Certificates, version: ssl.TLSVersion) -> None:
    with (
        ciphered(certificates) as running,
        encrypted(running.port, certificates.trusting(version=version)) as client,
    ):
        client.send(b"DESCONEXION\n")
        assert client.receive(len(BYE) + 1) == BYE + b"\n"
        client.sock.sendall(b"ni siquiera es TLS" * 1000)
        assert client.receive_all() == b""
        assert running.events.names == ["accepted", "said_goodbye"]


def test_a_client_that_reads_nothing_until_the_end_still_gets_everything(certificates: Certificates) -> None:
    message = "ΰ".encode() * 50_000 + b"\n"
    with ciphered(certificates) as running, encrypted(running.port, certificates.trusting()) as client:
        sender = threading.Thread(target=client.sock.sendall, args=(client.wire(message * 100),))
        sender.start()
        reply = message.decode().upper().encode()
        for _ in range(100):
            assert client.receive(len(reply)) == reply
        sender.join()


def test_pending_output_is_bounded_while_the_client_does_not_read(certificates: Certificates) -> None:
    with (
        ciphered(certificates, limits=Limits(drain=0.5)) as running,
        encrypted(running.port, certificates.trusting()) as client,
    ):
        # Cifrado todo de una vez: 32 MiB, más de lo que cabe en los búferes del sistema.
        fill_once(client.sock, client.wire((b"x" * 1023 + b"\n") * 32 * 1024))
        (connection,) = running.server._connections
        wait_until(connection._transport.get_write_buffer_size, "que se le deba algo")
        pending = connection._transport.get_write_buffer_size()
        assert pending <= 300 * 1024  # la respuesta de una lectura (asyncio, 64 KiB; uvloop, 256), cifrada
        assert running.drain() == 1
        assert running.events.names[-1] == "undelivered"


def fill_once(sock: socket.socket, data: bytes) -> None:
    """Envía de ``data`` lo que se pueda, sin leer."""
    rest = memoryview(data)
    sock.setblocking(False)
    quiet = 0
    while quiet < 20 and rest:
        try:
            rest = rest[sock.send(rest) :]
            quiet = 0
        except BlockingIOError:
            quiet += 1
            threading.Event().wait(0.01)
    assert rest, "cupo entero: no prueba nada"


def test_messages_one_byte_per_segment(certificates: Certificates) -> None:
    with ciphered(certificates) as running, encrypted(running.port, certificates.trusting()) as client:
        for byte in client.wire("señor\n".encode()):
            client.sock.sendall(bytes([byte]))
        assert client.receive(len("SEÑOR\n".encode())) == "SEÑOR\n".encode()


def test_thousands_of_records_at_once(certificates: Certificates) -> None:
    with ciphered(certificates) as running, encrypted(running.port, certificates.trusting()) as client:
        data = b"".join(client.wire(b"a\n") for _ in range(20_000))
        sender = threading.Thread(target=client.sock.sendall, args=(data,))
        sender.start()
        assert client.receive(40_000) == b"A\n" * 20_000
        sender.join()


def test_silence_is_the_end_of_a_bare_goodbye(certificates: Certificates) -> None:
    with ciphered(certificates) as running, encrypted(running.port, certificates.trusting()) as client:
        client.send(b"DESCONEXION")
        assert client.receive_all() == BYE


def test_draining_delivers_what_is_owed(certificates: Certificates) -> None:
    message = b"x" * 999 + b"\n"
    with (
        ciphered(certificates) as running,
        encrypted(running.port, certificates.trusting()) as idle,
        encrypted(running.port, certificates.trusting()) as busy,
    ):
        busy.send(message * 100)
        assert busy.receive(1000) == message.upper()
        stopper = threading.Thread(target=running.drain)
        stopper.start()
        rest = busy.receive_all()
        assert rest == message.upper() * (len(rest) // 1000)
        assert idle.receive_all() == b""
        stopper.join()
        assert "undelivered" not in running.events.names


def test_one_too_many_is_told_so_under_tls(certificates: Certificates) -> None:
    with (
        ciphered(certificates, limits=Limits(max_connections=1)) as running,
        encrypted(running.port, certificates.trusting()) as first,
    ):
        with encrypted(running.port, certificates.trusting()) as second:
            assert second.receive_all() == "ERROR: el servidor está completo; inténtalo más tarde\n".encode()
        first.send(b"sigo\n")
        assert first.receive(5) == b"SIGO\n"


# -- cortes ---------------------------------------------------------------------------------------------------


@each_version
@pytest.mark.parametrize("how", ["FIN", "RST", "RST sin leer"])
def test_a_cut_is_not_the_end_of_a_message(certificates: Certificates, version: ssl.TLSVersion, how: str) -> None:
    heard: list[str] = []

    def service(text: str) -> str:
        heard.append(text)
        return text

    with (
        served(service, tls=certificates.serving()) as running,
        encrypted(running.port, certificates.trusting(version=version)) as client,
    ):
        client.send(b"entero\n")
        if how != "RST sin leer":
            assert client.receive(7) == b"entero\n"
        client.send(b"paga 1000")  # ... y alguien quita « céntimos\n»
        if how == "FIN":
            client.sock.shutdown(socket.SHUT_WR)
        else:
            reset(client.sock)
        wait_until(lambda: running.events.names == ["accepted", "lost"])
        assert "paga 1000" not in heard
        if how == "FIN":
            assert isinstance(running.events.events[-1][2], Truncated)


def test_a_changed_byte_is_a_lost_connection(certificates: Certificates) -> None:
    with ciphered(certificates) as running, encrypted(running.port, certificates.trusting()) as client:
        bad = bytearray(client.wire(b"hola\n"))
        bad[-1] ^= 1
        client.sock.sendall(bad)
        with pytest.raises(AssertionError, match="close_notify"):
            client.receive_all()
        wait_until(lambda: running.events.names == ["accepted", "lost"])


@each_version
@pytest.mark.parametrize("how", ["close", "reset", "close_notify"])
def test_clients_that_leave_right_after_the_handshake(
    certificates: Certificates, version: ssl.TLSVersion, how: str
) -> None:
    with ciphered(certificates) as running:
        for _ in range(10):
            with connect(running.port) as sock:
                client = Encrypted(sock, certificates.trusting(version=version))
                client.shake()
                if how == "close_notify":
                    client.close()
                elif how == "reset":
                    reset(sock)
        wait_until(lambda: running.server.conversations == 0)
        assert set(running.events.names) <= {"accepted", "lost", "left", "handshake_failed"}


# -- el saludo ------------------------------------------------------------------------------------------------


def test_plain_text_is_answered_in_plain_and_never_served(certificates: Certificates) -> None:
    heard: list[str] = []
    with served(lambda text: heard.append(text) or text, tls=certificates.serving()) as running:  # type: ignore[func-returns-value]
        for data in (b"hola\n", b"hola\n" * 100_000, b"\x00", b"GET / HTTP/1.0\r\n\r\n"):
            with connect(running.port) as sock:
                sender = threading.Thread(target=send_quietly, args=(sock, data))
                sender.start()
                reply = receive_all(sock)
                sender.join()
                assert reply.startswith(ONLY_TLS)
                assert reply.count(b"\n") == 1
        assert not heard
        assert running.events.names == ["handshake_failed"] * 4
        assert {fact for _, _, fact in running.events.events} == {"not_tls"}


def test_who_begins_as_http_is_told_so_inside_tls(certificates: Certificates) -> None:
    heard: list[str] = []
    with (
        served(lambda text: heard.append(text) or text, tls=certificates.serving()) as running,  # type: ignore[func-returns-value]
        encrypted(running.port, certificates.trusting()) as client,
    ):
        client.send(b"POST / HTTP/1.1\r\n\r\nhola\n")
        assert client.receive_all() == HTTP + b"\r\n"
    assert not heard


def send_quietly(sock: socket.socket, data: bytes) -> None:
    """Envía ``data``, o lo que deje quien cierra antes."""
    with contextlib.suppress(OSError):
        sock.sendall(data)


def test_a_hello_that_is_garbage_is_refused(certificates: Certificates) -> None:
    noise = random.Random(7)  # siempre la misma basura
    with ciphered(certificates) as running:
        for attempt in range(50):
            with connect(running.port) as sock:
                sock.sendall(b"\x16\x03\x01\x02\x00\x01" + noise.randbytes(600))
                # Una alerta fatal, y nada más (RFC 8446, 6): tipo, versión, dos bytes de largo, y dos que dicen cuál.
                assert re.fullmatch(rb"\x15\x03[\x01-\x03]\x00\x02\x02.", receive_all(sock), re.DOTALL), attempt
        wait_until(lambda: len(running.events.names) == 50)
        assert {(name, fact) for name, _, fact in running.events.events} == {("handshake_failed", "other")}
        with encrypted(running.port, certificates.trusting()) as client:
            client.send(b"hola\n")
            assert client.receive(5) == b"HOLA\n"


def test_cut_handshakes_are_forgotten(certificates: Certificates) -> None:
    # El saludo de un cliente, cortado por cada sitio.
    hello = tls_module.TLSSession(certificates.trusting(), "localhost").take_outgoing()
    with ciphered(certificates) as running:
        cuts = [*range(0, len(hello), 37), len(hello)]
        for cut in cuts:
            with connect(running.port) as sock:
                sock.sendall(hello[:cut])
        wait_until(lambda: len(running.events.names) == len(cuts) and running.server.conversations == 0)
        assert set(running.events.names) == {"handshake_failed"}


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
def test_a_silent_client_does_not_stay(certificates: Certificates, said: bytes) -> None:
    with ciphered(certificates, limits=Limits(handshake_timeout=0.2)) as running, connect(running.port) as sock:
        sock.sendall(said)
        assert receive_all(sock) == b""
        wait_until(lambda: running.server.conversations == 0)
        assert running.events.events[-1][2] == "silent"


def test_a_client_that_goes_on_talking_after_its_refusal_does_not_stay(certificates: Certificates) -> None:
    with ciphered(certificates, limits=Limits(linger=0.2)) as running, connect(running.port) as sock:
        sock.sendall(b"hola\n")
        assert receive_all(sock).startswith(ONLY_TLS)
        wait_until(lambda: running.server.conversations == 0)


def test_unfinished_handshakes_take_their_place_and_stopping_does_not_wait_for_them(certificates: Certificates) -> None:
    with (
        ciphered(certificates, limits=Limits(max_connections=1)) as running,
        connect(running.port) as waiting,
    ):
        wait_until(lambda: running.server.conversations == 1)
        with encrypted(running.port, certificates.trusting()) as second:
            assert second.receive_all().startswith("ERROR: el servidor está completo".encode())
        wait_until(lambda: len(running.server._connections) == 1)
        assert running.drain() == 0
        with contextlib.suppress(ConnectionResetError):
            assert receive_all(waiting) == b""
        assert running.server.conversations == 0


def test_a_certificate_that_changes_is_used_without_a_restart(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_module, "LOOK_EVERY", 0.0)
    path = str(tmp_path / "vivo.pem")
    shutil.copyfile(certificates.wrong_name, path)
    with served(tls=ServerTLS(path)) as running:
        with pytest.raises(ConnectionError), encrypted(running.port, certificates.trusting()):
            pass
        Path(path).write_bytes(b"a medias")
        with pytest.raises(ConnectionError), encrypted(running.port, certificates.trusting()):
            pass
        shutil.copyfile(certificates.server, f"{path}.nuevo")
        os.replace(f"{path}.nuevo", path)
        with encrypted(running.port, certificates.trusting()) as client:
            client.send(b"hola\n")
            assert client.receive(5) == b"HOLA\n"
        told = [(name, fact) for name, _, fact in running.events.events if name.startswith("certificate")]
        assert told == [("certificate_unusable", "no_certificate"), ("certificate_reread", None)]


def test_the_end_waits_for_what_is_owed_before_it(certificates: Certificates) -> None:
    # Los textos y el aviso de cierre en la misma lectura: los turnos y el tope de lo pendiente valen también así.
    limits = Limits(messages_per_turn=50, high_water=10_000, message_timeout=PATIENCE)
    sizes: list[int] = []

    def service(message: str) -> str:
        (connection,) = running.server._connections
        sizes.append(connection._transport.get_write_buffer_size())
        return message * 1000

    with (
        served(service, tls=ServerTLS(certificates.server), limits=limits) as running,
        encrypted(running.port, certificates.trusting()) as client,
    ):
        client.session.send(b"ab\n" * 4000)
        client.session.close()
        client.flush()
        assert client.receive_all() == (b"ab" * 1000 + b"\n") * 4000
    assert max(sizes) < 300_000  # 8 MB en total; uvloop escribe al acabar la vuelta


def test_a_closed_conversation_is_freed_at_once(certificates: Certificates) -> None:
    # Sin esperar al recolector, que no sabe lo que ocupa OpenSSL.
    with ciphered(certificates) as running:
        gc.disable()
        try:
            with encrypted(running.port, certificates.trusting()) as client:
                client.send(b"hola\n")
                assert client.receive(5) == b"HOLA\n"
                (connection,) = running.server._connections
                seen = weakref.ref(connection._transport._session._tls)  # type: ignore[attr-defined]
                del connection
            wait_until(lambda: seen() is None, "que se suelte la sesión")
        finally:
            gc.enable()


# -- nuestro cliente ------------------------------------------------------------------------------------------


def talk(port: int, context: ssl.SSLContext, host: str = "localhost", limits: Limits = PATIENT) -> Client:
    """Un cliente sin conectar aún."""
    return Client(host, port, limits=limits, tls=context)


@each_version
def test_our_client_converses(certificates: Certificates, version: ssl.TLSVersion) -> None:
    message = "ΰ" * (512 * 1024)
    with ciphered(certificates) as running:
        with talk(running.port, certificates.trusting(version=version)) as client:
            assert client.send("hola señor") == "HOLA SEÑOR"
            assert client.send(message) == message.upper()
            assert client.take_unasked() == []
            assert client.say_goodbye() == ["Conexión cerrada"]
        wait_until(lambda: running.events.names == ["accepted", "said_goodbye"])
        with talk(running.port, certificates.trusting(version=version), "127.0.0.1") as client:
            assert client.send("") == ""
        wait_until(lambda: running.events.names[-1] == "left")  # cerrar es avisar, no cortar


@pytest.mark.parametrize(
    ("file", "problem"),
    [("expired", "expired"), ("early", "not_yet_valid"), ("wrong_name", "wrong_name"), ("foreign", "unknown_ca")],
)
def test_our_client_does_not_trust_anyone(certificates: Certificates, file: str, problem: str) -> None:
    with served(tls=ServerTLS(getattr(certificates, file))) as running:
        with pytest.raises(CertificateRejected) as caught:
            talk(running.port, certificates.trusting()).connect()
        assert caught.value.problem == problem
        wait_until(lambda: [fact for _, _, fact in running.events.events] == ["ours_rejected"])  # se le dijo


@each_version
@pytest.mark.parametrize("bye", [False, True])
def test_our_client_without_the_certificate_it_is_asked_for(
    certificates: Certificates, version: ssl.TLSVersion, bye: bool
) -> None:
    with served(tls=certificates.serving(ca=certificates.ca)) as running:
        for cert, problems in (
            (None, {"needs_certificate", "nothing_shared"}),
            (certificates.foreign, {"ours_rejected"}),
        ):
            for _ in range(5):  # en TLS 1.3 la negativa llega después del saludo: nunca debe perderse por un RST
                with (
                    pytest.raises(TLSFailed) as caught,
                    talk(running.port, certificates.trusting(cert, version)) as client,
                ):
                    client.say_goodbye() if bye else client.send("hola")
                assert caught.value.problem in problems
        with talk(running.port, certificates.trusting(certificates.client, version)) as client:
            assert client.send("hola") == "HOLA"
        assert running.events.names.count("accepted") == 1


def answering(context: ssl.SSLContext, how: str) -> object:
    """Un servidor ajeno, con el ``ssl`` de siempre, que responde a medias y acaba como diga ``how``."""

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.recv(100)
            wrapped.sendall(b"ENTERA\nA ME")
            if how == "cortar":
                wrapped.shutdown(socket.SHUT_RDWR)  # un FIN sin aviso
            elif how == "avisar":
                with contextlib.suppress(OSError):
                    wrapped.unwrap()

    return serve


@each_version
def test_our_client_sees_a_truncated_conversation(certificates: Certificates, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    context.maximum_version = version
    with foreign_server(answering(context, "cortar")) as port:  # type: ignore[arg-type]
        with talk(port, certificates.trusting()) as client:
            assert client.send("hola") == "ENTERA"
            with pytest.raises(Truncated):
                client.send("otra")
            assert client.take_unasked() == []  # «A ME» no es una respuesta
        with talk(port, certificates.trusting()) as client:
            with pytest.raises(ConnectionLost):
                client.say_goodbye()
            assert client.take_unasked() == ["ENTERA"]
    with foreign_server(answering(context, "avisar")) as port, talk(port, certificates.trusting()) as client:  # type: ignore[arg-type]
        assert client.say_goodbye() == ["ENTERA", "A ME"]


def test_our_client_with_a_server_that_does_not_speak_tls(certificates: Certificates) -> None:
    quick = Limits(handshake_timeout=0.3)

    def talker(sock: socket.socket) -> None:
        sock.sendall(b"220 hola\r\n")
        sock.recv(1000)

    def hanger(sock: socket.socket) -> None:
        sock.recv(1000)

    def listener(sock: socket.socket) -> None:
        receive_all(sock)

    def dripper(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.sendall(b"\x16\x03\x03\x40\x00")
            while True:
                sock.sendall(b"\x02")
                threading.Event().wait(0.005)

    # Nuestro servidor, sin cifrar. No el de las mayúsculas: de cada cien saludos de OpenSSL 3.6 devuelve uno tan
    # parecido a un registro de TLS que el cliente espera el resto.
    with served(Service(lambda _: "hola", by_character=True)) as running:
        with pytest.raises(TLSFailed) as caught:
            talk(running.port, certificates.trusting()).connect()
        assert caught.value.problem == "not_tls"
    for serve, problem in ((talker, "not_tls"), (hanger, "cut"), (listener, "silent"), (dripper, "silent")):
        with foreign_server(serve) as port:
            with pytest.raises(TLSFailed) as caught:
                talk(port, certificates.trusting(), limits=quick if problem == "silent" else PATIENT).connect()
            assert caught.value.problem == problem


def test_our_client_and_the_ways_to_write_a_name(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    with ciphered(certificates) as running:
        place = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", running.port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [place])  # los conoce todos
        with talk(running.port, certificates.trusting(), "localhost.") as client:
            assert client.send("hola") == "HOLA"
        with pytest.raises(UnknownHost):  # ninguno puede llamarse así
            talk(running.port, certificates.trusting(), ".").connect()


# -- programas ajenos -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def s_client(port: int, certificates: Certificates, *options: str) -> Iterator[Program]:
    """``openssl s_client``, conectado."""
    command = [need("openssl"), "s_client", "-connect", f"localhost:{port}", "-CAfile", certificates.ca]
    with Program([*command, "-verify_return_error", "-verify_hostname", "localhost", *options]) as program:
        yield program


@pytest.mark.parametrize("options", [["-tls1_2"], ["-tls1_3"]], ids=str)
def test_openssl_converses(certificates: Certificates, options: list[str]) -> None:
    with ciphered(certificates) as running, s_client(running.port, certificates, "-quiet", *options) as program:
        program.type("hola señor\n")
        program.wait_for("HOLA SEÑOR\n")
        program.type("DESCONEXION\n")
        program.wait_for("Conexión cerrada\n")
        assert program.wait() == 0
        wait_until(lambda: running.events.names == ["accepted", "said_goodbye"])


def test_ncat_and_socat_converse(certificates: Certificates) -> None:
    with ciphered(certificates) as running:
        done = run(
            [need("ncat"), "--ssl-verify", "--ssl-trustfile", certificates.ca, "localhost", str(running.port)],
            BYE_ENTRY,
        )
        assert done.stdout == b"HOLA\n" + BYE + b"\n"
        place = f"OPENSSL:localhost:{running.port},cafile={certificates.ca}"
        # Sin despedida: socat cierra su lado con close_notify, y el último mensaje acaba ahí.
        assert run([need("socat"), "-t", "10", "-", place], "hola\nsin terminador").stdout == b"HOLA\nSIN TERMINADOR"
        wait_until(lambda: running.events.names == ["accepted", "said_goodbye", "accepted", "left"])


def test_openssl_changes_its_keys(certificates: Certificates) -> None:
    with ciphered(certificates) as running, s_client(running.port, certificates, "-tls1_3") as program:
        for number in range(20):
            program.type(f"hola {number}\n")
            program.wait_for(f"HOLA {number}\n")
            program.type("K\n")  # cambia sus claves y pide que cambiemos las nuestras
            wait_until(lambda: program.errors.count("KEYUPDATE\n") == number + 1)  # noqa: B023  # en esta vuelta
        program.type("Q\n")
        program.wait()
        wait_until(lambda: running.server.conversations == 0)
        assert running.events.names == ["accepted", "left"]


def test_records_that_only_an_attacker_sends(certificates: Certificates, tmp_path: Path) -> None:
    with ciphered(certificates) as running:

        def attack(make: Callable[[Crafted], bytes], times: int) -> bytes:
            context = certificates.trusting(version=ssl.TLSVersion.TLSv1_3)
            context.keylog_filename = str(tmp_path / f"{make.__name__}-{times}")
            with encrypted(running.port, context) as client:
                crafted = Crafted(Path(context.keylog_filename).read_text())
                sent = b"".join(make(crafted) for _ in range(times)) + crafted.record(b"hola\n")
                send_quietly(client.sock, sent)
                with contextlib.suppress(ConnectionResetError):
                    return client.receive(5)
                return b""

        def empty(crafted: Crafted) -> bytes:
            return crafted.record(b"")

        def new_keys(crafted: Crafted) -> bytes:
            return crafted.key_update()

        assert attack(empty, 5) == b"HOLA\n"
        assert attack(empty, 3000) == b""  # OpenSSL se cansa
        assert attack(new_keys, 3000) == b"HOLA\n"
        wait_until(lambda: running.events.names.count("lost") == 3)


def test_key_updates_that_nobody_reads_are_bounded(certificates: Certificates, tmp_path: Path) -> None:
    context = certificates.trusting(version=ssl.TLSVersion.TLSv1_3)
    context.keylog_filename = str(tmp_path / "claves")
    with ciphered(certificates, limits=Limits(drain=0.5)) as running, encrypted(running.port, context) as client:
        crafted = Crafted(Path(context.keylog_filename).read_text())
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # cada respuesta son 27 bytes
        (connection,) = running.server._connections
        connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sender = threading.Thread(
            target=send_quietly, args=(client.sock, b"".join(crafted.key_update() for _ in range(50_000)))
        )
        sender.start()
        wait_until(lambda: not connection._transport.is_reading(), "que deje de leerle")
        assert connection._transport.get_write_buffer_size() <= 300 * 1024
        running.drain()
        sender.join()


def test_openssl_is_not_let_in(certificates: Certificates) -> None:
    with served(tls=certificates.serving(ca=certificates.ca)) as running:
        for option in ("-tls1_1", "-tls1_2", "-tls1_3"):
            with s_client(running.port, certificates, "-quiet", option, "-cipher", "ALL:@SECLEVEL=0") as program:
                assert program.wait() != 0
        wait_until(lambda: len(running.events.names) == 3)
        assert [fact for _, _, fact in running.events.events] == ["versions", "needs_certificate", "needs_certificate"]


def test_renegotiation_is_refused(certificates: Certificates) -> None:
    with ciphered(certificates) as running, s_client(running.port, certificates, "-tls1_2") as program:
        program.type("hola\n")
        program.wait_for("HOLA\n")
        program.type("R\n")
        assert program.wait() != 0
        wait_until(lambda: running.server.conversations == 0)


def test_the_ssl_of_python_converses(certificates: Certificates) -> None:
    with ciphered(certificates) as running, connect(running.port) as sock:
        context = ssl.create_default_context(cafile=certificates.ca)
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        with context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as wrapped:
            wrapped.sendall(b"hola\nDESCONEXION\n")
            assert receive(wrapped, 23) == "HOLA\nConexión cerrada\n".encode()
            assert wrapped.recv(10) == b""  # con su aviso: sin él sería un error


def test_nothing_is_sent_that_fills_the_other_side(certificates: Certificates) -> None:
    # Quien manda y no lee tampoco se queda con el bucle: los demás siguen conversando.
    with (
        ciphered(certificates, limits=Limits(drain=0.5)) as running,
        encrypted(running.port, certificates.trusting()) as greedy,
        encrypted(running.port, certificates.trusting()) as other,
    ):
        fill_once(greedy.sock, greedy.wire(b"x" * 1023 * 1024 * 32))
        other.send(b"sigo\n")
        assert other.receive(5) == b"SIGO\n"
