"""``services.py``: el atajo de las mayúsculas da lo mismo que la función, y cualquier función es un servicio."""

from __future__ import annotations

import sys

import pytest

from comunicacion_tcp.services import Service, as_service, uppercase


def test_the_block_of_uppercase_equals_the_function_on_all_of_unicode() -> None:
    assert uppercase.block
    everything = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    for start in range(0, len(everything), 4096):
        text = "".join(everything[start : start + 4096])
        assert uppercase.block(text.encode()).decode() == text.upper()
    assert uppercase.block(b"hola\n") == b"HOLA\n"


@pytest.mark.parametrize("extra", ["", "µ", "ß", "ÿ", "€", "ﬁ", "Ω", "😀"])
def test_the_block_of_uppercase_equals_the_function_on_long_texts_in_spanish(extra: str) -> None:
    assert uppercase.block
    letters = "".join(chr(code) for code in range(256) if chr(code) not in "µßÿ")
    text = letters * 20 + extra
    assert uppercase.block(text.encode()).decode() == text.upper()


def test_uppercase_works_character_by_character() -> None:
    # De esto depende responder al vuelo: ningún carácter cambia por sus vecinos, ni se vuelve salto de línea.
    assert uppercase.by_character
    for code in range(sys.maxunicode + 1):
        upper = chr(code).upper()
        assert ("a" + chr(code) + "Σ").upper() == "A" + upper + "Σ"
        assert ("\n" in upper) == (code == 10)


def test_uppercase_refuses_a_block_that_is_not_utf8() -> None:
    assert uppercase.block
    with pytest.raises(UnicodeDecodeError):
        uppercase.block(b"bien\n\xff\n")


def test_anything_else_is_not_a_service() -> None:
    with pytest.raises(TypeError, match="no str"):
        as_service("hola")  # type: ignore[arg-type]


def test_any_function_is_a_service_of_lines() -> None:
    service = as_service(str.title)
    assert service == Service(str.title)
    assert not service.by_character
    assert as_service(service) is service
