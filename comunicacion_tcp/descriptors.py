"""Los descriptores de fichero del proceso: cuántos quedan y cómo pedir más. Cada conexión es uno.

Aquí no se decide cuántas conexiones se admiten (``admission.py``) ni se le cuenta a nadie (``cli/server.py``).
"""

from __future__ import annotations

import contextlib
import os
import sys

try:
    import resource
except ImportError:  # Windows: no hay un límite que preguntar
    resource = None  # type: ignore[assignment]

_OWN = 64  # los tres de siempre, los del bucle, los que escuchan; de sobra
_USUALLY_OPEN = 16  # donde no se pueden contar: los tres de siempre, los del bucle y los de unos pocos ficheros


def raise_limit(connections: int) -> None:
    """Sube el límite del proceso para que quepan ``connections`` conexiones, o hasta lo que deje el sistema."""
    wanted = connections + _OWN
    if resource:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            with contextlib.suppress(OSError, ValueError):  # macOS anuncia más de los que da
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def room() -> int:
    """Cuántos descriptores más puede abrir el proceso."""
    if not resource:
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    try:
        used = len(os.listdir("/dev/fd"))
    except OSError:
        used = _USUALLY_OPEN
    return max(0, soft - used)
