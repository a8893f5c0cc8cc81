"""El cliente que espera: ``Client``, un socket bloqueante alrededor de ``ClientProtocol``.

Aquí se abren sockets, se mueven bytes y se espera con plazos. Qué se envía, qué es una respuesta y qué es cada error lo
decide ``conversation.py``; no se parten mensajes (``protocol.py``), ni se cifra (``tls.py``, que solo se carga si se
pide) ni se habla con personas (``cli/client.py``). Solo usa la biblioteca estándar, y no importa asyncio.
"""

from __future__ import annotations

import _thread  # threading trae lo mismo, y tarda en cargarse
import contextlib
import selectors
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import TracebackType

from .conversation import Conversation, Flow, at_once
from .delivery import cut_if_closed
from .errors import ConnectionLost
from .hints import typing

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from typing import TypeVar

    from typing_extensions import Self

    Result = TypeVar("Result")
else:
    Self = "Client"

_READ_SIZE = 64 * 1024  # bytes por lectura: lo que un socket de Linux suele tener listo de una vez
_MOST_UNASKED_READS = 16  # 1 MiB: un servidor que no para de hablar no impide enviar


class Client(Conversation):
    """Una conversación con un servidor de mensajes.

    Con ``with``, se conecta al entrar y al salir cierra (sin despedirse: para eso está ``say_goodbye``)::

        with Client("localhost", 5000) as client:
            reply = client.send("hola")
            client.say_goodbye()

    ``host`` y ``port``: adónde conectar (``ValueError`` si el puerto no va de 1 a 65535); un ``host`` como
    ``"unix:/ruta"`` es un socket de Unix, que no tiene puerto. ``limits``: de él se usan los plazos del cliente.
    ``tls``: con qué cifrar (``client_context()``); por defecto, no se cifra.

    ``reconnect``: con qué esperas se vuelve a conectar; por defecto, no se vuelve. Vale para ``connect`` y para cada
    ``send`` o ``send_many`` que no encuentra conexión (el servidor la cerró, o falló la llamada anterior). No se
    insiste si esperar no lo arregla: un nombre que no existe, un certificado que no vale, un permiso. ``resend``: si lo
    que se perdió en vuelo puede enviarse otra vez, aunque quizá ya se atendiera; si no, es ``ConnectionLost``, y vuelve
    a conectar la llamada siguiente.

    ``greeting``: si el servidor habla primero. Su saludo se espera al conectar, queda en ``greeting`` y no es la
    respuesta de ningún mensaje. Sin esto, uno que llegue tras el primer mensaje parecería su respuesta.

    Una llamada que falla, vence o se interrumpe cierra la conexión: una respuesta nunca llega a quien no la pidió.
    Varios hilos pueden usar el mismo ``Client``: cada llamada espera a que acabe la anterior. Durante un ``send_many``
    las demás son ``RuntimeError``, salvo ``connect`` y ``close``, que lo dejan. También lo son a mitad de otra llamada
    del mismo hilo (un manejador de señales) y en un proceso hijo (``os.fork``) con la conexión de su padre.
    """

    def _set_up(self) -> None:
        self._selector: selectors.BaseSelector | None = None
        self._unfinished = False  # lo último que se empezó a escribir está a medias
        # El de threading, si está cargado: es el que gevent cambia por uno que cede el turno. Cargarlo tarda.
        self._lock: typing.Any = getattr(sys.modules.get("threading"), "RLock", _thread.RLock)()
        self._asking = False  # si el turno lo tiene el iterable de un send_many, que puede llamar a connect
        self._heeded = self._closings  # cuántas veces se ha atendido a quien pidió cerrar

    def connect(self) -> None:
        """Se conecta; si ya lo estaba, deja la conexión anterior y empieza otra conversación.

        Errores: ``UnknownHost``, ``ServerNotRunning``, ``TimedOut``, ``ConnectionLost`` o ``NetworkError``; con TLS,
        también ``CertificateRejected`` o ``TLSFailed``.
        """
        if self._is_inherited:
            self._forget()
        self._in_turn(self._connect)

    def send(self, message: str) -> str:
        """Envía ``message`` y devuelve su respuesta, sin terminador.

        Errores: ``MessageError`` si el texto no puede ser un mensaje (no se envía nada), ``TimedOut`` si no llega
        nada en ``limits.reply_timeout`` segundos o la respuesta no acaba en ``limits.reply_deadline``, ``TooMuchSaid``
        si pasa de ``limits.max_reply`` bytes (o de ``max_unasked`` lo que nadie recogió), ``ConnectionLost`` si el
        servidor cierra o corta (con TLS, también ``TLSFailed``: en TLS 1.3 el servidor puede rechazar nuestro
        certificado después del saludo). Con ``reconnect``, los de ``connect``.
        """
        self._refuse_if_busy()
        return self._in_turn(self._send, message)

    def send_many(self, messages: Iterable[str]) -> Iterator[str]:
        """Envía cada mensaje sin esperar a las respuestas de los anteriores, y da sus respuestas, en orden.

        La memoria está acotada: con ``WINDOW_MESSAGES`` mensajes en vuelo, o ``WINDOW_BYTES`` bytes, no se pide otro.
        Un mensaje está enviado antes de pedir el siguiente, y antes se dan las respuestas que hayan llegado; los de una
        ``list`` o ``tuple``, que están ya todos, van juntos. Si uno no puede ser un mensaje, o el iterable falla, los
        anteriores reciben su respuesta, después sale el error, y la conexión sigue. Dejarlo a medias (``break``) con
        respuestas por llegar la cierra.

        El servidor debe acabar cada respuesta en salto de línea; con los que no, ``TimedOut``: usa ``send``. Los demás
        errores, los de ``send``, y ``OutOfStep`` si hay más respuestas que mensajes; en ``ConnectionLost``,
        ``unanswered`` dice cuántos mensajes pedidos se quedaron sin respuesta. Con ``resend`` se envían otra vez, y lo
        ya respondido no se repite.
        """
        flow = Flow(iter(messages), at_hand=isinstance(messages, (list, tuple)))
        self._refuse_if_busy()
        try:
            self._in_turn(self._begin_alone, flow)
            while self._in_turn(self._advance, flow):
                while (reply := self._reply_of(flow)) is not None:
                    yield reply
        finally:
            self._end(flow)
        if flow.failure:
            raise flow.failure

    def say_goodbye(self, timeout: float | None = None) -> list[str]:
        """Se despide, cierra su lado y devuelve lo que el servidor dijera hasta cerrar el suyo (quizá nada).

        ``timeout``: segundos hasta que conteste o cierre (por defecto, ``limits.reply_timeout``).

        A un servidor que contesta y no cierra se le espera ``limits.reply_silence`` segundos más. Error: ``TimedOut``
        si ni contesta ni cierra. Que cierre o corte ya no es un error, salvo con TLS: sin su aviso de cierre no se sabe
        si falta algo, y es ``ConnectionLost`` (lo que sí llegó entero queda en ``take_unasked()``). Sin conexión es
        ``ConnectionLost``: no se vuelve a conectar para despedirse.
        """
        self._refuse_if_busy()
        return self._in_turn(self._leave, timeout)

    def take_unasked(self) -> list[str]:
        """Lo que el servidor ha dicho sin que se le preguntara (un saludo, una negativa). No espera, ni conecta.

        Error: ``ConnectionLost`` si no hay conexión.
        """
        self._refuse_if_busy()
        return self._in_turn(self._hear)

    def raise_if_lost(self) -> None:
        """Lanza ``ConnectionLost`` (o, con TLS, ``TLSFailed``) si no hay conexión o el servidor ya la cerró o la cortó.

        No espera ni lee: lo sabe por lo último que se leyó (``take_unasked``).
        """
        self._check_process()
        self._connected()
        if self._server_ended:
            raise self._loss()

    def raise_if_out_of_step(self) -> None:
        """Lanza ``OutOfStep`` si desde el primer mensaje el servidor ha dicho algo que no es la respuesta de ninguno:
        una de las dadas quizá era de otro. No espera. Es para servidores que solo contestan.

        Error: ``ConnectionLost`` si no hay conexión.
        """
        self._refuse_if_busy()
        self._in_turn(self._raise_if_out_of_step)

    def close(self) -> None:
        """Cierra la conexión. Se puede llamar más de una vez, desde otro hilo y desde un manejador de señales: la
        llamada que esté a medias acaba en ``ConnectionLost``. En un proceso hijo (``os.fork``) suelta su copia, y nada
        más."""
        if self._is_inherited:
            self._forget()
            return
        self._closings += 1
        if self._is_interrupted or not self._lock.acquire(False):
            # Está a media llamada: la cerrará ella. Así despierta, y el servidor no lo nota.
            if sock := self._socket:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RD)
            return
        try:
            self._heed_close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- lo que pide Conversation: nada de esto cede el turno -----------------------------------------------

    def _now(self) -> float:
        return time.monotonic()

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  # aquí no hay otros a quienes ceder el turno

    async def _resolve(self, host: str | bytes, timeout: float) -> list[typing.Any]:
        return _resolve(host, self._port, timeout)

    async def _join(self, family: int, place: typing.Any, timeout: float) -> socket.socket:
        return _open_one(family, place, timeout)

    async def _adopt(self, sock: socket.socket) -> None:
        selector = selectors.DefaultSelector()
        selector.register(sock, selectors.EVENT_READ)
        self._unfinished = False
        self._selector, self._socket = selector, sock

    async def _wait(self, rest: memoryview, timeout: float, *, last: bool = False) -> tuple[memoryview, bool]:
        return self._move(rest, timeout, last=last)

    async def _look(self) -> None:
        sock, _ = self._connected()
        for _ in range(_MOST_UNASKED_READS):
            if self._server_ended or not self._read(sock):
                break

    def _drop(self) -> None:
        selector, self._selector = self._selector, None
        sock, self._socket = self._socket, None
        session, self._session = self._session, None
        if selector:
            selector.close()
        if sock:
            if self._unfinished:
                # Con un FIN, un servidor daría por bueno el medio mensaje que tiene.
                cut_if_closed(sock)
            elif session:
                session.close()
                with contextlib.suppress(OSError):  # si cabe y aún hay quien lo oiga
                    sock.send(session.take_outgoing())
            sock.close()

    def _pull(self, flow: Flow) -> None:
        self._asking = True
        try:
            super()._pull(flow)
        finally:
            self._asking = False

    # -- por dentro -----------------------------------------------------------------------------------------

    def _in_turn(self, call: Callable[..., Coroutine[typing.Any, None, Result]], *arguments: object) -> Result:
        """El resultado de ``call(*arguments)``, cuando nos toca. Quien interrumpe a una llamada de su propio hilo, como
        un manejador de señales, no puede esperar a que acabe: ``RuntimeError``."""
        self._check_process()
        if self._is_interrupted:
            raise RuntimeError("este cliente está a media llamada, que no sigue hasta que acabe quien la interrumpió")
        try:
            with self._lock:
                self._heed_close()
                return at_once(call(*arguments))
        finally:
            # Quien pidió cerrar no esperó. Si el turno es ya de otro, lo verá él.
            if self._heeded != self._closings and self._lock.acquire(False):
                try:
                    self._heed_close()
                finally:
                    self._lock.release()

    @property
    def _is_interrupted(self) -> bool:
        """Si este hilo está ya dentro de una llamada, y no en el iterable de su ``send_many``."""
        return self._lock._is_owned() and not self._asking

    def _heed_close(self) -> None:
        if self._heeded != self._closings:
            self._heeded = self._closings
            self._flow = None
            self._hang_up()

    async def _begin_alone(self, flow: Flow) -> None:
        self._begin(flow)

    def _move(self, rest: memoryview, timeout: float, *, last: bool = False) -> tuple[memoryview, bool]:
        """Como ``_wait``. Escribe en el acto lo que quepa, que suele ser todo; si no cabe nada, espera."""
        sock, selector = self._connected()
        if rest:
            size = len(rest)
            rest = self._write(sock, rest)
            if last and not rest:
                with contextlib.suppress(OSError):  # ya cortada por el otro lado: lo dirá la lectura
                    sock.shutdown(socket.SHUT_WR)
            if len(rest) < size:
                return rest, True
        selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if rest else 0))
        # Si el proceso estuvo parado (Ctrl-Z) hasta vencer el plazo, select no mira si entre tanto llegó algo.
        events = selector.select(timeout) or selector.select(0)
        self._connected()  # otro pudo cerrarla
        ready = events[0][1] if events else 0
        if ready & selectors.EVENT_READ:
            self._read(sock)
            if self._session and not self._server_ended and (more := self._session.take_outgoing()):
                rest = memoryview(bytes(rest) + more)  # lo que TLS contesta por su cuenta
        return rest, bool(ready)

    def _write(self, sock: socket.socket, rest: memoryview) -> memoryview:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            pass
        except OSError as error:
            # El servidor ya no lee, pero puede haber dicho por qué: se deja de escribir y se sigue leyendo. El corte se
            # apunta ya: el sistema lo cuenta una sola vez, y la lectura lo tomaría por un cierre (socket(7), SO_ERROR).
            self._cut_by = error
            rest = rest[:0]
        self._unfinished = bool(rest)
        return rest

    def _read(self, sock: socket.socket) -> bool:
        """Lee lo que haya; devuelve si puede haber más. El fin de la entrada, o un corte, queda en
        ``_server_ended``."""
        data = b""
        try:
            data = sock.recv(_READ_SIZE)
        except BlockingIOError:
            return False
        except OSError as error:
            self._cut_by = error
        self._arrived(data)
        return not self._server_ended

    def _connected(self) -> tuple[socket.socket, selectors.BaseSelector]:
        if self._socket is None or self._selector is None or self._heeded != self._closings:
            raise ConnectionLost(self.address)
        return self._socket, self._selector


def _resolve(host: str | bytes, port: int, timeout: float) -> list[typing.Any]:
    """Las direcciones de ``host``. Un nombre se pregunta desde otro hilo, porque a ``getaddrinfo`` no se la puede
    interrumpir: si no contesta a tiempo, ahí se queda, y es ``TimeoutError``."""
    if host == b"localhost":  # lo sabe esta máquina
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # no es una dirección, sino un nombre
    found: list[typing.Any] = []
    failures: list[BaseException] = []
    over = _thread.allocate_lock()
    over.acquire()

    def ask() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except BaseException as error:
            failures.append(error)
        finally:
            over.release()

    _thread.start_new_thread(ask, ())  # threading haría lo mismo, y tarda en cargarse
    if not over.acquire(timeout=timeout):
        raise TimeoutError
    if failures:
        raise failures[0]
    return found


def _open_one(family: int, place: typing.Any, timeout: float) -> socket.socket:
    """Un socket conectado a ``place``. Errores: los del sistema."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock
