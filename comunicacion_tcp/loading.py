"""De ``"modulo:funcion"`` a un ``Service``: importar lo que otro ha escrito, y comprobar que se puede servir.

Aquí no se ejecuta la función (``server.py``) ni se dice a nadie qué está mal (``cli/sentences.py``); importar otra vez
lo que cambió es de ``fresh_imports.py``.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import re
import sys
import sysconfig
import traceback
from typing import Any

from .errors import BadService
from .services import Service, as_service

_MOST_KNOWN = 10  # nombres que se enseñan cuando ninguno se parece: los que caben en una línea de la terminal
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")  # nombres de Python separados por puntos
_FILE = re.compile(r"(.*\.py|[^:]*[/\\][^:]*)(?::(.*))?", re.DOTALL)  # acaba en .py o lleva carpetas: es una ruta
_IMPORTLIB = os.path.join(os.path.dirname(importlib.__file__), "")
_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_PYTHON = tuple({os.path.join(os.path.realpath(sysconfig.get_path(name)), "") for name in ("stdlib", "platstdlib")})


def load_service(name: str) -> Service:
    """El servicio que nombra ``name``, ``"modulo:funcion"``: ``modulo`` como en ``import`` (``paquete.modulo``),
    buscado primero en la carpeta actual, que queda en ``sys.path``; ``funcion``, un nombre suyo (también
    ``objeto.metodo``).

    Sirve cualquier cosa que se pueda llamar con un texto y nada más, también ``async def``, o un ``Service`` ya hecho.
    Lo que no dice cuántos argumentos admite (algunas funciones de C) se acepta. Error: ``BadService``. Un Ctrl-C
    mientras se importa (``KeyboardInterrupt``) sale tal cual.
    """
    look_here_first()
    return import_service(name)


def import_service(name: str) -> Service:
    """Lo mismo, sin mirar cuál es la carpeta actual: un servicio que ya se importó puede haberla cambiado."""
    module_name, _, path = name.partition(":")
    if file := _FILE.fullmatch(name):
        raise BadService(name, "file", _as_module(file[1], file[2] or ""))
    if not _MODULE.fullmatch(module_name) or not _MODULE.fullmatch(path):
        raise BadService(name, "format")
    module = _import(name, module_name)
    return _checked(name, _find(name, module, path))


def _as_module(path: str, function: str) -> str:
    """Cómo se pediría el fichero ``path``: si está más abajo de aquí, con sus carpetas; si no, desde la suya."""
    path = os.path.normpath(path.replace("\\", "/")).removesuffix(".py")
    if os.path.isabs(path) or path.startswith("..") or not _MODULE.fullmatch(path.replace(os.sep, ".")):
        path = os.path.basename(path)
    return f"{path.replace(os.sep, '.')}:{function or 'FUNCION'}"


def look_here_first() -> None:
    """La carpeta actual es la primera en que se busca un módulo."""
    try:
        here = os.getcwd()
    except OSError:  # la borraron: ahí no hay nada que importar
        return
    if here not in sys.path[:1]:
        sys.path.insert(0, here)


def _import(name: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise BadService(name, "no_module", error.name, cause=error) from error
        if error.name:
            raise BadService(name, "missing_import", error.name, place=_place(error), cause=error) from error
        raise _import_failed(name, error) from error
    except SyntaxError as error:
        if not error.filename or not os.path.exists(error.filename):  # de un eval, por ejemplo
            raise _import_failed(name, error) from error
        place = _shown(error.filename, error.lineno)
        raise BadService(name, "syntax", error.msg, place=place, cause=error) from error
    except BaseException as error:  # también un exit(): aquí no es el programa quien lo pide
        raise _import_failed(name, error) from error


def _import_failed(name: str, error: BaseException) -> BadService:
    return BadService(name, "import_failed", place=_place(error), cause=error)


def _find(name: str, module: Any, path: str) -> Any:
    found = module
    parts = path.split(".")
    for number, part in enumerate(parts, 1):
        try:
            found = getattr(found, part)
        except (AttributeError, SystemError) as error:  # lo segundo, Python 3.13.0 si la carpeta actual no existe
            file = getattr(module, "__file__", None)
            place = _shown(file) if file else ""
            missing = ".".join(parts[:number])
            raise BadService(name, "no_name", missing, place=place, known=_near(part, found), cause=error) from error
        except (Exception, SystemExit) as error:  # una propiedad puede hacer cualquier cosa
            raise _import_failed(name, error) from error
    return found


def _near(part: str, owner: Any) -> tuple[str, ...]:
    """Lo que quiso decir quien escribió ``part``; si nada de ``owner`` se le parece, las funciones que tiene suyas."""
    names = [name for name in dir(owner) if not name.startswith("_")]
    if close := difflib.get_close_matches(part, names, 1):
        return tuple(close)
    here = getattr(owner, "__name__", None)
    found = {name: inspect.getattr_static(owner, name, None) for name in names}  # sin ejecutar ninguna propiedad
    own = [name for name, one in found.items() if inspect.isroutine(one) and getattr(one, "__module__", None) == here]
    return tuple(own[:_MOST_KNOWN])


def _checked(name: str, found: Any) -> Service:
    """``found`` como servicio, si se puede llamar con un texto y nada más."""
    if isinstance(found, Service):
        return found
    if isinstance(found, type):
        raise BadService(name, "class")
    if not callable(found):
        raise BadService(name, "not_callable", type(found).__name__)
    called = found if inspect.isroutine(found) or isinstance(found, functools.partial) else found.__call__
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise BadService(name, "generator")
    signature = _signature(found)
    try:
        if signature:
            signature.bind("")
    except TypeError as error:
        raise BadService(name, "arguments", str(signature), cause=error) from error
    return as_service(found)


def _signature(found: Any) -> inspect.Signature | None:
    # Primero la de lo que se llama: un decorador (functools.wraps) puede recibir menos que la función que envuelve.
    for follow in (False, True):  # y si no la dice (functools.lru_cache), la envuelta
        try:
            return inspect.signature(found, follow_wrapped=follow)
        except (TypeError, ValueError):
            continue
    return None


def _place(error: BaseException) -> str:
    """Dónde falló: lo más hondo que no sea de Python ni de esta casa: lo que puede corregir quien lo escribió."""
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    files = [place for place in places if not place[0].startswith(("<", _IMPORTLIB, _PACKAGE))]
    theirs = [place for place in files if not os.path.realpath(place[0]).startswith(_PYTHON)]
    return _shown(*(theirs or files)[-1]) if theirs or files else ""


def _shown(path: str, line: int | None = None) -> str:
    """``"fichero.py:línea"``, desde la carpeta actual si está en ella."""
    try:
        near = os.path.relpath(path)
    except (OSError, ValueError):  # sin carpeta actual, o en otra unidad de Windows
        near = os.pardir
    shown = path if near.startswith(os.pardir) else near
    return f"{shown}:{line}" if line else shown
