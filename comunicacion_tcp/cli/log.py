"""El registro del servidor: cada suceso, una línea en la forma que se pida (y debajo, si falló el servicio, por dónde
pasó; en JSON, todo en la misma). Y lo que un servicio cuenta con ``logging``, igual.

Nuestros sucesos no pasan por lo que un servicio configura en ``logging``: ni puede callarlos sin querer, ni salen dos
veces. Quien los quiera los recibe en el ``Logger`` ``NAME``.

Aquí no se decide qué se cuenta ni con qué frase (``report.py``), ni se escribe en ningún sitio (``output.py``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from logging import ERROR, INFO, WARNING
from typing import Any

from .sentences import said_by
from .terminal import escape
from .traces import trace

NAME = "comunicacion_tcp.servidor"
"""El ``Logger`` donde recibe los sucesos quien los quiera, con un ``Handler`` suyo; a los de la raíz no llegan."""

logging.getLogger(NAME).propagate = False

LEVELS = {"info": INFO, "aviso": WARNING, "error": ERROR}
_SPANISH = {number: name for name, number in LEVELS.items()}


class Event(logging.LogRecord):
    """Un suceso. ``event``: su nombre, que no cambia de una versión a otra. ``fields``: sus datos, para quien los lea
    con un programa: clientes ``(ip, puerto)``, excepciones, números, o listas de ellos.

    Es un ``LogRecord`` con todos sus campos, pero sin averiguar cada vez en qué línea, hilo y proceso se hizo, que aquí
    son siempre los mismos: cuesta la tercera parte que ``logger.info`` (0,7 us; Python 3.11).
    """

    def __init__(self, level: int, event: str, line: str, fields: dict[str, Any]) -> None:
        self.__dict__.update(_SAME[level])
        self.msg: str = escape(line)  # también para el Handler de otro, que puede escribir en una terminal
        self.event = event
        self.fields = fields
        self.created: float = time.time()
        self.msecs: float = self.created % 1 * 1000


# Los campos de un LogRecord en este Python, y los nuestros: copiarlos todos juntos no cuesta más que uno.
_SAME = {
    level: {**vars(logging.LogRecord(NAME, level, "", 0, "", (), None)), "event": "", "fields": {}}
    for level in LEVELS.values()
}


class PlainFormatter(logging.Formatter):
    """La frase sola y, si trae por dónde pasó una excepción, sus líneas debajo, sangradas. Aquí se asegura que nada de
    un registro, nuestro o de una biblioteca, manda: ni en la terminal, ni empezando una línea que parezca otro."""

    def format(self, record: logging.LogRecord) -> str:
        line = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]):
            line += f" ({type(error).__name__}: {error})"
        below = _below(record)
        return "\n    ".join(map(escape, (line, *below))) if below else escape(line)


def _below(record: logging.LogRecord) -> Sequence[str]:
    """Las líneas que van debajo de la de ``record``."""
    if isinstance(record, Event):
        told: Sequence[str] = record.fields.get("traceback", ())
        return told
    error = record.exc_info[1] if record.exc_info else None
    # Quien lo pasa a otro proceso, o por una cola (QueueHandler), guarda la excepción ya escrita.
    lines = trace(error) if error else (record.exc_text or "").splitlines()
    return lines + (record.stack_info or "").splitlines()


class DatedFormatter(PlainFormatter):
    """La hora local con su diferencia (ISO 8601), la gravedad y la frase."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = Clock()

    def format(self, record: logging.LogRecord) -> str:
        level = _SPANISH.get(record.levelno, record.levelname.lower())
        return f"{self._clock.show(record.created)} {level} {super().format(record)}"


class JsonFormatter(DatedFormatter):
    """Un objeto JSON por línea, todo en ASCII: da igual en qué codificación se lea."""

    process: int | None = None
    """El número del proceso, si escriben varios."""

    def format(self, record: logging.LogRecord) -> str:
        shown: dict[str, Any] = {
            "time": self._clock.show(record.created),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name),
            "message": PlainFormatter.format(self, record).partition("\n")[0],  # lo de debajo va en su campo
        }
        if self.process is not None:
            shown["process"] = self.process
        fields = dict(record.fields) if isinstance(record, Event) else {}
        if below := _below(record):
            fields["traceback"] = list(below)
        for name, value in fields.items():
            shown[name] = _as_json(value)
        return json.dumps(shown)


def _as_json(value: object) -> Any:
    # También escapado: quien lea esto con un programa acabará por enseñarlo en una terminal.
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": escape(said_by(value))}
    if isinstance(value, tuple):
        return {"host": escape(value[0]), "port": value[1]}
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    return value


class Clock:
    """Horas en ISO 8601, con milisegundos y la diferencia con UTC. Solo el segundo cuesta: se calcula una vez."""

    def __init__(self) -> None:
        self._shown = (0, "", "")

    def show(self, when: float) -> str:
        """``when``, en segundos desde 1970, en la hora local."""
        second = int(when)
        known, date, offset = self._shown
        if known != second:
            text = datetime.fromtimestamp(second).astimezone().isoformat()
            date, offset = text[:19], text[19:]
            self._shown = (second, date, offset)  # de una vez: lo usan dos hilos
        return f"{date}.{int(when % 1 * 1000):03}{offset}"


FORMATS: dict[str, Callable[[], logging.Formatter]] = {
    "llano": PlainFormatter,
    "fecha": DatedFormatter,
    "json": JsonFormatter,
}


class LineHandler(logging.Handler):
    """Da cada registro, hecho línea, a ``write``."""

    def __init__(self, formatter: logging.Formatter, write: Callable[[str], None]) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._format = formatter.format
        self._write = write

    def handle(self, record: logging.LogRecord) -> bool:
        # Sin el cerrojo de logging, que es la mitad de lo que cuesta: write ya se deja llamar desde cualquier hilo.
        try:
            self._write(self._format(record))
        except Exception:  # un registro mal hecho, de otro, no es un fallo de quien lo da
            self._write(f"Registro ilegible de {escape(record.name)}: {escape(str(record.msg))}")
        return True


class _OthersHandler(LineHandler):
    """El de la raíz: lo que cuentan el servicio y las bibliotecas, mientras nadie más escuche ahí. Si el servicio pone
    los suyos (``logging.basicConfig()``), ya lo escriben ellos."""

    def handle(self, record: logging.LogRecord) -> bool:
        if isinstance(record, Event) or len(logging.getLogger().handlers) > 1:
            return False
        return super().handle(record)


def lines_lost(count: int) -> Event:
    """Lo que se dice cuando vuelve una salida en la que no cupieron ``count`` líneas."""
    noun = "1 línea perdida" if count == 1 else f"{count} líneas perdidas"
    return Event(WARNING, "lines_lost", f"... {noun}: la salida estaba atascada.", {"count": count})


class Log:
    """A donde se da cada suceso. ``level``: lo menos grave que se cuenta. ``handler``: quien lo escribe. ``direct``:
    quien quiere solo la frase: con un ``LogRecord`` que nadie va a mirar, cada línea costaba el doble (make bench,
    conectar y despedirse)."""

    def __init__(self, level: int, handler: LineHandler, direct: Callable[[str], None] | None = None) -> None:
        self._level = level
        self._handler = handler
        self._direct = direct
        self._public = logging.getLogger(NAME)

    def tell(self, level: int, event: str, line: str, fields: dict[str, Any]) -> None:
        """Un suceso; los cuatro datos, como en ``Event``."""
        if level < self._level:
            return
        public = self._public
        wanted = public.handlers or public.propagate  # lo segundo, si alguien lo pidió
        if self._direct and not wanted and "traceback" not in fields:
            self._direct(escape(line))
            return
        record = Event(level, event, line, fields)
        self._handler.handle(record)
        if wanted:
            public.handle(record)


@contextlib.contextmanager
def logging_to(write: Callable[[str], None], formatter: logging.Formatter, level: int) -> Iterator[Log]:
    """El registro del servidor en marcha: lo que llegue a ``level`` va, hecho línea, a ``write``."""
    others, root = _OthersHandler(formatter, write), logging.getLogger()
    others.setLevel(level)
    root.addHandler(others)  # si asyncio se queja de algo, tampoco eso espera a una salida de errores
    try:
        yield Log(level, LineHandler(formatter, write), write if type(formatter) is PlainFormatter else None)
    finally:
        root.removeHandler(others)


def stop_hearing() -> None:
    """Lo que cuenten otros con ``logging`` ya no es nuestro."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _OthersHandler):
            root.removeHandler(handler)
