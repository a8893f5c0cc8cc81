"""``settings.py``: cada límite es una opción, una variable del entorno y un argumento de la biblioteca."""

from __future__ import annotations

import pytest

from comunicacion_tcp.cli.parser import SpanishParser
from comunicacion_tcp.cli.settings import CLIENT_LIMITS, SERVER_LIMITS, add_limits, chosen_limits
from comunicacion_tcp.limits import DEFAULT_LIMITS, Limits

from ..support.programs import CLIENT, SERVER, fails, run, running_server
from ..support.sockets import connect, receive_all

# Los pone la opción --espera del cliente.
BY_WAIT = {"connect_timeout", "handshake_timeout", "reply_timeout", "reply_deadline"}


def chosen(*arguments: str) -> Limits:
    """Los límites que elige un servidor con esos argumentos."""
    parser = SpanishParser("prueba", "", "", "PRUEBA_TCP_")
    add_limits(parser, SERVER_LIMITS)
    options = parser.parse_args(arguments)
    return chosen_limits(parser, options, SERVER_LIMITS)


def test_every_limit_has_its_option() -> None:
    assert set(SERVER_LIMITS) | set(CLIENT_LIMITS) | BY_WAIT == set(Limits.fields())


def test_without_options_they_are_the_defaults() -> None:
    assert chosen() == DEFAULT_LIMITS


@pytest.mark.parametrize("field", SERVER_LIMITS)
def test_an_option_or_its_variable_sets_its_limit(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    option, _ = SERVER_LIMITS[field]
    value = {"max_output": 8_000_000, "max_message": 100}.get(field, 7)
    expected = Limits(**{field: value})
    assert chosen(option, str(value)) == expected
    variable = "PRUEBA_TCP_" + option.removeprefix("--").replace("-", "_").upper()
    monkeypatch.setenv(variable, str(value))
    assert chosen() == expected
    monkeypatch.setenv(variable, "")
    assert chosen() == DEFAULT_LIMITS


def test_the_option_rules_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUEBA_TCP_COLA", "5")
    assert chosen("--cola", "9").backlog == 9
    assert chosen().backlog == 5


@pytest.mark.parametrize(("text", "value"), [("64K", 64 * 1024), ("1m", 1024**2), ("1G", 1024**3), ("100", 100)])
def test_sizes(text: str, value: int) -> None:
    assert chosen("--max-salida", "2147483647", "--max-mensaje", text).max_message == value


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--max-mensaje", "1T"], "debe ser un número entero"),
        (["--max-mensaje", "-5"], "debe ser un número entero"),
        (["--max-mensaje", "K"], "debe ser un número entero"),
        (["--cola", "9" * 5000], "debe ser un número entero"),
        (["--max-conexiones", "0"], "--max-conexiones debe ser mayor que cero"),
        (["--max-mensaje", "8M"], "--max-salida debe ser al menos --max-mensaje"),
        (["--max-mensaje", "15"], "--max-mensaje debe ser 16 o más"),
        (["--plazo-mensaje", "0"], "mayor que cero"),
        (["--plazo-inactivo", "-1"], "cero o más"),
    ],
)
def test_impossible_limits_are_a_sentence(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        chosen(*arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line


def test_a_wrong_variable_is_named() -> None:
    fails(run(SERVER, env={"SERVIDOR_TCP_PUERTO": "x"}), 2, "SERVIDOR_TCP_PUERTO debe ser un número de 0 a 65535")
    fails(run(CLIENT, env={"CLIENTE_TCP_ESPERA": "x"}), 2, "CLIENTE_TCP_ESPERA debe ser un número de segundos")


def test_the_real_server_obeys() -> None:
    variables = {"SERVIDOR_TCP_MAX_MENSAJE": "20"}
    with running_server("--plazo-mensaje", "0.1", env=variables) as (_, port), connect(port) as sock:
        sock.sendall(b"x" * 21 + b"\na medias")
        assert receive_all(sock).decode() == (
            "ERROR: el mensaje pasa de 20 bytes\nERROR: el mensaje no acabó en 0.1 s; se cierra la conexión\n"
        )


def test_options_without_a_value_are_set_with_a_1() -> None:
    for text, word in (("1", "ese fichero no existe"), ("0", "necesita --tls")):
        variables = {"CLIENTE_TCP_TLS": text, "CLIENTE_TCP_TLS_CA": "/no/existe", "CLIENTE_TCP_PUERTO": "1"}
        done = run(CLIENT, env=variables)
        assert word in done.stderr.decode()
    fails(run(CLIENT, env={"CLIENTE_TCP_TLS": "sí"}), 2, "CLIENTE_TCP_TLS debe ser 1 o 0")
    parser = SpanishParser("prueba", "", "", "PRUEBA_TCP_")
    assert [parser._variable(action) for action in parser._actions] == ["", ""]  # --help y --version


def test_a_wrong_variable_does_not_hide_the_help_nor_an_option() -> None:
    wrong = {"SERVIDOR_TCP_COLA": "x"}
    assert "uso:" in run([*SERVER, "--help"], env=wrong).stdout.decode()
    with running_server("--cola", "5", env=wrong):
        pass
