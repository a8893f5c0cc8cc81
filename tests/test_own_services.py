"""Servicios propios en un servidor de verdad: los que esperan, los ``async``, los que fallan y los que no vuelven."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import functools
import gc
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from comunicacion_tcp.client import Client
from comunicacion_tcp.connection import Connection, _Question
from comunicacion_tcp.errors import ServiceFailed, ServiceTimedOut
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.server import Server
from comunicacion_tcp.services import Service, uppercase

from .support.certificates import Certificates
from .support.encrypted import encrypted
from .support.serving import Served, served
from .support.sockets import connect, receive, receive_all, reset
from .support.waiting import wait_until


class Slow:
    """Un servicio que con «espera» espera a que se le abra, y con lo demás responde en el acto."""

    def __init__(self) -> None:
        self.waiting = 0
        self._open = threading.Event()

    def __call__(self, message: str) -> str:
        if message.startswith("espera"):
            self.waiting += 1
            assert self._open.wait(30)
        return message.title()

    def open(self) -> None:
        self._open.set()


async def title(message: str) -> str:
    await asyncio.sleep(0)
    return message.title()


class Titles:
    async def __call__(self, message: str) -> str:
        return message.title()

    def lazily(self, message: str) -> Any:
        return title(message)


def decorated(function: Callable[[str], Any]) -> Callable[[str], Any]:
    """Un decorador cualquiera, que no sabe de ``async``."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


@decorated
async def wrapped(message: str) -> str:
    return await title(message)


def future(message: str) -> Any:
    """Devuelve algo que hay que esperar, y no es una corrutina."""

    class Later:
        def __await__(self) -> Any:
            return title(message).__await__()

    return Later()


def now_and_then(message: str) -> Any:
    return title(message) if message.endswith("7") else message.title()


def test_one_that_waits_does_not_hold_up_the_others() -> None:
    slow = Slow()
    with served(slow) as running, connect(running.port) as stuck:
        stuck.sendall(b"espera\nuno\nespera\ndos\n")
        wait_until(lambda: slow.waiting == 1, "que espere")
        with Client("127.0.0.1", running.port) as other:
            assert other.send("hola mundo") == "Hola Mundo"
        slow.open()
        assert receive(stuck, 22) == b"Espera\nUno\nEspera\nDos\n"


@pytest.mark.parametrize(
    "service",
    [
        *(
            title,
            Titles(),
            functools.partial(title),
            str.title,
            Service(title),
            wrapped,
            lambda message: title(message),
        ),
        *(functools.partial(wrapped), Titles().lazily, future),
    ],
    ids=lambda one: str(one)[:20],
)
@pytest.mark.parametrize("threads", [0, 1, 4])
def test_every_kind_of_function_answers_in_order(service: Any, threads: int) -> None:
    lines = [f"línea {number}" for number in range(300)]
    with served(service, threads=threads) as running, connect(running.port) as sock:
        sock.sendall("\n".join([*lines, "DESCONEXION"]).encode() + b"\n")
        assert receive_all(sock).decode().split("\n") == [*(line.title() for line in lines), "Conexión cerrada", ""]


def test_one_that_only_sometimes_has_to_be_waited_for() -> None:
    lines = [f"línea {number}" for number in range(10)]
    with served(now_and_then, threads=2) as running, Client("127.0.0.1", running.port) as client:
        assert [client.send(line) for line in lines] == [line.title() for line in lines]
    with served(now_and_then, threads=0) as running, Client("127.0.0.1", running.port) as client:
        # Sin hilos se decide con la primera respuesta: la que no es como ella se dice, con su remedio.
        replies = [client.send(line) for line in lines]
        assert [reply for reply in replies if not reply.startswith("ERROR: ")] == [
            line.title() for line in lines if line != "línea 7"
        ]
        (bad,) = [error for name, _, error in running.events.events if name == "bad_message"]
        assert isinstance(bad, ServiceFailed)
        assert "hazla async def" in str(bad.__cause__)


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("kind", ["corriente", "async", "lambda"])
def test_each_call_begins_with_the_contexts_of_the_start(kind: str, threads: int) -> None:
    who = contextvars.ContextVar("who", default="nadie")
    who.set("el arranque")
    before = decimal.getcontext().prec

    def plain(message: str) -> str:
        seen = f"{who.get()} {decimal.getcontext().prec}"
        who.set(message)
        decimal.getcontext().prec = 3
        return seen

    async def waiting(message: str) -> str:
        seen = plain(message)
        await asyncio.sleep(0)
        assert (who.get(), decimal.getcontext().prec) == (message, 3)  # en la suya, lo suyo
        return seen

    service: Any = {"corriente": plain, "async": waiting, "lambda": lambda message: waiting(message)}[kind]
    with Server(service, port=0, threads=threads) as server:
        for _ in range(2):
            with Client(server.host, server.port) as client:
                assert [client.send(message) for message in ("a", "b")] == [f"el arranque {before}"] * 2
    assert (who.get(), decimal.getcontext().prec) == ("el arranque", before)


@pytest.mark.parametrize("threads", [0, 1])
def test_an_interrupt_of_its_own_costs_a_message(threads: int) -> None:
    def service(message: str) -> str:
        if message == "mal":
            raise KeyboardInterrupt
        return message

    with served(service, threads=threads) as running, Client("127.0.0.1", running.port) as client:
        for message in ("hola", "mal", "sigo"):
            reply = client.send(message)
            assert reply.startswith("ERROR: ") if message == "mal" else reply == message


@pytest.mark.parametrize("service", [title, str.title])
def test_the_end_of_input_still_gets_its_replies(service: Any) -> None:
    with served(service) as running:
        for entry, reply in ((b"uno\ndos", b"Uno\nDos"), (b"uno\n", b"Uno\n"), (b"", b"")):
            with connect(running.port) as sock:
                sock.sendall(entry)
                sock.shutdown(socket.SHUT_WR)
                assert receive_all(sock) == reply
        wait_until(lambda: running.events.names.count("left") == 3, "que se vayan")


@pytest.mark.parametrize("service", [title, str.title])
def test_the_same_under_tls(service: Any, certificates: Certificates) -> None:
    trust = certificates.trusting()
    with served(service, tls=certificates.serving()) as running, encrypted(running.port, trust) as client:
        client.send(b"uno\ndos\ntres")
        client.close()
        assert client.receive_all() == b"Uno\nDos\nTres"


def late(seconds: float) -> Callable[[str], Any]:
    """Uno ``async`` que con «espera» tarda demasiado."""

    async def service(message: str) -> str:
        if message == "espera":
            await asyncio.sleep(seconds)
        return message.title()

    return service


@pytest.mark.parametrize("kind", ["async", "hilos"])
def test_one_that_never_answers_is_an_error_and_the_conversation_goes_on(kind: str) -> None:
    slow = Slow()
    service = late(3600) if kind == "async" else slow
    limits = Limits(service_timeout=0.5)  # con menos, en una máquina ocupada se le pasa también a «hola»
    with served(service, threads=1, limits=limits) as running:
        with Client("127.0.0.1", running.port) as client:
            for _ in range(3):  # con un solo hilo: el perdido se sustituye
                assert client.send("espera") == "ERROR: el servicio no respondió en 0.5 s"
                assert client.send("hola") == "Hola"
        bad = [error for name, _, error in running.events.events if name == "bad_message"]
        assert [type(error) for error in bad] == [ServiceTimedOut] * 3
        slow.open()


def test_the_failures_of_the_service_are_all_told_with_their_cause() -> None:
    def broken(message: str) -> str:
        return str(1 // int(message))

    with served(broken) as running, Client("127.0.0.1", running.port) as client:
        for message in ("0", "x", "0"):
            assert client.send(message) == "ERROR: el servicio falló con este mensaje"
        assert client.send("1") == "1"
        causes = [error.__cause__ for _, _, error in running.events.events if isinstance(error, ServiceFailed)]
        assert [type(cause) for cause in causes] == [ZeroDivisionError, ValueError, ZeroDivisionError]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("kind", ["async", "hilos"])
def test_no_exception_of_a_service_stops_the_server(kind: str, error: type[BaseException]) -> None:
    def broken(message: str) -> str:
        raise error

    async def async_broken(message: str) -> str:
        raise error

    service: Any = async_broken if kind == "async" else broken
    with served(service) as running, Client("127.0.0.1", running.port) as client:
        assert client.send("hola") == client.send("otra") == "ERROR: el servicio falló con este mensaje"


def test_a_client_that_leaves_withdraws_its_question() -> None:
    cancelled = threading.Event()

    async def service(message: str) -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return message

    with served(service) as running:
        sock = connect(running.port)
        sock.sendall(b"hola\n")
        wait_until(lambda: running.server._clocks.answering._running, "que pregunte")
        reset(sock)
        assert cancelled.wait(30)


def test_stopping_waits_for_what_was_asked() -> None:
    slow = Slow()
    with served(slow) as running, connect(running.port) as sock:
        sock.sendall(b"espera\notra\n")
        wait_until(lambda: slow.waiting == 1, "que espere")
        stopping = threading.Thread(target=running.drain)
        stopping.start()
        wait_until(lambda: running.server.stopping, "que se detenga")
        slow.open()
        assert receive_all(sock) == b"Espera\nOtra\n"
        stopping.join(30)


def test_stopping_answers_what_was_held_and_has_to_be_asked() -> None:
    service = Service(str.title, by_character=True)  # sin atajo: se pregunta
    with served(service, limits=Limits(goodbye_silence=3600.0)) as running, connect(running.port) as sock:
        sock.sendall(b"hola ")
        assert receive(sock, 5) == b"Hola "
        sock.sendall(b"DESC")  # quizá una despedida
        (connection,) = running.server._connections
        assert isinstance(connection, Connection)
        wait_until(lambda: connection._conversation.awaiting_silence, "que lo lea")
        assert running.drain() == 0
        assert receive_all(sock) == b"Desc"


def test_stopping_does_not_wait_for_ever() -> None:
    slow = Slow()
    with served(slow, limits=Limits(drain=0.1)) as running:
        sock = connect(running.port)
        sock.sendall(b"espera\n")
        wait_until(lambda: slow.waiting == 1, "que espere")
        assert running.drain() == 1
        slow.open()
        sock.close()


def test_waiting_for_the_service_is_not_being_idle() -> None:
    slow = Slow()
    with served(slow, limits=Limits(idle_timeout=0.5)) as running, connect(running.port) as sock:
        sock.sendall(b"espera\n")
        wait_until(lambda: slow.waiting == 1, "que espere")
        assert not running.server._clocks.idle._running
        deadline = time.monotonic() + 1
        wait_until(lambda: time.monotonic() > deadline, "dos plazos")
        slow.open()
        assert receive_all(sock) == b"Espera\nERROR: 0.5 s sin recibir nada; se cierra la conexi\xc3\xb3n\n"


def test_the_service_changes_without_dropping_anyone() -> None:
    slow = Slow()
    with served(slow) as running, Client("127.0.0.1", running.port) as client, connect(running.port) as asked:
        assert client.send("hola mundo") == "Hola Mundo"
        asked.sendall(b"espera\nhola mundo\n")
        wait_until(lambda: slow.waiting == 1, "que espere")

        async def swap(message: str) -> str:
            return message.swapcase()

        changes: list[tuple[Any, str]] = [(swap, "HOLA MUNDO"), (uppercase, "HOLA MUNDO"), (str.title, "Hola Mundo")]
        for service, reply in changes:
            running.run(functools.partial(running.server.change_service, service))
            assert client.send("hola mundo") == reply
        slow.open()
        assert receive(asked, 18) == b"Espera\nHola Mundo\n"  # lo que ya se preguntó, lo de antes


def test_many_waiting_at_once_use_only_the_threads_they_are_given() -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def service(message: str) -> str:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.001)  # lo que tarda una consulta
        with lock:
            inside -= 1
        return message

    with served(service, threads=3) as running:
        socks = [connect(running.port) for _ in range(20)]
        for sock in socks:
            sock.sendall(b"a\nb\nc\n")
        for sock in socks:
            assert receive(sock, 6) == b"a\nb\nc\n"
            sock.close()
    assert 1 <= most <= 3


@pytest.mark.parametrize("kind", ["async", "hilos"])
@pytest.mark.parametrize("message", ["hola", "espera", "mal"])
def test_a_message_leaves_nothing_for_the_collector(kind: str, message: str) -> None:
    # Un mensaje puede medir un megabyte, y el recolector pasar muy de tarde en tarde.
    class Mark(str):
        """Un texto que se puede buscar."""

    def answer(text: str) -> str:
        mark = Mark(text)
        if text == "mal":
            raise ValueError
        return str(mark)

    async def waiting(text: str) -> str:
        if text == "espera":
            mark = Mark(text)
            await asyncio.sleep(3600)
            del mark
        return answer(text)

    opened = threading.Event()

    def blocking(text: str) -> str:
        if text == "espera":
            assert opened.wait(30)
        return answer(text)

    def left(running: Served) -> list[object]:
        events = running.events.events
        events[:] = [event for event in events if event[0] != "bad_message"]  # guardan sus errores
        found = [one for one in gc.get_objects() if isinstance(one, (Mark, _Question))]
        return [one for one in found if not any(one is other for other in before)]

    limits = Limits(service_timeout=0.1)
    gc.collect()
    before = [one for one in gc.get_objects() if isinstance(one, _Question)]  # un hilo de otra prueba puede seguir
    gc.disable()
    try:
        with served(waiting if kind == "async" else blocking, limits=limits) as running, connect(running.port) as sock:
            sock.sendall(f"{message}\n".encode())
            assert receive(sock, 1)
            opened.set()
            wait_until(lambda: not left(running), "que no quede nada")
    finally:
        gc.enable()


def test_threads_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match="threads debe ser cero o más"):
        Server(str.title, threads=-1)
