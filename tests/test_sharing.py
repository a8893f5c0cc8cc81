"""Quién puede usar un cliente: un proceso tras un ``fork``, un manejador de señales, los greenlets de gevent. Nadie
recibe la respuesta de otro: o espera su turno, o es un error.

Todo pasa en procesos aparte: un ``fork`` con hilos, una señal o ``monkey.patch_all`` no son cosa de las demás pruebas.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from .support.certificates import Certificates
from .support.examples import ROOT
from .support.loops import FAST, STANDARD
from .support.serving import served
from .support.waiting import PATIENCE


def script(code: str, *arguments: object) -> list[str]:
    """Lo que escribe ese programa, línea a línea. Falla si acaba mal, o si dice algo por la salida de errores."""
    # Python 3.12 avisa de los fork con hilos, y uno los tiene: el que resuelve nombres.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


# -- fork ---------------------------------------------------------------------------------------------------

FORK = """
import os, signal, sys
from comunicacion_tcp import Client, client_context
port, ca = int(sys.argv[1]), sys.argv[2]
client = Client("localhost", port, tls=client_context(ca) if ca else None)

def attempt(name, call):
    try:
        print(name, call())
    except BaseException as error:
        print(name, type(error).__name__, "fork" in str(error))

client.connect()
print(client.send("padre"))
replies = client.send_many(["uno", "dos"])
if len(sys.argv) > 3:
    next(replies)
sys.stdout.flush()
child = os.fork()
if not child:
    signal.alarm(20)  # pase lo que pase, nadie lo deja detrás
    attempt("send", lambda: client.send("hijo"))
    attempt("send_many", lambda: list(client.send_many(["hijo"])))
    attempt("take_unasked", client.take_unasked)
    attempt("say_goodbye", client.say_goodbye)
    if len(sys.argv) > 3:
        attempt("next", lambda: next(replies))
    del replies
    client.close()
    attempt("closed", lambda: client.send("hijo"))
    client.connect()
    attempt("own", lambda: client.send("hijo"))
    client.close()
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
if len(sys.argv) > 3:
    print(*replies)
print(client.send("padre otra vez"))
print(client.say_goodbye())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sin fork")
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("halfway", [False, True])
def test_a_connection_belongs_to_the_process_that_opened_it(
    encrypted: bool, halfway: bool, certificates: Certificates
) -> None:
    with served(tls=certificates.serving() if encrypted else None) as running:
        said = script(FORK, running.port, certificates.ca if encrypted else "", *["a medias"] * halfway)
    assert said == [
        "PADRE",
        "send RuntimeError True",
        "send_many RuntimeError True",
        "take_unasked RuntimeError True",
        "say_goodbye RuntimeError True",
        *["next RuntimeError True"] * halfway,
        "closed ConnectionLost False",
        "own HIJO",
        *["DOS"] * halfway,
        "PADRE OTRA VEZ",
        "['Conexión cerrada']",
    ]
    assert running.events.names.count("said_goodbye") == 1


ASYNC_FORK = """
import asyncio, os, signal, sys
from comunicacion_tcp import AsyncClient, client_context
port, ca, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
client = AsyncClient("localhost", port, tls=client_context(ca) if ca else None)
if kind == "uvloop":
    import uvloop
    new_event_loop = uvloop.new_event_loop
else:
    new_event_loop = asyncio.new_event_loop

async def attempt(name, call):
    try:
        print(name, await call())
    except BaseException as error:
        print(name, type(error).__name__, "fork" in str(error))

async def child():
    await attempt("send", lambda: client.send("hijo"))
    await attempt("send_many", lambda: anext(client.send_many(["hijo"])))
    await attempt("take_unasked", client.take_unasked)
    await attempt("say_goodbye", client.say_goodbye)
    await client.close()
    await attempt("closed", lambda: client.send("hijo"))
    await client.connect()
    await attempt("own", lambda: client.send("hijo"))
    await client.close()

loop = new_event_loop()
loop.run_until_complete(client.connect())
print(loop.run_until_complete(client.send("padre")))
sys.stdout.flush()
number = os.fork()
if not number:
    signal.alarm(20)  # pase lo que pase, nadie lo deja detrás
    new_event_loop().run_until_complete(child())
    sys.stdout.flush()
    os._exit(0)
os.waitpid(number, 0)
print(loop.run_until_complete(client.send("padre otra vez")))
print(loop.run_until_complete(client.say_goodbye()))
loop.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sin fork")
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("kind", [STANDARD, FAST])
def test_an_asynchronous_one_too(kind: str, encrypted: bool, certificates: Certificates) -> None:
    if kind == FAST:
        pytest.importorskip("uvloop")
    with served(tls=certificates.serving() if encrypted else None) as running:
        said = script(ASYNC_FORK, running.port, certificates.ca if encrypted else "", kind)
    assert said == [
        "PADRE",
        "send RuntimeError True",
        "send_many RuntimeError True",
        "take_unasked RuntimeError True",
        "say_goodbye RuntimeError True",
        "closed ConnectionLost False",
        "own HIJO",
        "PADRE OTRA VEZ",
        "['Conexión cerrada']",
    ]


BEFORE = """
import os, signal, sys, threading
from comunicacion_tcp import Backoff, Client
client = Client("127.0.0.1", int(sys.argv[1]), reconnect=Backoff())
inside, leave = threading.Event(), threading.Event()
def hold():
    with client._lock:  # el turno, de un hilo que en el hijo no existe
        inside.set()
        leave.wait()
thread = threading.Thread(target=hold)
thread.start()
inside.wait()
child = os.fork()
if not child:
    signal.alarm(20)  # pase lo que pase, nadie lo deja detrás
    print(client.send("hijo"), flush=True)
    client.close()
    os._exit(0)
os.waitpid(child, 0)
leave.set()
thread.join()
print(client.send("padre"))
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sin fork")
def test_a_client_made_before_and_connected_after_is_each_ones() -> None:
    with served() as running:
        assert script(BEFORE, running.port) == ["HIJO", "PADRE"]


# -- señales ------------------------------------------------------------------------------------------------

SIGNAL = """
import signal, socket, sys, threading
from comunicacion_tcp import Client
what, ask = sys.argv[1:]
handled = threading.Event()
listener = socket.create_server(("127.0.0.1", 0))

def serve():
    while True:
        sock, _ = listener.accept()
        data = sock.recv(100)
        if data:
            # Al hilo que espera la respuesta, y más de una vez: la que llega justo antes de que empiece a esperar no lo
            # despierta (signal(7)).
            while not handled.wait(0.05):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            sock.sendall(data.upper())

threading.Thread(target=serve, daemon=True).start()
client = Client("127.0.0.1", listener.getsockname()[1])

begun = []

def handle(*_):
    if begun:
        return
    begun.append(True)
    try:
        print(what, getattr(client, what)(*["de la señal"] * (what == "send")))
    except BaseException as error:
        print(what, type(error).__name__)
    handled.set()

signal.signal(signal.SIGUSR1, handle)
client.connect()
try:
    print(client.send("uno") if ask == "send" else list(client.send_many(["uno"])))
except BaseException as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="sin señales de usuario")
@pytest.mark.parametrize("what", ["send", "say_goodbye", "take_unasked", "connect"])
@pytest.mark.parametrize(("ask", "reply"), [("send", "UNO"), ("send_many", "['UNO']")])
def test_a_signal_handler_does_not_take_the_reply_of_whom_it_interrupts(ask: str, reply: str, what: str) -> None:
    assert script(SIGNAL, what, ask) == [f"{what} RuntimeError", reply]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="sin señales de usuario")
@pytest.mark.parametrize("ask", ["send", "send_many"])
def test_a_signal_handler_can_close(ask: str) -> None:
    assert script(SIGNAL, "close", ask) == ["close None", "ConnectionLost"]


ANYWHERE = """
import sys, threading
from comunicacion_tcp import Client
from comunicacion_tcp.errors import ConnectionLost
import comunicacion_tcp.client, comunicacion_tcp.conversation
port, ask = int(sys.argv[1]), sys.argv[2]
files = {comunicacion_tcp.client.__file__, comunicacion_tcp.conversation.__file__}

class Interrupted:
    '''Cierra el cliente en la línea número ``at`` de las que se ejecutan en él, como haría una señal.'''
    def __init__(self, client, at):
        self.client, self.left, self.done = client, at, False
    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in files or self.done:
            return None
        if event == "line":
            self.left -= 1
            if self.left < 0:
                self.done = True
                self.client.close()
        return self

ends = set()
for at in range(10_000):
    client = Client("127.0.0.1", port)
    interrupted = Interrupted(client, at)
    try:
        client.connect()
        sys.settrace(interrupted)
        try:
            reply = client.send("hola") if ask == "send" else "".join(client.send_many(["hola"]))
        finally:
            sys.settrace(None)
        assert reply == "HOLA", reply
        ends.add("responde")
        if interrupted.done:
            assert client._socket is None, at  # se pidió cerrar, y está cerrado
    except ConnectionLost:
        ends.add("cerrado")
        assert client._socket is None, at
    else:
        if not interrupted.done:
            client.close()
            break
print(at > 20, sorted(ends))
"""


@pytest.mark.parametrize("ask", ["send", "send_many"])
def test_closed_at_any_line_of_a_call(ask: str) -> None:
    with served() as running:
        assert script(ANYWHERE, running.port, ask) == ["True ['cerrado', 'responde']"]


# -- gevent -------------------------------------------------------------------------------------------------

GEVENT = """
import sys, warnings
warnings.simplefilter("ignore")  # lo que gevent haga al ponerse en lugar de los demás es cosa suya
if sys.argv[1] == "antes":
    from gevent import monkey
    monkey.patch_all()
    from comunicacion_tcp import Client
else:
    from comunicacion_tcp import Client
    import comunicacion_tcp.client
    from gevent import monkey
    monkey.patch_all()
import gevent, socket
from gevent.server import StreamServer

def serve(sock, _):
    for line in sock.makefile("rb"):
        gevent.sleep(0.001)
        sock.sendall(line.upper())

server = StreamServer(("127.0.0.1", 0), serve)
server.start()
host = sys.argv[2]
resolve = socket.getaddrinfo
def slow(name, port, *args, **options):
    if options.get("flags"):
        return resolve(name, port, *args, **options)
    gevent.sleep(0.01)
    return resolve("127.0.0.1" if host != "localhost" else name, port, *args, **options)
socket.getaddrinfo = slow
client = Client(host, server.server_port)
client.connect()
right = []
def ask(name):
    for number in range(20):
        message = f"{name} pide {number}"
        right.append(client.send(message) == message.upper())
greenlets = [gevent.spawn(ask, name) for name in range(8)]
gevent.joinall(greenlets, raise_error=True)
print(len(right), all(right))
client.close()
server.stop()
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "otra.example"])
@pytest.mark.parametrize("imported", ["antes", "después"])
def test_with_gevent_each_greenlet_waits_its_turn(imported: str, host: str) -> None:
    pytest.importorskip("gevent")
    assert script(GEVENT, imported, host) == ["160 True"]
