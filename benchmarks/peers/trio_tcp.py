"""trio con serve_tcp; trio no trae lectura por líneas, y se juntan como en sus ejemplos."""

import trio


async def handle(stream):
    pending = b""
    async for data in stream:
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            text = line.decode()
            if text.rstrip("\r") == "DESCONEXION":
                await stream.send_all("Conexión cerrada\n".encode())
                return
            await stream.send_all(text.upper().encode() + b"\n")


async def main():
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(lambda **k: trio.serve_tcp(handle, 0, host="127.0.0.1", backlog=1024, **k))
        print(listeners[0].socket.getsockname()[1], flush=True)


trio.run(main)
