"""``reconnection.py``: qué se dice y qué se hace cuando la conexión se pierde, con un reloj que mueve la prueba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from comunicacion_tcp.cli import dialogue, reconnection
from comunicacion_tcp.cli.reconnection import LastingTalk, wants_to_leave
from comunicacion_tcp.client import Client
from comunicacion_tcp.errors import (
    CertificateRejected,
    ConnectionLost,
    MessageError,
    NetworkError,
    ServerNotRunning,
    TimedOut,
    TLSFailed,
)

from ..support.serving import served

LOST = "Se perdió la conexión con allí:5000: el servidor la cerró."
RETRYING = "Volviendo a conectar... (Ctrl-C para dejarlo)"
BACK = "Conectado otra vez al servidor en allí:5000"
UNKNOWN = "No se sabe si el servidor lo recibió: envíalo otra vez si hace falta."
FULL = "ERROR: el servidor está completo; inténtalo más tarde"


class FakeClient:
    """Un ``Client`` sin red. ``down``: por qué no se puede conectar, si no se puede."""

    address = "allí:5000"
    greeting: str | None = None

    def __init__(self) -> None:
        self.connected = True
        self.lost = False
        self.down: Exception | None = None
        self.unasked: list[str] = []
        self.on_connect: Callable[[], None] = lambda: None
        self.sent: list[str] = []
        self.failure: Exception | None = None
        self.connections = 0

    def connect(self) -> None:
        self.connections += 1
        if self.down:
            raise self.down
        self.connected, self.lost = True, False
        self.on_connect()

    def take_unasked(self) -> list[str]:
        if not self.connected:
            raise ConnectionLost(self.address)
        unasked, self.unasked = self.unasked, []
        return unasked

    def raise_if_lost(self) -> None:
        if self.lost or not self.connected:
            raise ConnectionLost(self.address)

    def send(self, message: str) -> str:
        assert self.connected
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure
        self.sent.append(message)
        return message.upper()

    def say_goodbye(self) -> list[str]:
        assert self.connected
        return ["Conexión cerrada"]

    def close(self) -> None:
        self.connected = False


class Stage:
    """Un diálogo con su cliente, su reloj y lo que se ha mostrado (``shown``). Cada espera vale siempre lo máximo."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.shown: list[str] = []
        self.client = FakeClient()
        monkeypatch.setattr(reconnection, "_Attempt", Attempt)
        for module in (reconnection, dialogue):
            monkeypatch.setattr(module, "say", self.shown.append)
        monkeypatch.setenv("NO_COLOR", "1")
        client: Any = self.client
        self.talk = LastingTalk(client, clock=lambda: self.now, sleep=self._sleep, chance=lambda: 1.0)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def look(self, seconds: float = 0.0) -> list[str]:
        """Pasan ``seconds``, mirando cada décima; devuelve lo que se ha mostrado de nuevo."""
        before = len(self.shown)
        for _ in range(1 + round(seconds * 10)):
            self.talk.poll()
            self.now += 0.1
        self.talk.tell()
        return self.shown[before:]


class Attempt:
    """Un intento de conectar, sin hilo."""

    def __init__(self, connect: Callable[[], None]) -> None:
        self.over = True
        self.error: Exception | None = None
        try:
            connect()
        except Exception as error:
            self.error = error


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_what_a_real_client_knows_without_being_asked() -> None:
    with served() as running:
        client = Client("127.0.0.1", running.port)
        with pytest.raises(ConnectionLost):
            client.raise_if_lost()
        with client:
            client.raise_if_lost()
            assert client.send("hola") == "HOLA"
            client.raise_if_lost()
            running.drain()
            with pytest.raises(ConnectionLost):
                while True:
                    assert client.take_unasked() == []
                    client.raise_if_lost()
            assert client.take_unasked() == []  # y se le puede seguir preguntando


def test_with_nothing_wrong_it_is_the_dialogue_of_always(stage: Stage) -> None:
    stage.client.unasked = ["Bienvenido"]
    stage.talk.exchange("hola")
    stage.talk.say_goodbye()
    assert stage.shown == ["Servidor: Bienvenido", "Servidor: HOLA", "Servidor: Conexión cerrada"]


def test_lost_while_typing(stage: Stage) -> None:
    stage.client.lost = True
    stage.client.down = ServerNotRunning("allí:5000")
    assert stage.look() == [LOST, RETRYING]
    assert stage.look(20) == []  # se dice una vez, por muchos intentos que haga falta
    assert 5 <= stage.client.connections <= 12  # 0,1 · 0,2 · 0,4 · 0,8 · 1,6 · 3,2 · 5 · 5
    stage.client.down = None
    assert stage.look(6) == [BACK]
    stage.talk.exchange("hola")
    assert stage.client.sent == ["hola"]


def test_what_had_not_been_sent_is_sent_when_it_is_back(stage: Stage) -> None:
    stage.client.lost = True
    stage.talk.exchange("hola")
    assert stage.shown == [LOST, RETRYING, BACK, "Servidor: HOLA"]
    assert stage.client.sent == ["hola"]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (ConnectionLost("allí:5000"), LOST),
        (
            TimedOut("allí:5000", 30.0, connecting=False),
            "El servidor de allí:5000 no responde: 30 s sin recibir nada.",
        ),
    ],
)
def test_what_was_in_flight_is_never_sent_again(stage: Stage, failure: NetworkError, said: str) -> None:
    stage.client.failure = failure
    stage.talk.exchange("cobrar")
    assert stage.shown == [said, UNKNOWN, RETRYING]
    stage.talk.wait()
    stage.talk.exchange("hola")
    assert stage.client.sent == ["hola"]
    assert stage.shown[3:] == [BACK, "Servidor: HOLA"]


def test_a_full_server_is_asked_more_and_more_rarely_and_quoted_once(stage: Stage) -> None:
    def refuse() -> None:
        stage.client.unasked = [FULL]
        stage.client.lost = True

    refuse()
    stage.client.on_connect = refuse
    assert stage.look() == [f"Servidor: {FULL}", LOST, RETRYING]
    assert stage.look(60) == []
    assert stage.client.connections < 25
    stage.client.on_connect = lambda: None
    assert stage.look(6) == [BACK]


def test_a_server_that_sent_us_away_is_left_alone_until_there_is_something_to_say(stage: Stage) -> None:
    idle = "ERROR: 300 s sin recibir nada; se cierra la conexión"
    stage.look(60)
    stage.client.unasked = [idle]
    assert stage.look() == [f"Servidor: {idle}"]  # la frase puede llegar antes que el cierre
    stage.client.lost = True
    assert stage.look(600) == [LOST, "Se volverá a conectar con el próximo mensaje."]
    assert stage.client.connections == 0
    stage.talk.exchange("hola")
    assert stage.client.connections == 1
    assert stage.shown[-2:] == [BACK, "Servidor: HOLA"]
    stage.client.lost = True  # y después, como siempre
    assert stage.look() == [LOST, RETRYING]


def test_a_greeting_is_shown_after_saying_it_is_back(stage: Stage) -> None:
    def greet() -> None:
        stage.client.unasked = ["Bienvenido"]

    stage.client.on_connect = greet
    stage.client.lost = True
    stage.look()
    assert stage.look(2) == [BACK, "Servidor: Bienvenido"]


def test_a_bad_message_is_the_business_of_whoever_asked(stage: Stage) -> None:
    stage.client.failure = MessageError("no vale")
    with pytest.raises(MessageError):
        stage.talk.exchange("x")
    stage.talk.exchange("y")
    assert stage.client.sent == ["y"]


def test_saying_goodbye_to_nobody(stage: Stage) -> None:
    stage.client.lost = True
    stage.client.down = ServerNotRunning("allí:5000")
    stage.look(2)
    stage.talk.say_goodbye()
    assert stage.shown == [LOST, RETRYING]


@pytest.mark.parametrize("problem", ["cut", "silent"])
def test_a_server_that_is_still_starting_to_speak_tls_is_waited_for(stage: Stage, problem: str) -> None:
    stage.client.lost = True
    stage.client.down = TLSFailed("allí:5000", None, problem)
    stage.look(2)
    stage.client.down = None
    assert stage.look(5) == [BACK]


@pytest.mark.parametrize(
    "error", [CertificateRejected("allí:5000", None, "expired"), TLSFailed("allí:5000", None, "not_tls")]
)
def test_what_waiting_does_not_fix_ends_the_dialogue(stage: Stage, error: TLSFailed) -> None:
    stage.client.lost = True
    stage.client.down = error
    with pytest.raises(TLSFailed) as raised:
        stage.look(2)
    assert raised.value is error


def test_without_threads_it_tries_later(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_threads(connect: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    stage.client.lost = True
    with monkeypatch.context() as patch:
        patch.setattr(reconnection, "_Attempt", no_threads)
        assert stage.look(2) == [LOST, RETRYING]
    assert stage.look(6) == [BACK]


@pytest.mark.parametrize(
    "message",
    [
        "desconexion",
        "DESCONEXION ",
        " Desconexión",
        "salir",
        "SALIR.",
        "exit",
        "exit()",
        "quit",
        ":quit",
        "¡Adiós!",
        "bye",
    ],
)
def test_who_wants_to_leave_and_does_not_know_how(message: str) -> None:
    assert wants_to_leave(message, message.upper())
    assert not wants_to_leave(message, "Hasta luego")  # este servidor sí lo entiende


@pytest.mark.parametrize("message", ["", "hola", "no quiero salir", "DESCONEXIONES", "salirse"])
def test_who_does_not_want_to_leave(message: str) -> None:
    assert not wants_to_leave(message, message.upper())
