"""``make fuzz``: pasa atheris tantas entradas como se pida y dice cuántas fueron, a qué velocidad y qué encontró.

Todo ocurre en una carpeta temporal que se borra. Al repositorio solo llega la entrada que encuentre un fallo, que se
añade a ``seeds.txt`` para siempre, y con ``--guarda`` las que descubran caminos nuevos (``corpus.txt``).

Uso: python -m fuzz.run [--entradas N] [--guarda]
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.driving import FRAGMENTS

from . import corpus

_LONGEST = 96  # bytes por entrada: caben varios mensajes del máximo más corto, y las largas son las lentas
_TOO_SLOW = 10  # segundos: lo normal es medio milisegundo; una entrada así es un fallo
_TALK = 30.0  # segundos entre dos noticias
_LAST = 40  # líneas que se guardan: ahí cabe la traza de un fallo


def write_inputs(folder: Path) -> None:
    """Prepara lo que atheris lee: una entrada por fichero y el diccionario, en el formato de libFuzzer."""
    (folder / "corpus").mkdir()
    for number, data in enumerate(corpus.read(corpus.SEEDS) + corpus.read(corpus.CORPUS)):
        (folder / "corpus" / str(number)).write_bytes(data)
    words = [*FRAGMENTS, b"|", b"~", b"*", b"!", b"?", b"#", b"$"]
    (folder / "dict").write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words))


def atheris(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Lo arranca sobre esa carpeta; lo que escribe se lee de su ``stdout``."""
    own = [f"-artifact_prefix={folder}/found-", f"-timeout={_TOO_SLOW}"]
    command = [sys.executable, "-m", "fuzz.target", *own, *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    )


def follow(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Espera a que acabe, dando noticias. Devuelve cuántas entradas ejecutó y lo último que dijo."""
    assert process.stdout
    executed, spoke = 0, time.monotonic()
    last: list[str] = []
    try:
        for line in process.stdout:
            if found := re.match(r"#(\d+)\s.*cov: (\d+) ft: (\d+)", line):
                executed = int(found[1])
                if time.monotonic() - spoke > _TALK:
                    spoke = time.monotonic()
                    print(f"  {executed} entradas, {found[2]} saltos y {found[3]} caminos distintos", flush=True)
            elif found := re.match(r"stat::number_of_executed_units:\s*(\d+)", line):
                executed = int(found[1])
            else:
                last = [*last[-_LAST:], line]
        process.wait()
    finally:
        process.kill()  # si se interrumpe
    return executed, last


def minimise(folder: Path) -> None:
    """Deja en ``corpus.txt`` las menos entradas que recorren lo mismo que todas las de la carpeta."""
    (folder / "small").mkdir()
    _, last = follow(atheris(folder, "-merge=1", str(folder / "small"), str(folder / "corpus")))
    kept = [path.read_bytes() for path in (folder / "small").iterdir()]
    if not kept:
        sys.exit("No se pudo reducir el corpus:\n" + "".join(last))
    seeds = corpus.read(corpus.SEEDS)
    corpus.write(corpus.CORPUS, (data for data in kept if data not in seeds))


def main() -> int:
    """El código de salida: 0, o 1 si encontró un fallo."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run")
    parser.add_argument("--entradas", type=int, default=10_000_000)
    parser.add_argument("--guarda", action="store_true")
    wanted = parser.parse_args()
    if not importlib.util.find_spec("atheris"):
        version = "{}.{}".format(*sys.version_info)
        print(f"No hay atheris para Python {version} en {sys.platform}: de make fuzz solo corren las propiedades.")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # para no dejar atrás a atheris ni la carpeta
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        start = time.monotonic()
        options = [f"-runs={wanted.entradas}", f"-max_len={_LONGEST}", f"-dict={folder}/dict", "-print_final_stats=1"]
        process = atheris(folder, *options, str(folder / "corpus"))
        executed, last = follow(process)
        seconds = time.monotonic() - start
        crashes = [path.read_bytes() for path in folder.glob("found-*")]
        size = len(list((folder / "corpus").iterdir()))
        print(f"{executed} entradas, {executed / seconds:.0f} por segundo; corpus de {size}; {len(crashes)} fallos")
        if crashes or process.returncode:
            print("".join(last))
            for data in crashes:
                corpus.add(corpus.SEEDS, data)
                print(f"Añadida a {corpus.SEEDS.name}, que repite tests/test_fuzz_corpus.py: {corpus.show(data)}")
            return 1
        if wanted.guarda:
            minimise(folder)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Interrumpido.")
