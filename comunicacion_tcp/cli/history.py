"""``History``: los mensajes de otras veces, en un fichero que solo lee su dueño, aunque antes lo leyeran otros.

Aquí no se edita ninguna línea (``line_editor.py``). El fichero es una comodidad: si no se puede leer, escribir o crear,
o lleva cualquier cosa, el cliente sigue sin él y no se queja.
"""

from __future__ import annotations

import contextlib
import os

from ..protocol import GOODBYE

_MOST_ENTRIES = 1000  # los que se recuerdan: lo que bash (HISTSIZE, 500) y zsh suelen, y lo que aún se recorre a mano
_MOST_BYTES = 128 * 1024  # de cada uno de los dos ficheros: unos mil mensajes de 128 bytes
_OTHERS = 0o077  # lo que un fichero permite a quien no es su dueño (chmod(2))
_LONGEST = 4096  # bytes de un mensaje que se guarda: quien pega uno mayor no lo va a buscar con las flechas
# Con una tubería con nombre en su lugar, abrirla esperaría a que otro programa la abriera; y un enlace llevaría a leer,
# o a cambiar, un fichero que es de otra cosa. En Windows no hay ninguna de las dos.
_CAREFULLY: int = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def history_path() -> str | None:
    """El fichero de esta persona, exista o no; ``None`` si no se sabe cuál es su carpeta.

    En Windows, en ``%LOCALAPPDATA%``; en lo demás, en ``XDG_STATE_HOME`` (XDG Base Directory 0.8) o ``~/.local/state``.
    """
    if os.name == "nt":
        folder = os.environ.get("LOCALAPPDATA", "")
    else:
        folder = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(folder):  # la norma manda no hacer caso a una relativa
            folder = os.path.expanduser("~/.local/state")
    return os.path.join(folder, "comunicacion_tcp", "historial") if os.path.isabs(folder) else None


class History:
    """Los mensajes anteriores, del más viejo al más nuevo, en ``entries``.

    ``path``: dónde se guardan, un mensaje por línea en UTF-8; con ``None``, en ninguna parte. Cada uno se añade con una
    sola escritura al final: dos clientes a la vez no se pisan. Cuando el fichero pasa de ``_MOST_BYTES`` se aparta con
    un ``.1``, en el lugar del que hubiera, y se empieza otro: renombrar no pierde lo que otro cliente esté añadiendo.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self.entries: list[str] = []
        if path is None:
            return
        with contextlib.suppress(OSError):
            if os.lstat(path).st_size > _MOST_BYTES:
                os.replace(path, path + ".1")
        lines = (_last_bytes(path + ".1") + _last_bytes(path)).split(b"\n")
        self.entries = [text for line in lines if (text := _readable(line))][-_MOST_ENTRIES:]

    def add(self, message: str) -> bool:
        """Guarda ``message``; devuelve si se guardó.

        No se guardan los que empiezan por un espacio (como en bash con ``ignorespace``: es la manera de escribir algo
        que no debe quedar), la despedida, los vacíos, los repetidos seguidos ni los que no son texto.
        """
        line = message.encode(errors="surrogatepass")  # un sustituto deja de ser texto, y no se guarda
        repeated = self.entries[-1:] == [message]
        if message.startswith(" ") or message == GOODBYE or repeated or len(line) > _LONGEST or not _readable(line):
            return False
        self.entries = [*self.entries, message][-_MOST_ENTRIES:]
        if self._path is not None:
            with contextlib.suppress(OSError):
                _append(self._path, line + b"\n")
        return True


def _readable(line: bytes) -> str:
    """El mensaje que hay en una línea del fichero; vacío si no lo es."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return ""
    return "" if "\0" in text or "\n" in text else text  # readline no admite un NUL


def _last_bytes(path: str) -> bytes:
    """El final de un fichero, desde el principio de una línea; nada si no se puede leer."""
    try:
        with open(path, "rb", opener=_open) as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - _MOST_BYTES)
            file.seek(start)
            tail = file.read(_MOST_BYTES)
    except OSError:
        return b""
    tail = tail.partition(b"\n")[2] if start else tail
    return tail if tail.endswith(b"\n") or not tail else tail + b"\n"


def _append(path: str, line: bytes) -> None:
    """Añade ``line`` a un fichero, que si no existe se crea. Errores: ``OSError``."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor = _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _open(path: str, flags: int) -> int:
    """Abre el fichero, que no es un enlace y que desde ahora solo lee su dueño. Errores: ``OSError``."""
    descriptor = os.open(path, flags | _CAREFULLY, 0o600)
    try:
        if os.name == "posix" and os.fstat(descriptor).st_mode & _OTHERS:
            os.chmod(descriptor, 0o600)  # si es de otra persona no se puede, y no se usa
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
