"""``plain.py`` entiende lo mismo que argparse, o nada."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comunicacion_tcp.cli.client import _options, _parser
from comunicacion_tcp.cli.plain import plain_pipe

WORDS = st.sampled_from(
    [
        *(
            "-q",
            "--tuberia",
            "--host",
            "--puerto",
            "127.0.0.1",
            "unix:/tmp/uno",
            "unix:",
            "a b",
            "a\x00b",
            "",
            "-",
            "--",
        ),
        *(
            "5",
            "05",
            "65536",
            "00005000",
            "0",
            "-1",
            "+5",
            "5\u0665",
            "--puerto=7",
            "-qq",
            "-h",
            "--tls",
            "--json",
            "hola",
        ),
    ]
)


@given(st.lists(WORDS, max_size=6).map(lambda words: [*words, "-q"]) | st.lists(WORDS, max_size=6))
def test_what_it_understands_is_what_the_whole_parser_does(argv: list[str]) -> None:
    place = plain_pipe(argv)
    if place is not None:
        plain = _options(_parser("cliente-tcp"), argv)
        usual = vars(_options(_parser("cliente-tcp"), ["-q"]))
        assert vars(plain) == {**usual, **{{"port": "puerto"}.get(name, name): place[name] for name in place}}


def test_the_usual_order_needs_nothing_else() -> None:
    assert plain_pipe(["-q"]) == {}
    assert plain_pipe(["--host", "unix:/r", "--tuberia"]) == {"host": "unix:/r"}
    assert plain_pipe(["--puerto", "7000", "-q", "--host", "::1"]) == {"host": "::1", "port": 7000}
    assert plain_pipe([]) is None
    assert plain_pipe(["--puerto", "7000"]) is None


def test_with_something_in_the_environment_it_is_for_the_whole_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENTE_TCP_PUERTO", "7000")
    assert plain_pipe(["-q"]) is None
