"""Muchos a la vez: callados, de paso, de golpe, más de los que caben, demasiados desde un mismo sitio."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from pathlib import Path

from ..load import Load, Spec
from ..oracle import Oracle, WrongReply
from ..results import NOTICEABLE, Failed, Outcome, Scenario, ms, number
from ..scale import Scale
from ..server import HOST, PATIENCE, Running, need_descriptors, serving, until

SPARE = 1_000  # descriptores para lo demás de cada proceso, con holgura
# La primera mitad no cuenta en las pendientes: malloc aún está aprendiendo. Con 52 000 conexiones renovadas en 75 s, la
# memoria creció 3 MiB en las 25 000 primeras, y en las demás ni un byte.
_SLOPE_SKIP = 0.5
_FLAT = 256 * 1024  # bytes por minuto: a ese paso, un día son 360 MB; por debajo, ruido de malloc
_REFUSAL = "ERROR: "


def connect(server: Running, source: str = "") -> socket.socket:
    """Un socket conectado con el servidor, con plazo; ``source``: desde qué dirección de la máquina."""
    return socket.create_connection(
        (server.host, server.port), timeout=PATIENCE, source_address=(source, 0) if source else None
    )


def ask(sock: socket.socket, oracle: Oracle, count: int = 1) -> None:
    """``count`` mensajes, y se espera a sus respuestas."""
    sock.sendall(oracle.take(count))
    while oracle.owed:
        data = sock.recv(65536)
        if not data:
            oracle.finish()
        oracle.receive(data)


def read_all(sock: socket.socket) -> bytes:
    """Hasta el FIN."""
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


def was_refused(sock: socket.socket) -> bool:
    """Si lo que el servidor dice nada más conectar es que no cabe, y cierra. ``Failed`` si dice otra cosa."""
    text = read_all(sock).decode()
    if not text.startswith(_REFUSAL) or text.count("\n") != 1:
        raise Failed(f"la negativa fue {text!r}")
    return True


def slope(samples: list[tuple[float, float]]) -> float:
    """La pendiente por mínimos cuadrados de ``(segundos, valor)``, por minuto."""
    count = len(samples)
    mean_x, mean_y = (sum(values) / count for values in zip(*samples, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return 60 * sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread if spread else 0.0


def idle_and_active(scale: Scale) -> Outcome:
    total = scale.idle + scale.active
    need_descriptors(total + SPARE)
    with serving("--max-conexiones", str(total)) as server, contextlib.ExitStack() as crowd:
        with Load(Spec(server.port, scale.active, scale.every)) as load:
            alone = load.measure(scale.seconds)
            before = server.memory
            for index in range(scale.idle):
                # De tres direcciones: una tiene 28 000 puertos de salida, y hay pruebas al lado.
                last = crowd.enter_context(connect(server, f"127.0.0.{2 + index % 3}"))
            ask(last, Oracle(0))  # se acepta por orden: si responde a la última, las tiene todas
            each = (server.memory - before) / scale.idle
            crowded = load.measure(scale.seconds)
            load.finish()
        crowd.close()
    return Outcome(
        [
            f"p50 {ms(alone.p50)} → {ms(crowded.p50)}",
            f"p99 {ms(alone.p99)} → {ms(crowded.p99)}",
            f"{number(each)} bytes por callada",
            "0 errores",
        ],
        crowded.p99 <= 2 * alone.p99,
    )


def churn(scale: Scale) -> Outcome:
    memory: list[tuple[float, float]] = []
    descriptors: list[tuple[float, float]] = []
    replaced = messages = 0
    with (
        serving() as server,
        Load(Spec(server.port, scale.churn_connections, every=1.0, churn=scale.churn_rate)) as load,
    ):
        start = time.monotonic()
        load.look()
        while (now := time.monotonic() - start) < scale.churn_seconds:
            figures = load.measure(scale.churn_seconds / 100)
            replaced += figures.replaced
            messages += figures.messages
            if now >= scale.churn_seconds * _SLOPE_SKIP:
                memory.append((now, server.memory))
                descriptors.append((now, server.descriptors))
        load.finish()
    growth = slope(memory)
    return Outcome(
        [
            f"{number(replaced)} conexiones renovadas y {number(messages)} mensajes en {scale.churn_seconds:g} s",
            f"memoria {number(growth / 1024, 1)} KiB/min (de {number(memory[0][1] / 2**20, 1)} MiB)",
            f"descriptores {number(slope(descriptors), 2)}/min",
        ],
        growth <= _FLAT,
    )


def full(scale: Scale) -> Outcome:
    with serving("--max-conexiones", str(scale.allowed)) as server:
        with Load(Spec(server.port, scale.allowed, scale.every)) as load:
            alone = load.measure(scale.seconds)
            refused = 0
            for _ in range(scale.extra):
                with connect(server) as sock:
                    refused += was_refused(sock)
            crowded = load.measure(scale.seconds)
            load.finish()
        server.settled()
        with connect(server) as sock:
            ask(sock, Oracle(0))  # y cuando se van, vuelve a haber sitio
    return Outcome(
        [
            f"caben {scale.allowed}, llegan {scale.extra} más: {refused} rechazadas con su aviso",
            f"p99 de las de dentro {ms(alone.p99)} → {ms(crowded.p99)}",
        ],
        refused == scale.extra,
    )


def _overflows() -> int:
    """Cuántas veces ha encontrado el núcleo llena una cola de conexiones por aceptar (netstat -s)."""
    names, values = (
        line.split() for line in Path("/proc/net/netstat").read_text().splitlines() if line.startswith("TcpExt:")
    )
    return int(dict(zip(names, values, strict=True))["ListenOverflows"])


def storm(scale: Scale) -> Outcome:
    need_descriptors(scale.storm + SPARE)
    with serving() as server, Load(Spec(server.port, scale.polite, scale.every)) as load:
        alone = load.measure(scale.seconds)
        before = _overflows()
        load.look()
        took = _storm(server, scale.storm)
        during = load.look()
        overflows = _overflows() - before
        load.finish()
    return Outcome(
        [
            f"{number(scale.storm)} de golpe, con la cola desbordada {number(overflows)} veces: todas atendidas en "
            f"{took:.1f} s ({number(scale.storm / took)} conexiones/s)",
            f"p99 de los {scale.polite} que ya hablaban {ms(alone.p99)} → {ms(during.p99)}",
        ],
        during.p99 <= NOTICEABLE,
    )


def _storm(server: Running, count: int) -> float:
    """``count`` conexiones a la vez; cada una dice un mensaje y se despide. Devuelve los segundos hasta la última."""
    start = time.monotonic()
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as socks:
        for index in range(count):
            sock = socks.enter_context(socket.socket())
            sock.setblocking(False)
            sock.bind((f"127.0.0.{2 + index % 3}", 0))
            code = sock.connect_ex((HOST, server.port))
            if code != errno.EINPROGRESS:
                raise Failed(f"conectar dio {errno.errorcode.get(code, code)}")
            selector.register(sock, selectors.EVENT_WRITE, (sock, Oracle(index)))
        left = count
        while left:
            events = selector.select(PATIENCE)
            if not events:
                raise Failed(f"{left} conexiones de {count} se quedaron sin atender")
            for key, mask in events:
                sock, oracle = key.data
                if mask & selectors.EVENT_WRITE:
                    if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        raise Failed(f"conectar dio {errno.errorcode.get(code, code)}")
                    sock.sendall(oracle.take() + oracle.say_goodbye())
                    selector.modify(sock, selectors.EVENT_READ, (sock, oracle))
                elif data := sock.recv(65536):
                    oracle.receive(data)
                else:
                    oracle.finish()
                    selector.unregister(sock)
                    sock.close()
                    left -= 1
    return time.monotonic() - start


def per_address(scale: Scale) -> Outcome:
    crowd, others = "127.0.0.2", [f"127.0.0.{3 + index}" for index in range(scale.polite)]
    with (
        serving("--max-por-direccion", str(scale.allowed)) as server,
        contextlib.ExitStack() as held,
        Load(Spec(server.port, scale.polite, scale.every, sources=others)) as load,
    ):
        alone = load.measure(scale.seconds)
        for _ in range(scale.allowed):
            ask(held.enter_context(connect(server, crowd)), Oracle(0))
        refused = 0
        for _ in range(scale.extra):
            with connect(server, crowd) as sock:
                refused += was_refused(sock)
        crowded = load.measure(scale.seconds)
        held.close()
        until(lambda: _enters(server, crowd), "que al irse las suyas vuelva a tener sitio")
        load.finish()
    return Outcome(
        [
            f"caben {scale.allowed} de cada dirección, una trae {scale.extra} más: {refused} rechazadas",
            f"p99 de otras {scale.polite} direcciones {ms(alone.p99)} → {ms(crowded.p99)}",
        ],
        refused == scale.extra,
    )


def _enters(server: Running, source: str) -> bool:
    with connect(server, source) as sock, contextlib.suppress(WrongReply, ConnectionError):
        ask(sock, Oracle(0))
        return True
    return False


SCENARIOS = [
    Scenario(
        "idle_and_active",
        1,
        "10 000 conexiones calladas y 200 activas",
        "0 errores, y el p99 de las activas como mucho el doble que sin las calladas",
        idle_and_active,
    ),
    Scenario(
        "churn",
        2,
        "1500 conexiones, y cada segundo se renueva una de cada cinco",
        "memoria y descriptores llanos",
        churn,
    ),
    Scenario("full", 3, "más conexiones de las que caben", "se les dice que no, y las de dentro siguen", full),
    Scenario(
        "storm",
        4,
        "oleada de conexiones que desborda la cola",
        "entran todas, y las que ya hablaban no esperan más de lo que se nota (100 ms)",
        storm,
    ),
    Scenario(
        "per_address",
        28,
        "demasiadas conexiones desde una dirección",
        "se rechazan las suyas, y las demás ni lo notan",
        per_address,
    ),
]
