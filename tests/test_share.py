"""``share/``: es lo que las opciones de ahora dicen, y lo entienden bash, zsh, fish y man de verdad."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from comunicacion_tcp.cli.parser import SpanishParser, one_of
from tools import share
from tools.man_page import man_page

from .support.examples import ROOT
from .support.programs import environment
from .support.tools import need
from .support.waiting import PATIENCE

SHARE = ROOT / "share"
PARSERS = {parser.prog: parser for parser in share.parsers()}
Shell = Callable[..., set[str]]
each_program = pytest.mark.parametrize("program", PARSERS)


def output(*command: str, folder: Path = ROOT, **variables: str) -> str:
    """Lo que escribe ``command`` en ``folder`` y con esas variables; debe acabar bien y no quejarse de nada."""
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, cwd=folder, env=environment(variables))
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return done.stdout.decode()


def options(program: str) -> set[str]:
    """Las opciones largas que tiene."""
    return {option for action in PARSERS[program]._actions for option in action.option_strings if option[:2] == "--"}


@pytest.mark.parametrize("variables", [{}, {"COLUMNS": "30", "CLIENTE_TCP_PUERTO": "9", "FORCE_COLOR": "1"}])
def test_the_files_are_what_the_options_say(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    real = {str(path.relative_to(SHARE)): path.read_bytes() for path in SHARE.rglob("*") if path.is_file()}
    assert {path: text.encode() for path, text in share.files().items()} == real, "haz «make share»"


# -- las shells ---------------------------------------------------------------------------------------------

# Cada función de aquí da lo que una shell ofrece para la última palabra de la orden. Para todas, la única máquina que
# se conoce es «maquina», y los ficheros son los de ``folder``. ``place``: otro ``share/``.


def bash(program: str, *words: str, folder: Path, place: Path = SHARE) -> set[str]:
    (folder / ".hosts").write_text("192.0.2.1 maquina\n")
    code = f"""
source '{place}/bash-completion/completions/{program}'
entry=$(complete -p {program}); entry=${{entry#*-F }}
COMP_WORDS=({program} "$@"); COMP_CWORD=$#
compopt() {{ :; }}  # la de verdad se queja si no es Tab quien pregunta
"${{entry%% *}}" {program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return set(output(need("bash"), "-c", code, "bash", *words, folder=folder, HOSTFILE=".hosts").split())


# Un zsh interactivo en una terminal que abre otro zsh, que pulsa Tab: lo que iba a ofrecer se apunta en un fichero.
_ZSH = r"""
zmodload zsh/zpty
zpty shell 'zsh -f -i'
send() { zpty -w shell "$1" }
send 'PROMPT=; fpath=($SHARE/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -D'
send 'zstyle ":completion:*:hosts" hosts maquina; LISTMAX=1000'
send 'compadd() { if [[ $@[1,(i)(-|--)] != *-(O|A|D)* ]]; then
    builtin compadd -A matches "$@"; print -l -- "<"${^matches}">" >>$FOUND
  fi; builtin compadd "$@" }'
send 'finish() { print -- fin >>$FOUND }; zle -N finish; bindkey "^X" finish'
zpty -w -n shell "$LINE"$'\t\x18'
while [[ ! -e $FOUND || $(<$FOUND) != *fin ]]; do zpty -r -t shell >/dev/null || sleep 0.01; done
zpty -d shell
"""


def zsh(program: str, *words: str, folder: Path, place: Path = SHARE) -> set[str]:
    found = folder / ".ofrecido"
    found.unlink(missing_ok=True)
    line = " ".join([program, *words])
    output(need("zsh"), "-f", "-c", _ZSH, folder=folder, SHARE=str(place), FOUND=str(found), LINE=line)
    return set(re.findall("<(.*)>", found.read_text()))


def fish(program: str, *words: str, folder: Path, place: Path = SHARE) -> set[str]:
    code = f"""
function __fish_print_hostnames; echo maquina; end
function {program}; end  # sin una orden de ese nombre no carga nada
complete -C '{" ".join([program, *words])}'
"""
    home = {"HOME": str(folder), "XDG_DATA_DIRS": str(place)}
    return {line.partition("\t")[0] for line in output(need("fish"), "-c", code, folder=folder, **home).splitlines()}


each_shell = pytest.mark.parametrize("shell", [bash, zsh, fish], ids=lambda shell: shell.__name__)


@each_shell
@each_program
def test_every_option_is_offered(shell: Shell, program: str, tmp_path: Path) -> None:
    assert shell(program, "--", folder=tmp_path) == options(program)


@each_shell
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["--tls-"], {"--tls-cert", "--tls-clave", "--tls-ca"}),
        (["--registro", ""], {"llano", "fecha", "json"}),
        (["--puerto", "7000", "--registro", "j"], {"json"}),
        (["--tls-cert", "u"], {"uno.pem"}),
        (["--host", "m"], {"maquina"}),
        (["--puerto", ""], set()),
        (["--version", "--nada"], set()),
    ],
)
def test_what_completes_each_one(shell: Shell, words: list[str], offered: set[str], tmp_path: Path) -> None:
    for name in ("uno.pem", "mudo.pem"):
        (tmp_path / name).touch()
    assert shell("servidor-tcp", *words, folder=tmp_path) == offered


@each_shell
def test_any_other_options(shell: Shell, tmp_path: Path) -> None:
    # Lo que signifique algo para alguna shell, en la ayuda no significa nada.
    odd = f"con [corchetes]: 'a' \"b\" $HOME `touch {tmp_path}/MAL` $(touch {tmp_path}/MAL) (y) {{z}} 50 %% ; & | \\ !"
    parser = SpanishParser("otra-orden", "", "", "OTRA_")
    parser.add_argument("words", nargs="*", metavar="MENSAJE", help=odd)
    parser.add_argument("--servicio", metavar="MODULO:FUNCION", help=odd)
    parser.add_argument("-q", "--tuberia", action="store_true", help=odd)
    place = tmp_path / "share"
    for path, text in share.completions(parser).items():
        (place / path).parent.mkdir(parents=True)
        (place / path).write_text(text, encoding="utf-8")
    for words in (["--t"], ["--servicio", "m:f", "--t"], ["hola", "a", "--t"]):
        assert shell("otra-orden", *words, folder=tmp_path, place=place) == {"--tuberia"}
    assert shell("otra-orden", "--servicio", "", folder=tmp_path, place=place) == set()
    assert not (tmp_path / "MAL").exists()


# -- el manual ----------------------------------------------------------------------------------------------


def rendered(page: Path) -> str:
    """Lo que se lee de una página, en una sola línea; groff no debe tener nada que decir de ella."""
    output(need("groff"), "-k", "-ww", "-man", "-Tutf8", str(page))
    text = output(need("man"), "--warnings=w", "-l", str(page), MANWIDTH="100")
    return " ".join(text.split())


@each_program
def test_the_manual_says_what_the_help_says(program: str) -> None:
    parser = PARSERS[program]
    text = rendered(SHARE / "man" / "man1" / f"{program}.1")
    for title in ("NOMBRE", "SINOPSIS", "DESCRIPCIÓN", "OPCIONES", "límites", "ENTORNO", "VÉASE TAMBIÉN"):
        assert f" {title} " in text
    about, _, examples = (parser.epilog or "").partition("ejemplos:")
    for part in (about, examples):
        assert " ".join(part.split()) in text
    for action in parser._actions:
        values = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
        meaning = (action.help or "") % vars(action)
        assert f"{', '.join(action.option_strings)}{values} {meaning} " in text
        if variable := parser._variable(action):
            assert f" {variable} {action.option_strings[-1]}" in text
    codes = " ".join(f"{code} {meaning}" for code, meaning in parser.exit_codes.items())
    assert f" CÓDIGO DE SALIDA {codes} " in text


def test_the_manual_of_any_other_program(tmp_path: Path) -> None:
    epilog = ".Empieza por un punto, y \\ es una barra: 'así', ~ y ^.\n\nejemplos:\n  .a  --b\n  c `d`\n"
    parser = SpanishParser("otro", "Otro.", epilog, "OTRO_TCP_", {0: "bien"})
    parser.add_argument("lugar", help="'dónde' (100 %%)")
    parser.add_argument("resto", nargs="*", metavar="TEXTO", help="lo demás")
    parser.add_argument("--forma", type=one_of("a", "b"), nargs="?", help="%(prog)s tiene dos")
    parser.add_argument("--ya", action="store_true", help="sin esperar")
    parser.add_argument("--oculta", help=argparse.SUPPRESS)
    page = tmp_path / "otro.1"
    page.write_text(man_page(parser, "el-mismo"), encoding="utf-8")
    text = rendered(page)
    assert "\n.EX\n\\&.a  \\-\\-b\nc \\(gad\\(ga\n.EE\n" in page.read_text(encoding="utf-8")
    for words in (
        " otro - otro ",
        " otro [OPCIÓN]... LUGAR [TEXTO...] ",
        " .Empieza por un punto, y \\ es una barra: 'así', ~ y ^. ",
        " ARGUMENTOS LUGAR 'dónde' (100 %) [TEXTO...] lo demás OPCIONES -h, ",
        " --forma[=FORMA] otro tiene dos --ya sin esperar ",
        " OTRO_TCP_FORMA --forma ",
        " OTRO_TCP_YA --ya, si es 1 ",
        " EJEMPLOS .a --b c `d` ",
        " el-mismo(1) ",
    ):
        assert words in text
    assert "culta" not in text
