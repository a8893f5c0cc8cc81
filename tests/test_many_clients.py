"""Doscientos clientes a la vez, cada uno con su conversación: ninguna respuesta de menos, cambiada ni de otro."""

from __future__ import annotations

import asyncio
import random
import zlib

import pytest

from .support.programs import running_server
from .support.waiting import PATIENCE

CLIENTS, MESSAGES = 200, 30
STYLES = ["\n", "\r\n", ""]


def message(client: int, sequence: int) -> str:
    """Un mensaje que dice de quién es, cuál es y con qué suma se comprueba."""
    filler = "ñandú " * random.Random(client * MESSAGES + sequence).randrange(60)
    text = f"cliente {client} mensaje {sequence} {filler}"
    return f"{text}{zlib.crc32(text.upper().encode())}"


async def one_at_a_time(client: int, terminator: str, port: int) -> None:
    """Envía, espera la respuesta, y otra vez."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for sequence in range(MESSAGES):
        text = message(client, sequence) + terminator
        writer.write(text.encode())
        expected = text.upper().encode()
        assert await reader.readexactly(len(expected)) == expected
    await leave(reader, writer, terminator)


async def all_at_once(client: int, terminator: str, port: int) -> None:
    """Envía todo cortado por cualquier sitio, sin esperar, y después lee."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    text = "".join(message(client, sequence) + terminator for sequence in range(MESSAGES))
    data = text.encode()
    cutter = random.Random(client)
    while data:
        size = cutter.randrange(1, 200)
        writer.write(data[:size])
        data = data[size:]
        await writer.drain()
        await asyncio.sleep(0)
    expected = text.upper().encode()
    assert await reader.readexactly(len(expected)) == expected
    await leave(reader, writer, terminator)


async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, terminator: str) -> None:
    """Se despide y comprueba que después solo hay FIN."""
    writer.write(b"DESCONEXION" + terminator.encode())
    assert await reader.read() == "Conexión cerrada".encode() + terminator.encode()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("style", [one_at_a_time, all_at_once])
def test_two_hundred_conversations_at_once(style: object) -> None:
    async def everyone(port: int) -> None:
        crowd = [style(client, STYLES[client % 3], port) for client in range(CLIENTS)]  # type: ignore[operator]
        await asyncio.wait_for(asyncio.gather(*crowd), PATIENCE * 2)

    with running_server() as (server, port):
        asyncio.run(everyone(port))
        server.wait_for("Mensaje de desconexión recibido. Cerrando la conexión.\n", times=CLIENTS)
        assert server.output.count("Conexión aceptada de") == CLIENTS
        assert server.errors == ""
