"""Los módulos que solo hacen falta para decir un tipo. Aquí no hay ningún tipo nuestro.

``typing`` y ``ssl`` tardan en cargarse más que un cliente en enviar un mensaje. Estos se cargan cuando alguien pregunta
por los tipos con el programa en marcha (``typing.get_type_hints``), y para mypy y los editores son los de verdad.
"""

from __future__ import annotations

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    import ssl as ssl
    import typing as typing
else:

    class _Later:
        """El módulo ``name``, que no se carga hasta que se le pide algo."""

        def __init__(self, name):
            self._name = name

        def __getattr__(self, wanted):
            return getattr(__import__(self._name), wanted)

    ssl, typing = _Later("ssl"), _Later("typing")
