"""Clientes que se portan mal: no leen, escriben a gotas, no dejan de enviar, no acaban de saludar."""

from __future__ import annotations

import contextlib
import select
import selectors
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

from ..load import FLOOD_BLOCK, Load, Spec
from ..oracle import Flood, Oracle
from ..results import NOTICEABLE, Failed, Outcome, Scenario, Unavailable, ms, number
from ..scale import MIB, Scale
from ..server import PATIENCE, Running, need_descriptors, serving, until
from .crowds import SPARE, ask, connect, read_all

_BLOCK = 4_000  # mensajes por bloque de quien no lee: unos 80 KB, más que una lectura del servidor
_HELD = MIB  # bytes por cliente que no lee: lo que se prepara de una vez (256 KiB), una lectura, y malloc
_SLACK = 1.0  # segundos sobre un plazo: el servidor los mira cada tanto, y aquí se mira después


def never_read(scale: Scale) -> Outcome:
    options = ["--plazo-salida", str(scale.output_deadline)]
    with serving(*options) as server, Load(Spec(server.port, scale.polite, scale.every)) as load:
        alone = load.measure(scale.seconds)
        before = server.memory
        load.look()
        sent, closed = _stuff(server, scale)
        during = load.look()
        peak = server.peak - before
        load.finish()
    return Outcome(
        [
            f"{scale.unread} clientes envían {number(sent / MIB)} MiB sin leer: el servidor crece "
            f"{number(peak / MIB, 1)} MiB como mucho",
            f"cortados como mucho {closed:.1f} s después del último byte que se les admitió, con un plazo de "
            f"{scale.output_deadline:g} s",
            f"p99 de los {scale.polite} educados {ms(alone.p99)} → {ms(during.p99)}",
        ],
        peak <= scale.unread * _HELD and during.p99 <= NOTICEABLE,
    )


def _stuff(server: Running, scale: Scale) -> tuple[int, float]:
    """Envía sin leer hasta que no se admite más, y espera a que el servidor los corte a todos: los bytes enviados y los
    segundos que más tardó en cortar a uno desde que no le admitía nada. Lo que alguno llegó a recibir, se comprueba."""
    share = scale.unread_bytes // scale.unread
    poll = select.poll()
    with contextlib.ExitStack() as socks:
        clients: dict[int, _Unread] = {}
        for index in range(scale.unread):
            sock = socks.enter_context(connect(server))
            sock.setblocking(False)
            clients[sock.fileno()] = _Unread(sock, Flood(index, _BLOCK))
            poll.register(sock, select.POLLOUT)
        sent, stalled = 0, 0.0
        deadline = time.monotonic() + PATIENCE + scale.output_deadline
        while clients:
            if time.monotonic() > deadline:
                raise Failed(f"{len(clients)} clientes que no leen siguen sin cortar")
            for fd, events in poll.poll(50):
                client = clients[fd]
                if events & (select.POLLERR | select.POLLHUP):
                    poll.unregister(fd)
                    client.check()
                    stalled = max(stalled, time.monotonic() - client.moved)
                    del clients[fd]
                elif count := client.push():
                    sent += count
                    if client.sent >= share:
                        poll.modify(fd, 0)  # bastante: ahora solo se espera el corte
        return sent, stalled


class _Unread:
    """Uno que envía y no lee."""

    def __init__(self, sock: socket.socket, flood: Flood) -> None:
        self.sent = 0
        self.moved = 0.0
        """Cuándo se le admitió algo por última vez."""
        self._sock = sock
        self._flood = flood
        self._rest = memoryview(b"")

    def push(self) -> int:
        """Envía lo que quepa; devuelve cuántos bytes."""
        self._rest = self._rest or memoryview(self._flood.take())
        try:
            count = self._sock.send(self._rest)
        except (BlockingIOError, ConnectionError):  # si le han cortado, lo dirá poll
            return 0
        self._rest = self._rest[count:]
        self.sent += count
        self.moved = time.monotonic()
        return count

    def check(self) -> None:
        """Ya cortado, mira si lo que le había llegado es lo debido."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while data := self._sock.recv(65536):
                self._flood.receive(data)


def slowloris(scale: Scale) -> Outcome:
    need_descriptors(scale.slow + SPARE)
    options = ["--plazo-mensaje", str(scale.message_deadline)]
    with serving(*options) as server, Load(Spec(server.port, scale.polite, scale.every)) as load:
        alone = load.measure(scale.seconds)
        load.look()
        first, last = _drip(server, scale)
        during = load.look()
        load.finish()
    return Outcome(
        [
            f"{number(scale.slow)} clientes, un byte cada {scale.drip:g} s: cerrados entre los {first:.1f} y los "
            f"{last:.1f} s, con un plazo de {scale.message_deadline:g} s",
            f"p99 de los {scale.polite} educados {ms(alone.p99)} → {ms(during.p99)}",
        ],
        scale.message_deadline <= first and last <= scale.message_deadline + _SLACK,
    )


def _drip(server: Running, scale: Scale) -> tuple[float, float]:
    """Todos empiezan un mensaje y lo envían a gotas hasta que se les cierra: a los cuántos segundos, el primero y el
    último."""
    lives: list[float] = []
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as socks:
        for index in range(scale.slow):
            sock = socks.enter_context(connect(server, f"127.0.0.{2 + index % 3}"))
            ask(sock, Oracle(index))  # con una línea entera la conversación ya es por líneas
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, 0.0)
        born: dict[socket.socket, float] = {}
        for key in list(selector.get_map().values()):
            sock = _sock(key)
            sock.send(b"a")
            born[sock] = time.monotonic()
        next_drip = time.monotonic() + scale.drip
        deadline = time.monotonic() + scale.message_deadline + PATIENCE
        while born:
            if time.monotonic() > deadline:
                raise Failed(f"{len(born)} clientes lentos siguen sin cerrar")
            for key, _ in selector.select(0.05):
                sock = _sock(key)
                with contextlib.suppress(ConnectionError):
                    if sock.recv(4096):
                        continue  # el aviso de por qué se le cierra
                lives.append(time.monotonic() - born.pop(sock))
                selector.unregister(sock)
                sock.close()
            if time.monotonic() >= next_drip:
                next_drip += scale.drip
                for sock in born:
                    with contextlib.suppress(BlockingIOError, ConnectionError):
                        sock.send(b"a")
    return min(lives), max(lives)


def _sock(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj


_SERVICES: dict[str, tuple[tuple[str, ...], int]] = {
    "mayúsculas": ((), FLOOD_BLOCK),
    "una función en hilos": (("--servicio", "soak.own_services:upper"), 50),
    "una función `async`": (("--servicio", "soak.own_services:upper_async"), 50),
    "una función con `--hilos 0`": (("--servicio", "soak.own_services:upper", "--hilos", "0"), FLOOD_BLOCK),
}
"""Las opciones de cada servicio, y los mensajes por bloque de quien lo inunda: si van de uno en uno, en hilos o en
tareas, pocos, o al acabar tardaría minutos en responderlos."""


def flooder(scale: Scale) -> Outcome:
    figures, met = [], True
    for service, (options, block) in _SERVICES.items():
        with serving(*options) as server, Load(Spec(server.port, scale.polite, scale.every)) as load:
            seen = [f"solos, {ms(load.measure(scale.flood_seconds).p99)}"]
            for bad, what in ((False, "buenos"), (True, "malos")):
                slowest = []
                for count in scale.flooders:
                    with Load(Spec(server.port, count, flood=True, bad=bad, block=block)) as flood:
                        flood.look()
                        during = load.measure(scale.flood_seconds)
                        flood.finish()
                    slowest.append(during.p99)
                seen.append(f"{what}, {' · '.join(map(ms, slowest))}")
                met = met and max(slowest) <= NOTICEABLE
            figures.append(f"{service}: {'; '.join(seen)}")
            load.finish()
    return Outcome(figures, met)


def tls_silent(scale: Scale) -> Outcome:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = certificate(folder)
        server = stack.enter_context(serving(*files, "--plazo-tls", str(scale.tls_deadline)))
        start = time.monotonic()
        silent = [stack.enter_context(connect(server)) for _ in range(scale.tls_silent)]
        refused = sum(not _greets(server, version) for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1))
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 64, b"hola\n"):
            with connect(server) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
                if b"HOLA" in read_all(sock):
                    raise Failed("respondió en claro por el puerto cifrado")
        if not _greets(server, ssl.TLSVersion.TLSv1_3):
            raise Failed("con los callados esperando, no saluda a quien sí cifra")
        for sock in silent:
            with contextlib.suppress(ConnectionError):
                read_all(sock)
        took = time.monotonic() - start
        server.settled()
    return Outcome(
        [
            f"{scale.tls_silent} callados: cerrados a los {took:.1f} s, con un plazo de {scale.tls_deadline:g} s",
            f"TLS 1.0 y 1.1: {refused} de 2 rechazadas",
            "0 conexiones abiertas al acabar",
        ],
        refused == 2 and took <= scale.tls_deadline + _SLACK,
    )


def _greets(server: Running, version: ssl.TLSVersion) -> bool:
    """Si el servidor conversa con esa versión de TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # aquí se mira la versión, no quién es
    context.set_ciphers("ALL:@SECLEVEL=0")  # si no, este lado sería el que rechaza las viejas
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    try:
        with context.wrap_socket(connect(server)) as sock:
            ask(sock, Oracle(0))
            return True
    except (ssl.SSLError, ConnectionError):
        return False


def certificate(folder: Path) -> list[str]:
    """Un certificado para la medida, como opciones del servidor."""
    if not shutil.which("openssl"):
        raise Unavailable("falta el programa openssl, para hacer un certificado")
    cert, key = folder / "cert.pem", folder / "clave.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return ["--tls-cert", str(cert), "--tls-clave", str(key)]


_BALANCER = "127.0.0.2"  # de quien se cree; los demás llegan desde 127.0.0.1
_CLIENT = "198.51.100.7"  # a quien dicen traer (RFC 5737)
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_LINE = f"PROXY TCP4 {_CLIENT} 192.0.2.1 4000 5000\r\n".encode()
_BINARY = (
    _SIGNATURE + b"\x21\x11\x00\x0c" + socket.inet_aton(_CLIENT) + socket.inet_aton("192.0.2.1") + b"\x0f\xa0\x13\x88"
)
_BAD_HEADERS = {
    "cortada": (_LINE[:-1], _BINARY[:-1], _LINE[:1], _SIGNATURE),
    "demasiado larga": (b"PROXY UNKNOWN " + b"x" * 200, _SIGNATURE + b"\x21\x11\xff\xff" + b"x" * 5000),
    "mal escrita": (
        _LINE.lower(),
        _LINE.replace(b"7 1", b"7  1"),
        _BINARY.replace(b"\x21\x11", b"\x31\x11"),
        b"hola\n",
    ),
}


def proxy_header(scale: Scale) -> Outcome:
    options = ["--proxy-de", _BALANCER, "--plazo-tls", str(scale.tls_deadline)]
    with serving(*options) as server, contextlib.ExitStack() as socks:
        start = time.monotonic()
        late = [socks.enter_context(connect(server, _BALANCER)) for _ in range(scale.proxied_late)]
        for sock in late[::2]:
            sock.sendall(_BINARY[:-1])
        figures = []
        for header in (_LINE, _BINARY):
            for _ in range(scale.proxied):
                with connect(server) as sock:
                    sock.sendall(header + b"hola\n")
                    text = read_all(sock).decode()
                    if text.count("\n") != 1 or "por su balanceador" not in text:
                        raise Failed(f"a quien no es el balanceador se le dijo {text!r}")
        figures.append(f"{number(2 * scale.proxied)} de quien no es el balanceador, rechazadas todas")
        for kind, headers in _BAD_HEADERS.items():
            for index in range(scale.proxied):
                with connect(server, _BALANCER) as sock:
                    sock.sendall(headers[index % len(headers)])
                    if kind == "cortada":
                        sock.shutdown(socket.SHUT_WR)
                    _expect_nothing(sock, kind)
        figures.append(f"{number(3 * scale.proxied)} cortadas, demasiado largas o mal escritas, rechazadas todas")
        if _CLIENT in server.output:
            raise Failed("el registro nombra a un cliente que no es de quien lo dijo")
        for index in range(scale.proxied):
            with connect(server, _BALANCER) as sock:
                sock.sendall((_LINE, _BINARY)[index % 2])
                ask(sock, Oracle(index))
        until(
            lambda: server.output.count(f"aceptada de ('{_CLIENT}'") == scale.proxied,
            "que el registro diga de qué clientes eran",
        )
        figures.append(f"{number(scale.proxied)} buenas entre medias, atendidas todas")
        for sock in late:
            _expect_nothing(sock, "que no llega")
        took = time.monotonic() - start
        figures.append(
            f"{scale.proxied_late} que no llegan: cortadas a los {took:.1f} s, con un plazo de {scale.tls_deadline:g} s"
        )
    return Outcome(figures, took <= scale.tls_deadline + _SLACK)


def _expect_nothing(sock: socket.socket, kind: str) -> None:
    with contextlib.suppress(ConnectionError):
        if text := read_all(sock):
            raise Failed(f"a una cabecera {kind} se respondió {text!r}")


SCENARIOS = [
    Scenario(
        "never_read",
        7,
        "100 clientes encadenan hasta 1 GiB y no leen",
        "cada uno ocupa lo suyo y se le corta; los demás, como si nada",
        never_read,
    ),
    Scenario(
        "slowloris",
        15,
        "5000 clientes a medio mensaje, un byte cada 2 s",
        "se les cierra al vencer el plazo del mensaje, que un byte no renueva",
        slowloris,
    ),
    Scenario(
        "flooder",
        17,
        "1, 10, 100 y 500 encadenan sin parar, mensajes buenos o malos, junto a 100 educados (p99)",
        "los educados no esperan más de lo que nota una persona (100 ms)",
        flooder,
    ),
    Scenario(
        "tls_silent",
        23,
        "clientes TLS callados, saludos sin sentido, versiones viejas",
        "se cierran en su plazo o se rechazan, y no queda nada abierto",
        tls_silent,
    ),
    Scenario(
        "proxy_header",
        36,
        "cabeceras PROXY de quien no es el balanceador, cortadas, enormes, mal escritas, que no llegan",
        "se rechazan todas, y no se cree ninguna",
        proxy_header,
    ),
]
