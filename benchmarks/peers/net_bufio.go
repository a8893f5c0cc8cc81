// Go con net y bufio, una gorrutina por conexión; vacía la salida cuando no le queda entrada leída por responder.
package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
)

func handle(connection net.Conn) {
	defer connection.Close()
	reader := bufio.NewReader(connection)
	writer := bufio.NewWriter(connection)
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return
		}
		if strings.TrimRight(line, "\r\n") == "DESCONEXION" {
			writer.WriteString("Conexión cerrada\n")
			writer.Flush()
			return
		}
		writer.WriteString(strings.ToUpper(line))
		if reader.Buffered() == 0 {
			writer.Flush()
		}
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for {
		connection, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go handle(connection)
	}
}
