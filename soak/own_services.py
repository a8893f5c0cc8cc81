"""Los servicios con que se mide: mayúsculas, de dos maneras, y uno que falla siempre."""

STUCK_WORD = "atasco"


def upper(text: str) -> str:
    """``text`` en mayúsculas; con ``STUCK_WORD`` no acaba nunca."""
    while text == STUCK_WORD:
        pass
    return text.upper()


async def upper_async(text: str) -> str:
    """``text`` en mayúsculas, en el bucle."""
    return text.upper()


def fails(text: str) -> str:
    """No responde nunca."""
    raise ValueError(text)
