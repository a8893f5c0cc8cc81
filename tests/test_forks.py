"""``forks.py``: lo que un proceso nacido con fork suelta, y lo que no; con un servicio, en ``cli/test_service.py``."""

from __future__ import annotations

import os
import sys

import pytest

from comunicacion_tcp.forks import release

from .support.programs import run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="este sistema no tiene fork")

# Aparte: un proceso con hilos, como el de las pruebas, no se puede bifurcar sin riesgo. El hijo dice con su código si
# el socket sigue siendo uno que escucha.
CHILD = """
import os, socket
from comunicacion_tcp import Server
given = socket.create_server(("127.0.0.1", 0))
with Server(port=0, sockets={sockets}) as server:
    listening = given if {sockets} else server._listeners[0]._sock
    child = os.fork()
    if not child:
        try:
            os._exit(listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        except OSError:
            os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(("sockets", "kept"), [("None", "0"), ("[given]", "1")], ids=["abierto", "dado"])
def test_what_the_server_opened_is_not_for_children_and_what_it_was_given_is(sockets: str, kept: str) -> None:
    done = run([sys.executable, "-W", "ignore", "-c", CHILD.format(sockets=sockets)])
    assert (done.stdout.decode().strip(), done.stderr) == (kept, b"")


def test_what_is_released_is_still_a_number_to_close() -> None:
    reader, writer = os.pipe()
    release([-1, writer])
    assert os.read(reader, 1) == b""  # ya no hay quien escriba
    os.write(writer, b"a ninguna parte")
    for number in (reader, writer):
        os.close(number)
