"""Las mayúsculas como las escribiría cualquiera, para medir cada manera de ejecutar una función propia."""

from __future__ import annotations


def upper(message: str) -> str:
    """Una función corriente."""
    return message.upper()


async def upper_later(message: str) -> str:
    """La misma, ``async``."""
    return message.upper()
