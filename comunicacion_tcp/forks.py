"""Lo que un proceso nacido de este con fork no debe conservar: los sockets de un servidor.

Nace así lo que crea un servicio con ``multiprocessing``, y allí no gira el bucle: con copias de los sockets entrarían
clientes a los que nadie responde, el puerto no quedaría libre al acabar el servidor, y a quien se corta no le llegaría
el final. Los procesos de ``--procesos`` comparten los suyos a propósito (``supervisor.py``), y no pasan por aquí.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Owner = TypeVar("Owner")

_owners: weakref.WeakKeyDictionary[Any, Callable[[Any], Iterable[int]]] = weakref.WeakKeyDictionary()


def keep_from_children(owner: Owner, descriptors: Callable[[Owner], Iterable[int]]) -> None:
    """Desde ahora y mientras exista ``owner``, un proceso que nazca de este suelta ``descriptors(owner)``."""
    _owners[owner] = descriptors


def release(descriptors: Iterable[int]) -> None:
    """Suelta lo que haya detrás de cada descriptor (los negativos no son de nada). El número sigue abierto, hacia
    ninguna parte: quien lo tenga puede cerrarlo sin cerrar lo de otro."""
    with contextlib.suppress(OSError):  # sin descriptores ni para esto: se queda con ellos
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in descriptors:
            if number >= 0:
                os.dup2(nowhere, number, inheritable=False)
        os.close(nowhere)


def _be_born() -> None:
    for owner, descriptors in list(_owners.items()):
        release(descriptors(owner))


if hasattr(os, "register_at_fork"):  # donde hay fork
    os.register_at_fork(after_in_child=_be_born)
