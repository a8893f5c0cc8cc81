"""``Record``: valores inmutables hechos de sus campos anotados. Aquí no hay ningún valor concreto.

Es lo poco que hace falta de ``dataclasses``, que para importarse carga inspect, ast, dis y tokenize: más que todo
lo demás del cliente junto, y el cliente de un solo mensaje lo pagaba cada vez (docs/rendimiento.md).
"""

from __future__ import annotations

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda cls: cls


@dataclass_transform(frozen_default=True)  # PEP 681: así lo entienden mypy y los editores
class Record:
    """Base de una clase cuyas anotaciones son sus campos, con su valor por defecto si lo tienen.

    Se construye con los campos en orden o por nombre (``TypeError`` si sobra, falta o se repite alguno); después no
    cambia (``AttributeError``). Dos son iguales si son de la misma clase y lo son sus campos.
    """

    def __init__(self, *values: object, **named: object) -> None:
        fields = self.fields()
        given = {**dict(zip(fields, values, strict=False)), **named}
        name = type(self).__name__
        if len(values) > len(fields) or len(given) < len(values) + len(named):
            raise TypeError(f"{name} recibió valores de más")
        if unknown := given.keys() - set(fields):
            raise TypeError(f"{name} no tiene {', '.join(sorted(unknown))}; tiene {', '.join(fields)}")
        if missing := [field for field in fields if field not in given and not hasattr(type(self), field)]:
            raise TypeError(f"a {name} le falta {', '.join(missing)}")
        self.__dict__.update(given)  # los demás se leen de la clase: son sus valores por defecto
        self.check()

    def check(self) -> None:
        """Lo llama quien construye; una clase que no admite cualquier valor lanza aquí ``ValueError``."""

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """Los nombres de los campos, en su orden: primero los heredados."""
        family = [one for one in reversed(cls.__mro__) if issubclass(one, Record)]
        return tuple(dict.fromkeys(name for one in family for name in one.__annotations__))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} no cambia una vez hecho: haz otro con {name} distinto")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} no cambia una vez hecho")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{field}={value!r}" for field, value in zip(self.fields(), self._values(), strict=True))
        return f"{type(self).__name__}({shown})"

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, field) for field in self.fields())
