"""El registro del servidor: cada suceso, un registro de ``logging`` y una línea, en la forma que se pida (y debajo, si
falló el servicio, por dónde pasó; en JSON, todo en la misma).

Aquí no se decide qué se cuenta ni con qué frase (``report.py``), ni se escribe en ningún sitio (``output.py``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from logging import ERROR, INFO, WARNING
from typing import Any

from .sentences import said_by
from .terminal import escape

NAME = "comunicacion_tcp.servidor"
"""El ``Logger`` del servidor."""

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
        self.msg = line
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
    """La frase sola y, si el suceso trae ``traceback``, sus líneas debajo, sangradas. Aquí se asegura que nada de un
    registro, nuestro o de una biblioteca, manda: ni en la terminal, ni empezando una línea que parezca otro."""

    def format(self, record: logging.LogRecord) -> str:
        line = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]):
            line += f" ({type(error).__name__}: {error})"
        below = getattr(record, "fields", {}).get("traceback", ())
        return "\n    ".join(map(escape, (line, *below))) if below else escape(line)


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
        for name, value in getattr(record, "fields", {}).items():
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
        if not self.filter(record):
            return False
        try:
            self._write(self._format(record))
        except Exception:  # un registro mal hecho, de otro, no es un fallo de quien lo da
            self._write(f"Registro ilegible de {escape(record.name)}: {escape(str(record.msg))}")
        return True


def lines_lost(count: int) -> Event:
    """Lo que se dice cuando vuelve una salida en la que no cupieron ``count`` líneas."""
    noun = "1 línea perdida" if count == 1 else f"{count} líneas perdidas"
    return Event(WARNING, "lines_lost", f"... {noun}: la salida estaba atascada.", {"count": count})


class Log:
    """A donde se da cada suceso. ``logger``: quien lo reparte. ``direct``: quien quiere solo la frase, mientras no haya
    nadie más escuchando: con un ``LogRecord`` que nadie va a mirar, cada línea costaba el doble (make bench, conectar
    y despedirse)."""

    def __init__(self, logger: logging.Logger, direct: Callable[[str], None] | None = None) -> None:
        self._logger = logger
        self._direct = direct
        self._heard_by = logging.getLogger().handlers

    def tell(self, level: int, event: str, line: str, fields: dict[str, Any]) -> None:
        """Un suceso; los cuatro datos, como en ``Event``."""
        if self._logger.isEnabledFor(level):
            alone = not self._logger.handlers and len(self._heard_by) == 1
            if self._direct and alone and "traceback" not in fields:
                self._direct(escape(line))
            else:
                self._logger.handle(Event(level, event, line, fields))


@contextlib.contextmanager
def logging_to(write: Callable[[str], None], formatter: logging.Formatter, level: int) -> Iterator[Log]:
    """El registro del servidor en marcha: lo que llegue a ``level`` va, hecho línea, a ``write``."""
    handler = LineHandler(formatter, write)
    handler.setLevel(level)
    logger, root = logging.getLogger(NAME), logging.getLogger()
    level_before = logger.level
    logger.setLevel(level)
    root.addHandler(handler)  # en la raíz: si asyncio se queja de algo, tampoco eso espera a una salida de errores
    try:
        yield Log(logger, write if type(formatter) is PlainFormatter else None)
    finally:
        root.removeHandler(handler)
        logger.setLevel(level_before)
