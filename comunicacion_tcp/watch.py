"""Saber si unos ficheros han cambiado desde que se leyeron, y si ya han acabado de cambiar.

Pura: lo que dice el sistema de cada fichero, y cada cuánto se mira, viene de fuera (``cli/reloading.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

Look = tuple[int, int, int] | None
"""Lo que dice el sistema de un fichero: hora (en nanosegundos), tamaño y número; ``None`` si no está."""


class Watch:
    """Compara lo que se leyó con lo que hay, cada vez que se le enseña."""

    def __init__(self) -> None:
        self._last: Mapping[str, Look] = {}

    def changed(self, read: Mapping[str, Look], found: Mapping[str, Look]) -> bool:
        """Si conviene leer otra vez. ``read``: cómo estaba cada fichero al leerlo. ``found``: cómo está ahora.

        Hay que verlos dos veces seguidas igual: un editor vacía el fichero y luego lo escribe, y a medias no vale. Uno
        que falta no cuenta, porque también hay editores que lo borran antes de poner el nuevo: ya volverá.
        """
        still = found == self._last
        self._last = found
        return still and any(look is not None and look != read.get(path) for path, look in found.items())
