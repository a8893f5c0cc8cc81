"""Un voltímetro de mentira que habla SCPI, el idioma de casi todos los instrumentos de laboratorio.

    python3 Servidor_TCP.py --servicio examples.instrumento:responder --hilos 0

Enseña tres cosas que no caben en una función de una línea:

- **Estado compartido.** El instrumento es uno y los clientes son muchos, cada uno quizá en su hilo: lo que cambia se
  lee y se cambia con un cerrojo cogido. (Con ``--hilos 0`` sobraría, pero así vale siempre.)
- **Un lenguaje con su norma.** Las órdenes son las de IEEE 488.2-1992 (las que empiezan por ``*``: 10.14 ``*IDN?``,
  10.32 ``*RST``, 10.3 ``*CLS``) y SCPI-1999 (https://www.ivifoundation.org/specifications/): cada palabra se abrevia
  a sus mayúsculas, y lo que va entre corchetes se puede omitir.
- **Los errores se guardan, no se gritan.** Una orden equivocada no responde nada: su error espera en una cola a que
  alguien pregunte ``SYST:ERR?`` (SCPI-1999, volumen 2, 21.8).

Una diferencia con un instrumento de verdad: allí una orden sin «?» no contesta, y aquí todo mensaje tiene su respuesta,
así que contesta una línea vacía. Desde un programa, pues, siempre se escribe y después se lee.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable

_INPUT = 5.0  # voltios que hay en los bornes, siempre los mismos
_RANGES = (0.1, 1.0, 10.0, 100.0, 1000.0)  # voltios de fondo de escala
_FIRST_RANGE = 10.0  # el de después de *RST
_OVERLOAD = 9.9e37  # lo que SCPI llama infinito: no cabe en la escala (volumen 1, 7.2.1.4)
_MOST_ERRORS = 20  # en la cola; SCPI pide dos o más
_UNITS = {"": 1.0, "V": 1.0, "MV": 1e-3, "UV": 1e-6, "KV": 1e3}  # SCPI no distingue mayúsculas: MV son milivoltios
_ASCII = re.ASCII | re.IGNORECASE  # la norma es de ASCII: «ſ» no es una «S»
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:E[+-]?\d+)?)\s*([A-Z]*)", _ASCII)

# Los números y sus textos son de la norma; en inglés, porque así los esperan los programas.
_UNDEFINED = '-113,"Undefined header"'
_UNEXPECTED = '-108,"Parameter not allowed"'
_MISSING = '-109,"Missing parameter"'
_BAD_NUMBER = '-104,"Data type error"'
_BAD_UNIT = '-131,"Invalid suffix"'
_TOO_BIG = '-222,"Data out of range"'
_OVERFLOW = '-350,"Queue overflow"'
_NO_ERROR = '0,"No error"'


class _Wrong(Exception):
    """Una orden que no se puede obedecer; lleva la línea que irá a la cola."""


class Voltmeter:
    """El instrumento. ``answer`` se puede llamar desde varios hilos."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._range = _FIRST_RANGE
        self._errors: deque[str] = deque()
        self._commands: list[tuple[re.Pattern[str], Callable[[str], str]]] = [
            (_header(pattern), action)
            for pattern, action in (
                ("*IDN?", self._identify),
                ("*RST", self._reset),
                ("*CLS", self._clear),
                ("MEASure[:SCALar]:VOLTage[:DC]?", self._measure),
                ("[SENSe:]VOLTage[:DC]:RANGe[:UPPer]", self._set_range),
                ("[SENSe:]VOLTage[:DC]:RANGe[:UPPer]?", self._get_range),
                ("SYSTem:ERRor[:NEXT]?", self._next_error),
            )
        ]

    def answer(self, line: str) -> str:
        """Obedece una línea, con una o varias órdenes separadas por «;», y devuelve sus respuestas igual."""
        with self._lock:
            replies = [self._obey(unit.strip()) for unit in line.split(";") if unit.strip()]
        return ";".join(reply for reply in replies if reply)

    # -- el lenguaje ----------------------------------------------------------------------------------------

    def _obey(self, unit: str) -> str:
        header, *parameter = unit.split(None, 1)
        try:
            for pattern, action in self._commands:
                if pattern.fullmatch(header):
                    return action("".join(parameter))
            raise _Wrong(_UNDEFINED)
        except _Wrong as wrong:
            self._remember(str(wrong))
            return ""

    def _remember(self, error: str) -> None:
        if len(self._errors) < _MOST_ERRORS:
            self._errors.append(error)
        else:
            self._errors[-1] = _OVERFLOW  # la última, y no la primera: lo que empezó mal es lo que interesa

    # -- las órdenes: reciben lo que venga detrás y devuelven su respuesta, vacía si no preguntan nada --------

    def _identify(self, parameter: str) -> str:
        _nothing(parameter)
        return "comunicacion_tcp,Voltimetro de ejemplo,0,1.0"  # quién lo hace, modelo, número de serie, versión

    def _reset(self, parameter: str) -> str:
        _nothing(parameter)
        self._range = _FIRST_RANGE  # la cola de errores se queda: de vaciarla se ocupa *CLS
        return ""

    def _clear(self, parameter: str) -> str:
        _nothing(parameter)
        self._errors.clear()
        return ""

    def _measure(self, parameter: str) -> str:
        _nothing(parameter)
        return _scientific(_INPUT if self._range >= _INPUT else _OVERLOAD)

    def _get_range(self, parameter: str) -> str:
        _nothing(parameter)
        return _scientific(self._range)

    def _set_range(self, parameter: str) -> str:
        wanted = _volts(parameter)
        fitting = [one for one in _RANGES if one >= wanted]
        if wanted < 0 or not fitting:
            raise _Wrong(_TOO_BIG)
        self._range = fitting[0]  # la más pequeña en que cabe lo que se pide
        return ""

    def _next_error(self, parameter: str) -> str:
        _nothing(parameter)
        return self._errors.popleft() if self._errors else _NO_ERROR


def _header(pattern: str) -> re.Pattern[str]:
    """``MEASure[:DC]?`` como expresión: cada palabra, entera o solo sus mayúsculas; lo de los corchetes puede faltar,
    y los dos puntos del principio, que en SCPI son la raíz, también."""
    common = pattern.startswith("*")
    text = pattern.replace("?", r"\?").replace("*", r"\*").replace("[", "(?:").replace("]", ")?")
    text = re.sub("([A-Z]{3,4})([a-z]+)", lambda word: f"{word[1]}(?:{word[2]})?", text)
    return re.compile(text if common else ":?" + text, _ASCII)


def _nothing(parameter: str) -> None:
    if parameter:
        raise _Wrong(_UNEXPECTED)


def _volts(parameter: str) -> float:
    """``100 mV`` son ``0.1``."""
    if not parameter:
        raise _Wrong(_MISSING)
    number = _NUMBER.fullmatch(parameter)
    if not number:
        raise _Wrong(_BAD_NUMBER)
    if number[2].upper() not in _UNITS:
        raise _Wrong(_BAD_UNIT)
    return float(number[1]) * _UNITS[number[2].upper()]


def _scientific(value: float) -> str:
    return f"{value:+.8E}"  # el formato NR3 de IEEE 488.2 (8.7.4)


responder = Voltmeter().answer
