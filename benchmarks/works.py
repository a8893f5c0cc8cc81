"""Los trabajos que se miden: qué envía cada conexión y qué debe volver, byte a byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from comunicacion_tcp.protocol import FAREWELL, GOODBYE


@dataclass(frozen=True)
class Work:
    """Una carga. ``depth`` mensajes de ``size`` bytes (con su terminador) por bloque en cada conexión.

    ``targets``: cuántas veces el procesador del servidor en C nos proponemos gastar como mucho, con la biblioteca
    estándar y con el extra ``rapido``.
    """

    key: str
    title: str
    connections: int
    depth: int
    size: int
    accents: bool = False
    bare: bool = False
    churn: bool = False
    targets: tuple[float, float] | None = None

    def write(self, folder: Path) -> tuple[Path, int, int]:
        """El fichero para el generador, y cuántos bytes envía y recibe cada bloque."""
        path = folder / f"{self.key}.carga"
        request = reply = b""
        with path.open("wb") as file:
            for connection in range(self.connections):
                messages = b"".join(self._message(connection, number) for number in range(self.depth))
                request = messages + (f"{GOODBYE}\n".encode() if self.churn else b"")
                reply = messages.decode().upper().encode() + (f"{FAREWELL}\n".encode() if self.churn else b"")
                file.write(request + reply)
        return path, len(request), len(reply)

    def _message(self, connection: int, number: int) -> bytes:
        # Cada uno dice de quién es: una respuesta cruzada no coincidiría.
        filler = "el señor añejo comió más piñones " if self.accents else "hola servidor de mensajes "
        body = f"{connection:04d} {number:04d} ".encode()
        while len(body) < self.size:
            body += filler.encode()
        text = body[: self.size - (not self.bare)].decode(errors="ignore")
        terminator = b"" if self.bare else b"\n"
        padding = self.size - len(terminator) - len(text.encode())
        return text.encode() + b"x" * padding + terminator


WORKS = [
    Work("rr", "petición y respuesta, ASCII", 64, 1, 32, targets=(1.7, 1.35)),
    Work("p16", "16 encadenados", 64, 16, 32, targets=(1.7, 1.45)),
    Work("p1000", "1000 encadenados", 64, 1000, 32, targets=(2.1, 2.0)),
    Work("64k", "mensajes de 64 KiB", 16, 1, 65536, targets=(4.5, 4.0)),
    Work("es100", "español, 100 encadenados", 64, 100, 32, accents=True, targets=(2.7, 2.5)),
    Work("esrr", "español, petición y respuesta", 64, 1, 32, accents=True, targets=(1.8, 1.4)),
    Work("bare", "sin terminador", 64, 1, 32, bare=True),
    Work("churn", "conectar, un mensaje y DESCONEXION", 64, 1, 32, churn=True),
]
