"""``limits.py``: valores con sentido y ninguno imposible."""

from __future__ import annotations

import pytest

from comunicacion_tcp.limits import DEFAULT_LIMITS, OPTIONAL, Limits

FIELDS = Limits.fields()


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 2**31])
def test_every_limit_is_positive_and_possible(name: str, value: float) -> None:
    if value == 0 and name in OPTIONAL:
        assert getattr(Limits(**{name: value}), name) == 0  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_the_longest_message_may_always_have_a_reply() -> None:
    with pytest.raises(ValueError, match="max_output"):
        Limits(max_message=1000, max_output=999)


def test_a_reply_may_always_take_as_long_to_start() -> None:
    with pytest.raises(ValueError, match="reply_deadline"):
        Limits(reply_timeout=400)


def test_the_goodbye_always_fits() -> None:
    with pytest.raises(ValueError, match="DESCONEXION"):
        Limits(max_message=15)
    assert Limits(max_message=16).max_message == 16


def test_limits_are_frozen() -> None:
    with pytest.raises(AttributeError, match="max_message"):
        DEFAULT_LIMITS.max_message = 1  # type: ignore[misc]


def test_every_limit_says_why() -> None:
    # La razón es la cadena que sigue a cada campo en el fichero.
    from pathlib import Path

    import comunicacion_tcp.limits as module

    source = Path(module.__file__).read_text(encoding="utf-8")
    for name in FIELDS:
        after = source.split(f"    {name}: ", 1)[1].split("\n", 2)
        assert after[1].startswith('    """'), name
