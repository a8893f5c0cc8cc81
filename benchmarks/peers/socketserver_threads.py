"""socketserver con un hilo por conexión, como en su documentación (StreamRequestHandler)."""

import socketserver


class Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        for line in self.rfile:
            text = line.decode()
            if text.rstrip("\r\n") == "DESCONEXION":
                self.wfile.write("Conexión cerrada\n".encode())
                return
            self.wfile.write(text.upper().encode())


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1024


with Server(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
