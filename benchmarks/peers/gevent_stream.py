"""gevent con StreamServer y makefile, como en su ejemplo del servidor de eco."""

import socket

from gevent.server import StreamServer


def handle(sock, address):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for line in sock.makefile(mode="rb"):
        text = line.decode()
        if text.rstrip("\r\n") == "DESCONEXION":
            sock.sendall("Conexión cerrada\n".encode())
            break
        sock.sendall(text.upper().encode())
    sock.close()


server = StreamServer(("127.0.0.1", 0), handle, backlog=1024)
server.start()
print(server.server_port, flush=True)
server.serve_forever()
