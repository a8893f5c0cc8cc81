"""``server.py`` con sockets de verdad: que lo debido se entregue siempre, pase lo que pase al otro lado."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from comunicacion_tcp.connection import Connection, Owner
from comunicacion_tcp.limits import Limits
from comunicacion_tcp.listener import open_sockets
from comunicacion_tcp.observer import Observer
from comunicacion_tcp.server import Server
from comunicacion_tcp.turns import Turns

from .support.fakes import FakeTransport, fake_connection
from .support.loops import run_loop
from .support.model import HTTP
from .support.serving import served
from .support.sockets import connect, fill, free_port, receive, receive_all, reset
from .support.waiting import PATIENCE, wait_until

BYE = "Conexión cerrada".encode()


def test_pipelined_messages_before_the_end_of_input_all_get_their_reply() -> None:
    with served() as running, connect(running.port) as sock:
        sock.sendall(b"hola\n" * 5000 + b"sin terminador")
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"HOLA\n" * 5000 + b"SIN TERMINADOR"
        wait_until(lambda: running.events.names == ["accepted", "left"])


@pytest.mark.parametrize("attempt", range(10))
def test_goodbye_with_junk_behind_and_a_megabyte_of_replies_pending(attempt: int) -> None:
    # Cerrar con esa basura sin leer mandaría RST y el cliente perdería respuestas.
    messages = b"x" * 99 + b"\n"
    junk = b"basura\n" * 150_000
    with served() as running, connect(running.port) as sock:
        sender = threading.Thread(target=sock.sendall, args=(messages * 10_000 + b"DESCONEXION\n" + junk,))
        sender.start()
        wait_until(lambda: running.server.conversations == 1)
        assert receive_all(sock) == messages.upper() * 10_000 + BYE + b"\n"
        sender.join()
        assert running.events.names == ["accepted", "said_goodbye"]


def test_a_client_that_reads_nothing_until_the_end_still_gets_everything() -> None:
    # Más de lo que cabe en los búferes del sistema: el servidor deja de leer, y sigue cuando se le lee.
    message = "ΰ".encode() * 50_000 + b"\n"
    with served() as running, connect(running.port) as sock:
        sender = threading.Thread(target=sock.sendall, args=(message * 100,))
        sender.start()
        reply = message.decode().upper().encode()
        for _ in range(100):
            assert receive(sock, len(reply)) == reply
        sender.join()


def test_pending_output_is_bounded_while_the_client_does_not_read() -> None:
    limits = Limits(drain=0.5)
    with served(limits=limits) as running, connect(running.port) as sock:
        fill(sock, (b"x" * 1023 + b"\n") * 64)
        (connection,) = running.server._connections
        pending = connection._transport.get_write_buffer_size()
        assert 0 < pending <= 256 * 1024  # como mucho, la respuesta de una lectura (asyncio, 64 KiB; uvloop, 256)
        assert running.drain() == 1
        assert running.events.names[-1] == "undelivered"


def test_output_waiting_for_a_client_is_never_many_small_pieces() -> None:
    # Desde Python 3.12 asyncio recorre todas en cada escritura: con 256 Ki trozos no acabaría nunca.
    connection, wire, _, _ = fake_connection()
    assert wire.high == 0
    connection.data_received(b"a\n")
    connection.pause_writing()
    assert not wire.reading


def test_cutting_counts_only_what_was_owed() -> None:
    for owed, names in ((0, ["accepted"]), (5, ["accepted", "undelivered"])):
        connection, wire, _, recorder = fake_connection()
        wire.owed = owed
        connection.cut()
        assert wire.state == "cortado"
        assert recorder.names == names


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_out_of_range(port: int) -> None:
    with pytest.raises(ValueError, match="65535"):
        Server(port=port)


def test_silence_is_the_end_of_a_bare_goodbye() -> None:
    with served() as running, connect(running.port) as sock:
        sock.sendall(b"DESC")
        assert receive(sock, 4) == b"DESC"
        sock.sendall(b"DESCONEXION")
        assert receive_all(sock) == BYE


def test_a_client_that_cuts_is_told_and_the_rest_goes_on() -> None:
    with served() as running, connect(running.port) as other:
        broken = connect(running.port)
        broken.sendall(b"hola\n")
        assert receive(broken, 5) == b"HOLA\n"
        reset(broken)
        wait_until(lambda: "lost" in running.events.names)
        other.sendall(b"sigo\n")
        assert receive(other, 5) == b"SIGO\n"


def test_a_client_that_cuts_while_owed_is_forgotten() -> None:
    with served() as running:
        broken = connect(running.port)
        broken.sendall(b"x" * 500_000 + b"\n" + b"x\n" * 100_000 + b"DESCONEXION\n")
        reset(broken)
        wait_until(lambda: running.server.conversations == 0)


def test_bad_messages_are_told_once() -> None:
    with served() as running, connect(running.port) as sock:
        sock.sendall(b"\xff\n\xfe\nhola\n")
        assert receive_all_lines(sock, 3)[2] == b"HOLA\n"
        wait_until(lambda: running.events.names == ["accepted", "bad_message"])


def receive_all_lines(sock: socket.socket, count: int) -> list[bytes]:
    """Las siguientes ``count`` líneas."""
    with sock.makefile("rb") as stream:
        return [stream.readline() for _ in range(count)]


def test_one_too_many_is_refused_with_a_line_and_the_others_are_served() -> None:
    with served(limits=Limits(max_connections=1)) as running:
        with connect(running.port) as first:
            wait_until(lambda: running.server.conversations == 1)
            with connect(running.port) as second:
                second.sendall(b"hola\n" * 1000)
                assert receive_all(second) == "ERROR: el servidor está completo; inténtalo más tarde\n".encode()
            first.sendall(b"sigo\n")
            assert receive(first, 5) == b"SIGO\n"
        wait_until(lambda: running.server.conversations == 0)
        with connect(running.port) as third:
            third.sendall(b"ahora\n")
            assert receive(third, 6) == b"AHORA\n"
        assert running.events.names.count("refused") == 1


def test_beyond_the_reserve_the_refused_are_told_and_closed_at_once() -> None:
    with served(limits=Limits(max_connections=1, reserve=0)) as running, connect(running.port) as first:
        wait_until(lambda: running.server.conversations == 1)
        for _ in range(50):
            with connect(running.port) as extra:
                assert receive_all(extra) == "ERROR: el servidor está completo; inténtalo más tarde\n".encode()
        assert len(running.server._connections) == 1
        first.sendall(b"sigo\n")
        assert receive(first, 5) == b"SIGO\n"
        assert running.events.names.count("refused") == 50


def test_too_many_from_one_address_are_refused_and_the_others_are_served() -> None:
    with (
        served(host="127.0.0.1", limits=Limits(max_per_address=2)) as running,
        connect(running.port) as first,
        connect(running.port),
    ):
        wait_until(lambda: running.server.conversations == 2)
        with connect(running.port) as third:
            assert receive_all(third).startswith("ERROR: hay demasiadas conexiones desde tu dirección".encode())
        with connect(running.port, source="127.0.0.2") as other:
            other.sendall(b"hola\n")
            assert receive(other, 5) == b"HOLA\n"
        first.close()
        wait_until(lambda: running.server.conversations == 1)
        with connect(running.port) as again:
            again.sendall(b"ahora\n")
            assert receive(again, 6) == b"AHORA\n"
        wait_until(lambda: running.server.conversations == 1)
        assert len(running.server._connections._from) == 1  # quien se fue no queda en la tabla


def test_with_few_descriptors_it_admits_fewer_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[tuple[int, int]] = []

    class Told(Observer):
        def lowered(self, connections: int, wanted: int) -> None:
            lowered.append((connections, wanted))

    async def start() -> None:
        monkeypatch.setattr("comunicacion_tcp.server.room", lambda: 100)
        async with Server(host="127.0.0.1", port=0, observer=Told()):
            pass

    run_loop(start())
    assert lowered == [(100 - Limits().reserve, Limits().max_connections)]


# -- plazos -------------------------------------------------------------------------------------------------


def test_a_message_begun_and_never_ended_closes_the_conversation() -> None:
    # Cada byte llega a tiempo; el mensaje, no.
    connection, wire, loop, recorder = fake_connection()
    connection.data_received(b"hola\nlento")
    for _ in range(9):
        loop.advance(1)
        connection.data_received(b"x")
    assert wire.state == "abierto"
    loop.advance(1)
    assert wire.written == b"HOLA\n" + "ERROR: el mensaje no acabó en 10 s; se cierra la conexión\n".encode()
    assert wire.state == "FIN enviado"
    assert recorder.names == ["accepted", "bad_message"]


def test_each_message_has_its_own_time() -> None:
    connection, wire, loop, _ = fake_connection()
    connection.data_received(b"\nuno")
    loop.advance(6)
    connection.data_received(b"\ndos")
    loop.advance(6)
    connection.data_received(b"\n")
    loop.advance(100)
    connection.data_received(b"tres")
    loop.advance(9)
    connection.data_received(b"\n")
    assert wire.written == b"\nUNO\nDOS\nTRES\n"
    assert wire.state == "abierto"


def test_while_we_do_not_read_the_message_is_not_late() -> None:
    connection, wire, loop, _ = fake_connection()
    connection.data_received(b"\nlargo")
    connection.pause_writing()
    loop.advance(50)
    connection.resume_writing()
    loop.advance(9)
    connection.data_received(b"\n")
    assert wire.written == b"\nLARGO\n"


def test_who_reads_nothing_for_long_is_cut_and_who_reads_slowly_is_not() -> None:
    connection, wire, loop, recorder = fake_connection()
    connection.data_received(b"hola\n")
    wire.owed = 1000
    connection.pause_writing()
    loop.advance(59)
    wire.owed = 900
    loop.advance(60)
    assert wire.state == "abierto"
    loop.advance(61)
    assert wire.state == "cortado"
    assert recorder.names == ["accepted", "undelivered"]


def test_idle_clients_are_closed_only_if_told() -> None:
    connection, wire, loop, recorder = fake_connection(Limits(idle_timeout=30))
    loop.advance(29)
    connection.data_received(b"hola\n")
    loop.advance(29)
    assert wire.state == "abierto"
    loop.advance(1)
    assert wire.written == b"HOLA\n" + "ERROR: 30 s sin recibir nada; se cierra la conexión\n".encode()
    assert recorder.names == ["accepted", "idle"]
    _, wire, loop, _ = fake_connection()
    loop.advance(1e6)
    assert wire.state == "abierto"


def test_who_cannot_write_because_we_do_not_read_is_not_idle() -> None:
    connection, wire, loop, _ = fake_connection(Limits(idle_timeout=30))
    connection.data_received(b"hola\n")
    wire.owed = 5
    connection.pause_writing()
    loop.advance(40)
    assert wire.state == "abierto"
    wire.owed = 0
    connection.resume_writing()
    loop.advance(29)
    assert wire.state == "abierto"
    loop.advance(1)
    assert wire.state == "FIN enviado"
    loop.advance(60)  # ya despedida, nada más vence
    assert wire.written.count(b"ERROR") == 1


def test_who_reads_late_what_it_asked_for_is_not_late() -> None:
    # asyncio avisa de que no se puede escribir más desde dentro de write().
    connection, wire, loop, _ = fake_connection()

    def congest(data: bytes) -> None:
        wire.owed = len(data)
        connection.pause_writing()

    wire.on_write = congest
    connection.data_received(b"uno\ndos\ntr")
    loop.advance(50)
    assert wire.written == b"UNO\nDOS\n"
    wire.on_write = None
    wire.owed = 0
    connection.resume_writing()
    loop.advance(9)
    connection.data_received(b"es\n")
    assert wire.written == b"UNO\nDOS\nTRES\n"


def test_a_message_that_turns_out_too_long_gets_no_more_time() -> None:
    connection, wire, loop, _ = fake_connection(Limits(max_message=16))
    connection.data_received(b"x\na")
    loop.advance(9)
    connection.data_received(b"b" * 30)
    loop.advance(1)
    assert wire.written == b"X\nERROR: el mensaje pasa de 16 bytes\n"
    assert wire.state == "FIN enviado"


def test_nobody_is_late_while_it_waits_its_turn() -> None:
    connection, wire, loop, _ = fake_connection(Limits(messages_per_turn=1, message_timeout=5))
    connection.data_received(b"\na medias")
    loop.advance(4)
    connection.data_received(b"\n" + b"\xff\n" * 3 + b"otro")
    loop.now += 10  # la máquina, parada
    loop.turn()
    loop.turn()
    assert len(connection._server._turns) <= 1
    while b"OTRO" not in wire.written and loop.timers:
        connection.data_received(b"\n")
        loop.turn()
    assert "no acabó" not in wire.written.decode()


# -- turnos -------------------------------------------------------------------------------------------------


def test_a_flooder_gives_way_between_turns_and_loses_nothing() -> None:
    connection, wire, loop, _ = fake_connection(Limits(messages_per_turn=10))
    connection.data_received(b"\xff\n" * 25 + b"hola\n")
    assert wire.written.count(b"ERROR") == 10
    loop.turn()
    assert wire.written.count(b"ERROR") == 20
    loop.turn()
    assert wire.written.count(b"ERROR") == 25
    assert wire.written.endswith(b"HOLA\n")
    assert wire.reading
    loop.turn()
    assert wire.state == "abierto"


ERROR = "ERROR: el mensaje no es UTF-8 válido\n".encode()
FLOODS = {
    "buenos": (b"hola\n" * 5000, b"HOLA\n" * 5000, 5 * 5000),
    "malos": (b"\xff\n" * 1000, ERROR * 1000, len(ERROR) * 500),
}
"""Lo que se envía, lo que se responde, y cuántos bytes de ello en un turno."""


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("many", [10, 100, 500])
def test_many_flooders_do_not_make_one_message_wait(many: int, flood: str) -> None:
    first, _, loop, _ = fake_connection()
    server = first._server
    sent, reply, one_turn = FLOODS[flood]
    answered = [0]
    flooders = [add_connection(server) for _ in range(many)]
    polite, wire = add_connection(server)
    for connection, _ in flooders:
        connection.data_received(sent)  # todos, en la misma vuelta
    assert not any(flooder.written for _, flooder in flooders)
    while len(server._turns):
        wire.written = b""
        polite.data_received(b"hola\n")
        assert wire.written == b"HOLA\n"
        loop.turn()
        lengths = [len(flooder.written) for _, flooder in flooders]
        answered.append(sum(lengths))
        assert max(lengths) - min(lengths) <= one_turn  # nadie va dos veces antes que otro
    assert {after - before for before, after in itertools.pairwise(answered)} == {one_turn}  # uno por vuelta
    assert all(flooder.written == reply for _, flooder in flooders)


def add_connection(server: Owner) -> tuple[Connection, FakeTransport]:
    """Otra conexión del mismo servidor."""
    connection, wire = Connection(server, ("192.0.2.8", 4000)), FakeTransport()
    connection.connection_made(cast(Any, wire))
    return connection, wire


def test_the_first_of_many_is_answered_at_once_and_the_others_wait() -> None:
    first, _, loop, _ = fake_connection()
    server = first._server
    server._turns = Turns(loop, 1, Connection.go_on, clock=itertools.count().__next__)  # a cada uno, más de lo que hay
    crowd = [add_connection(server) for _ in range(50)]
    long = b"x" * 9999 + b"\n"
    for connection, _ in crowd:
        connection.data_received(long)
    assert [bool(wire.written) for _, wire in crowd].count(True) <= 1
    loop.advance(0)
    assert all(wire.written == long.upper() for _, wire in crowd)


def test_who_waits_its_turn_is_read_a_little_and_no_more() -> None:
    connection, wire, loop, _ = fake_connection()
    block = b"x" * 9 + b"\n"
    connection.data_received(block * 6000)
    assert wire.reading
    connection.data_received(block * 6000)
    assert not wire.reading
    loop.advance(0)
    assert wire.written == block.upper() * 12000
    assert wire.reading


def test_turns_wait_until_the_client_reads() -> None:
    connection, wire, loop, _ = fake_connection(Limits(messages_per_turn=10))
    wire.owed = 100
    connection.data_received(b"\xff\n" * 15 + b"a medias")
    connection.pause_writing()
    loop.turn()
    assert wire.written.count(b"ERROR") == 10
    wire.owed = 0
    connection.resume_writing()
    loop.turn()
    assert wire.written.count(b"ERROR") == 15
    assert wire.reading
    loop.advance(10)
    assert "no acabó en 10 s" in wire.written.decode()


def test_stopping_answers_first_what_was_waiting_its_turn() -> None:
    connection, wire, loop, _ = fake_connection(Limits(messages_per_turn=10))
    connection._server._draining = True
    connection.data_received(b"\xff\n" * 25)
    connection.drain()
    assert wire.state == "abierto"
    loop.turn()
    loop.turn()
    assert wire.written.count(b"ERROR") == 25
    assert wire.state == "FIN enviado"


def test_cut_with_messages_waiting_their_turn_is_counted() -> None:
    connection, _, _, recorder = fake_connection(Limits(messages_per_turn=1))
    connection.data_received(b"\xff\n" * 5)
    connection.cut()
    assert recorder.names == ["accepted", "bad_message", "undelivered"]


def test_nobody_keeps_the_place_of_one_that_could_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[object] = []

    async def short_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    async def start() -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        async with Server(host="127.0.0.1", port=0, limits=Limits(max_per_address=5)) as server:
            server._loop = SimpleNamespace(  # type: ignore[assignment]
                create_task=loop.create_task,
                connect_accepted_socket=short_of_memory,
                time=loop.time,
                is_running=lambda: False,
            )
            with connect(server.addresses[0][1]) as sock:
                while not await asyncio.to_thread(lambda: receive_all(sock) == b""):
                    pass
            gc.collect()
            await asyncio.sleep(0)
            return server.conversations + len(server._connections._from)

    assert run_loop(start()) == 0
    assert [type(failure) for failure in failures] == [MemoryError]


def test_one_that_left_while_it_waited_its_turn() -> None:
    connection, wire, loop, _ = fake_connection(Limits(messages_per_turn=1))
    connection.data_received(b"\xff\n" * 5)
    connection.connection_lost(ConnectionResetError())
    written = wire.written
    loop.turn()
    assert wire.written == written


@pytest.mark.parametrize("junk", [b"\xff\n", b"hola\n"])
def test_a_real_flooder_is_answered_in_order_to_the_last(junk: bytes) -> None:
    answer = "ERROR: el mensaje no es UTF-8 válido\n".encode() if junk[0] == 0xFF else b"HOLA\n"
    with served(limits=Limits(messages_per_turn=50)) as running, connect(running.port) as sock:
        sender = threading.Thread(target=sock.sendall, args=(junk * 40_000 + b"fin\nDESCONEXION\n",))
        sender.start()
        assert receive_all(sock) == answer * 40_000 + b"FIN\n" + BYE + b"\n"
        sender.join()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="aquí Python no tiene sockets de Unix")
def test_a_unix_socket_is_an_address_like_any_other(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/s"
    with served(host=place, limits=Limits(max_per_address=1)) as running:
        assert running.server.addresses == [(place, 0)]
        for _ in range(3):  # el límite por dirección no los cuenta: no la tienen
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(f"{tmp_path}/s")
                sock.sendall(b"hola\nDESCONEXION\nbasura")
                assert receive_all(sock) == b"HOLA\n" + BYE + b"\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.bind(f"{tmp_path}/c")  # el suyo no dice quién es
            sock.connect(f"{tmp_path}/s")
            sock.sendall(b"hola\n")
            assert receive(sock, 5) == b"HOLA\n"
        assert {peer[0] for _, peer, _ in running.events.events} == {place}
        _, peer, _ = running.events.events[0]
        if hasattr(socket, "SO_PEERCRED"):
            assert peer[1] == os.getpid()
    assert not (tmp_path / "s").exists()


def test_draining_delivers_what_is_owed_and_stops_accepting() -> None:
    with (
        served() as running,
        connect(running.port) as idle,
        connect(running.port) as busy,
        connect(running.port) as bare,
    ):
        wait_until(lambda: running.server.conversations == 3)
        message = b"x" * 999 + b"\n"
        busy.sendall(message * 200)
        bare.sendall(b"DESC")
        assert running.drain() == 0
        assert receive_all(busy) == message.upper() * 200
        assert receive_all(bare) == b"DESC"
        assert receive_all(idle) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(running.port)


def test_draining_waits_for_whoever_is_left() -> None:
    message = b"x" * 999 + b"\n"
    with served() as running:
        connect(running.port).close()
        wait_until(lambda: running.events.names == ["accepted", "left"] and running.server.conversations == 0)
        with connect(running.port) as sock:
            sender = threading.Thread(target=sock.sendall, args=(message * 4000,))
            sender.start()
            first = receive(sock, len(message))
            stopper = threading.Thread(target=running.drain)
            stopper.start()
            rest = receive_all(sock)
            stopper.join()
            sender.join()
            assert (first + rest) == message.upper() * (len(first + rest) // len(message))
            assert "undelivered" not in running.events.names


def test_a_short_reply_does_not_wait_for_the_one_before() -> None:
    with served() as running, connect(running.port) as sock:
        sock.sendall(b"hola\n")
        assert receive(sock, 5) == b"HOLA\n"
        (connection,) = running.server._connections
        accepted = connection._transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_restart_rebinds_at_once() -> None:
    port = free_port()
    for _ in range(3):
        with served(port=port) as running, connect(running.port) as sock:
            sock.sendall(b"DESCONEXION\n")
            assert receive_all(sock) == BYE + b"\n"  # el servidor cierra primero: el TIME_WAIT es suyo


def test_as_a_context_manager_in_a_running_loop() -> None:
    async def converse() -> bytes:
        async with Server(str.title, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.addresses[0])
            writer.write(b"hola mundo\n")
            reply = await reader.readline()
            writer.close()
            await writer.wait_closed()
        assert server.addresses == []
        return reply

    assert run_loop(converse()) == b"Hola Mundo\n"


def test_cut_ends_at_once_without_delivering() -> None:
    with served() as running, connect(running.port) as sock:
        wait_until(lambda: running.server.conversations == 1)
        running.server._loop.call_soon_threadsafe(running.server.cut)
        with pytest.raises(ConnectionResetError):
            reset_seen(sock)


def test_cutting_twice_counts_once() -> None:
    with served() as running, connect(running.port) as sock:
        wait_until(lambda: running.server.conversations == 1)
        (connection,) = running.server._connections
        fill(sock)  # mientras aún se puede, lo que se debe en un momento al siguiente está entregado
        wait_until(connection._transport.get_write_buffer_size, "que se le deba algo")

        def cut_twice() -> None:
            running.server.cut()
            running.server.cut()

        running.server._loop.call_soon_threadsafe(cut_twice)
        wait_until(lambda: "undelivered" in running.events.names)
        assert running.drain() == 0
        assert running.events.names.count("undelivered") == 1


def reset_seen(sock: socket.socket) -> None:
    """Lee y escribe hasta que el sistema dice que al otro lado ya no hay nadie."""
    while True:
        receive_all(sock)
        try:
            sock.sendall(b"x\n")
        except BrokenPipeError as error:
            raise ConnectionResetError from error


# -- dónde escuchar -----------------------------------------------------------------------------------------


# -- con red y reloj falsos ---------------------------------------------------------------------------------


def test_silence_is_measured_from_the_last_piece() -> None:
    connection, wire, loop, _ = fake_connection()
    connection.data_received(b"DESC")
    loop.advance(0.015)
    connection.data_received(b"ONEX")
    loop.advance(0.015)
    assert wire.written == b""
    loop.advance(0.005)
    assert wire.written == b"DESCONEX"
    connection.data_received(b"DESCONEXION")
    loop.advance(0.019)
    connection.data_received(b"\n")
    loop.advance(1)
    assert wire.written == b"DESCONEXDESCONEXION\n"


def test_while_we_do_not_read_the_silence_is_ours() -> None:
    connection, wire, loop, _ = fake_connection()
    connection.data_received(b"hola")
    connection.data_received(b"DESCONEXION")
    connection.pause_writing()
    loop.advance(50)
    assert wire.written == b"HOLA"
    connection.resume_writing()
    connection.data_received(b"ES")
    assert wire.written == b"HOLADESCONEXIONES"
    connection.data_received(b"DESCONEXION")
    connection.pause_writing()
    loop.advance(50)
    connection.resume_writing()
    loop.advance(0.019)
    assert wire.written == b"HOLADESCONEXIONES"
    loop.advance(0.001)
    assert wire.written == b"HOLADESCONEXIONES" + BYE


def test_after_the_goodbye_it_reads_again_to_throw_away() -> None:
    connection, wire, _, _ = fake_connection()
    connection.pause_writing()
    connection.data_received(b"DESCONEXION\n")
    assert wire.reading
    connection.pause_writing()
    assert wire.reading
    connection.resume_writing()
    connection.data_received(b"basura\n")
    assert wire.written == BYE + b"\n"


def test_lingering_ends_with_the_client_or_with_its_deadline() -> None:
    connection, wire, loop, _ = fake_connection()
    connection.data_received(b"DESCONEXION\n")
    loop.advance(1.9)
    assert wire.state == "FIN enviado"
    loop.advance(0.2)
    assert wire.state == "cerrado"

    connection, wire, loop, _ = fake_connection()
    connection.data_received(b"DESCONEXION\n")
    connection.eof_received()
    assert wire.state == "cerrado"


def test_the_end_of_input_closes_as_soon_as_all_is_answered() -> None:
    connection, wire, _, _ = fake_connection()
    connection.data_received(b"hola\nmundo")
    connection.eof_received()
    assert wire.written == b"HOLA\nMUNDO"
    assert wire.state == "cerrado"


def test_delivering_lasts_while_the_client_advances() -> None:
    connection, wire, loop, recorder = fake_connection(Limits(output_timeout=10))
    wire.owed = 5000
    connection.data_received(b"DESCONEXION\n")
    for _ in range(4):
        loop.advance(9.5)
        wire.owed -= 1000
    assert wire.state == "FIN enviado"
    loop.advance(9.4)
    assert wire.state == "FIN enviado"
    loop.advance(1.2)
    assert wire.state == "cortado"
    assert recorder.names == ["accepted", "said_goodbye", "undelivered"]


def test_lingering_lasts_while_the_client_talks_but_not_for_ever() -> None:
    connection, wire, loop, _ = fake_connection()
    connection.data_received(b"DESCONEXION\n")
    for _ in range(90):
        loop.advance(0.1)
        connection.data_received(b"basura\n")
    assert wire.state == "FIN enviado"
    for _ in range(40):
        loop.advance(0.1)
        if wire.state == "FIN enviado":
            connection.data_received(b"basura\n")
    assert wire.state == "cerrado"


def test_a_goodbye_still_held_when_the_server_stops_is_a_goodbye() -> None:
    connection, wire, _, recorder = fake_connection()
    connection.data_received(b"DESCONEXION")
    connection.drain()
    assert wire.written == BYE
    assert recorder.names == ["accepted", "said_goodbye"]


def test_lines_only_is_the_choice_of_whoever_runs_it() -> None:
    with served() as running:
        running.server.lines_only = True
        with connect(running.port) as sock:
            sock.sendall(b"hola")
            sock.sendall(b" mundo\n")
            assert receive(sock, 11) == b"HOLA MUNDO\n"


@pytest.mark.parametrize("idle_timeout", [0, 60])
def test_http_is_allowed_by_whoever_runs_it(idle_timeout: float) -> None:
    for allow_http, reply in ((False, HTTP + b"\r\n"), (True, b"GET / HTTP/1.1\r\nHOLA\r\n")):
        with served(allow_http=allow_http, limits=Limits(idle_timeout=idle_timeout)) as running:
            with connect(running.port) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nhola\r\n")
                sock.shutdown(socket.SHUT_WR)
                assert receive_all(sock) == reply
            assert ("bad_message" in running.events.names) != allow_http


def test_lingering_starts_when_everything_is_delivered() -> None:
    connection, wire, loop, _ = fake_connection()
    wire.owed = 5000
    connection.data_received(b"DESCONEXION\n")
    loop.advance(9)
    wire.owed = 0
    loop.advance(2)
    assert wire.state == "FIN enviado"
    loop.advance(1)
    assert wire.state == "cerrado"


def test_stopping_does_not_wait_for_a_client_that_is_quiet() -> None:
    connection, wire, loop, _ = fake_connection()
    connection._server.stopping = True
    connection.drain()
    loop.advance(0.4)
    connection.data_received(b"algo que iba en camino\n")
    loop.advance(0.4)
    assert wire.state == "FIN enviado"
    loop.advance(0.3)
    assert wire.state == "cerrado"
    connection.drain()  # ya despidiéndose: nada que hacer
    assert wire.written == b""


def test_a_client_that_cut_before_our_end_has_nothing_to_be_delivered() -> None:
    transport = FakeTransport()
    transport.write_eof_error = OSError(errno.ENOTCONN, "no")
    connection, wire, _, _ = fake_connection(transport=transport)
    connection.data_received(b"DESCONEXION\n")
    assert wire.state == "cortado"
    connection, wire, _, _ = fake_connection()
    wire.state = "cerrado"
    connection.drain()
    assert wire.state == "cerrado"


def test_what_was_already_in_the_socket_is_answered_before_stopping() -> None:
    async def converse() -> bytes:
        server = Server(host="127.0.0.1", port=0)
        await server.start()
        with connect(server.addresses[0][1]) as sock:
            sock.sendall(b"hola\n")  # ni siquiera aceptada aún: el bucle no ha girado
            await asyncio.gather(server.drain(), asyncio.to_thread(lambda: None))
            return receive_all(sock)

    assert run_loop(converse()) == b"HOLA\n"


def test_everyone_in_a_full_queue_is_answered_before_stopping() -> None:
    async def converse() -> list[bytes]:
        server = Server(host="127.0.0.1", port=0, limits=Limits(backlog=4))
        await server.start()
        crowd = [connect(server.addresses[0][1]) for _ in range(5)]  # Linux guarda uno más de los pedidos
        for sock in crowd:
            sock.sendall(b"hola\n")
        await server.drain()
        replies = [receive_all(sock) for sock in crowd]
        for sock in crowd:
            sock.close()
        return replies

    assert run_loop(converse()) == [b"HOLA\n"] * 5


# -- varios servidores en los mismos sockets ----------------------------------------------------------------


def test_two_servers_share_a_socket_and_one_retires_without_losing_anybody() -> None:
    (shared,) = open_sockets("127.0.0.1", 0, 100)
    with served(sockets=[shared.dup()]) as old, connect(old.port) as talking:
        wait_until(lambda: old.server.conversations == 1, "que la acepte el viejo, que aún está solo")
        with served(sockets=[shared]) as new:
            retired = old.retire()
            wait_until(lambda: not old.server.addresses, "que deje de escuchar")
            with connect(new.port) as sock:
                sock.sendall(b"hola\n")
                assert receive(sock, 5) == b"HOLA\n"
            wait_until(lambda: len(new.events.gone) == 1, "que la nueva la atienda el nuevo")
            talking.sendall(b"sigo\n")
            assert receive(talking, 5) == b"SIGO\n"
            assert not retired.done()
            talking.close()
            retired.result(PATIENCE)


def test_retiring_has_an_end_for_whoever_never_leaves() -> None:
    with served(sockets=open_sockets("127.0.0.1", 0, 100)) as running, connect(running.port) as sock:
        sock.sendall(b"hola\n")
        assert receive(sock, 5) == b"HOLA\n"
        running.retire(0.01).result(PATIENCE)
        assert running.server.conversations == 1
        running.drain()
        assert receive_all(sock) == b""


def test_a_shared_unix_socket_is_not_ours_to_delete(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (shared,) = open_sockets(f"unix:{path}", 0, 100)
    with served(sockets=[shared]) as running:
        assert running.server.addresses == [(f"unix:{path}", 0)]
    assert path.exists()


def test_a_socket_that_does_not_listen_is_refused() -> None:
    with socket.socket() as sock, pytest.raises(ValueError, match="no es de los que escuchan"):
        run_loop(Server(sockets=[sock]).start())
    with pytest.raises(ValueError, match="no es de los que escuchan"):
        run_loop(Server(sockets=[sock]).start())  # cerrado: una segunda vez
