"""Una agenda de teléfonos en una base de datos: cada mensaje es un trozo de nombre, y se responde quién lo lleva.

    python3 Servidor_TCP.py --servicio examples.agenda_sqlite:responder

La base está en el fichero que diga la variable ``AGENDA`` (si no, ``agenda-de-ejemplo.sqlite`` en la carpeta temporal);
si no existe, se hace una con cuatro nombres.

Enseña lo que hay que cuidar cuando un servicio espera a otro:

- **Esperar está permitido.** Cada mensaje se responde en un hilo (``--hilos``), y mientras uno espera al disco se
  atiende a los demás.
- **Una conexión de sqlite3 es del hilo que la abrió.** Aquí se abre una en cada llamada, que son décimas de
  milisegundo; con una base de datos por red convendría guardar una por hilo (``threading.local``).
- **Lo que llega de fuera nunca se pega en la consulta**: va aparte, en un ``?``. Y como solo se pregunta, la base se
  abre de solo lectura: ni un fallo nuestro la puede cambiar.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path

_PATH = Path(os.environ.get("AGENDA") or Path(tempfile.gettempdir()) / "agenda-de-ejemplo.sqlite")
_SAMPLE = [
    ("Ada Lovelace", "600 100 101"),
    ("Grace Hopper", "600 100 102"),
    ("Hedy Lamarr", "600 100 103"),
    ("Radia Perlman", "600 100 104"),
]
_MOST = 10  # nombres en una respuesta: lo que se lee de un vistazo
_FIND = r"SELECT name, phone FROM people WHERE name LIKE ? ESCAPE '\' ORDER BY name LIMIT ?"


def responder(text: str) -> str:
    """Quién lleva ``text`` en su nombre, con su teléfono."""
    if not text.strip():
        return "¿De quién quieres el teléfono?"
    with contextlib.closing(sqlite3.connect(f"{_PATH.absolute().as_uri()}?mode=ro", uri=True)) as base:
        found = base.execute(_FIND, (f"%{_literal(text.strip())}%", _MOST)).fetchall()
    return "; ".join(f"{name}: {phone}" for name, phone in found) or f"Nadie se llama así: {text.strip()}"


def _literal(text: str) -> str:
    """``text`` sin nada que ``LIKE`` tome por comodín."""
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def _create(path: Path) -> None:
    # Se hace aparte y se pone de una vez: otro que arranque a la vez no la ve a medias.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    try:
        with contextlib.closing(sqlite3.connect(name)) as base, base:
            base.execute("CREATE TABLE people (name TEXT NOT NULL, phone TEXT NOT NULL)")
            base.executemany("INSERT INTO people VALUES (?, ?)", _SAMPLE)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


if not _PATH.exists():
    _create(_PATH)
