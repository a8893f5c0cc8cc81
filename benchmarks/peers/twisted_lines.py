"""Twisted con LineOnlyReceiver, como en su documentación."""

from twisted.internet import protocol, reactor
from twisted.protocols import basic


class Upper(basic.LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 2**20

    def connectionMade(self):
        self.transport.setTcpNoDelay(True)

    def lineReceived(self, line):
        text = line.decode()
        if text.rstrip("\r") == "DESCONEXION":
            self.sendLine("Conexión cerrada".encode())
            self.transport.loseConnection()
        else:
            self.sendLine(text.upper().encode())


port = reactor.listenTCP(0, protocol.Factory.forProtocol(Upper), backlog=1024, interface="127.0.0.1")
print(port.getHost().port, flush=True)
reactor.run()
