"""``loops.py`` y ``with Server``: un servidor para quien no trabaja con asyncio, que no deja nada detrás."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from comunicacion_tcp import AddressInUse, Client, Limits, Server
from comunicacion_tcp import loops as library_loops
from comunicacion_tcp.loops import LoopThread

from .support import loops
from .support.programs import Program
from .support.serving import Recorder
from .support.sockets import connect, fill, receive, receive_all
from .support.waiting import PATIENCE, wait_until


@pytest.fixture(autouse=True)
def nothing_is_left(loop_kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Con el bucle que toque; y al acabar, ni un hilo más que antes, ni nada por cerrar."""
    monkeypatch.setattr(library_loops, "new_event_loop", loops.new_event_loop)
    before = set(threading.enumerate())
    yield
    # Los hilos del servicio no se esperan: uno puede estar en una función que no vuelve. Los callados acaban enseguida.
    wait_until(lambda: set(threading.enumerate()) <= before, "que acaben los hilos")
    gc.collect()  # lo que quedó sin cerrar se queja aquí, y en las pruebas un aviso es un fallo


def test_with_a_server_there_is_someone_to_talk_to() -> None:
    with Server(str.title, port=0) as server:
        assert (server.host, server.port) == server.addresses[0]
        with Client(server.host, server.port) as client:
            assert client.send("hola a todos") == "Hola A Todos"
        assert threading.current_thread().name != "comunicacion_tcp"
    assert server.addresses == []
    with pytest.raises(RuntimeError, match="no está en marcha"):
        server.port  # noqa: B018
    with pytest.raises(RuntimeError, match="no está en marcha"):
        server.host  # noqa: B018


def test_a_unix_socket(tmp_path: Path) -> None:
    place = f"unix:{tmp_path / 's'}"
    with Server(host=place) as server:
        assert (server.host, server.port) == (place, 0)
        with Client(server.host) as client:
            assert client.send("hola") == "HOLA"
    assert not (tmp_path / "s").exists()


def test_leaving_delivers_what_is_owed() -> None:
    recorder = Recorder()
    with Server(port=0, observer=recorder) as server:
        sock = connect(server.port, server.host)
        sock.sendall(b"hola\n" * 5000)
        wait_until(lambda: server.conversations)
    with sock:
        assert receive_all(sock) == b"HOLA\n" * 5000
    assert len(recorder.gone) == 1


def test_a_failure_to_listen_is_raised_where_it_is_started() -> None:
    with Server(host="127.0.0.1", port=0) as server:
        with pytest.raises(AddressInUse), Server(host="127.0.0.1", port=server.port):
            pass
        with Client(server.host, server.port) as client:
            assert client.send("sigo") == "SIGO"


def test_a_failure_inside_leaves_all_the_same() -> None:
    with pytest.raises(ZeroDivisionError), Server(port=0) as server:
        raise ZeroDivisionError
    assert server.addresses == []


def test_it_can_be_started_again() -> None:
    server = Server(host="127.0.0.1", port=0)
    for _ in range(3):
        with server, connect(server.port) as sock:
            sock.sendall(b"otra vez\n")
            assert receive(sock, 9) == b"OTRA VEZ\n"
    # Y en otro bucle, que no es el del hilo.

    async def on_a_loop() -> None:
        async with server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(b"otra mas\n")
            assert await reader.readexactly(9) == b"OTRA MAS\n"
            writer.close()
            await writer.wait_closed()

    loops.run_loop(on_a_loop())


def test_twice_at_once_is_an_error_that_breaks_nothing() -> None:
    server = Server(host="127.0.0.1", port=0)

    async def mixed() -> None:
        with pytest.raises(RuntimeError, match="ya está en marcha"):
            async with server:
                pass

    with server:
        with pytest.raises(RuntimeError, match="ya está en marcha"), server:
            pass
        loops.run_loop(mixed())
        with Client(server.host, server.port) as client:
            assert client.send("sigo") == "SIGO"


def test_inside_a_loop_it_is_another_one() -> None:
    # Como en un cuaderno de Jupyter, en que siempre hay un bucle en marcha.
    async def main() -> None:
        with Server(host="127.0.0.1", port=0) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(b"hola\n")
            assert await reader.readexactly(5) == b"HOLA\n"
            writer.close()
            await writer.wait_closed()

    loops.run_loop(main())


def test_two_servers_are_two_threads() -> None:
    with Server(port=0) as one, Server(str.title, port=0) as other:
        assert one.port != other.port
        assert [thread.name for thread in threading.enumerate()].count("comunicacion_tcp") == 2


def test_whoever_does_not_read_is_cut_at_the_end() -> None:
    recorder = Recorder()
    with Server(host="127.0.0.1", port=0, limits=Limits(drain=0.1), observer=recorder) as server:
        sock = connect(server.port)
        fill(sock)
    sock.close()
    assert recorder.names == ["accepted", "undelivered"]


def test_another_interrupt_while_leaving_cuts_now() -> None:
    # El plazo es de horas: solo acaba si el segundo Ctrl-C corta.
    code = """
import contextlib, signal, socket, threading, warnings
from comunicacion_tcp import Limits, Server

class Loud(Server):
    async def drain(self, patience=None):
        print("parando", patience, flush=True)
        return await super().drain(patience)

warnings.simplefilter("error")
server = Loud(host="127.0.0.1", port=0, limits=Limits(drain=9999.0))
try:
    with socket.socket() as sock, server:
        sock.connect(server.addresses[0])
        sock.setblocking(False)
        while not server._clocks.unread._running:
            with contextlib.suppress(BlockingIOError):
                sock.send(b"x" * 65535 + b"\\n")
        print("lleno", flush=True)
        signal.pause()
except KeyboardInterrupt:
    print("acabó", server.conversations, server.addresses, threading.active_count())
"""
    with Program([sys.executable, "-c", code]) as program:
        program.wait_for("lleno")
        program.signal(signal.SIGINT)
        program.wait_for("parando None")
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert (program.output, program.errors) == ("lleno\nparando None\nparando 0\nacabó 0 [] 1\n", "")


def test_no_more_threads_is_said_and_leaves_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="thread"), Server(port=0):
        pass


def test_no_more_descriptors_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, "no hay más")

    monkeypatch.setattr(library_loops, "new_event_loop", refuse)
    with pytest.raises(OSError, match="no hay más"), Server(port=0):
        pass


def test_stopping_a_loop_ends_what_it_was_doing() -> None:
    ended = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def launch() -> asyncio.Task[None]:
        task = asyncio.ensure_future(forever())
        await asyncio.sleep(0)
        return task

    thread = LoopThread()
    task = thread.wait_for(launch())
    with pytest.raises(ZeroDivisionError):
        thread.wait_for(_fails())
    thread.stop()
    assert ended.wait(PATIENCE)
    assert task.cancelled()


def test_a_task_that_will_not_be_cancelled_is_not_waited_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn(message: str) -> str:
        while message == "nunca":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return message

    limits = Limits(service_timeout=0.5)  # para el que no responde: al otro le sobra
    with Server(stubborn, port=0, limits=limits) as server, Client(server.host, server.port) as client:
        assert client.send("nunca").startswith("ERROR: ")
        assert client.send("hola") == "hola"
    gc.collect()
    assert "Task was destroyed" in caplog.text  # asyncio dice de quién es


def test_every_method_can_be_called_from_any_thread() -> None:
    with Server(port=0) as server, connect(server.port, server.host) as sock:
        sock.sendall(b"hola\n")
        assert receive(sock, 5) == b"HOLA\n"
        server.change_service(str.title)
        sock.sendall(b"hola\n")
        assert receive(sock, 5) == b"Hola\n"
        with pytest.raises(TypeError, match="un servicio es"):
            server.change_service(3)  # type: ignore[arg-type]
        server.reread_certificate()
        assert server.conversations == 1
        server.cut()
        assert server.conversations == 0
        with contextlib.suppress(ConnectionResetError):  # si su sistema aún no dijo que tiene la última respuesta
            assert receive_all(sock) == b""


@pytest.mark.parametrize("again", [False, True])
def test_every_method_can_be_called_when_it_is_not_running(again: bool) -> None:
    server = Server(port=0)
    if again:
        with server:
            pass
    server.cut()
    server.reread_certificate()
    server.change_service(str.title)
    loops.run_loop(server.retire())
    assert loops.run_loop(server.drain()) == 0
    with server, Client(server.host, server.port) as client:
        assert client.send("hola") == "Hola"


def test_it_can_be_drained_and_cut_from_another_loop() -> None:
    recorder = Recorder()
    limits = Limits(drain=0.1)
    with Server(host="127.0.0.1", port=0, limits=limits, observer=recorder) as server, connect(server.port) as sock:
        fill(sock)
        assert loops.run_loop(server.drain()) == 1
        assert server.addresses == []

    async def from_a_thread() -> None:
        async with Server(host="127.0.0.1", port=0) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(b"hola\n")
            assert await reader.readexactly(5) == b"HOLA\n"
            await asyncio.to_thread(server.cut)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionResetError):
                await writer.wait_closed()

    loops.run_loop(from_a_thread())


def test_the_service_can_cut_everyone() -> None:
    servers: list[Server] = []

    def service(message: str) -> str:
        servers[0].cut()
        return message

    with Server(service, port=0) as server, connect(server.port, server.host) as sock:
        servers.append(server)
        sock.sendall(b"hola\n")
        with pytest.raises(ConnectionResetError):  # se le debe una respuesta
            receive_all(sock)


@pytest.mark.parametrize("leave", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_whoever_wants_to_exit_inside_does_not_stop_the_loop(
    caplog: pytest.LogCaptureFixture, leave: BaseException
) -> None:
    async def service(message: str) -> str:
        asyncio.get_running_loop().call_soon(_throw, leave)
        return message

    with Server(service, port=0) as server, Client(server.host, server.port) as client:
        for message in ("hola", "sigo"):
            assert client.send(message) == message
    assert "quiso acabar el programa" in caplog.text
    assert "in _throw" in caplog.text


def test_running_is_like_in_asyncio_but_for_who_wants_to_exit_inside() -> None:
    told: list[str] = []
    again = asyncio.Event()

    async def main() -> str:
        loop = asyncio.get_running_loop()

        def tell(_: object, context: dict[str, object]) -> None:
            if "future" not in context:  # si no, es que se borra la tarea sin que nadie mirara cómo acabó
                told.append(repr(context["exception"]))

        loop.set_exception_handler(tell)
        for number in (1, 2, 3):  # de uno en uno: de los de una misma vuelta, uvloop solo guarda el primero
            if number == 2:
                loop.call_soon(_throw, KeyboardInterrupt())
            else:
                await asyncio.wait([loop.create_task(_leave())])
            await again.wait()
            again.clear()
        return "acabó"

    def on_signal(*_: object) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGINT, on_signal)  # hay quien la atiende: ningún KeyboardInterrupt es de una persona
    try:
        assert library_loops.run(main(), again.set) == "acabó"
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == ["SystemExit(3)", "KeyboardInterrupt()", "SystemExit(3)"]
    for error in (SystemExit, KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(error):
            library_loops.run(_raise(error))
    gc.collect()


def test_an_interrupt_that_nobody_heeds_ends_it() -> None:
    code = """
import asyncio, os, signal
from comunicacion_tcp.loops import run
async def main():
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
    await asyncio.Event().wait()
try:
    run(main())
except KeyboardInterrupt:
    print("acabó")
"""
    with Program([sys.executable, "-c", code]) as program:
        assert program.wait() == 0
        assert (program.output, program.errors) == ("acabó\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sin fork")
def test_a_child_leaves_the_server_to_its_parent() -> None:
    code = """
import os
from comunicacion_tcp import Client, Server
with Server(str.title, port=0) as server:
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        with Client(server.host, server.port) as client:
            print(client.send("hola"))
    else:
        for call in (server.cut, server.reread_certificate):
            try:
                call()
            except RuntimeError as error:
                assert "de otro proceso" in str(error)
            else:
                os._exit(1)
"""
    with Program([sys.executable, "-W", "ignore", "-c", code]) as program:  # Python 3.12 avisa de que hay hilos
        assert program.wait() == 0
        assert (program.output, program.errors) == ("Hola\n", "")


async def _fails() -> None:
    raise ZeroDivisionError


async def _raise(error: type[BaseException]) -> None:
    raise error


async def _leave() -> None:
    raise SystemExit(3)


def _throw(error: BaseException) -> None:
    raise error
