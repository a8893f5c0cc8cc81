"""``--comprobar``: qué vale y qué no, con su frase y su código, sin servir a nadie."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ..support.certificates import Certificates
from ..support.modules import write
from ..support.programs import SERVER, environment, fails, run, running_server


def test_what_is_right_is_said_to_be(certificates: Certificates, tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "print('al importarse')\ndef f(texto): return texto")
    (tmp_path / "servidor.conf").write_text(f"servicio = mio:f\ntls-cert = {certificates.server}\nprocesos = 2\n")
    with running_server() as (_, port):  # ni con el puerto ocupado: está en marcha el que se va a recargar
        options = ("--configuracion", "servidor.conf", "--puerto", str(port), "--metricas", f"localhost:{port}")
        done = run([*SERVER, *options, "--comprobar"], cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.decode() == "Todo vale: las opciones y lo que nombran." + os.linesep
    assert done.stderr.decode().strip() == "al importarse"


def test_what_the_service_leaves_running_does_not_keep_it(tmp_path: Path) -> None:
    source = "import threading\nthreading.Thread(target=threading.Event().wait).start()\ndef f(texto): return texto"
    write(tmp_path / "mio.py", source)
    assert run([*SERVER, "--servicio", "mio:f", "--comprobar"], cwd=tmp_path).returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no hay /dev/full")
def test_where_nothing_can_be_written_the_code_says_it() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*SERVER, "--comprobar"], stdout=full, stderr=subprocess.PIPE, env=environment())
    assert (done.returncode, done.stderr) == (0, b"")


def test_all_that_is_wrong_is_said(tmp_path: Path) -> None:
    done = run([*SERVER, "--servicio", "nada:f", "--tls-cert", "nada.pem", "--comprobar"], cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == b""
    service, certificate = done.stderr.decode().splitlines()
    assert service.startswith("No hay ningún módulo «nada»")
    assert "nada.pem" in certificate


def test_a_wrong_option_is_as_always(tmp_path: Path) -> None:
    (tmp_path / "servidor.conf").write_text("puerto = mil\n")
    fails(run([*SERVER, "--configuracion", "servidor.conf", "--comprobar"], cwd=tmp_path), 2, "servidor.conf, línea 1")


@pytest.mark.parametrize("where", ["environment", "file"])
def test_it_is_only_asked_in_the_command(where: str, tmp_path: Path) -> None:
    # En el fichero, el servidor acabaría siempre diciendo que todo vale.
    if where == "file":
        (tmp_path / "servidor.conf").write_text("comprobar = 1\n")
        done = run([*SERVER, "--puerto", "0", "--configuracion", "servidor.conf"], cwd=tmp_path)
        fails(done, 2, "comprobar")
    else:
        with running_server(env={**environment(), "SERVIDOR_TCP_COMPROBAR": "1"}) as (server, _):
            assert server.process.poll() is None


def test_what_was_left_unchecked_is_not_right(tmp_path: Path) -> None:
    write(tmp_path / "mio.py", "raise KeyboardInterrupt")  # Ctrl-C, mientras se importa
    done = run([*SERVER, "--servicio", "mio:f", "--comprobar"], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
