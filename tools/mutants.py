"""``make mutants``: cambia el código de una en una cosa y dice qué cambios no nota ninguna prueba.

Los cambios los hace mutmut, en una copia que se borra: aquí solo se dice qué se cambia y con qué pruebas, y se aparta
lo que está en ``equivalents.txt``, que son los cambios que no hacen nada que se pueda ver.

Uso: python -m tools.mutants [protocol deadlines...]
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENTS = Path(__file__).with_name("equivalents.txt")

# Cada módulo, con las pruebas que son suyas: que lo note de rebote la de otro no dice qué falla.
TARGETS = {
    "protocol": ["test_protocol.py", "test_protocol_property.py", "test_fuzz_corpus.py"],
    "admission": ["test_admission.py"],
    "deadlines": ["test_deadlines.py"],
    "supervision": ["test_supervision.py"],
    "conversation": ["test_conversation.py", "test_client.py", "test_aio.py"],
}

# Sin azar: dos pasadas dicen lo mismo. Y sin la prueba que arranca un Python sin los paquetes instalados.
_PYTEST = [
    *("-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--hypothesis-seed=0"),
    "--deselect=tests/test_fuzz_corpus.py::test_without_atheris_it_says_so",
]


def undecorate(source: str) -> str:
    """El mismo módulo, con sus propiedades y gestores de contexto decorados al final: mutmut no cambia lo decorado."""
    lines, after = source.splitlines(), []
    for owner in ast.parse(source).body:
        if not isinstance(owner, ast.ClassDef):
            continue
        for method in owner.body:
            if isinstance(method, ast.FunctionDef) and len(method.decorator_list) == 1:
                name = ast.unparse(method.decorator_list[0])
                if name in ("property", "contextlib.contextmanager"):
                    lines[method.decorator_list[0].lineno - 1] = ""
                    after.append(f"{owner.name}.{method.name} = {name}({owner.name}.{method.name})")
    return "\n".join([*lines, *after, ""])


def copy(folder: Path, module: str) -> None:
    """Pone en ``folder`` el repositorio, como está ahora, y lo que mutmut tiene que saber."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "dist"), dirs_exist_ok=True)
    code = folder / "comunicacion_tcp" / f"{module}.py"
    code.write_text(undecorate(code.read_text(encoding="utf-8")), encoding="utf-8")
    settings = {
        "source_paths": ["comunicacion_tcp"],
        "only_mutate": [f"comunicacion_tcp/{module}.py"],
        "also_copy": sorted({path.name for path in folder.iterdir()} - {"comunicacion_tcp", "tests"}),
        "timeout_multiplier": [
            "5"
        ],  # un cambio puede no acabar nunca: cinco veces lo que tardan sus pruebas, y un segundo
        "pytest_add_cli_args": _PYTEST,
        "pytest_add_cli_args_test_selection": [f"tests/{name}" for name in TARGETS[module]],
    }
    text = "".join(f"{name} =\n" + "".join(f"    {value}\n" for value in values) for name, values in settings.items())
    (folder / "setup.cfg").write_text(f"[mutmut]\n{text}", encoding="utf-8")


def survivors(folder: Path) -> list[str]:
    """Los cambios que no notó ninguna prueba: «lo de antes => lo de después»."""

    def mutmut(*words: str) -> str:
        command = [sys.executable, "-m", "mutmut", *words]
        return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout

    subprocess.run([sys.executable, "-m", "mutmut", "run"], cwd=folder, check=True)
    found = []
    for name in re.findall(r"^\s*(\S+): (?:survived|no tests)$", mutmut("results"), re.MULTILINE):
        shown = mutmut("show", name)
        before, after = (
            " ".join(line[1:].strip() for line in shown.splitlines() if re.match(rf"\{sign}(?!\{sign}\{sign})", line))
            for sign in "-+"
        )
        found.append(f"{before} => {after}")
    return found


def read_equivalents() -> set[str]:
    """Las líneas «módulo: antes => después» de ``equivalents.txt``."""
    lines = EQUIVALENTS.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("# ")}


def main() -> int:
    """El código de salida: 0, o 1 si quedó alguno que no está entre los equivalentes."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants")
    parser.add_argument("modules", nargs="*", metavar="módulo", help=f"por defecto, todos: {', '.join(TARGETS)}")
    modules = parser.parse_args().modules or list(TARGETS)
    if unknown := set(modules) - set(TARGETS):
        parser.error(f"no se cambia {', '.join(sorted(unknown))}; sí {', '.join(TARGETS)}")
    known = read_equivalents()
    failed = False
    for module in modules:
        with tempfile.TemporaryDirectory(prefix="mutantes-") as name:
            copy(Path(name), module)
            found = {f"{module}: {change}" for change in survivors(Path(name))}
        left = sorted(found - known)
        failed = failed or bool(left)
        print("\n".join([f"\n{module}: {len(left)} cambios que no nota ninguna prueba", *left]))
        for line in sorted(line for line in known - found if line.startswith(f"{module}: ")):
            print(f"Sobra en {EQUIVALENTS.name}: {line}")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
