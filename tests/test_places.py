"""``places.py``: cambiar de carpeta no cambia qué fichero, ni qué socket, era una ruta relativa."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from comunicacion_tcp import AsyncClient, Client, Server, ServerTLS
from comunicacion_tcp.places import as_of_now, host_as_of_now

from .support.certificates import Certificates


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """La carpeta actual, y al lado otra vacía: ``otra``."""
    before = os.getcwd()
    (tmp_path / "otra").mkdir()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def test_a_path_is_of_now(here: Path) -> None:
    assert as_of_now("a/../b.pem") == f"{here}/a/../b.pem"
    assert as_of_now("/b.pem") == "/b.pem"
    assert host_as_of_now("unix:s") == f"unix:{here}/s"
    assert host_as_of_now("unix:/s") == "unix:/s"
    assert host_as_of_now("localhost") == "localhost"


def test_one_that_would_not_fit_is_left_as_it_is(here: Path) -> None:
    # Quien entra en una carpeta muy honda para que su socket quepa sabe lo que hace.
    deep = here / ("x" * 100)
    deep.mkdir()
    os.chdir(deep)
    assert host_as_of_now("unix:s") == "unix:s"
    with Server(host="unix:s") as server, Client(server.host) as client:
        assert client.send("hola") == "HOLA"


def test_without_a_folder_it_is_left_as_it_is(here: Path) -> None:
    os.chdir(here / "otra")
    (here / "otra").rmdir()
    assert as_of_now("b.pem") == "b.pem"


def test_a_server_and_its_clients(here: Path) -> None:
    server, client, waiting = Server(host="unix:s"), Client("unix:s"), AsyncClient("unix:s")
    with server:
        os.chdir("otra")
        assert server.host == f"unix:{here}/s"
    assert not (here / "s").exists()
    with server, client:  # otra vez, desde otra carpeta
        assert client.send("hola") == "HOLA"
        asyncio.run(_says(waiting))
    assert not list(here.glob("**/s"))


def test_the_files_of_tls(here: Path, certificates: Certificates) -> None:
    shutil.copyfile(certificates.server, "cert.pem")
    tls = ServerTLS("cert.pem")
    os.chdir("otra")
    shutil.copyfile(certificates.foreign, here / "cert.pem")
    assert tls.reread(0.0)
    assert tls.expiry()


async def _says(client: AsyncClient) -> None:
    async with client:
        assert await client.send("hola") == "HOLA"
