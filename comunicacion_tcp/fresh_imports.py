"""Importar otra vez un servicio y lo que trae de su carpeta, leyendo siempre el fuente, y recordar qué ficheros eran.

Aquí no se decide cuándo (``watch.py``) ni se sabe qué es un servicio (``loading.py``).
"""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

from .loading import import_service, look_here_first
from .services import Service
from .watch import Look

_OURS = __name__.partition(".")[0]
_INSTALLED = ("site-packages", "dist-packages")  # lo de ahí no lo está escribiendo nadie
_PYTHON = os.path.join(sysconfig.get_path("stdlib"), "")


class _SourceLoader(SourceFileLoader):
    """Compila el fuente cada vez. El ``.pyc`` guardado se da por bueno si coinciden el tamaño y el segundo en que
    cambió el fuente: dos ediciones en el mismo segundo bastan para ejecutar la primera."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class FreshImports:
    """Importa el servicio ``name`` (``"modulo:funcion"``) cuantas veces se le pida, cada vez desde el fuente.

    Con ``with``: mientras dura, es uno de los buscadores de ``sys.meta_path`` y anota lo que se importa de la carpeta
    del servicio, también lo que una función importa más tarde. Lo instalado, lo de Python y lo nuestro no lo toca.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._top = name.partition(":")[0].partition(".")[0]
        self._folder = ""  # la que tiene el módulo, o su paquete: desde que se encuentra
        self._modules: set[str] = set()
        self.files: dict[str, Look] = {}
        """Los ficheros que se leyeron, y los que se buscaron y no estaban, con cómo estaba cada uno antes de leerlo."""

    def __enter__(self) -> FreshImports:
        # Delante del que busca en sys.path y detrás de los demás: lo que va dentro de Python sigue siendo de Python.
        look_here_first()
        finders = sys.meta_path
        finders.insert(finders.index(PathFinder) if PathFinder in finders else len(finders), self)
        return self

    def __exit__(self, *error: object) -> None:
        if self in sys.meta_path:  # un servicio puede vaciarla
            sys.meta_path.remove(self)

    def load(self) -> Service:
        """El servicio, importado ahora. Error: ``BadService``; entonces los módulos de antes quedan puestos."""
        importlib.invalidate_caches()
        # Mirados antes de leer: lo que cambie mientras se lee se verá después como un cambio.
        files_before, self.files = look(self.files), {}
        names_before, self._modules = self._modules, set()
        modules_before = {name: sys.modules.pop(name) for name in names_before if name in sys.modules}
        try:
            return import_service(self.name)
        except BaseException:
            for name in self._modules:
                sys.modules.pop(name, None)
            sys.modules.update(modules_before)
            self._modules |= names_before
            self.files = {**files_before, **self.files}
            raise

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Lo que ``importlib`` pregunta a cada buscador: dónde está ``fullname``, si es cosa suya."""
        if fullname.partition(".")[0] == _OURS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None:
            self._await(fullname, path)
            return None
        places = list(spec.submodule_search_locations or ())
        if fullname == self._top and (places or spec.origin):
            self._folder = os.path.dirname(os.path.abspath(places[0] if places else str(spec.origin)))
        if type(spec.loader) is SourceFileLoader and self._is_theirs(spec.loader.path):
            spec.loader = _SourceLoader(spec.loader.name, spec.loader.path)
            self._modules.add(fullname)
            self.files.update(look([spec.loader.path]))
        elif spec.origin is None and any(map(self._is_theirs, places)):  # una carpeta sin __init__.py
            self._modules.add(fullname)
        return spec

    def _await(self, fullname: str, path: Sequence[str] | None) -> None:
        """``fullname`` no está: si alguien lo escribe, habrá que verlo."""
        for folder in [self._folder] if path is None else path:
            place = os.path.join(folder, fullname.rpartition(".")[2])
            if self._is_theirs(place):
                self.files.update(look([place + ".py", os.path.join(place, "__init__.py")]))

    def _is_theirs(self, path: str) -> bool:
        full = os.path.abspath(path)
        return (
            bool(self._folder)
            and full.startswith(os.path.join(self._folder, ""))
            and not full.startswith(_PYTHON)
            and not set(_INSTALLED) & set(full.split(os.sep))
        )


def look(paths: Iterable[str]) -> Mapping[str, Look]:
    """Cómo está ahora cada fichero."""
    found: dict[str, Look] = {}
    for path in list(paths):  # otro hilo puede estar añadiendo
        try:
            one = os.stat(path)
        except (OSError, ValueError):
            found[path] = None
        else:
            found[path] = (one.st_mtime_ns, one.st_size, one.st_ino)
    return found
