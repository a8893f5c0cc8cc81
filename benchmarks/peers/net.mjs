// Node con net y readline, como en su documentación.
import net from "node:net";
import readline from "node:readline";

const server = net.createServer((socket) => {
  socket.setNoDelay(true);
  socket.on("error", () => {});
  const lines = readline.createInterface({ input: socket, crlfDelay: Infinity });
  lines.on("error", () => {}); // readline repite el error del socket, y sin esto un cliente que corta mata el proceso
  lines.on("line", (line) => {
    if (line === "DESCONEXION") socket.end("Conexión cerrada\n");
    else socket.write(line.toUpperCase() + "\n");
  });
});
server.listen({ host: "127.0.0.1", port: 0, backlog: 1024 }, () => console.log(server.address().port));
