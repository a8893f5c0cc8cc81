"""El cliente que se espera con ``await``: ``AsyncClient``, en el bucle de asyncio o de uvloop.

Aquí están los avisos del bucle y cómo se espera a uno. Qué se envía, qué es una respuesta y qué es cada error lo decide
``conversation.py``, lo mismo que para ``Client`` (``client.py``); el cifrado es ``tls.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, cast

from .addresses import unix_path
from .conversation import Conversation, Flow
from .delivery import cut_if_closed
from .errors import ConnectionLost
from .timeouts import within
from .tls import TLSSession

TYPE_CHECKING = False  # como la de typing
if TYPE_CHECKING:
    from typing_extensions import Self
else:
    Self = "AsyncClient"

_READ_SIZE = 64 * 1024  # bytes por lectura: lo que un socket suele tener listo; asyncio reservaría 256 KiB cada vez
_MOST_UNREAD = 256 * 1024  # bytes que se guardan sin que nadie espere nada; los demás, en el sistema
_MOST_TURNS = 16  # vueltas del bucle para leer lo ya llegado: a un servidor que no calla no se le espera
_LAST_WORDS = 1.0  # segundos para que salga el aviso de cierre de TLS: si no cabe ya, el otro extremo no lee


class AsyncClient(Conversation):
    """Como ``Client``, con los mismos argumentos, métodos y errores, pero se espera con ``await``::

        async with AsyncClient("localhost", 5000) as client:
            reply = await client.send("hola")
            await client.say_goodbye()

    Varias tareas pueden usar el mismo: cada llamada espera a que acabe la anterior, en el orden en que se pidieron.
    Cancelar una llamada (también con ``asyncio.timeout`` o ``wait_for``) cierra la conexión, salvo que aún esperara su
    turno. Es de un solo bucle: desde otro hilo, haz otro cliente.
    """

    def _set_up(self) -> None:
        self._link: _Link | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # el de la conexión y el turno de ahora
        self._lock = asyncio.Lock()

    async def connect(self) -> None:
        """Como ``Client.connect``."""
        if self._is_inherited:
            self._forget()
        async with self._turn():
            await self._connect()

    async def send(self, message: str) -> str:
        """Como ``Client.send``."""
        self._refuse_if_busy()
        async with self._turn():
            return await self._send(message)

    def send_many(self, messages: Iterable[str] | AsyncIterable[str]) -> Replies:
        """Como ``Client.send_many``, para ``async for``; ``messages`` puede ser también un iterable asíncrono.

        De uno asíncrono se espera el mensaje siguiente y las respuestas a la vez: si tarda, no las retrasa. Uno
        corriente que se bloquee detiene el bucle.
        """
        if isinstance(messages, AsyncIterable):
            return Replies(self, Flow(aiter(messages), at_hand=False))
        return Replies(self, Flow(iter(messages), at_hand=isinstance(messages, (list, tuple))))

    async def say_goodbye(self, timeout: float | None = None) -> list[str]:
        """Como ``Client.say_goodbye``."""
        self._refuse_if_busy()
        async with self._turn():
            link = self._link
            replies = await self._leave(timeout)
        if link:
            await link.gone.wait()
        return replies

    async def take_unasked(self) -> list[str]:
        """Como ``Client.take_unasked``."""
        self._refuse_if_busy()
        async with self._turn():
            return await self._hear()

    async def raise_if_out_of_step(self) -> None:
        """Como ``Client.raise_if_out_of_step``."""
        self._refuse_if_busy()
        async with self._turn():
            await self._raise_if_out_of_step()

    async def close(self) -> None:
        """Como ``Client.close``. No espera su turno: la llamada que esté a medias acaba en ``ConnectionLost``."""
        if self._is_inherited:
            self._forget()
        self._turn()
        link = self._link
        self._leave_everything()
        if link:
            await link.gone.wait()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- lo que pide Conversation ---------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _resolve(self, host: str | bytes, timeout: float) -> list[Any]:
        loop = asyncio.get_running_loop()
        return await within(timeout, loop.getaddrinfo(host, self._port, type=socket.SOCK_STREAM))

    async def _join(self, family: int, place: Any, timeout: float) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await within(timeout, asyncio.get_running_loop().sock_connect(sock, place))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _adopt(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        link = _Link(self, sock)
        try:
            if unix_path(self._host) is None:
                await loop.create_connection(lambda: link, sock=sock)
            else:
                await loop.create_unix_connection(lambda: link, sock=sock)
        except BaseException as error:
            link.forget()
            if isinstance(error, OSError):
                raise ConnectionLost(self.address, error) from error
            raise
        self._link = link
        self._socket = sock

    async def _wait(self, rest: memoryview, timeout: float, *, last: bool = False) -> tuple[memoryview, bool]:
        link = self._connected()
        if rest:  # el transporte guarda lo que no cabe, que la ventana de send_many ya acota
            link.transport.write(rest)
            if last:
                link.write_end()
            return rest[:0], True
        owed = link.transport.get_write_buffer_size()
        await link.wait(timeout)
        if self._link is not link:
            raise ConnectionLost(self.address)
        moved = link.news or link.transport.get_write_buffer_size() < owed
        link.news = False
        return rest, moved

    def _is_sending(self) -> bool:
        return bool(self._connected().transport.get_write_buffer_size())

    async def _look(self) -> None:
        link = self._connected()
        link.listen()
        for _ in range(_MOST_TURNS):
            if self._server_ended or not link.has_more():
                break
            await asyncio.sleep(0)
            if self._link is not link:
                raise ConnectionLost(self.address)

    def _drop(self) -> None:
        link, self._link = self._link, None
        session, self._session = self._session, None
        self._socket = None
        if link:
            link.leave(session)

    async def _ask(self, flow: Flow) -> bool:
        if not isinstance(flow.source, AsyncIterator):
            if not flow.at_hand:
                # uvloop no escribe hasta acabar la vuelta; y un iterable sin fin no debe dejar a nadie sin turno.
                await asyncio.sleep(0)
            return await super()._ask(flow)
        if flow.pending is None:
            flow.pending = _Next(flow.source)
            flow.pending.task.add_done_callback(self._wake)
        task = flow.pending.task
        if not flow.in_flight:
            await asyncio.wait((task,))  # el servidor no debe nada: solo falta esto
        if not task.done():
            return False
        flow.pending = None
        flow.pull(lambda: self._protocol.send(task.result()))
        return True

    def _end(self, flow: Flow) -> None:
        super()._end(flow)
        if flow.pending is not None:
            flow.pending.leave()

    # -- por dentro -----------------------------------------------------------------------------------------

    def _turn(self) -> asyncio.Lock:
        """El turno de las llamadas en este bucle. ``RuntimeError`` si el cliente está en otro que aún vive."""
        self._check_process()
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop and not self._loop.is_closed() and (self._link or self._lock.locked()):
                raise RuntimeError("este cliente está en otro bucle: ciérralo en él, o crea otro AsyncClient")
            self._leave_everything()
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    def _wake(self, _: object = None) -> None:
        if self._link:
            self._link.wake()

    def _connected(self) -> _Link:
        if self._link is None:
            raise ConnectionLost(self.address)
        return self._link


class _Link(asyncio.Protocol):
    """Los avisos de una conexión, y cómo se espera al siguiente. Los que llegan cuando su cliente ya la ha dejado no
    cuentan."""

    transport: asyncio.Transport

    def __init__(self, client: AsyncClient, sock: socket.socket) -> None:
        self._client: AsyncClient | None = client  # hasta que la deja
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._unread = 0  # bytes recibidos desde que alguien esperó
        self._paused = False
        self._ended = False  # ya cerramos nuestro lado
        self.news = False
        """Si ha pasado algo desde que se puso a falso."""
        self.gone = asyncio.Event()
        """Si el transporte está cerrado del todo."""

    # -- lo que avisa el transporte -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(0)  # que avise cuando todo haya salido
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_SIZE

    def resume_writing(self) -> None:
        self.wake()

    def data_received(self, data: bytes) -> None:
        if self._client is None:
            return
        self._client._arrived(data)
        session = self._client._session
        if session and not self._ended and (more := session.take_outgoing()):
            self.transport.write(more)  # lo que TLS contesta por su cuenta
        self._unread += len(data)
        if self._unread > _MOST_UNREAD and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self.wake()

    def eof_received(self) -> bool:
        if self._client:
            self._client._arrived(b"")
            self.wake()
        return True  # es decir: no cierres tú, asyncio

    def connection_lost(self, exc: Exception | None) -> None:
        if self._client:
            # Un envío que falla cierra el transporte sin leer lo que el sistema guardaba, y puede decir por qué cortó.
            with contextlib.suppress(OSError):
                while data := self._sock.recv(_READ_SIZE):
                    self._client._arrived(data)
            self._client._cut_by = exc
            self._client._arrived(b"")
            self.wake()
        self.gone.set()

    # -- lo que pide el cliente -----------------------------------------------------------------------------

    def listen(self) -> None:
        """Alguien atiende a lo que llegue."""
        self._unread = 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    async def wait(self, timeout: float) -> None:
        """Vuelve cuando hay novedades, o pasan ``timeout`` segundos."""
        self.listen()
        if self.news:
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(timeout, self._release)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def wake(self) -> None:
        """Hay novedades."""
        self.news = True
        self._release()

    def has_more(self) -> bool:
        """Si el sistema tiene algo que el bucle aún no ha leído: bytes, el final o un corte."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def write_end(self) -> None:
        """No enviaremos más."""
        self._ended = True
        with contextlib.suppress(OSError):  # ya cortada por el otro lado: lo dirá la lectura
            self.transport.write_eof()

    def forget(self) -> None:
        """Lo que aún pase no le importa a nadie."""
        self._client = None
        self._release()

    def leave(self, session: TLSSession | None) -> None:
        """Se cierra. ``session``: el cifrado del que despedirse."""
        self.forget()
        try:
            if self.transport.get_write_buffer_size():
                # Con un FIN, un servidor daría por bueno el medio mensaje que tiene.
                cut_if_closed(self._sock)
                self.transport.abort()
                return
            if session and not self._ended and not self.transport.is_closing():
                session.close()
                self.transport.write(session.take_outgoing())
                if self.transport.get_write_buffer_size():
                    self._loop.call_later(_LAST_WORDS, self.transport.abort)
            self.transport.close()
        except RuntimeError:  # el bucle ya se cerró: nadie más cerrará el socket
            self._sock.close()
            self.gone.set()

    def _release(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class _Next(Coroutine[Any, Any, str]):
    """El mensaje siguiente de ``source``, que espera una tarea (``task``), y que se puede dejar de esperar en el acto.

    Cancelar la tarea no basta: no se entera hasta la vuelta siguiente, y un generador con un ``anext`` a medias no
    admite el ``aclose`` de quien hizo ``break`` dentro de un ``aclosing(generador)``.
    """

    def __init__(self, source: AsyncIterator[str]) -> None:
        self._source = source
        self._awaiting: Any = None  # hasta que la tarea empieza: un anext sin empezar ni se puede dejar ni olvidar
        self._loop = asyncio.get_running_loop()
        self._last: Callable[[], Any] | None = None  # lo que hizo al dejarlo, que la tarea aún no sabe
        self.task = self._loop.create_task(self)

    def leave(self) -> None:
        """Cancela a quien espera el mensaje."""
        if self.task.done() or not self.task.cancel():
            return
        try:
            current = asyncio.current_task()
        except RuntimeError:
            return  # no gira ningún bucle: ya no hay quien siga
        if not self._awaiting or self._last or current is self.task or asyncio.get_running_loop() is not self._loop:
            return
        if current:
            asyncio.tasks._leave_task(self._loop, current)
        asyncio.tasks._enter_task(self._loop, self.task)
        try:
            self._last = partial(_give, self._awaiting.throw(asyncio.CancelledError()))
        except BaseException as error:
            self._last = partial(_throw, error)
        finally:
            asyncio.tasks._leave_task(self._loop, self.task)
            if current:
                asyncio.tasks._enter_task(self._loop, current)

    # -- lo que pide la tarea -------------------------------------------------------------------------------

    def send(self, value: None) -> Any:
        if not self._awaiting:
            self._awaiting = anext(self._source).__await__()
        return self._awaiting.send(value)

    def throw(self, *error: Any) -> Any:
        if self._last:
            last, self._last = self._last, None
            return last()
        if not self._awaiting:
            raise asyncio.CancelledError
        return self._awaiting.throw(*error)

    def close(self) -> None:
        self._awaiting.close()

    def __await__(self) -> NoReturn:
        raise NotImplementedError  # solo la espera su tarea


def _give(value: Any) -> Any:
    return value


def _throw(error: BaseException) -> Any:
    raise error


class Replies(AsyncIterator[str]):
    """Lo que da ``AsyncClient.send_many``. No es un generador porque a uno asíncrono que se deja a medias se le cierra
    más tarde, y la llamada siguiente aún lo encontraría."""

    def __init__(self, client: AsyncClient, flow: Flow) -> None:
        self._client = client
        self._flow: Flow | None = flow  # hasta que acaba
        self._begun = False

    async def __anext__(self) -> str:
        flow, client = self._flow, self._client
        if flow is None:
            raise StopAsyncIteration
        try:
            if not self._begun:
                client._refuse_if_busy()
                async with client._turn():
                    client._begin(flow)
                self._begun = True
            while (reply := client._reply_of(flow)) is None:
                async with client._turn():
                    more = await client._advance(flow)
                if not more:
                    raise flow.failure or StopAsyncIteration
        except BaseException:
            self._finish()
            raise
        return reply

    async def aclose(self) -> None:
        """Lo deja donde esté, como ``break``, y espera a que el iterable de los mensajes se entere."""
        flow = self._flow
        self._finish()
        if flow and flow.pending:
            await asyncio.wait((flow.pending.task,))

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # el bucle ya se cerró
            self._finish()

    def _finish(self) -> None:
        flow, self._flow = self._flow, None
        if flow:
            self._client._end(flow)
