"""asyncio con sus streams, como en su documentación (start_server, readline). Con el argumento uvloop, sobre uvloop."""

import asyncio
import sys


async def handle(reader, writer):
    while line := await reader.readline():
        text = line.decode()
        if text.rstrip("\r\n") == "DESCONEXION":
            writer.write("Conexión cerrada\n".encode())
            break
        writer.write(text.upper().encode())
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=2**20, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if "uvloop" in sys.argv:
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
