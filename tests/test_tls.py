"""``tls.py``, sin red: dos sesiones que se pasan bytes, cortados por donde sea, y los ficheros que se leen otra vez."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
from datetime import datetime, timezone
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from comunicacion_tcp import tls as tls_module
from comunicacion_tcp.cli.sentences import bad_tls_file
from comunicacion_tcp.errors import BadTLSFile, CertificateRejected
from comunicacion_tcp.tls import LOOK_EVERY, NotTLS, ServerTLS, TLSSession, client_context, not_after, tls_error

from .support.certificates import Certificates
from .support.programs import run
from .support.tools import need

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


class Pair:
    """Un cliente y un servidor sin red entre ellos. ``size``: de cuántos en cuántos bytes se pasan las cosas."""

    def __init__(
        self,
        certificates: Certificates,
        version: ssl.TLSVersion | None = None,
        *,
        size: int = 1 << 20,
        client: ssl.SSLContext | None = None,
        server: ServerTLS | None = None,
        name: str = "localhost",
    ) -> None:
        self.client = TLSSession(client or certificates.trusting(version=version), name)
        self.server = (server or certificates.serving()).session()
        self.size = size
        self.heard = {self.client: b"", self.server: b""}
        self.carry()

    def carry(self) -> None:
        """Lleva lo que haya en los dos sentidos hasta que callan."""
        moved = True
        while moved:
            moved = False
            for one, other in ((self.client, self.server), (self.server, self.client)):
                data = one.take_outgoing()
                for start in range(0, len(data), self.size):
                    self.heard[other] += other.receive(data[start : start + self.size])
                moved = moved or bool(data)


@each_version
@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
def test_a_conversation_cut_anywhere(certificates: Certificates, version: ssl.TLSVersion, size: int) -> None:
    pair = Pair(certificates, version, size=size)
    assert pair.client.established
    assert pair.server.established
    pair.client.send("hola señor\n".encode())
    pair.server.send(b"x" * 40_000)  # tres registros
    pair.carry()
    assert pair.heard == {pair.server: "hola señor\n".encode(), pair.client: b"x" * 40_000}
    pair.client.close()
    pair.carry()
    assert (pair.server.peer_closed, pair.client.peer_closed) == (True, False)
    pair.server.send(b"lo que faltaba")  # el otro lado sigue abierto (en TLS 1.2 también)
    pair.server.close()
    pair.carry()
    assert pair.heard[pair.client].endswith(b"lo que faltaba")
    assert pair.client.peer_closed
    assert not pair.client.failure
    assert not pair.server.failure


@each_version
def test_every_cut_of_a_stream(certificates: Certificates, version: ssl.TLSVersion) -> None:
    cut = 0
    while True:
        pair = Pair(certificates, version)
        for text in (b"uno\n", b"dos\n"):
            pair.client.send(text)
        pair.client.close()
        stream = pair.client.take_outgoing()
        if cut > len(stream):
            break
        first = pair.server.receive(stream[:cut])
        closed = pair.server.peer_closed
        rest = pair.server.receive(stream[cut:])
        assert (first + rest, pair.server.peer_closed, pair.server.failure) == (b"uno\ndos\n", True, None)
        assert first in (b"", b"uno\n", b"uno\ndos\n")
        assert closed == (cut == len(stream))  # sin el close_notify entero, no hay final
        cut += 1
    assert cut > 60


@each_version
def test_many_records_in_one_read_are_one_text(certificates: Certificates, version: ssl.TLSVersion) -> None:
    pair = Pair(certificates, version)
    for _ in range(3000):
        pair.client.send(b"a\n")
    assert pair.server.receive(pair.client.take_outgoing()) == b"a\n" * 3000


class Gauge:
    """Un ``ssl.MemoryBIO``, y lo más que ha tenido dentro cuando alguien lo mira, escribe en él o lo vacía."""

    def __init__(self, bio: ssl.MemoryBIO) -> None:
        self._bio = bio
        self.most = 0

    @property
    def pending(self) -> int:
        self.most = max(self.most, self._bio.pending)
        return self._bio.pending

    def write(self, data: bytes) -> int:
        count = self._bio.write(data)
        self.most = max(self.most, self._bio.pending)
        return count

    def read(self) -> bytes:
        self.most = max(self.most, self._bio.pending)
        return self._bio.read()


@each_version
@pytest.mark.parametrize("size", [999, 16 * 1024, 64 * 1024, 256 * 1024, 1 << 23])
def test_no_message_makes_a_conversation_keep_its_size(
    certificates: Certificates, version: ssl.TLSVersion, size: int
) -> None:
    # Un MemoryBIO nunca encoge: lo que una vez tuvo dentro lo ocupa mientras dure la conversación.
    pair = Pair(certificates, version, size=size)
    gauges = []
    for session in (pair.client, pair.server):
        for name in ("_incoming", "_outgoing"):
            gauges.append(Gauge(getattr(session, name)))
            setattr(session, name, gauges[-1])
    text = os.urandom(3 << 20)
    for one, other in ((pair.client, pair.server), (pair.server, pair.client)):
        one.send(text)
        pair.carry()
        assert pair.heard[other] == text
    assert max(gauge.most for gauge in gauges) <= 36 * 1024  # dos registros, y lo que los envuelve


@each_version
def test_a_changed_byte_ends_it_but_not_what_came_before(certificates: Certificates, version: ssl.TLSVersion) -> None:
    pair = Pair(certificates, version)
    pair.client.send(b"uno\n")
    good = pair.client.take_outgoing()
    pair.client.send(b"dos\n")
    bad = bytearray(pair.client.take_outgoing())
    bad[-1] ^= 1
    assert pair.server.receive(good + bad) == b"uno\n"
    assert pair.server.failure
    assert pair.server.receive(good) == b""
    assert pair.server.take_outgoing()  # se le dice por qué


def test_nothing_after_the_end_is_read(certificates: Certificates) -> None:
    pair = Pair(certificates)
    pair.client.send(b"uno\n")
    pair.client.close()
    pair.client.close()
    stream = pair.client.take_outgoing()
    assert pair.server.receive(stream + b"basura") == b"uno\n"
    assert pair.server.receive(b"basura") == b""
    assert pair.server.peer_closed
    assert not pair.server.failure


@pytest.mark.parametrize("data", [b"hola\n", b"\x80\x2e\x01\x03\x01", b"\x15\x03\x01\x00\x02\x02\x28"])
def test_what_is_not_tls_is_known_by_its_first_byte(certificates: Certificates, data: bytes) -> None:
    session = certificates.serving().session()
    assert session.receive(data) == b""
    assert isinstance(session.failure, NotTLS)
    assert session.take_outgoing() == b""


def test_a_hello_that_is_garbage(certificates: Certificates) -> None:
    session = certificates.serving().session()
    assert session.receive(b"\x16\x03\x01\x00\x05hola\n" * 10) == b""
    assert session.failure
    session.close()  # no hay nada que cerrar, y no es un error
    assert session.take_outgoing()


def test_a_text_cannot_be_sent_after_the_end(certificates: Certificates) -> None:
    pair = Pair(certificates)
    pair.client.close()
    pair.client.send(b"tarde")
    assert pair.client.failure


# -- quién es quién -----------------------------------------------------------------------------------------


def problem(pair: Pair) -> str:
    """Por qué no se fió el cliente."""
    error = tls_error("localhost:5000", pair.client.failure)
    assert isinstance(error, CertificateRejected)
    assert error.cause is pair.client.failure
    return error.problem


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("expired", "expired"),
        ("early", "not_yet_valid"),
        ("wrong_name", "wrong_name"),
        ("foreign", "unknown_ca"),
    ],
)
def test_certificates_that_are_not_trusted(certificates: Certificates, file: str, expected: str) -> None:
    pair = Pair(certificates, server=ServerTLS(getattr(certificates, file)))
    assert problem(pair) == expected
    assert not pair.client.established
    # Al servidor se le dice: en los dos lados se sabe qué pasó.
    assert pair.server.failure
    assert tls_error("x:1", pair.server.failure).problem == "ours_rejected"


@pytest.mark.parametrize("name", ["127.0.0.1", "::1"])
def test_addresses_are_checked_too(certificates: Certificates, name: str) -> None:
    assert Pair(certificates, name=name).client.established
    other = certificates.issue("solo-nombre.pem", "localhost")
    assert problem(Pair(certificates, name=name, server=ServerTLS(other))) == "wrong_name"


def test_by_default_only_the_authorities_of_the_system(certificates: Certificates) -> None:
    assert problem(Pair(certificates, client=client_context())) in ("unknown_ca", "self_signed")


@each_version
def test_a_server_that_asks_for_a_certificate(certificates: Certificates, version: ssl.TLSVersion) -> None:
    asking = certificates.serving(ca=certificates.ca)
    trusted = Pair(certificates, server=asking, client=certificates.trusting(certificates.client, version))
    trusted.client.send(b"hola")
    trusted.carry()
    assert trusted.heard[trusted.server] == b"hola"

    none = Pair(certificates, server=asking, client=certificates.trusting(version=version))
    assert tls_error("x:1", none.server.failure).problem == "needs_certificate"
    told = "needs_certificate" if version == ssl.TLSVersion.TLSv1_3 else "nothing_shared"
    assert tls_error("x:1", none.client.failure).problem == told

    wrong = Pair(certificates, server=asking, client=certificates.trusting(certificates.foreign, version))
    assert tls_error("x:1", wrong.server.failure).problem == "unknown_ca"
    assert tls_error("x:1", wrong.client.failure).problem == "ours_rejected"


def test_only_tls_from_1_2_on(certificates: Certificates) -> None:
    old = certificates.trusting()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    pair = Pair(certificates, client=old)
    assert tls_error("x:1", pair.server.failure).problem == "versions"
    assert tls_error("x:1", pair.client.failure).problem == "versions"


@pytest.mark.parametrize("name", ["", ".", "a" * 70 + ".ejemplo"])
def test_names_that_cannot_be(certificates: Certificates, name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # cada versión de Python lo dice de una manera
        TLSSession(certificates.trusting(), name)


# -- los ficheros -------------------------------------------------------------------------------------------


def test_the_key_may_be_apart(certificates: Certificates) -> None:
    assert Pair(certificates, server=ServerTLS(*certificates.split())).client.established


@pytest.fixture
def locked(certificates: Certificates, tmp_path: Path) -> str:
    """Una clave con contraseña."""
    _, key = certificates.split()
    path = str(tmp_path / "cerrada.pem")
    assert run([need("openssl"), "pkey", "-in", key, "-aes128", "-passout", "pass:hola", "-out", path]).returncode == 0
    return path


def test_files_that_are_no_good(certificates: Certificates, tmp_path: Path, locked: str) -> None:
    cert, key = certificates.split()
    _, other_key = certificates.split("cliente.pem")
    rsa = trustme_rsa_key(certificates)
    junk = certificates.write("basura.pem", b"hola\n")
    half = certificates.write("a-medias.pem", Path(cert).read_bytes()[:300])
    half_key = certificates.write("clave-a-medias.pem", Path(key).read_bytes()[:60])
    missing = str(tmp_path / "no-existe")
    cases: list[tuple[tuple[str, str | None, str | None], tuple[str, str, str]]] = [
        ((missing, key, None), ("cert", missing, "unreadable")),
        ((cert, missing, None), ("key", missing, "unreadable")),
        ((cert, key, missing), ("ca", missing, "unreadable")),
        ((str(tmp_path), key, None), ("cert", str(tmp_path), "unreadable")),
        (("\0", key, None), ("cert", str(Path.cwd() / "\0"), "unreadable")),
        ((junk, key, None), ("cert", junk, "no_certificate")),
        ((half, key, None), ("cert", half, "no_certificate")),
        ((cert, key, junk), ("ca", junk, "no_certificate")),
        ((cert, None, None), ("cert", cert, "no_key")),
        ((cert, junk, None), ("key", junk, "no_key")),
        ((cert, half_key, None), ("key", half_key, "no_key")),
        ((cert, other_key, None), ("key", other_key, "mismatch")),
        ((cert, rsa, None), ("key", rsa, "mismatch")),
        ((cert, locked, None), ("key", locked, "locked")),
    ]
    for files, expected in cases:
        with pytest.raises(BadTLSFile) as caught:
            ServerTLS(*files)
        error = caught.value
        assert (error.role, error.path, error.problem) == expected
        sentence = bad_tls_file(error)
        assert sentence.endswith(".")
        assert {"cert": "--tls-cert", "key": "--tls-clave", "ca": "--tls-ca"}[error.role] in sentence
        assert len(sentence.splitlines()) == 1
    with pytest.raises(BadTLSFile):
        client_context(missing)
    with pytest.raises(BadTLSFile):
        client_context(cert=cert, key=other_key)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="hacen falta tuberías con nombre")
def test_a_pipe_is_no_file_to_wait_for(certificates: Certificates, tmp_path: Path) -> None:
    cert, key = certificates.split()
    pipe = str(tmp_path / "tubo")
    os.mkfifo(pipe)
    for files, role in (((pipe, key), "cert"), ((cert, pipe), "key"), ((cert, key, pipe), "ca")):
        with pytest.raises(BadTLSFile) as caught:
            ServerTLS(*files)
        assert (caught.value.role, caught.value.problem) == (role, "unreadable")
        assert "es una tubería, y hace falta un fichero" in bad_tls_file(caught.value)
    with pytest.raises(BadTLSFile):
        client_context(pipe)


def trustme_rsa_key(certificates: Certificates) -> str:
    """Una clave que ni siquiera es del mismo tipo."""
    issued = certificates.authority.issue_cert("rsa.ejemplo", key_type=trustme.KeyType.RSA)
    return certificates.write("rsa.pem", issued.private_key_pem.bytes())


def name_served(tls: ServerTLS, certificates: Certificates) -> str:
    """Para qué nombre es el certificado que se usa ahora."""
    for name in ("localhost", "otra.ejemplo", "cliente.ejemplo"):
        if Pair(certificates, server=tls, name=name).client.established:
            return name
    raise AssertionError("para ninguno")


def test_a_changed_certificate_is_read_again(certificates: Certificates, tmp_path: Path) -> None:
    path = str(tmp_path / "vivo.pem")
    shutil.copyfile(certificates.server, path)
    tls = ServerTLS(path)
    assert not tls.reread(100)
    replace(certificates.wrong_name, path)
    assert not tls.reread(100 + LOOK_EVERY / 2)  # aún no toca mirar
    assert name_served(tls, certificates) == "localhost"
    assert tls.reread(100 + LOOK_EVERY)
    assert name_served(tls, certificates) == "otra.ejemplo"
    assert not tls.reread(100 + 2 * LOOK_EVERY)


def replace(source: str, path: str) -> None:
    """Como lo hace quien sabe: el fichero nuevo ocupa de una vez el lugar del viejo."""
    shutil.copyfile(source, f"{path}.nuevo")
    os.replace(f"{path}.nuevo", path)


def test_a_certificate_half_written_is_told_once_and_the_old_one_goes_on(
    certificates: Certificates, tmp_path: Path
) -> None:
    path = tmp_path / "vivo.pem"
    shutil.copyfile(certificates.server, path)
    tls = ServerTLS(str(path))
    path.write_bytes(Path(certificates.wrong_name).read_bytes()[:400])
    with pytest.raises(BadTLSFile):
        tls.reread(100)
    assert not tls.reread(110)
    assert name_served(tls, certificates) == "localhost"
    path.unlink()
    with pytest.raises(BadTLSFile) as caught:  # otra cosa: se dice
        tls.reread(120)
    assert caught.value.problem == "unreadable"
    assert not tls.reread(130)
    shutil.copyfile(certificates.wrong_name, path)
    assert tls.reread(140)
    assert name_served(tls, certificates) == "otra.ejemplo"


def test_the_old_certificate_put_back_is_read_too(certificates: Certificates, tmp_path: Path) -> None:
    # Es el mismo fichero, con su hora y su número: pero quien contó que lo nuevo no valía debe saber que ya pasó.
    path, aside = str(tmp_path / "vivo.pem"), str(tmp_path / "aparte.pem")
    shutil.copyfile(certificates.server, path)
    tls = ServerTLS(path)
    os.rename(path, aside)
    with pytest.raises(BadTLSFile):
        tls.reread(100)
    os.rename(aside, path)
    assert tls.reread(110)
    assert not tls.reread(120)
    assert name_served(tls, certificates) == "localhost"


def test_a_key_of_another_certificate_waits_for_its_own(certificates: Certificates, tmp_path: Path) -> None:
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "clave.pem")
    for source, place in zip(certificates.split(), (cert, key), strict=True):
        shutil.copyfile(source, place)
    tls = ServerTLS(cert, key)
    new_cert, new_key = certificates.split("otro-nombre.pem")
    replace(new_cert, cert)
    with pytest.raises(BadTLSFile) as caught:
        tls.reread(100)
    assert caught.value.problem == "mismatch"
    assert name_served(tls, certificates) == "localhost"
    replace(new_key, key)
    assert tls.reread(110)
    assert name_served(tls, certificates) == "otra.ejemplo"


def test_a_pipe_is_read_only_once(certificates: Certificates, tmp_path: Path) -> None:
    # Como `--tls-cert <(orden)`: volver a leerla dejaría esperando al servidor entero.
    path = str(tmp_path / "vivo.pem")
    shutil.copyfile(certificates.server, path)
    tls = ServerTLS(path)
    os.unlink(path)
    os.mkfifo(path)
    assert not tls.reread(100)
    assert name_served(tls, certificates) == "localhost"


def test_old_conversations_are_forgotten(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "_MOST_SESSIONS", 5)
    tls = ServerTLS(certificates.server)

    def remembered(turn: int) -> int:
        pair = Pair(certificates, ssl.TLSVersion.TLSv1_2, server=tls)
        assert pair.server.established
        pair.server.close()
        assert not tls.reread(turn * LOOK_EVERY)  # no es otro certificado: no hay nada que contar
        return tls._context.session_stats()["number"]

    counts = [remembered(turn) for turn in range(1, 30)]
    assert max(counts) == 4  # se recuerdan, y no más
    # Que los ficheros ya no se dejen leer no es nada nuevo que contar.
    monkeypatch.setattr(tls_module, "_load_chain", unreadable)
    assert [remembered(turn) for turn in range(30, 40)][-1] > 5


def unreadable(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    raise BadTLSFile("cert", cert, "unreadable")


# -- cuándo caduca un certificado -----------------------------------------------------------------------------


def certificate(end: datetime) -> bytes:
    """Un certificado en DER que vale hasta ``end``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ñandú " * 8)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 2**150, datetime(1960, 1, 1), end)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "end",
    [
        datetime(1961, 2, 3, 4, 5, 6),
        datetime(1999, 12, 31, 23, 59, 59),
        datetime(2000, 1, 1),
        datetime(2024, 2, 29, 12),
        datetime(2049, 12, 31, 23, 59, 59),  # hasta aquí, UTCTime; desde aquí, GeneralizedTime (RFC 5280, 4.1.2.5)
        datetime(2050, 1, 1),
        datetime(9999, 12, 31, 23, 59, 59),  # «no caduca»
    ],
    ids=str,
)
def test_the_expiry_of_any_certificate(end: datetime) -> None:
    assert not_after(certificate(end)) == end.replace(tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize("days", ["30", "36500"])
@pytest.mark.parametrize("kind", ["rsa:2048", "ed25519"])
def test_the_expiry_of_those_openssl_makes(tmp_path: Path, kind: str, days: str) -> None:
    openssl, cert = need("openssl"), str(tmp_path / "cert.pem")
    make = ["req", "-x509", "-newkey", kind, "-nodes", "-days", days, "-subj", "/CN=uno", "-out", cert]
    run([openssl, *make, "-keyout", str(tmp_path / "clave.pem")])
    told = run([openssl, "x509", "-in", cert, "-noout", "-enddate"]).stdout.decode().strip()
    expiry = ServerTLS(cert, str(tmp_path / "clave.pem")).expiry()
    assert expiry == ssl.cert_time_to_seconds(told.removeprefix("notAfter="))


def test_the_expiry_of_a_certificate_without_version(tmp_path: Path) -> None:
    # Los de la versión 1 no la dicen (RFC 5280, 4.1.2.1), y openssl aún los hace: los nuevos, solo si se les pide.
    openssl, request, key = need("openssl"), str(tmp_path / "peticion"), str(tmp_path / "clave")
    new = ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=uno", "-keyout", key]
    usage = run([openssl, "req", "-help"])
    if b"-x509v1" in usage.stdout + usage.stderr:
        bare = tmp_path / "sin-extensiones"
        bare.write_text("[req]\ndistinguished_name = nadie\n[nadie]\n")
        asked = ["-x509", "-x509v1", "-config", str(bare), "-days", "9", "-outform", "DER"]
        made = run([openssl, *new, *asked]).stdout
    else:
        run([openssl, *new, "-out", request])
        made = run([openssl, "x509", "-req", "-in", request, "-signkey", key, "-days", "9", "-outform", "DER"]).stdout
    assert x509.load_der_x509_certificate(made).version == x509.Version.v1
    assert not_after(made) == x509.load_der_x509_certificate(made).not_valid_after_utc.timestamp()


def test_the_expiry_is_that_of_the_first_of_the_file(certificates: Certificates, tmp_path: Path) -> None:
    both = tmp_path / "los-dos.pem"
    both.write_text(Path(certificates.expired).read_text() + Path(certificates.server).read_text())
    assert ServerTLS(str(both)).expiry() == ServerTLS(certificates.expired).expiry()
    assert ServerTLS(certificates.expired).expiry() != ServerTLS(certificates.server).expiry()


def test_the_expiry_is_not_known_of_what_is_no_certificate(certificates: Certificates, tmp_path: Path) -> None:
    path = tmp_path / "cert.pem"
    shutil.copy(certificates.server, path)
    tls = ServerTLS(str(path))
    assert tls.expiry()
    for text in ("", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\nñ\n-----END CERTIFICATE-----"):
        path.write_text(text)
        assert tls.expiry() is None
    path.unlink()
    assert tls.expiry() is None
    os.mkfifo(path)
    assert tls.expiry() is None


_WHOLE = certificate(datetime(2030, 1, 1))


@given(st.data())
def test_broken_certificates_are_only_that(data: st.DataObject) -> None:
    whole = bytearray(_WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, 120))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        assert isinstance(not_after(bytes(whole[: data.draw(st.integers(0, len(whole)))])), float)
