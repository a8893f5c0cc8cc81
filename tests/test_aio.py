"""``aio.py``: lo que solo es de ``AsyncClient``: tareas, cancelaciones e iterables asíncronos. Lo que comparte con
``Client``, en ``test_conversation.py``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from comunicacion_tcp.aio import _MOST_UNREAD, AsyncClient, _Next
from comunicacion_tcp.backoff import Backoff
from comunicacion_tcp.conversation import WINDOW_MESSAGES
from comunicacion_tcp.errors import ConnectionLost, MessageError, NetworkError, TimedOut
from comunicacion_tcp.limits import Limits

from .support.cancelling import DONE, WAITING, cancel_at_each_step
from .support.certificates import Certificates
from .support.chaos import Chaos
from .support.loops import new_event_loop
from .support.serving import served
from .support.sockets import foreign_server, free_port, receive_all, reset
from .support.waiting import PATIENCE

PATIENT = Limits(reply_silence=PATIENCE, reply_timeout=PATIENCE)
AT_ONCE = Backoff(first=1e-6, most=1e-6)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Como ``asyncio.run``, en el bucle que toca; falla si quedó algo sin contar a nadie o una tarea sin acabar."""
    unheard: list[object] = []
    loop = new_event_loop()
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    try:
        loop.run_until_complete(asyncio.wait_for(main, PATIENCE))
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))
        assert not asyncio.all_tasks(loop)
        gc.collect()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert not unheard


def talk(port: int, limits: Limits = PATIENT, **options: Any) -> AsyncClient:
    """Un cliente sin conectar aún."""
    return AsyncClient("127.0.0.1", port, limits=limits, **options)


async def turns(count: int) -> None:
    """Deja pasar ``count`` vueltas del bucle."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_what_the_server_said_before_cutting_is_heard_even_if_a_write_finds_the_cut_first() -> None:
    connected = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"ERROR: completo\n")
        assert connected.wait(PATIENCE)
        reset(sock)

    async def main() -> None:
        with foreign_server(serve) as port:
            client = talk(port)
            await client.connect()
            connected.set()
            assert client._socket
            assert client._link
            cut = select.poll()
            cut.register(client._socket, 0)
            assert cut.poll(PATIENCE * 1000)  # sin dejar girar al bucle, que lo leería
            client._link.transport.write(b"x")
            assert await client.take_unasked() == ["ERROR: completo"]
            await client.close()

    run(main())


async def until(condition: Callable[[], object]) -> None:
    """Vuelve cuando ``condition()`` se cumple; quien espera demasiado es ``run``."""
    while not condition():  # noqa: ASYNC110  # mirar es lo que hace una prueba
        await asyncio.sleep(0.001)


# -- varias tareas ------------------------------------------------------------------------------------------


def test_each_task_gets_its_own_reply() -> None:
    async def main() -> None:
        async with talk(running.port) as client:
            messages = [f"tarea {number}" for number in range(100)]
            assert await asyncio.gather(*map(client.send, messages)) == [message.upper() for message in messages]
            assert await client.say_goodbye() == ["Conexión cerrada"]

    with served() as running:
        run(main())


def test_cancelling_who_waits_its_turn_disturbs_nobody() -> None:
    answer = threading.Event()

    def serve(sock: socket.socket) -> None:
        while data := sock.recv(1024):
            assert answer.wait(PATIENCE)
            sock.sendall(data.upper())

    async def main() -> None:
        async with talk(port) as client:
            first = asyncio.create_task(client.send("uno"))
            second = asyncio.create_task(client.send("dos"))
            third = asyncio.create_task(client.send("tres"))
            await turns(5)
            second.cancel()
            await turns(1)
            answer.set()
            assert await first == "UNO"
            assert await third == "TRES"

    with foreign_server(serve) as port:
        run(main())


@pytest.mark.parametrize("ask", ["send", "send_many"])
def test_closing_ends_the_call_in_progress(ask: str) -> None:
    async def main() -> None:
        client = talk(port)
        await client.connect()
        task = asyncio.ensure_future(client.send("uno") if ask == "send" else anext(client.send_many(["uno"])))
        await turns(5)
        await client.close()
        with pytest.raises(ConnectionLost):
            await task

    with foreign_server(reads_all) as port:
        run(main())


def test_after_closing_nothing_is_sent_again() -> None:
    async def main() -> None:
        client = talk(port, reconnect=AT_ONCE, resend=True)
        await client.connect()
        task = asyncio.ensure_future(client.send("uno"))
        await turns(5)
        await client.close()
        with pytest.raises(ConnectionLost):
            await task
        assert client._socket is None

    with foreign_server(reads_all) as port:
        run(main())


@pytest.mark.parametrize("before", [[], ["uno"]])
def test_the_messages_of_send_many_cannot_ask_the_same_client(before: list[str]) -> None:
    async def main() -> None:
        async with talk(running.port) as client:

            async def messages() -> AsyncIterator[str]:
                for message in before:
                    yield message
                yield await client.send("dos")

            with pytest.raises(RuntimeError, match="send_many"):
                [reply async for reply in client.send_many(messages())]
            assert await client.send("cuatro") == "CUATRO"

    with served() as running:
        run(main())


@pytest.mark.parametrize("ask", ["connect", "send"])
def test_closing_ends_the_attempts_to_connect(ask: str) -> None:
    async def main() -> None:
        for count in range(12):
            client = talk(port, reconnect=AT_ONCE)
            task: asyncio.Future[object] = asyncio.ensure_future(
                client.send("uno") if ask == "send" else client.connect()
            )
            await turns(count + 1)
            await client.close()
            with pytest.raises(ConnectionLost):
                await task
            assert client._link is None

    port = free_port()
    run(main())


def reads_all(sock: socket.socket) -> None:
    """Un servidor que nunca dice nada."""
    with contextlib.suppress(ConnectionResetError):
        receive_all(sock)


# -- cancelar -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("many", [False, True])
def test_cancelled_at_any_point_the_next_call_is_not_answered_with_its_reply(
    many: bool, encrypted: bool, certificates: Certificates
) -> None:
    async def ask(client: AsyncClient, message: str) -> str:
        if not many:
            return await client.send(message)
        first, _ = [reply async for reply in client.send_many([message, "otro"])]
        return first

    async def main() -> None:
        tls = certificates.trusting() if encrypted else None
        client = AsyncClient("localhost", running.port, limits=PATIENT, tls=tls, reconnect=AT_ONCE)
        answered = count = 0
        while answered < 3:  # hasta que ya no da tiempo a cancelarla
            task = asyncio.create_task(ask(client, f"uno {count}"))
            await turns(count)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                assert await task == f"UNO {count}"
                answered += 1
            assert await client.send(f"dos {count}") == f"DOS {count}"
            assert await client.take_unasked() == []
            if count % 2:
                await client.close()  # unas veces hay conexión y otras hay que hacerla
            count += 1
        assert count > 3
        await client.close()

    with served(tls=certificates.serving() if encrypted else None) as running:
        run(main())


@pytest.mark.parametrize("size", range(5))
def test_cancelled_with_part_of_the_reply_read(size: int) -> None:
    late = threading.Event()

    def serve(sock: socket.socket) -> None:
        while data := sock.recv(1024):
            reply = data.upper()
            if data == b"uno\n":
                sock.sendall(reply[:size])
                assert late.wait(PATIENCE)
                reply = reply[size:]
            sock.sendall(reply)

    async def main() -> None:
        async with talk(port, reconnect=AT_ONCE) as client:
            with pytest.raises(asyncio.TimeoutError):
                # Con los cuatro bytes la respuesta está entera; pero entonces no se cancela nada.
                await asyncio.wait_for(client.send("uno") if size < 4 else asyncio.sleep(PATIENCE), 0.05)
            late.set()
            assert await client.send("dos") == "DOS"

    with foreign_server(serve) as port:
        run(main())


def test_without_reconnection_a_cancelled_call_leaves_no_connection() -> None:
    async def main() -> None:
        async with talk(port) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.send("uno"), 0.01)
            with pytest.raises(ConnectionLost):
                await client.send("dos")

    with foreign_server(reads_all) as port:
        run(main())


@pytest.mark.parametrize("when", [WAITING, DONE])
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("ask", ["connect", "send", "send_many", "say_goodbye", "take_unasked"])
def test_cancelled_at_each_step_it_stops_working(
    ask: str, encrypted: bool, when: str, certificates: Certificates
) -> None:
    # Hasta Python 3.11, ``asyncio.wait_for`` se tragaba la cancelación que llega cuando lo esperado acaba de acabar.
    async def one_of_many(client: AsyncClient) -> str:
        return await anext(client.send_many(["hola"]))

    asking: dict[str, Callable[[AsyncClient], Coroutine[Any, Any, object]]] = {
        "connect": AsyncClient.connect,
        "send": lambda client: client.send("hola"),
        "send_many": one_of_many,
        "say_goodbye": AsyncClient.say_goodbye,
        "take_unasked": AsyncClient.take_unasked,
    }

    async def main() -> None:
        tls = certificates.trusting() if encrypted else None
        client = AsyncClient("localhost", running.port, limits=PATIENT, tls=tls, reconnect=AT_ONCE)

        async def make() -> Coroutine[Any, Any, object]:
            await client.close()
            if ask in ("say_goodbye", "take_unasked"):
                await client.connect()
            return asking[ask](client)

        try:
            await cancel_at_each_step(make, when)
            assert await client.send("y sigue sirviendo") == "Y SIGUE SIRVIENDO"
        finally:
            await client.close()

    with served(tls=certificates.serving() if encrypted else None) as running:
        run(main())


# -- muchos mensajes ----------------------------------------------------------------------------------------


async def each(*messages: str) -> AsyncIterator[str]:
    """Un iterable asíncrono que cede el turno antes de cada mensaje."""
    for message in messages:
        await asyncio.sleep(0)
        yield message


def test_an_asynchronous_iterable() -> None:
    async def main() -> None:
        async with talk(running.port) as client:
            messages = [f"mensaje {number}" for number in range(3000)]
            got = [reply async for reply in client.send_many(each(*messages))]
            assert got == [message.upper() for message in messages]
            assert [reply async for reply in client.send_many(each())] == []

    with served() as running:
        run(main())


def test_a_slow_source_does_not_delay_the_replies() -> None:
    async def main() -> None:
        replied = asyncio.Event()

        async def lockstep() -> AsyncIterator[str]:
            for number in range(5):
                yield str(number)
                await replied.wait()
                replied.clear()

        got = []
        async with talk(running.port) as client:
            async for reply in client.send_many(lockstep()):
                got.append(reply)
                replied.set()
        assert got == list("01234")

    with served() as running:
        run(main())


def test_waiting_for_the_source_is_not_waiting_for_the_server() -> None:
    async def main() -> None:
        got: list[str] = []
        async with talk(running.port) as client:

            async def slow() -> AsyncIterator[str]:
                yield "uno"
                await until(lambda: got)
                await turns(10)
                assert client._link
                assert client._link._waiter is None  # sin nada que deba el servidor, su plazo no corre
                yield "dos"

            async for reply in client.send_many(slow()):
                got.append(reply)  # noqa: PERF401  # se mira desde slow()
        assert got == ["UNO", "DOS"]

    with served() as running:
        run(main())


def test_a_server_that_owes_replies_while_the_source_waits() -> None:
    async def main() -> None:
        cancelled = []

        async def stuck() -> AsyncIterator[str]:
            yield "uno"
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        async with talk(port, Limits(reply_timeout=0.1)) as client:
            with pytest.raises(TimedOut):
                await anext(client.send_many(stuck()))
            await until(lambda: cancelled)  # nadie la deja esperando para siempre

    with foreign_server(reads_all) as port:
        run(main())


@pytest.mark.parametrize("bad", ["dos\nlíneas", ZeroDivisionError()])
def test_a_source_that_fails(bad: str | Exception) -> None:
    async def main() -> None:
        async def source() -> AsyncIterator[str]:
            yield "uno"
            if isinstance(bad, Exception):
                raise bad
            yield bad

        got = []
        async with talk(running.port) as client:
            with pytest.raises((MessageError, ZeroDivisionError)):
                async for reply in client.send_many(source()):
                    got.append(reply)  # noqa: PERF401  # antes del error
            assert got == ["UNO"]
            assert await client.send("sigo") == "SIGO"

    with served() as running:
        run(main())


def test_leaving_closes_before_the_next_call() -> None:
    async def main() -> None:
        async with talk(running.port) as client:
            async for reply in client.send_many(["uno", "dos"]):
                assert reply == "UNO"
                break
            with pytest.raises(ConnectionLost):
                await client.send("su respuesta no es DOS")
            await client.connect()
            async with contextlib.aclosing(client.send_many(each("tres", "cuatro"))) as replies:
                assert await anext(replies) == "TRES"
            await client.close()

    with served() as running:
        run(main())


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cleaning", [0, 3])
def test_breaking_out_leaves_the_source_ready_to_be_closed(cleaning: int, both: bool) -> None:
    # Lo que pide la documentación de Python a quien deja a medias un generador asíncrono: ``aclosing``.
    ends: list[object] = []

    async def source() -> AsyncIterator[str]:
        task = asyncio.current_task()
        try:
            yield "uno"
            task = asyncio.current_task()
            await asyncio.Event().wait()
        finally:
            ends.append(asyncio.current_task() is task)
            await turns(cleaning)
            ends.append("cerrado")

    async def main() -> None:
        async with talk(running.port) as client, contextlib.AsyncExitStack() as stack:
            messages: AsyncIterator[str] = source()
            if not cleaning:  # si al cerrarse también espera, hay que esperarlo: dentro de su propio aclosing
                await stack.enter_async_context(contextlib.aclosing(messages))  # type: ignore[type-var]
            replies = client.send_many(messages)
            if both or cleaning:
                await stack.enter_async_context(contextlib.aclosing(replies))
            async for reply in replies:
                assert reply == "UNO"
                await until(lambda: client._flow and client._flow.pending)
                break
            del replies
        assert ends == [True, "cerrado"]

    with served() as running:
        run(main())


def test_left_before_asking_the_source_anything() -> None:
    async def main() -> None:
        messages = each("uno", "dos")
        asked = _Next(messages)
        for _ in range(2):  # dejarlo otra vez no es nada
            asked.leave()
        with pytest.raises(asyncio.CancelledError):
            await asked.task
        assert await anext(messages) == "uno"
        await messages.aclose()  # type: ignore[attr-defined]

    run(main())


def test_cancelling_send_many_cancels_its_source() -> None:
    async def main() -> None:
        waiting = asyncio.Event()

        async def stuck() -> AsyncIterator[str]:
            waiting.set()
            await asyncio.Event().wait()
            yield "nunca"

        async with talk(running.port) as client:
            task = asyncio.ensure_future(anext(client.send_many(stuck())))
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(ConnectionLost):
                await client.send("como cualquier llamada cancelada")

    with served() as running:
        run(main())


def test_an_endless_iterable_lets_others_work() -> None:
    async def main() -> None:
        async with talk(running.port) as busy, talk(running.port) as other:

            async def flood() -> None:
                async for _ in busy.send_many(iter(lambda: "x", "")):
                    pass

            task = asyncio.create_task(flood())
            for _ in range(20):
                assert await other.send("hola") == "HOLA"
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with served() as running:
        run(main())


# -- el bucle -----------------------------------------------------------------------------------------------


def test_a_server_that_never_stops_talking_does_not_fill_the_memory() -> None:
    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                sock.sendall(b"y\n" * 10_000)

    async def main() -> None:
        client = talk(port, Limits(reply_silence=0.05, reply_timeout=PATIENCE, max_unasked=2**31 - 1))
        await client.connect()
        link = client._link
        assert link
        await until(lambda: link._paused)  # nadie espera nada: lo demás, en el sistema
        assert link._unread <= _MOST_UNREAD + 256 * 1024  # y una lectura de las de uvloop
        assert set(await client.take_unasked()) <= {"y", ""}
        assert set(await client.say_goodbye()) <= {"y", ""}

    with foreign_server(serve) as port:
        run(main())


def test_one_client_in_several_loops_one_after_another() -> None:
    async def main() -> None:
        async with client:
            assert await client.send("hola") == "HOLA"

    with served() as running:
        client = talk(running.port)
        run(main())
        run(main())


def test_in_another_loop_after_several_tasks_waited_their_turn() -> None:
    async def main() -> None:
        async with client:
            assert await asyncio.gather(*map(client.send, "abc")) == list("ABC")

    with served() as running:
        client = talk(running.port)
        run(main())
        run(main())


def test_two_loops_at_once_are_told_so() -> None:
    async def ask() -> str:
        return await client.send("hola")

    with served() as running:
        client = talk(running.port)
        first, second = new_event_loop(), new_event_loop()
        try:
            first.run_until_complete(client.connect())
            for call in (client.connect, client.close, ask):
                with pytest.raises(RuntimeError, match="otro bucle"):
                    second.run_until_complete(call())
            assert first.run_until_complete(ask()) == "HOLA"
            first.run_until_complete(client.close())
            assert second.run_until_complete(client.connect()) is None
            second.run_until_complete(client.close())
        finally:
            first.close()
            second.close()


def test_a_client_left_open_in_a_closed_loop(recwarn: pytest.WarningsRecorder) -> None:
    # Python se queja, con razón, del transporte que nadie cerró; el cliente debe seguir sirviendo.
    async def main() -> None:
        await client.connect()
        await anext(client.send_many(["uno", "dos"]))

    async def again() -> None:
        await client.close()
        async with client:
            assert await client.send("hola") == "HOLA"

    with served() as running:
        client = talk(running.port)
        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        run(again())
        gc.collect()


def test_the_window_of_a_slow_server() -> None:
    asked = 0

    async def source() -> AsyncIterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield "x"

    async def main() -> None:
        async with talk(port, Limits(reply_timeout=1)) as client:  # para pedirlos todos sobra
            with pytest.raises(TimedOut):
                await anext(client.send_many(source()))

    with foreign_server(reads_all) as port:
        run(main())
    assert asked == WINDOW_MESSAGES


@pytest.mark.parametrize("resend", [False, True])
def test_in_chaos_each_task_gets_its_own_replies(resend: bool) -> None:
    chaos = Chaos(seed=2)
    chance = random.Random(2)
    right: list[str] = []

    async def in_a_hurry(waiting: Coroutine[Any, Any, None]) -> None:
        patience = chance.choice([0.001, 0.01, PATIENCE])
        with contextlib.suppress(NetworkError, asyncio.TimeoutError):
            await asyncio.wait_for(waiting, patience)

    async def ask(client: AsyncClient, message: str) -> None:
        assert await client.send(message) == message.upper()
        right.append(message)

    async def ask_many(client: AsyncClient, messages: list[str], leave_at: int) -> None:
        expected = iter(messages)
        async for reply in client.send_many(iter(messages)):
            assert reply == next(expected).upper()
            right.append(reply)
            if reply == messages[leave_at].upper():
                break

    async def main() -> None:
        client = talk(port, reconnect=AT_ONCE, resend=resend)
        for turn in range(8):
            await asyncio.gather(*(in_a_hurry(ask(client, f"{turn} tarea {number}")) for number in range(20)))
            messages = [f"{turn} seguido {number}" for number in range(40)]
            await in_a_hurry(ask_many(client, messages, chance.randrange(40)))
        await client.close()

    with foreign_server(chaos.serve) as port:
        run(main())
    assert right
    assert resend or set(chaos.attended.values()) == {1}
