"""``parser.py``: lo que no enseñan ya las pruebas de cada programa."""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path

import pytest

from comunicacion_tcp.cli import parser as module
from comunicacion_tcp.cli.parser import SpanishParser, host_and_port, whole_number


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


# -- el fichero de opciones ---------------------------------------------------------------------------------


def configured(*argv: str) -> argparse.Namespace:
    """Lo que da un programa que lee ``argv``, el entorno y su fichero."""
    parser = SpanishParser("prueba", "", "", "PRUEBA_TCP_")
    parser.add_argument("--numero-grande", type=whole_number(0, 99), default=1)
    parser.add_argument("--texto", default="sin decir")
    parser.add_argument("--vivo", action="store_true")
    parser.add_configuration()
    return parser.parse_args(argv)


def test_the_file_gives_what_is_not_given_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "prueba.conf"
    path.write_text("# lo mío\n\n numero-grande =  7 \ntexto = a = b # c\nvivo=1\n", encoding="utf-8")
    given = configured("--configuracion", str(path))
    assert (given.numero_grande, given.texto, given.vivo) == (7, "a = b # c", True)


def test_the_order_rules_over_the_environment_and_this_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prueba.conf"
    path.write_text("numero-grande = 7\ntexto = fichero\nvivo = 1\n")
    monkeypatch.setenv("PRUEBA_TCP_CONFIGURACION", str(path))
    monkeypatch.setenv("PRUEBA_TCP_NUMERO_GRANDE", "1")  # lo que vale sin decir nada
    monkeypatch.setenv("PRUEBA_TCP_VIVO", "0")
    given = configured("--texto", "orden")
    assert (given.numero_grande, given.texto, given.vivo) == (1, "orden", False)


def test_the_last_line_rules_as_the_last_option_does(tmp_path: Path) -> None:
    path = tmp_path / "prueba.conf"
    path.write_text("texto = uno\ntexto = dos\n")
    assert configured("--configuracion", str(path)).texto == "dos"


def test_the_file_may_have_windows_line_endings(tmp_path: Path) -> None:
    path = tmp_path / "prueba.conf"
    path.write_bytes("\ufefftexto = ñ\r\n".encode())
    assert configured("--configuracion", str(path)).texto == "ñ"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"numero-grande = 7\nnada = 1\n", "línea 2: nada no es una opción"),
        (b"numero-grande = 100\n", "línea 1: numero-grande debe ser un número de 0 a 99, no '100'"),
        (b"numero-grande\n", "línea 1: numero-grande debe ser un número de 0 a 99, no ''"),
        (b"numero-grande 7\n", "línea 1: numero-grande 7 no es una opción: se escribe «opción = valor», sin guiones."),
        (b"--texto = a\n", "línea 1: --texto no es una opción: se escribe «opción = valor», sin guiones."),
        (b"texto = a\r\n= 5\r\n", "línea 2: = 5 no es una opción: se escribe «opción = valor», sin guiones."),
        (b"=\n", "línea 1: = no es una opción: se escribe «opción = valor», sin guiones."),
        (b"vivo = claro\n", "línea 1: vivo debe ser 1 o 0, no 'claro'"),
        (b"configuracion = otra.conf\n", "línea 1: configuracion no es una opción"),
        (b"help = 1\n", "línea 1: help no es una opción"),
        (b"texto = \xff\n", "no es un fichero de texto en UTF-8"),
        (b"a\x1b[2J = 1\n", r"línea 1: a\x1b[2J no es una opción"),
    ],
)
def test_a_bad_line_is_told_with_its_number(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prueba.conf"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as exit_info:
        configured("--configuracion", str(path))
    assert exit_info.value.code == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert str(path) in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [("nada.conf", "no se puede leer"), (".", "no se puede leer"), ("/dev/zero", "es demasiado grande")],
)
def test_a_file_that_cannot_be_read(name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        configured("--configuracion", str(tmp_path / name))
    assert words in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="hacen falta tuberías con nombre")
def test_a_pipe_that_nobody_writes_to_does_not_hold_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    os.mkfifo(tmp_path / "tubo")
    with pytest.raises(SystemExit):
        configured("--configuracion", str(tmp_path / "tubo"))
    assert capsys.readouterr().err.endswith("tubo: nadie ha escrito nada en él. Las opciones se ven con --help.\n")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="así da bash lo que escribe una orden: <(...)")
def test_what_a_command_writes_may_be_the_file() -> None:
    read, write = os.pipe()
    with open(read, "rb"), open(write, "wb", buffering=0) as end:
        end.write(b"numero-grande = 7\n")

        def finish() -> None:
            end.write(b"texto = dos\n")
            end.close()

        timer = threading.Timer(0.05, finish)
        timer.start()
        given = configured("--configuracion", f"/dev/fd/{read}")
        timer.join()
    assert (given.numero_grande, given.texto) == (7, "dos")


def test_what_is_given_in_the_order_is_judged_also_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prueba.conf"
    path.write_text("numero-grande = muchos\n")
    with pytest.raises(SystemExit):
        configured("--configuracion", str(path), "--numero-grande", "3")
    assert "línea 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("localhost:5001", ("localhost", 5001)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:5001", ("::1", 5001)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
    ],
)
def test_a_host_and_its_port(text: str, place: tuple[str, int]) -> None:
    assert host_and_port(text) == place


@pytest.mark.parametrize(
    "text", ["", ":", ":1", "a:", "a", "::1:5001", "[]:1", "[::1]", "a:1:2", "a:65536", "a:+1", "[unix:/x]:1"]
)
def test_what_is_not_a_host_and_its_port(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="debe ser"):
        host_and_port(text)
