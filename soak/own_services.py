"""El servicio con que se mide: mayúsculas, y una palabra que atasca para siempre al proceso que la recibe."""

STUCK_WORD = "atasco"


def upper(text: str) -> str:
    """``text`` en mayúsculas; con ``STUCK_WORD`` no acaba nunca."""
    while text == STUCK_WORD:
        pass
    return text.upper()
