"""Los programas de verdad, como procesos: por tuberías o en una terminal (un pseudoterminal con su sesión)."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .examples import ROOT
from .loops import python_path
from .waiting import PATIENCE, wait_until

SERVER = [sys.executable, str(ROOT / "Servidor_TCP.py")]
CLIENT = [sys.executable, str(ROOT / "Cliente_TCP.py")]
SILENT = re.compile("Traceback|Exception", re.IGNORECASE)  # lo que una persona no debe leer nunca
PROMPT = "Ingresa un mensaje (o 'DESCONEXION' para salir): "


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """El entorno de una persona: el de aquí, sin nada que cambie cómo escribe Python, en UTF-8, y ``changes``.

    La terminal es de las que no saben nada (las otras, en ``screen.py``), y nada se guarda: ahí no cabe una carpeta.
    """
    unwanted = ("PYTHON", "LC_", "LANG", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    nowhere = {"TERM": "dumb", "XDG_STATE_HOME": os.devnull}
    return {**kept, "LANG": "C.UTF-8", **nowhere, **python_path(), **(changes or {})}


# Abrir la terminal siendo líder de sesión la hace su terminal de control: así Ctrl-C llega como señal.
TAKE_TERMINAL = "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"


class Program:
    """Un proceso cuya salida se va leyendo: ``output`` crece sola, y ``wait_for`` espera a que diga algo.

    ``terminal``: si se ejecuta en un pseudoterminal (entrada, salida y errores) o con tuberías. ``size``: sus filas y
    columnas. ``cwd``: dónde. ``pass_fds``: los descriptores que hereda, por tuberías.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        terminal: bool = False,
        size: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
        encoding: str = "utf-8",
        cwd: Path = ROOT,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._encoding = encoding
        self._bytes = b""
        self._errors = b""
        self.process: subprocess.Popen[bytes]
        settings = environment(env)
        if terminal:
            self._master, slave = os.openpty()
            if size:
                self._set_size(*size)
            self.process = subprocess.Popen(
                [sys.executable, "-c", TAKE_TERMINAL, *command],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                cwd=cwd,
                env=settings,
                start_new_session=True,
            )
            os.close(slave)
            # Con un descriptor suyo: el de _master, una vez cerrado, es el de la terminal siguiente.
            readers = [threading.Thread(target=self._read_terminal, args=(os.dup(self._master),), daemon=True)]
        else:
            self._master = -1
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, env=settings, pass_fds=pass_fds
            )
            readers = [threading.Thread(target=self._read_pipe, args=(name,), daemon=True) for name in ("out", "err")]
        self._readers = readers
        for reader in readers:
            reader.start()

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read_terminal(self, terminal: int) -> None:
        with open(terminal, "rb", buffering=0) as stream, contextlib.suppress(OSError):
            while data := stream.read(65536):  # Linux dice EIO cuando ya nadie tiene la terminal abierta
                self._bytes += data

    def _read_pipe(self, name: str) -> None:
        stream = self.process.stdout if name == "out" else self.process.stderr
        assert stream
        while data := os.read(stream.fileno(), 65536):
            if name == "out":
                self._bytes += data
            else:
                self._errors += data

    @property
    def output(self) -> str:
        """Lo escrito hasta ahora en la salida (en una terminal, también los errores y el eco de lo tecleado)."""
        return self._text(self._bytes)

    @property
    def errors(self) -> str:
        """Lo escrito hasta ahora en la salida de errores, si no es una terminal."""
        return self._text(self._errors)

    def _text(self, data: bytes) -> str:
        # Un carácter leído a medias espera a su otra mitad; bytes que no sean texto siguen siendo un fallo.
        return codecs.getincrementaldecoder(self._encoding)().decode(data)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Espera a que ``text`` esté en la salida, ``times`` veces."""
        wait_until(
            lambda: self.output.count(text) >= times,
            lambda: f"que diga {text!r}; dijo {self.output!r} {self.errors!r}",
        )

    @property
    def port(self) -> int:
        """El puerto en que dijo que escucha; espera a que lo diga."""
        self.wait_for("...\n" if self._master < 0 else "...\r\n")
        match = re.search(r"Servidor escuchando en .*:(\d+)(?:, con \d+ procesos? \(padre: \d+\))?\.\.\.", self.output)
        assert match, self.output
        return int(match[1])

    def type(self, text: str) -> None:
        """Teclea ``text`` (o lo escribe en su tubería)."""
        data = text.encode(self._encoding)
        if self._master >= 0:
            os.write(self._master, data)
        else:
            assert self.process.stdin
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def end_input(self) -> None:
        """Termina su entrada: Ctrl-D en una terminal, cierre de la tubería si no."""
        if self._master >= 0:
            self.type("\x04")
        else:
            assert self.process.stdin
            self.process.stdin.close()

    def wait(self) -> int:
        """Espera a que acabe y a haber leído todo; devuelve su código de salida."""
        code: int = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def insist(self, number: signal.Signals) -> None:
        """Se la envía hasta que acabe: dos casi a la vez cuentan como una."""
        insist(self.process, number)

    def signal(self, number: signal.Signals) -> None:
        """Le envía una señal."""
        self.process.send_signal(number)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._master >= 0:
            os.close(self._master)


def insist(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Le envía la señal hasta que acabe: dos casi a la vez cuentan como una."""

    def ended() -> bool:
        process.send_signal(number)
        return process.poll() is not None

    wait_until(ended, "que acabe")


@contextlib.contextmanager
def running_server(
    *options: str, terminal: bool = False, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[tuple[Program, int]]:
    """El servidor de verdad en un puerto libre: ``(programa, puerto)``. Al acabar lo para."""
    with Program([*SERVER, "--puerto", "0", *options], terminal=terminal, env=env, cwd=cwd) as program:
        yield program, program.port


def run(
    command: Sequence[str], entry: str | bytes = "", env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[bytes]:
    """Ejecuta ``command`` hasta el final con ``entry`` por su entrada."""
    data = entry.encode() if isinstance(entry, str) else entry
    return subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE, cwd=cwd, env=environment(env))


def fails(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """Acabó con ``code`` y una sola línea de error, que lo explica con esas palabras y no es un traceback."""
    errors = done.stderr.decode()
    assert done.returncode == code
    assert len(errors.splitlines()) == 1
    assert not SILENT.search(errors + done.stdout.decode())
    for word in words:
        assert word in errors


def children_of(pid: int) -> set[int]:
    """Los hijos de un proceso."""
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()


def state(pid: int) -> str:
    """Cómo está un proceso: ``T`` parado, ``Z`` muerto y sin enterrar, vacío si no está."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """Si está y no ha acabado."""
    return state(pid) not in ("", "Z")
