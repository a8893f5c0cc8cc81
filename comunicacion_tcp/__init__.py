# -*- coding: utf-8 -*-
"""Servidor y cliente TCP de mensajes de texto.

El mapa de la casa; los imports van solo hacia abajo (lo vigila ``tests/test_architecture.py``):

    cli/          argparse y todo texto que lee una persona; lo único que imprime
    pytest_plugin para las pruebas de otros proyectos: un servidor de verdad, como fixture
    fresh_imports importar otra vez un servicio cuyo fuente cambió
    watch         PURO: saber si unos ficheros han cambiado
    loading       de "modulo:funcion" a un servicio
    metrics_server las métricas por HTTP, y las preguntas de quien vigila
    metrics       lo apuntado, como lo quiere Prometheus
    measuring     un servidor que apunta cuánto entra, cuánto sale y cómo acaba cada mensaje
    supervisor    varios procesos que sirven lo mismo: crearlos, vigilarlos, hablar con ellos
    supervision   PURO: cuándo hace falta otro proceso, cuándo sobra y cuándo se deja de intentar
    processors    cuántos procesadores puede usar este proceso
    server        Server: de escuchar a detenerse
    connection    la vida de una conexión: asyncio alrededor del protocolo; entregar, cerrar
    admission     PURO: quién está dentro, quién cabe y por qué no
    observer      Observer: a quién cuenta el servidor lo que le pasa
    tls_transport TLS entre un transporte de asyncio y una conexión
    listener      los sockets a la escucha: abrirlos y aceptar de ellos
    workers       dónde se ejecuta un servicio que espera: hilos o tareas
    loops         qué bucle de asyncio se usa, y uno en un hilo
    deadlines     muchos plazos iguales con un solo temporizador
    descriptors   cuántos descriptores quedan, y pedir más
    systemd       los avisos a systemd, y los sockets que da ya a la escucha
    aio           AsyncClient, el que se espera con await: los avisos de asyncio
    relay         Relay, un Client que no envía mensajes sino un chorro de líneas
    client        Client, el que espera: un socket bloqueante
    conversation  lo que los dos clientes hacen igual: todo menos esperar y mover bytes
    proxy_header  PURO: la cabecera con que un balanceador dice a quién trae
    board         la pizarra donde apuntan todos los procesos: memoria compartida
    tls           TLS sin red: bytes cifrados a un lado, textos al otro, y los certificados
    protocol      PURO: entran bytes y salen bytes; ni sockets, ni reloj, ni asyncio
    services      qué se responde: mayúsculas, o cualquier función str -> str
    backoff       cuánto se espera antes de volver a conectar
    limits        todos los límites y plazos, cada uno con su razón
    records       valores inmutables hechos de campos, lo justo para no cargar dataclasses
    errors        el árbol de errores
    hints         los módulos que solo hacen falta para decir un tipo
    addresses     cómo se nombra un sitio: máquina y puerto, o un socket de Unix

Este fichero no contiene nada más que el mapa, los nombres públicos y la pregunta por la versión de Python: por eso
lo entiende hasta Python 2, que así puede decir la frase y no un SyntaxError.
"""

import sys

if sys.version_info < (3, 10):  # pip ya lo comprueba; desde una copia del repositorio, nadie más
    sys.exit(
        "comunicacion_tcp necesita Python 3.10 o posterior, y este es Python %d.%d. "
        "Prueba con python3.12, o instala uno nuevo desde https://www.python.org/downloads/" % sys.version_info[:2]
    )

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from .addresses import Peer as Peer
    from .aio import AsyncClient as AsyncClient
    from .backoff import Backoff as Backoff
    from .client import Client as Client
    from .errors import AddressFull as AddressFull
    from .errors import AddressInUse as AddressInUse
    from .errors import AddressNotOurs as AddressNotOurs
    from .errors import BadMessage as BadMessage
    from .errors import BadProxyHeader as BadProxyHeader
    from .errors import BadService as BadService
    from .errors import BadSocket as BadSocket
    from .errors import BadTLSFile as BadTLSFile
    from .errors import CertificateRejected as CertificateRejected
    from .errors import ComunicacionError as ComunicacionError
    from .errors import ConnectionLost as ConnectionLost
    from .errors import HTTPRequest as HTTPRequest
    from .errors import HeldTooMuch as HeldTooMuch
    from .errors import MessageError as MessageError
    from .errors import NetworkError as NetworkError
    from .errors import NotUTF8 as NotUTF8
    from .errors import OnlyThroughBalancer as OnlyThroughBalancer
    from .errors import OutOfStep as OutOfStep
    from .errors import PortNotAllowed as PortNotAllowed
    from .errors import Refusal as Refusal
    from .errors import ServerFull as ServerFull
    from .errors import ServerNotRunning as ServerNotRunning
    from .errors import ServiceFailed as ServiceFailed
    from .errors import ServiceTimedOut as ServiceTimedOut
    from .errors import TimedOut as TimedOut
    from .errors import TLSFailed as TLSFailed
    from .errors import TooLong as TooLong
    from .errors import TooSlow as TooSlow
    from .errors import TooMuchSaid as TooMuchSaid
    from .errors import Truncated as Truncated
    from .errors import UnknownHost as UnknownHost
    from .limits import Limits as Limits
    from .loading import load_service as load_service
    from .observer import Observer as Observer
    from .server import Server as Server
    from .services import Service as Service
    from .tls import client_context as client_context
    from .tls import ServerTLS as ServerTLS

__version__ = "0.1.0"

# Cada nombre se importa al pedirlo (PEP 562): quien solo quiere Client no carga asyncio.
_HOMES = {
    "AddressFull": "errors",
    "AddressInUse": "errors",
    "AddressNotOurs": "errors",
    "AsyncClient": "aio",
    "Backoff": "backoff",
    "BadMessage": "errors",
    "BadProxyHeader": "errors",
    "BadService": "errors",
    "BadSocket": "errors",
    "BadTLSFile": "errors",
    "CertificateRejected": "errors",
    "Client": "client",
    "ComunicacionError": "errors",
    "ConnectionLost": "errors",
    "HTTPRequest": "errors",
    "HeldTooMuch": "errors",
    "Limits": "limits",
    "MessageError": "errors",
    "NetworkError": "errors",
    "NotUTF8": "errors",
    "Observer": "observer",
    "OnlyThroughBalancer": "errors",
    "Peer": "addresses",
    "OutOfStep": "errors",
    "PortNotAllowed": "errors",
    "Refusal": "errors",
    "Server": "server",
    "ServerFull": "errors",
    "ServerNotRunning": "errors",
    "ServerTLS": "tls",
    "Service": "services",
    "ServiceFailed": "errors",
    "ServiceTimedOut": "errors",
    "TLSFailed": "errors",
    "TimedOut": "errors",
    "TooLong": "errors",
    "TooSlow": "errors",
    "TooMuchSaid": "errors",
    "Truncated": "errors",
    "UnknownHost": "errors",
    "client_context": "tls",
    "load_service": "loading",
}

__all__ = sorted(_HOMES)

if not TYPE_CHECKING:  # a mypy le bastan los imports de arriba, y así sabe qué nombres no existen

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError("module %r has no attribute %r" % (__name__, name))
        from importlib import import_module

        return getattr(import_module("." + _HOMES[name], __name__), name)
