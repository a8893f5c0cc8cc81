"""Un cliente de prueba que cifra: se ve cada byte, y qué hubo al final."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from comunicacion_tcp.tls import TLSSession

from .sockets import connect


class Encrypted:
    """Un socket y su sesión. ``sock`` y ``session`` están a mano para quien quiera portarse mal."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str = "localhost") -> None:
        self.sock = sock
        self.session = TLSSession(context, name)
        self.text = b""
        """Lo recibido que nadie ha pedido aún."""

    def shake(self) -> None:
        """El saludo entero, o ``ConnectionError``."""
        self.flush()
        while not self.session.established:
            assert self.more(), "colgó a mitad del saludo"
            self.flush()
            if self.session.failure:
                raise ConnectionError from self.session.failure

    def wire(self, data: bytes) -> bytes:
        """``data`` cifrado, sin enviar."""
        self.session.send(data)
        return self.session.take_outgoing()

    def send(self, data: bytes) -> None:
        """Envía ``data``."""
        self.sock.sendall(self.wire(data))

    def close(self) -> None:
        """Envía nuestro ``close_notify``, y nada más."""
        self.session.close()
        self.flush()

    def flush(self) -> None:
        """Envía lo que la sesión tenga preparado."""
        self.sock.sendall(self.session.take_outgoing())

    def more(self) -> bool:
        """Lee una vez del socket; devuelve si había algo o llegó el FIN. Un RST es ``ConnectionResetError``."""
        data = self.sock.recv(65536)
        self.text += self.session.receive(data)
        return bool(data)

    def receive(self, size: int) -> bytes:
        """Exactamente ``size`` bytes, o los que haya hasta el final."""
        while len(self.text) < size and not self.session.peer_closed and self.more():
            pass
        found, self.text = self.text[:size], self.text[size:]
        return found

    def receive_all(self) -> bytes:
        """Todo hasta el FIN, que llega detrás de un ``close_notify``."""
        pieces = [self.text]
        self.text = b""
        while self.more():
            pieces.append(self.text)
            self.text = b""
        assert self.session.peer_closed, "cortó sin close_notify"
        assert not self.session.failure
        return b"".join(pieces)


@contextlib.contextmanager
def encrypted(port: int, context: ssl.SSLContext) -> Iterator[Encrypted]:
    """Un cliente conectado y saludado."""
    with connect(port) as sock:
        client = Encrypted(sock, context)
        client.shake()
        yield client


class Crafted:
    """Registros de TLS 1.3 hechos a mano, de los que OpenSSL nunca haría (RFC 8446, 5.2 y 7.2).

    ``keylog``: lo que OpenSSL apunta de un saludo en ``keylog_filename``; el cifrado, el primero que ofrece
    (TLS_AES_256_GCM_SHA384).
    """

    def __init__(self, keylog: str) -> None:
        (line,) = (line for line in keylog.splitlines() if line.startswith("CLIENT_TRAFFIC_SECRET_0"))
        self._use(bytes.fromhex(line.split()[2]))

    def record(self, data: bytes, kind: int = 0x17) -> bytes:
        """``data``, quizá nada, en un registro de ese tipo (por defecto, texto)."""
        head = b"\x17\x03\x03" + (len(data) + 1 + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._count).to_bytes(12, "big")
        self._count += 1
        return head + self._cipher.encrypt(nonce, data + bytes([kind]), head)

    def key_update(self) -> bytes:
        """Cambia nuestras claves y pide que el otro lado cambie las suyas."""
        record = self.record(b"\x18\x00\x00\x01\x01", 0x16)
        self._use(self._derive(b"traffic upd", 48))
        return record

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(self._derive(b"key", 32))
        self._iv = int.from_bytes(self._derive(b"iv", 12), "big")
        self._count = 0

    def _derive(self, label: bytes, size: int) -> bytes:
        name = b"tls13 " + label
        return HKDFExpand(SHA384(), size, size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0").derive(
            self._secret
        )
