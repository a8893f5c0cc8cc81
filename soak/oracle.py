"""El oráculo: hace los mensajes de una conexión y juzga cada respuesta. Puro: ni sockets, ni reloj, ni azar.

Cada mensaje lleva de qué conexión es, cuál es y una suma de comprobación de su respuesta, y se puede volver a hacer a
partir de esos dos números: una respuesta cambiada, perdida, repetida, adelantada o de otra conexión no coincide.
"""

from __future__ import annotations

import zlib

from comunicacion_tcp.protocol import FAREWELL, GOODBYE

# Con acentos: ponerlo en mayúsculas no es cambiar bytes de uno en uno. La ß, además, crece.
_FILLER = "el ñandú añejo comió más piñones en la straße que el pingüino " * 4
NOT_UTF8 = b"\xff\n"
_NOT_UTF8_REPLY = "ERROR: el mensaje no es UTF-8 válido\n".encode()


class WrongReply(Exception):
    """Una respuesta no es la debida: el texto dice cuál y en qué."""


def request(connection: int, sequence: int) -> bytes:
    """El mensaje ``sequence`` de ``connection``, con su terminador."""
    size = (connection * 31 + sequence * 17) % len(_FILLER)  # largos distintos, y siempre los mismos
    text = f"{connection} {sequence} {_FILLER[:size]}|"
    return f"{text} {zlib.crc32(text.upper().encode())}\n".encode()


def reply(connection: int, sequence: int) -> bytes:
    """Lo que debe volver."""
    return request(connection, sequence).decode().upper().encode()


class Oracle:
    """La cuenta de una conexión: lo enviado, lo recibido y lo que falta."""

    def __init__(self, connection: int) -> None:
        self.connection = connection
        self.sent = 0
        self.received = 0
        self.partial = b""
        """Los bytes del principio de una respuesta que aún no ha llegado entera."""
        self._goodbye = self._farewell = False

    @property
    def owed(self) -> int:
        """Cuántas respuestas faltan, la de la despedida también."""
        return self.sent - self.received + (self._goodbye and not self._farewell)

    def take(self, count: int = 1) -> bytes:
        """Los ``count`` mensajes siguientes: se cuentan como enviados."""
        first, self.sent = self.sent, self.sent + count
        return b"".join(request(self.connection, sequence) for sequence in range(first, self.sent))

    def say_goodbye(self) -> bytes:
        """La despedida: detrás de sus respuestas solo debe venir la de esto."""
        self._goodbye = True
        return f"{GOODBYE}\n".encode()

    def receive(self, data: bytes) -> int:
        """Llegan ``data``. Devuelve cuántas respuestas completan, o ``WrongReply`` si alguna no es la debida."""
        lines = (self.partial + data).split(b"\n")
        self.partial = lines.pop()
        for line in lines:
            self._judge(line + b"\n")
        return len(lines)

    def finish(self) -> None:
        """El servidor cerró. ``WrongReply`` si debía algo."""
        if self.partial:
            raise WrongReply(f"conexión {self.connection}: acaba en media respuesta, {self.partial!r}")
        if self.owed:
            raise WrongReply(f"conexión {self.connection}: perdidas {self.owed} respuestas")

    def cut(self) -> None:
        """El servidor murió. ``WrongReply`` si lo que llegó a medias no es el principio de lo que debía."""
        due = reply(self.connection, self.received) if self.received < self.sent else f"{FAREWELL}\n".encode()
        if self.partial and (not self.owed or not due.startswith(self.partial)):
            raise WrongReply(f"conexión {self.connection}: cortada en {self.partial[:80]!r}, que nadie pidió")

    def _judge(self, line: bytes) -> None:
        if self.received < self.sent and line == reply(self.connection, self.received):
            self.received += 1
        elif self._goodbye and self.owed == 1 and line == f"{FAREWELL}\n".encode():
            self._farewell = True
        else:
            raise WrongReply(f"conexión {self.connection}, respuesta {self.received}: {self._explain(line)}")

    def _explain(self, line: bytes) -> str:
        text, _, checksum = line.decode(errors="replace").removesuffix("\n").rpartition(" ")
        head = text.split(" ", 2)
        if checksum != str(zlib.crc32(text.encode())) or not all(map(str.isdigit, head[:2])):
            return f"cambiada, o nadie la pidió: {line[:80]!r}"
        connection, sequence = map(int, head[:2])
        if connection != self.connection:
            return f"es de la conexión {connection}"
        if sequence < self.received:
            return f"repetida la {sequence}"
        if sequence >= self.sent:
            return f"es la {sequence}, que no se ha enviado"
        return f"llega la {sequence}: las de antes se perdieron o vienen desordenadas"


class Flood:
    """La cuenta de quien encadena sin parar el mismo bloque: comprobar cuesta comparar bytes, y así la carga no es más
    lenta que el servidor. ``bad``: mensajes que no son UTF-8 en vez de buenos y cortos."""

    def __init__(self, connection: int, count: int, *, bad: bool = False) -> None:
        def short(sequence: int) -> bytes:
            text = f"c{connection} {sequence}"
            return f"{text} {zlib.crc32(text.upper().encode())}\n".encode()

        self.connection = connection
        self.block = NOT_UTF8 * count if bad else b"".join(map(short, range(count)))
        self._reply = _NOT_UTF8_REPLY * count if bad else self.block.decode().upper().encode()
        self._count = count
        self._blocks = 0
        self.bytes = 0
        """Los bytes de respuesta que han llegado."""

    @property
    def owed(self) -> int:
        """Cuántos bytes de respuesta faltan."""
        return self._blocks * len(self._reply) - self.bytes

    @property
    def received(self) -> int:
        """Cuántas respuestas han llegado enteras (redondeando en el bloque que está a medias)."""
        blocks, rest = divmod(self.bytes, len(self._reply))
        return blocks * self._count + rest * self._count // len(self._reply)

    def take(self) -> bytes:
        """El bloque: se cuenta como enviado."""
        self._blocks += 1
        return self.block

    def receive(self, data: bytes) -> None:
        """Llegan ``data``. ``WrongReply`` si no es lo que toca."""
        if len(data) > self.owed:
            raise WrongReply(f"conexión {self.connection}: {len(data) - self.owed} bytes de más")
        while data:
            position = self.bytes % len(self._reply)
            expected = self._reply[position : position + len(data)]
            if not data.startswith(expected):
                raise WrongReply(f"conexión {self.connection}, byte {self.bytes}: llegó {data[:80]!r}")
            self.bytes += len(expected)
            data = data[len(expected) :]

    def finish(self) -> None:
        """No llegará más. ``WrongReply`` si falta algo."""
        if self.owed:
            raise WrongReply(f"conexión {self.connection}: perdidos {self.owed} bytes de respuestas")
