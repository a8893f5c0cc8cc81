"""``client.py``: lo que solo es de ``Client``. Lo que comparte con ``AsyncClient``, en ``test_conversation.py``."""

from __future__ import annotations

import errno
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import comunicacion_tcp.client as client_module
from comunicacion_tcp.backoff import Backoff
from comunicacion_tcp.client import Client
from comunicacion_tcp.errors import (
    ConnectionLost,
    NetworkError,
    ServerNotRunning,
    TimedOut,
    TooMuchSaid,
    UnknownHost,
)
from comunicacion_tcp.limits import Limits

from .support.chaos import Chaos
from .support.serving import served
from .support.sockets import foreign_server
from .support.waiting import PATIENCE

QUICK = Limits(reply_silence=0.05, reply_timeout=5)  # para servidores que no terminan sus respuestas
PATIENT = Limits(reply_silence=PATIENCE, reply_timeout=PATIENCE)  # para respuestas que una máquina ocupada trae a ratos


def talk(port: int, limits: Limits = QUICK) -> Client:
    """Un cliente sin conectar aún."""
    return Client("127.0.0.1", port, limits=limits)


def test_a_server_that_cannot_be_written_to_is_still_read() -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        assert client.send("uno") == "UNO"
        assert client._socket
        client._socket.shutdown(socket.SHUT_WR)  # desde aquí, escribir es EPIPE
        with pytest.raises(ConnectionLost):
            client.send("dos")


def test_lines_that_arrive_while_a_message_goes_out_have_a_limit_too() -> None:
    def serve(sock: socket.socket) -> None:
        while True:  # ni lee
            sock.sendall(b"y\n" * 1000)

    with foreign_server(serve) as port, talk(port, PATIENT) as client, pytest.raises(TooMuchSaid):
        client.send("x" * (64 * 1024 * 1024))


# -- no poder conectar --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["no-existe.invalid", "a" * 64])
def test_unknown_host(host: str) -> None:
    with pytest.raises(UnknownHost):
        Client(host, 5000).connect()


def test_a_name_that_takes_too_long_to_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve, answer = socket.getaddrinfo, threading.Event()

    def slow(host: bytes, port: int, *args: int, **options: int) -> list[object]:
        if not options.get("flags"):
            answer.wait(PATIENCE)
            host = b"127.0.0.1"
        return [*resolve(host, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with served() as running:
        client = Client("lenta.example", running.port, limits=Limits(connect_timeout=0.1))
        with pytest.raises(TimedOut) as caught:
            client.connect()
        assert (caught.value.seconds, caught.value.connecting) == (0.1, True)
        answer.set()
        with Client("lenta.example", running.port, limits=PATIENT) as client:
            assert client.send("hola") == "HOLA"


@pytest.mark.parametrize(
    ("cause", "kind"), [(TimeoutError("tarde"), TimedOut), (OSError(101, "sin red"), NetworkError)]
)
def test_no_way_there(monkeypatch: pytest.MonkeyPatch, cause: OSError, kind: type) -> None:
    def fail(*args: object) -> None:
        raise cause

    monkeypatch.setattr(client_module, "_open_one", fail)
    with pytest.raises(NetworkError) as caught:
        Client("2001:db8::1", 5000).connect()
    assert type(caught.value) is kind
    assert caught.value.address == "[2001:db8::1]:5000"


def test_each_address_is_tried_ipv4_first(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, resolve = client_module._open_one, socket.getaddrinfo
    tried: list[str] = []

    def resolve_three(host: bytes, port: int, *args: int, **options: int) -> list[object]:
        hosts = ["::1", "127.0.0.9", "127.0.0.1"] if host == b"tres.example" else [host]
        return [found for name in hosts for found in resolve(name, port, *args, **options)]

    def note(family: int, place: tuple[str, int], timeout: float) -> socket.socket:
        tried.append(place[0])
        return connect(family, place, timeout)

    with served() as running:
        monkeypatch.setattr(socket, "getaddrinfo", resolve_three)
        monkeypatch.setattr(client_module, "_open_one", note)
        with Client("tres.example", running.port) as client:
            assert client.send("hola") == "HOLA"
    assert tried == ["127.0.0.9", "127.0.0.1"]


def test_nobody_listening_says_more_than_an_address_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(family: int, place: tuple[str, int], timeout: float) -> socket.socket:
        raise OSError(errno.EADDRNOTAVAIL, "no") if family == socket.AF_INET6 else ConnectionRefusedError()

    resolve = socket.getaddrinfo

    def resolve_two(host: bytes, port: int, **kind: int) -> list[object]:
        return [found for name in ("127.0.0.1", "::1") for found in resolve(name, port, **kind)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_two)
    monkeypatch.setattr(client_module, "_open_one", fail)
    with pytest.raises(ServerNotRunning):
        Client().connect()


def test_a_server_that_cuts_right_after_accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    # Según lo pronto que llegue el RST, lo nota ya el primer uso del socket.
    monkeypatch.setattr(client_module, "_open_one", lambda *args: socket.socket())
    with pytest.raises(ConnectionLost):
        Client().connect()


def test_a_port_connected_to_itself_is_not_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    # TCP lo permite si el puerto efímero que toca es el mismo al que se conecta.
    with socket.socket() as itself:
        itself.bind(("127.0.0.1", 0))
        itself.connect(itself.getsockname())
        monkeypatch.setattr(client_module, "_open_one", lambda *args: itself)
        with pytest.raises(ServerNotRunning):
            talk(itself.getsockname()[1]).connect()


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_out_of_range(port: int) -> None:
    with pytest.raises(ValueError, match="65535"):
        Client("localhost", port)


# -- hilos e interrupciones ---------------------------------------------------------------------------------


def test_several_threads_share_a_client() -> None:
    wrong: list[str] = []

    def ask(client: Client, name: int) -> None:
        for number in range(200):
            message = f"{name} pide {number}"
            if client.send(message) != message.upper():
                wrong.append(message)

    with served() as running, talk(running.port, PATIENT) as client:
        threads = [threading.Thread(target=ask, args=(client, name)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def in_another_thread(call: Callable[[], object]) -> BaseException:
    """El error con que acaba ``call``, que si no acaba no se lleva con ella a las demás pruebas."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert errors, "no acabó, o no falló"
    return errors[0]


@pytest.mark.parametrize("before", [[], ["uno"]])
@pytest.mark.parametrize("ask", ["send", "send_many", "take_unasked", "say_goodbye"])
def test_the_messages_of_send_many_cannot_ask_the_same_client(ask: str, before: list[str]) -> None:
    with served() as running, talk(running.port, PATIENT) as client:
        asking: dict[str, Callable[[], object]] = {
            "send": lambda: client.send("dos"),
            "send_many": lambda: list(client.send_many(["dos"])),
            "take_unasked": client.take_unasked,
            "say_goodbye": client.say_goodbye,
        }

        def messages() -> Iterator[str]:
            yield from before
            asking[ask]()
            yield "tres"

        assert isinstance(in_another_thread(lambda: list(client.send_many(messages()))), RuntimeError)
        assert client.send("cuatro") == "CUATRO"


@pytest.mark.parametrize("leave", ["connect", "close"])
def test_the_messages_of_send_many_can_leave_it(leave: str) -> None:
    with served() as running, talk(running.port, PATIENT) as client:

        def messages() -> Iterator[str]:
            yield "uno"
            getattr(client, leave)()
            yield "dos"

        assert isinstance(in_another_thread(lambda: list(client.send_many(messages()))), ConnectionLost)
        client.connect()
        assert client.send("tres") == "TRES"


def test_closing_from_another_thread_while_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(selectors.DefaultSelector):
        def register(self, *args: Any) -> selectors.SelectorKey:
            closer = threading.Thread(target=client.close)
            closer.start()
            closer.join()
            return super().register(*args)

    with served() as running:
        client = talk(running.port, PATIENT)
        monkeypatch.setattr(selectors, "DefaultSelector", Slow)
        with pytest.raises(ConnectionLost):
            client.connect()
        monkeypatch.undo()
        client.connect()
        assert client.send("hola") == "HOLA"
        client.close()


@pytest.mark.parametrize("resend", [False, True])
@pytest.mark.parametrize("many", [False, True])
def test_closing_from_another_thread_ends_the_call_in_progress(many: bool, resend: bool) -> None:
    reached = threading.Event()

    def read_all(sock: socket.socket) -> None:
        while sock.recv(1024):
            reached.set()

    with foreign_server(read_all) as port:
        reconnect = Backoff() if resend else None
        client = Client("127.0.0.1", port, limits=PATIENT, reconnect=reconnect, resend=resend)
        client.connect()

        def close() -> None:
            reached.wait(PATIENCE)
            client.close()

        closer = threading.Thread(target=close)
        closer.start()
        error = in_another_thread(lambda: list(client.send_many(["uno"])) if many else client.send("uno"))
        closer.join()
        assert isinstance(error, ConnectionLost)
        assert client._socket is None


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("where", ["_write", "_read"])
def test_ctrl_c_in_the_middle_leaves_nothing_for_the_next(
    where: str, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served() as running:
        client = talk(running.port, PATIENT)
        client.connect()
        calls = 0
        real = getattr(client, where)

        def interrupted(*args: object) -> object:
            nonlocal calls
            calls += 1
            done = real(*args)
            if calls == (1 if where == "_write" else 2):  # la primera lectura solo mira si hay algo
                raise KeyboardInterrupt
            return done

        with monkeypatch.context() as patch:
            patch.setattr(client, where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                list(client.send_many(["uno", "dos"])) if many else client.send("uno")
        with pytest.raises(ConnectionLost):
            client.send("tres")
        client.connect()
        assert client.send("cuatro") == "CUATRO"
        client.close()


@pytest.mark.parametrize("resend", [False, True])
def test_in_chaos_each_thread_gets_its_own_replies(resend: bool) -> None:
    chaos = Chaos(seed=1)
    wrong: list[object] = []

    def ask(client: Client, name: str) -> None:
        for number in range(30):
            message = f"{name} pide {number}"
            try:
                if (reply := client.send(message)) != message.upper():
                    wrong.append((message, reply))
            except NetworkError:  # se perdió, o tardó
                pass
            except BaseException as error:
                wrong.append(error)
            if number % 10 == 9:
                client.close()

    with foreign_server(chaos.serve) as port:
        limits = Limits(reply_timeout=0.05, reply_silence=PATIENCE)  # a veces llega antes la respuesta y a veces no
        client = Client("127.0.0.1", port, limits=limits, reconnect=Backoff(first=0.001, most=0.001), resend=resend)
        threads = [threading.Thread(target=ask, args=(client, f"hilo {name}")) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()
    assert not wrong
    assert chaos.attended
    assert resend or set(chaos.attended.values()) == {1}


def test_stopped_until_the_deadline_it_still_looks_at_what_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as running, Client("127.0.0.1", running.port) as client:
        assert client._selector
        look = client._selector.select
        # Lo que hace select si el proceso se para dentro (Ctrl-Z) hasta vencer el plazo: no mira nada más.
        monkeypatch.setattr(client._selector, "select", lambda timeout: [] if timeout else look(PATIENCE))
        assert client.send("hola") == "HOLA"
