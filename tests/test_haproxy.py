"""Los ficheros de ``deploy/haproxy`` con un HAProxy de verdad y tres servidores: reparten, sueltan al que muere, y se
quita y se pone un servidor sin parar."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from comunicacion_tcp.backoff import Backoff
from comunicacion_tcp.client import Client
from soak.oracle import reply, request

from .support.certificates import Certificates
from .support.encrypted import Encrypted
from .support.examples import ROOT, blocks
from .support.haproxy import DEPLOY, Balancer, balancing, configured
from .support.programs import SERVER, SILENT, Program, environment, run
from .support.sockets import ask, connect, fill, free_port, receive, receive_all
from .support.tools import need
from .support.waiting import PATIENCE, wait_until

NAMES = ("uno", "dos", "tres")
FROM = ("--proxy-de", "127.0.0.1")
BYE = "Conexión cerrada\n".encode()


@contextlib.contextmanager
def server(*options: str, port: int = 0) -> Iterator[Program]:
    """Un servidor que se fía del balanceador."""
    with Program([*SERVER, "--puerto", str(port), *FROM, *options]) as program:
        assert program.port
        yield program
        assert not SILENT.search(program.output + program.errors)


@contextlib.contextmanager
def three(*options: str) -> Iterator[list[Program]]:
    """Tres: ``uno``, ``dos`` y ``tres``."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server(*options, port=free_port())) for _ in NAMES]  # alguno muere y vuelve


def accepted(program: Program) -> list[str]:
    """De quién dice el servidor que ha aceptado conexiones."""
    return re.findall(r"Conexión aceptada de (.*)\n", program.output)


def accepted_by(programs: Iterable[Program], count: int) -> list[str]:
    """Lo mismo, de todos; espera a que sean ``count``, que el registro se escribe cuando se puede."""
    programs = list(programs)
    found: list[str] = []

    def enough() -> bool:
        found[:] = [peer for program in programs for peer in accepted(program)]
        return len(found) >= count

    wait_until(enough, f"que haya {count} conexiones aceptadas")
    assert len(found) == count
    return found


def test_haproxy_understands_the_files_as_they_are(certificates: Certificates, tmp_path: Path) -> None:
    tls = configured(tmp_path, "tls.cfg", {"/etc/haproxy/mensajes.pem": certificates.server})
    for more in ([], [tls], [str(DEPLOY / "tls-de-paso.cfg")]):
        files = [part for file in [str(DEPLOY / "haproxy.cfg"), *more] for part in ("-f", file)]
        done = run([need("haproxy"), "-c", *files])
        assert (done.returncode, b"WARNING" in done.stdout + done.stderr) == (0, False), done


def test_each_server_has_its_share_and_knows_who_its_clients_are() -> None:
    with three("--max-por-direccion", "2") as servers, balancing([one.port for one in servers]) as balancer:
        balancer.wait_for_all()
        with contextlib.ExitStack() as socks:
            # Dos de ella en cada uno son las que caben, y leastconn las reparte así.
            mine = []
            for _ in range(6):
                mine.append(socks.enter_context(connect(balancer.port, source="127.0.0.7")))
                assert ask(mine[-1], "hola") == "HOLA"
            assert sorted(accepted_by(servers, 6)) == sorted(str(sock.getsockname()) for sock in mine)
            assert [len(accepted(one)) for one in servers] == [2, 2, 2]
            extra = socks.enter_context(connect(balancer.port, source="127.0.0.7"))
            assert receive_all(extra).startswith("ERROR: hay demasiadas conexiones desde tu dirección".encode())
            other = socks.enter_context(connect(balancer.port, source="127.0.0.8"))
            assert ask(other, "hola") == "HOLA"
        # Las preguntas del balanceador, que no han parado, no están en el registro.
        accepted_by(servers, 7)
        for one in servers:
            assert "no dijo a quién trae" not in one.output


def test_what_the_protocol_promises_is_the_same_through_the_balancer() -> None:
    messages = b"x" * 99 + b"\n"
    with three() as servers, balancing([one.port for one in servers]) as balancer:
        with connect(balancer.port) as sock:  # cierra su lado, y recibe todo lo debido
            sock.sendall(messages * 5_000 + b"sin terminador")
            sock.shutdown(1)
            assert receive_all(sock) == messages.upper() * 5_000 + b"SIN TERMINADOR"
        with connect(balancer.port) as sock:  # un cliente que no envía terminadores
            sock.sendall(b"hola")
            assert receive(sock, 4) == b"HOLA"
            sock.sendall(b"DESCONEXION")
            assert receive_all(sock) == BYE.rstrip()


def test_who_does_not_read_is_let_go_by_both() -> None:
    with (
        three("--plazo-salida", "1") as servers,
        balancing([one.port for one in servers], patience="1s") as balancer,
        connect(balancer.port) as sock,
    ):
        fill(sock)
        wait_until(lambda: any("por entregar" in one.output for one in servers), "que lo corte el servidor")
        wait_until(lambda: "fe=mensajes" not in balancer.ask("show sess"), "que lo suelte el balanceador")


class Talkers:
    """Clientes que no dejan de preguntar, que vuelven a conectar si les cortan, y que comprueban cada respuesta."""

    def __init__(self, port: int, count: int) -> None:
        self.answered = [0] * count
        self.failures: list[BaseException] = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._talk, args=(number,), daemon=True) for number in range(count)]

    def _talk(self, number: int) -> None:
        try:
            reconnect = Backoff(first=0.02, most=0.2)
            with Client("127.0.0.1", self._port, reconnect=reconnect, resend=True) as client:
                while not self._stop.is_set():
                    sequence = self.answered[number]
                    text = client.send(request(number, sequence).decode().removesuffix("\n"))
                    assert f"{text}\n".encode() == reply(number, sequence)
                    self.answered[number] += 1
                    self._stop.wait(0.002)  # que no ocupen la máquina entera
        except BaseException as error:
            self.failures.append(error)

    def wait_for_more(self) -> None:
        """Espera a que todos reciban respuestas nuevas."""
        before = list(self.answered)

        def moved() -> bool:
            return all(now > old + 1 for now, old in zip(self.answered, before, strict=True))

        wait_until(lambda: self.failures or moved(), "que todos sigan")
        assert not self.failures

    def __enter__(self) -> Talkers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not self.failures


def test_a_server_killed_under_load_is_out_and_comes_back_and_nobody_loses_a_reply() -> None:
    with three() as (first, *others), balancing([one.port for one in (first, *others)]) as balancer:
        balancer.wait_for_all()
        port = first.port
        with Talkers(balancer.port, 6) as talkers:
            talkers.wait_for_more()
            accepted_by([first, *others], 6)
            assert accepted(first)
            first.signal(signal.SIGKILL)
            talkers.wait_for_more()  # también los que hablaban con él: ahora con otro
            balancer.wait_for("uno", "DOWN")
            talkers.wait_for_more()
            with server(port=port) as back:
                balancer.wait_for("uno", "UP")
                talkers.wait_for_more()
                with connect(balancer.port) as sock:  # el que menos tiene
                    assert ask(sock, "hola") == "HOLA"
                    assert accepted_by([back], 1) == [str(sock.getsockname())]


def test_one_that_drains_finishes_its_conversations_and_gets_no_new_ones() -> None:
    with three() as servers, balancing([one.port for one in servers]) as balancer, contextlib.ExitStack() as socks:
        balancer.wait_for_all()
        olds = []
        for _ in range(3):
            olds.append(socks.enter_context(connect(balancer.port)))
            assert ask(olds[-1], "hola") == "HOLA"
        (mine,) = accepted_by(servers[:1], 1)
        assert balancer.ask("set server servidores/uno state drain") == ""
        balancer.wait_for("uno", "DRAIN")
        news = [socks.enter_context(connect(balancer.port)) for _ in range(4)]
        assert {ask(sock, "hola") for sock in news} == {"HOLA"}
        assert {ask(sock, "sigo") for sock in olds} == {"SIGO"}
        accepted_by(servers, 7)
        assert accepted(servers[0]) == [mine]
        assert balancer.stat("uno")["scur"] == "1"
        (old,) = [sock for sock in olds if str(sock.getsockname()) == mine]
        old.sendall(b"DESCONEXION\n")
        assert receive_all(old) == BYE
        old.close()
        wait_until(lambda: balancer.stat("uno")["scur"] == "0", "que acabe su conversación")
        assert balancer.ask("set server servidores/uno state ready") == ""
        balancer.wait_for("uno", "UP")
        with connect(balancer.port) as sock:
            assert ask(sock, "hola") == "HOLA"
            assert accepted_by(servers[:1], 2)[1:] == [str(sock.getsockname())]


def steps() -> dict[str, list[str]]:
    """Lo que dice el README de esta carpeta que se envía al socket, en cada sección."""
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for part in text.split("\n## ")[1:]:
        title = part.partition("\n")[0]
        found[title] = re.findall(r'^echo "(.*)" \| socat stdio /run/haproxy/admin.sock$', part, re.MULTILINE)
    return found


def socat(balancer: Balancer, command: str) -> str:
    """``command`` por el socket, con la orden del README."""
    # Acabada su entrada, socat solo espera la respuesta medio segundo: aquí, más.
    pipe = f"echo {shlex.quote(command)} | {need('socat')} -t 10 stdio {balancer.socket}"
    return run([need("bash"), "-c", pipe]).stdout.decode().strip()


def test_the_commands_of_the_page_add_and_remove_a_server_at_run_time() -> None:
    commands = steps()
    adding, removing = commands["Añadir un servidor"], commands["Quitar un servidor"]
    draining = commands["Vaciar un servidor"]
    assert [len(adding), len(removing), len(draining)] == [4, 4, 3]
    with three() as servers, server() as fourth, balancing([one.port for one in servers]) as balancer:
        balancer.wait_for_all()
        with Talkers(balancer.port, 3) as talkers:
            talkers.wait_for_more()
            for command in adding:
                socat(balancer, command.replace("10.0.0.14:5000", f"127.0.0.1:{fourth.port}"))
            wait_until(lambda: balancer.stat("cuatro")["check_status"] == "L7OK", "que responda a sus preguntas")
            with connect(balancer.port) as sock:
                assert ask(sock, "hola") == "HOLA"
                assert accepted_by([fourth], 1) == [str(sock.getsockname())]
                talkers.wait_for_more()
                *before, last = (command.replace("servidores/uno", "servidores/cuatro") for command in removing)
                for command in before:
                    socat(balancer, command)
                # Como dice la página: si aún le queda una conexión cerrándose dice que no, y se repite.
                wait_until(lambda: socat(balancer, last) == "Server deleted.", "que se borre")
                with contextlib.suppress(ConnectionResetError):
                    assert receive_all(sock) == b""
            assert balancer.stat("cuatro") == {}
            for command in draining:
                socat(balancer, command)
            balancer.wait_for("uno", "UP")  # el último lo devuelve
            talkers.wait_for_more()


def test_every_command_of_the_page_is_of_a_test() -> None:
    known = {command for commands in steps().values() for command in commands}
    shown = [line for block in blocks("deploy/haproxy/README.md", "sh") for line in block.splitlines()]
    others = [line for line in shown if not any(f'"{command}"' in line for command in known)]
    assert others == [
        "servidor-tcp --host 0.0.0.0 --proxy-de 10.0.0.1",
        "haproxy -c -f /etc/haproxy/haproxy.cfg",
        "systemctl reload haproxy",
        "install -m 600 /dev/null /etc/haproxy/mensajes.pem",
        "(umask 077; cat cert.pem clave.pem > /etc/haproxy/mensajes.pem)",
        "haproxy -f haproxy.cfg -f tls.cfg",
        "haproxy -f haproxy.cfg -f tls-de-paso.cfg",
    ]


# -- con TLS ------------------------------------------------------------------------------------------------


def test_tls_at_the_balancer(certificates: Certificates) -> None:
    with (
        three() as servers,
        balancing([one.port for one in servers], cert=certificates.server) as balancer,
        connect(balancer.ports["5002"], source="127.0.0.7") as sock,
    ):
        client = Encrypted(sock, certificates.trusting())
        client.shake()
        client.send(b"hola\nDESCONEXION\n")
        assert client.receive_all() == b"HOLA\n" + BYE
        assert accepted_by(servers, 1) == [str(sock.getsockname())]
        with connect(balancer.port) as plain:
            assert ask(plain, "hola") == "HOLA"


def test_tls_passed_through(certificates: Certificates) -> None:
    with (
        three("--tls-cert", certificates.server) as servers,
        balancing([one.port for one in servers], passed_through=True) as balancer,
    ):
        balancer.wait_for_all("servidores_tls")
        with connect(balancer.ports["5003"], source="127.0.0.7") as sock:
            client = Encrypted(sock, certificates.trusting())
            client.shake()
            client.send(b"hola\nDESCONEXION\n")
            assert client.receive_all() == b"HOLA\n" + BYE
            assert accepted_by(servers, 1) == [str(sock.getsockname())]


def test_with_client_certificates_the_question_of_the_balancer_brings_one_too(certificates: Certificates) -> None:
    crt = re.search(r"`(crt) /etc/haproxy/sonda.pem`", (DEPLOY / "README.md").read_text(encoding="utf-8"))
    assert crt
    with (
        three("--tls-cert", certificates.server, "--tls-ca", certificates.ca) as servers,
        balancing(
            [one.port for one in servers], passed_through=True, options=f"{crt[1]} {certificates.client}"
        ) as balancer,
    ):
        balancer.wait_for_all("servidores_tls")
        with connect(balancer.ports["5003"]) as sock:
            client = Encrypted(sock, certificates.trusting(certificates.client))
            client.shake()
            client.send(b"DESCONEXION\n")
            assert client.receive_all() == BYE


@pytest.mark.parametrize(
    "options", ["no-send-proxy-v2 send-proxy", "proxy-v2-options crc32c,unique-id", "send-proxy-v2-ssl"]
)
def test_the_other_headers_of_haproxy(options: str) -> None:
    with three() as servers, balancing([one.port for one in servers], options=options) as balancer:
        balancer.wait_for_all()
        with connect(balancer.port, source="127.0.0.7") as sock:
            assert ask(sock, "hola") == "HOLA"
            wait_until(
                lambda: str(sock.getsockname()) in [peer for one in servers for peer in accepted(one)], "que esté"
            )


# -- con IPv6 -----------------------------------------------------------------------------------------------

_BY_IPV6 = """
import socket, sys
from comunicacion_tcp import Server
from tests.support.proxy import tcp6
with Server(host="::1", port=0, proxy_from=["::1"]) as server, socket.create_connection(("::1", server.port)) as sock:
    sock.sendall(tcp6("2001:db8::7", 1) + b"hola\\n")
    print(sock.recv(100))
with Server(host="::1", port=0, proxy_from=["fd00::/8"]) as server:
    with socket.create_connection(("::1", server.port)) as sock:
        print(sock.recv(100).decode()[:15])
"""


def test_by_ipv6_in_a_network_that_has_it() -> None:
    alone = [need("unshare"), "--net", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    if subprocess.run([*alone, f"{need('ip')} link set lo up"], capture_output=True).returncode:
        pytest.skip("esta máquina no deja hacer una red aparte (ser root, o espacios de nombres de usuario)")
    script = 'ip link set lo up && exec "$@"'
    command = [*alone, script, "sh", sys.executable, "-c", _BY_IPV6]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("b'HOLA\\n'\nERROR: a este s\n", "")
