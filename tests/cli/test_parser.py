"""``parser.py``: lo que no enseñan ya las pruebas de cada programa."""

from __future__ import annotations

import argparse

import pytest

from comunicacion_tcp.cli.parser import SpanishParser, host_and_port


@pytest.mark.parametrize("columns", [10, 40, 200])
def test_the_table_of_exit_codes_fits(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    meaning = "una explicación de las que ocupan más de una línea en casi cualquier terminal"
    help_text = SpanishParser("prueba", "", "", "PRUEBA_TCP_", {0: "bien", 130: meaning}).format_help()
    first, *others = help_text.partition("\ncódigo de salida:\n")[2].splitlines()
    assert first == "  0    bien"
    assert max(map(len, others)) <= max(columns, 20)
    assert [line[:7] for line in others] == ["  130  ", *["       "] * (len(others) - 1)]
    assert " ".join(line[7:] for line in others) == meaning


def test_without_exit_codes_there_is_no_table() -> None:
    assert "código" not in SpanishParser("prueba", "", "", "PRUEBA_TCP_").format_help()


def test_arguments_have_their_title_in_spanish() -> None:
    parser = SpanishParser("prueba", "", "", "PRUEBA_TCP_")
    parser.add_argument("algo", help="lo que sea")
    assert "argumentos:\n  algo " in parser.format_help()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("localhost:9100", ("localhost", 9100)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:9100", ("::1", 9100)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
    ],
)
def test_a_host_and_its_port(text: str, place: tuple[str, int]) -> None:
    assert host_and_port(text) == place


@pytest.mark.parametrize("text", ["", ":", ":1", "a:", "a", "::1:9100", "[]:1", "[::1]", "a:1:2", "a:65536", "a:+1"])
def test_what_is_not_a_host_and_its_port(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="debe ser"):
        host_and_port(text)
