"""De dónde salió una excepción del código de otro, en pocas líneas, para quien tenga que corregirlo.

Aquí no se escapa ni se escribe nada (``log.py``), ni se decide cuántas veces (``report.py``).
"""

from __future__ import annotations

import linecache
import os
import traceback

from .sentences import named

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_FIRST, _LAST = 3, 7  # pasos que se enseñan: por dónde entró y dónde acabó. Una recursión sin fin tiene mil iguales
_MOST_CAUSES = 3  # una excepción debida a otra, debida a otra: más allá ya no ayuda
_WIDEST = 200  # caracteres de una línea del fuente: dos renglones de una terminal


def trace(error: BaseException) -> list[str]:
    """Las líneas que dicen por dónde pasó ``error``, lo más hondo lo último, sin los pasos de esta casa; después, las
    de la excepción a que se deba. Vacía si no pasó por ningún código de fuera."""
    lines = _steps(error)
    seen = {id(error)}
    for _ in range(_MOST_CAUSES):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or id(cause) in seen:  # pueden ir en círculo
            break
        seen.add(id(cause))
        lines += [f"debido a {named(cause)}", *_steps(cause)]
        error = cause
    return lines


def _steps(error: BaseException) -> list[str]:
    walked = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [(code, line) for code, line in walked if not code.co_filename.startswith(_PACKAGE)]
    hidden = len(theirs) - _FIRST - _LAST
    lines = []
    for number, (code, line) in enumerate(theirs):
        if 0 <= number - _FIRST < hidden:
            if number == _FIRST:
                lines.append(f"... {hidden} pasos más ...")
            continue
        # Con la misma forma que en Python: los editores y muchas terminales llevan a esa línea con un clic.
        lines.append(f'File "{code.co_filename}", line {line}, in {code.co_name}')
        linecache.checkcache(code.co_filename)  # quizá se acaba de editar
        source = linecache.getline(code.co_filename, line).strip()
        if source:
            lines.append("  " + source[:_WIDEST])
    return lines
