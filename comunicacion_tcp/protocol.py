"""El protocolo, puro: entran bytes y salen bytes. La norma, con ejemplos, está en ``docs/protocolo.md``.

Aquí no hay sockets, relojes, hilos ni asyncio, y ninguna frase para la terminal. El servidor, los clientes, las
pruebas y quien quiera atacarlo usan estos mismos objetos; cambia solo lo que los rodea.

La teoría del lado servidor
---------------------------
Un mensaje acaba en ``\\n`` o ``\\r\\n``, pero la mitad de los programas que existen no envía terminador: hace
``sendall(texto)`` y espera. Por eso una conversación empieza *por decidir* y su primer ``\\n`` la decide, para
siempre, por *líneas*. Mientras tanto cada trozo que llega es un mensaje y se responde en el acto. Si después un
``\\n`` descubre que aquellos trozos eran el principio de una línea, no pasa nada: el servicio trabaja carácter a
carácter y los bytes son los mismos.

    estado        llega                          se responde                        pasa a
    ------------  -----------------------------  ---------------------------------  ------------
    por decidir   trozo (sin ``\\n``)             el trozo, en caracteres enteros    por decidir
    por decidir   principio de DESCONEXION       nada: se retiene                   por decidir
    por decidir   silencio, retenido entero      despedida                          terminada
    por decidir   silencio, retenido a medias    lo retenido                        por decidir
    por decidir   ``\\n``                         el resto de la línea               líneas
    líneas        líneas enteras                 todas de una vez (un bloque)       líneas
    líneas        media línea                    nada: se guarda                    líneas
    cualquiera    línea DESCONEXION              despedida                          terminada
    líneas        mensaje demasiado largo        ERROR; se salta hasta su final     líneas
    cualquiera    primera línea, de HTTP         ERROR                              terminada
    por decidir   plazo, carácter a medias       ERROR                              por decidir
    líneas        plazo, mensaje a medias        ERROR                              terminada
    cualquiera    fin de la entrada              el último mensaje                  terminada
    terminada     lo que sea                     nada                               terminada

Solo se mira si es de HTTP la primera línea de una conversación: hasta ella ``unsettled`` es cierto, y el camino rápido,
que exige que no lo sea, no lo paga con cada mensaje.

El tiempo entra de fuera: quien usa el objeto mira ``awaiting_silence`` y, si el otro extremo calla
``limits.goodbye_silence`` segundos, llama a ``receive_silence()``; y si ``unfinished`` dura
``limits.message_timeout``, a ``receive_deadline()``.

El trabajo de una llamada está acotado, para que nadie haga esperar a los demás. Lo que llega se responde en el acto
solo si es poco (``PROMPT_BYTES``, ``PROMPT_MESSAGES``); si no, se guarda, ``busy`` es cierto y cada ``resume()`` es un
turno. De lo que se responde mensaje a mensaje (porque el servicio no sabe de otra manera, o porque alguno es malo), un
turno acaba a los ``limits.messages_per_turn`` mensajes o a los ``limits.high_water`` bytes de respuestas.

Un servicio que espera (a un disco, a otra máquina) no se llama desde aquí, que los haría esperar a todos. Una
conversación ``deferred`` pregunta: deja el mensaje en ``question`` y no sigue hasta que se le da la respuesta con
``receive_answer()``. Va de mensaje en mensaje, y por eso las respuestas salen en su orden sin que nadie las ordene.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable

from .errors import BadMessage, HTTPRequest, MessageError, NotUTF8, ServiceFailed, ServiceTimedOut, TooLong, TooSlow
from .limits import DEFAULT_LIMITS, PROMPT_BYTES, PROMPT_MESSAGES, Limits
from .services import Function, Service, as_service, uppercase

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    import re

GOODBYE = "DESCONEXION"
FAREWELL = "Conexión cerrada"
ERROR_START = "ERROR: "  # como empieza lo que se responde en vez de la respuesta (docs/protocolo.md, 6)

_GOODBYE = GOODBYE.encode()
_GOODBYE_LINE = rb"(?m)^" + _GOODBYE + rb"(\r?\n)"  # sin compilar: el cliente no la usa, y re la recuerda
_GOODBYE_START = _GOODBYE + b"\r"  # lo que puede preceder al "\n" de una línea de despedida
# La primera línea de una petición (RFC 9112, 3). El método más largo de los registrados en IANA tiene 17 letras.
_REQUEST_START = rb"([A-Z-]{1,20} [^ \n])[^ \n]*"
_REQUEST_LINE = _REQUEST_START + rb" HTTP/[0-9]\.[0-9]\r?\n"
_REQUEST_END = 10  # bytes como mucho desde «HTTP/», con su terminador
_GIST = 64  # bytes que se guardan de una primera línea ya respondida, o que no cabe: más de los que hacen falta
_FEW_BYTES = 512  # un bloque así ya no se parte más: ir mensaje a mensaje cuesta lo que seguir partiendo
_FEW_MESSAGES = 8  # de los que se preguntan, los que se separan de una vez: lo normal es parar en el primero
_MANY_BYTES = 64 * 1024  # de una vez, en bloque: una lectura
_SHORT_MESSAGE = 32  # bytes: con mensajes así, en un turno se acaban a la vez los mensajes y los bytes que se miran
_WORST_TAIL = 3  # un carácter UTF-8 sin acabar tiene como mucho 3 bytes (RFC 3629)
_ESCAPED = "[\udc80-\udcff]"  # así deja «surrogateescape» los bytes que no son UTF-8 (PEP 383)
_NOT_UTF8, _NOT_UTF8_CR = (f"{ERROR_START}{NotUTF8()}{newline}".encode() for newline in ("\n", "\r\n"))


class ServerProtocol:
    """El lado servidor de una conversación.

    Contrato: cada ``receive_*``, y ``resume``, devuelve los bytes que hay que enviar (quizá ninguno). Tras llamarla,
    si ``unsettled`` es cierto, se miran ``ended`` (enviar lo devuelto, cerrar ese lado y no llamar más), ``question``
    (hay que responderla), ``queued`` (llamar a ``resume()`` antes que a ninguna otra, si no hay pregunta),
    ``awaiting_silence`` y ``unfinished`` (ver arriba).

    ``service``: un ``Service`` o una función ``str -> str``. ``lines_only``: si la conversación nace decidida por
    líneas; por defecto, solo si el servicio no trabaja carácter a carácter. ``deferred``: si los mensajes se preguntan,
    en vez de llamar a la función (que entonces puede ser ``async``); uno con atajo no espera a nada, y no se pregunta.
    ``allow_http``: si se admite que empiece por una petición de HTTP.
    """

    __slots__ = (
        "_answered",
        "_decided",
        "_deferred",
        "_first",
        "_limit",
        "_limits",
        "_owed_terminator",
        "_pending",
        "_piecemeal",
        "_prompt",
        "_resumed",
        "_service",
        "_skipped",
        "_told",
        "_unread",
        "bad_messages",
        "ended",
        "input_over",
        "question",
        "said_goodbye",
        "unsettled",
    )

    def __init__(
        self,
        service: Service | Function = uppercase,
        limits: Limits = DEFAULT_LIMITS,
        *,
        lines_only: bool | None = None,
        deferred: bool = False,
        allow_http: bool = False,
    ) -> None:
        self._service = as_service(service)
        self._deferred = deferred and not self._service.block
        self._limits = limits
        self._limit = limits.max_message  # a mano, como la siguiente: se miran en cada lectura
        self._prompt = min(PROMPT_BYTES, self._limit)
        self._decided = not self._service.by_character if lines_only is None else lines_only
        # Recibido y sin responder: media línea, medio carácter, media despedida. El bytearray, cuando haga falta.
        self._pending: bytes | bytearray = b""
        # Dentro de un mensaje demasiado largo, cuyo resto se tira: lo último tirado, que dice si el terminador que
        # llegue será "\r\n".
        self._skipped: bytes | None = None
        self._unread = b""  # lo recibido que espera otro turno, y lo que ya no, que no se quita hasta acabar
        self._resumed = 0  # cuántos de sus bytes ya no esperan
        self._piecemeal = False  # si lo que espera ya se intentó en bloque, y no se pudo
        self._first = not allow_http  # si sigue en su primera línea, y hay que mirar si es de HTTP
        self._answered = b""  # el principio de la primera línea que ya se respondió o se tiró: lo que importa de él
        # Inmutables y vacíos: no ocupan nada en cada conexión que se porta bien.
        self.bad_messages: tuple[BadMessage, ...] = ()
        """Los errores que ``take_bad_messages()`` aún no ha contado."""
        self.question: str | None = None
        """El mensaje que hay que responder, si lo hay: ``take_question()``."""
        self._owed_terminator: bytes | None = None  # el de la pregunta que falta por responder
        self.input_over: bool = False
        """Si el otro extremo ya dijo que no enviará más."""
        self._told: frozenset[type[BadMessage]] = frozenset()
        self.ended: bool = False
        """Si la conversación terminó: no se responderá nada más."""
        self.said_goodbye: bool = False
        """Si terminó con ``DESCONEXION``."""
        self.unsettled: bool = self._first
        """Si queda algo a medias, por contar o por terminar. Lo normal es que no, y así basta mirar esto."""

    # -- lo que entra ---------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, *, at_once: bool = False) -> bytes:
        """Entran ``data``, bytes recién leídos, cortados por donde sea. Devuelve los bytes que enviar. ``at_once``: si
        es su turno ya, aunque sean muchos."""
        if (
            self._decided
            and not self.unsettled
            and (len(data) <= self._prompt or (at_once and len(data) <= self._limit))
            and data.endswith(b"\n")
            and _GOODBYE not in data
        ):
            # Lo normal: mensajes enteros, y ninguno a medias. Lo que haría _shortcut, hecho aquí: con las cachés del
            # procesador frías, esa sola llamada era el 4 % de petición y respuesta (make bench, con uvloop).
            block = self._service.block
            if block:
                try:
                    reply = block(data)
                except KeyboardInterrupt:
                    raise
                except BaseException:
                    reply = b""
                if type(reply) is bytes and 0 < len(reply) <= self._limit:
                    return reply
                if reply := self._fitting(reply):
                    return self._settle(reply)
                return self._settle(self._without_shortcut(data))
        return self._settle(self._take(data, at_once=at_once))

    def resume(self) -> bytes:
        """Otro turno para lo recibido que ``queued`` dice que falta por responder. Devuelve los bytes que enviar;
        ninguno si hay una pregunta sin respuesta, que va antes."""
        if self.awaiting_answer:
            return b""
        unread, start = self._unread, self._resumed
        self._unread, self._resumed = b"", 0
        end = len(unread)
        if self._decided:
            # Solo un trozo: intentar el atajo con todo lo que falta en cada turno costaría más que responder.
            most = _MANY_BYTES if self._service.block and not self._piecemeal else self._slice()
            end = unread.find(b"\n", start + most - 1) + 1 or end
        reply = self._receive(unread[start:end])
        if not self.ended and end < len(unread):
            left = end - len(self._unread)
            # Lo que ha quedado del trozo ya está ahí, y no se copia otra vez todo; salvo que hubiera algo a medias.
            self._unread, self._resumed = (unread, left) if left >= start else (self._unread + unread[end:], 0)
        self._piecemeal = self._piecemeal and bool(self._unread)
        return self._settle(reply + self._end_input())

    def take_question(self) -> str | None:
        """El mensaje que hay que responder con ``receive_answer()``, una sola vez; después, ``None``."""
        question, self.question = self.question, None
        return question

    def receive_answer(self, outcome: Callable[[], object]) -> bytes:
        """La respuesta a la pregunta: lo que devuelva ``outcome()``, o lance. Devuelve los bytes que enviar."""
        terminator, self._owed_terminator = self._owed_terminator, None
        if terminator is None or self.ended:
            return b""
        try:
            reply = self._fits(_reply(outcome)) + terminator
        except BadMessage as bad:
            reply = self._error(bad) + terminator
        return self._settle(reply + self._end_input())

    def change_service(self, service: Service, *, deferred: bool) -> None:
        """Desde el mensaje siguiente responde ``service``. Si no trabaja carácter a carácter, por líneas."""
        self._service = service
        self._deferred = deferred and not service.block
        self._decided = self._decided or not service.by_character
        self._settle(b"")

    def receive_silence(self) -> bytes:
        """El otro extremo lleva callado ``limits.goodbye_silence`` segundos. Devuelve los bytes que enviar."""
        if not self.awaiting_silence:
            return b""
        if self._pending == _GOODBYE:
            return self._settle(self._say_goodbye(b""))
        return self._settle(self._answer_piece(self._take_pending()))

    def receive_deadline(self) -> bytes:
        """El mensaje a medias lleva así ``limits.message_timeout`` segundos. Devuelve los bytes que enviar."""
        if not self.unfinished:
            return b""
        if not self._decided:  # medio carácter que ya no vendrá: a un cliente pelado se le responde lo que hay
            return self._settle(self._answer_piece(self._take_pending()))
        self.ended = True
        if self._skipped is not None:
            return self._settle(b"\n")  # su error ya se envió: falta el terminador
        self._take_pending()
        return self._settle(self._error(TooSlow(self._limits.message_timeout)) + b"\n")

    def receive_eof(self) -> bytes:
        """El otro extremo no enviará más; eso acaba su último mensaje. Devuelve los bytes que enviar."""
        self.input_over = True
        return self._settle(self._end_input())

    @property
    def held(self) -> int:
        """Bytes recibidos que se guardan."""
        return len(self._pending) + len(self._unread)

    @property
    def queued(self) -> int:
        """Cuántos bytes recibidos esperan otro turno: ``resume()``."""
        return len(self._unread) - self._resumed

    @property
    def awaiting_answer(self) -> bool:
        """Si hay una pregunta sin respuesta."""
        return self._owed_terminator is not None

    @property
    def busy(self) -> bool:
        """Si falta algo por responder de lo recibido."""
        return bool(self._unread) or self.awaiting_answer

    @property
    def unfinished(self) -> bool:
        """Si hay un mensaje empezado cuyo final no ha llegado."""
        return (bool(self._pending) or self.skipping) and not self.busy and not self.ended

    @property
    def skipping(self) -> bool:
        """Si se está tirando el resto de un mensaje demasiado largo, cuyo error ya se respondió."""
        return self._skipped is not None

    @property
    def awaiting_silence(self) -> bool:
        """Si hay que avisar con ``receive_silence()`` cuando el otro extremo calle: se retiene lo que puede ser una
        despedida. Nunca a la vez que hay algo que enviar."""
        held = bool(self._pending) and _GOODBYE_START.startswith(self._pending)
        return held and not self._decided and not self.busy and not self.ended

    def take_bad_messages(self) -> tuple[BadMessage, ...]:
        """Los errores que se han respondido, para contarlos a quien opera, y cada uno una sola vez. De los que son
        culpa del otro extremo, el primero de cada clase en toda la conversación (uno hostil no debe poder llenar un
        registro); de los del servicio, que son nuestra, todos."""
        bad, self.bad_messages = self.bad_messages, ()
        self._settle(b"")
        return bad

    # -- por dentro -----------------------------------------------------------------------------------------

    def _take(self, data: bytes, *, at_once: bool) -> bytes:
        """Lo que se responde en el acto a ``data``, recién leídos; lo demás queda en ``_unread``."""
        if self.ended:
            return b""
        if self._unread or self._owed_terminator is not None or (not at_once and self._is_long(data)):
            self._unread = self._unread[self._resumed :] + data
            self._resumed = 0
            return b""
        return self._receive(data)

    def _without_shortcut(self, block: bytes) -> bytes:
        """Lo mismo, de unas líneas con las que el atajo no ha podido."""
        if block.count(b"\n") <= PROMPT_MESSAGES:
            return self._answer_by_parts(block)
        self._unread, self._piecemeal = block, True
        return b""

    def _is_long(self, data: bytes) -> bool:
        """Si responder ``data`` es más de lo que se hace en el acto. Media línea solo hay que guardarla."""
        size = len(self._pending) + len(data)
        if size <= PROMPT_MESSAGES or (self._decided and b"\n" not in data):
            return False
        return size > PROMPT_BYTES or data.count(b"\n") > PROMPT_MESSAGES

    def _receive(self, data: bytes) -> bytes:
        if self.awaiting_answer:
            self._unread += data
            return b""
        if self._decided:
            return self._receive_lines(data)
        if b"\n" in data:
            return self._decide(data)
        return self._receive_piece(data)

    def _end_input(self) -> bytes:
        """Si la entrada acabó y todo lo demás está respondido, acaba el último mensaje y la conversación."""
        if not self.input_over or self.busy or self.ended:
            return b""
        rest, answered, self._answered = self._take_pending(), self._answered, b""
        if rest == _GOODBYE or answered + rest == _GOODBYE:
            return self._say_goodbye(b"")
        if self._first and _is_request(rest + b"\n"):
            return self._refuse(rest)
        reply = self._answer(rest) if rest else b""
        self.ended = not self.busy
        return reply

    def _settle(self, reply: bytes) -> bytes:
        self.unsettled = bool(
            self._pending
            or self._unread
            or self._owed_terminator is not None
            or self.bad_messages
            or self._skipped is not None
            or self.ended
            or (self._first and self._decided)
        )
        return reply

    # -- lo que está a medias -------------------------------------------------------------------------------

    def _keep(self, data: bytes) -> None:
        if self._pending:
            self._pending += data
        elif data:
            self._pending = bytearray(data)

    def _take_pending(self) -> bytes:
        pending, self._pending = self._pending, b""
        return bytes(pending)

    # -- por decidir: sin terminadores todavía --------------------------------------------------------------

    def _receive_piece(self, data: bytes) -> bytes:
        if not self._pending and data.isascii() and not _GOODBYE_START.startswith(data):
            return self._answer_piece(data)  # lo de siempre
        piece = self._take_pending() + data
        if _GOODBYE_START.startswith(piece):
            self._keep(piece)  # puede ser la despedida: decide lo que llegue, o el silencio
            return b""
        whole = _whole_characters(piece)
        self._keep(piece[whole:])
        return self._answer_piece(piece[:whole]) if whole else b""

    def _answer_piece(self, piece: bytes) -> bytes:
        if len(self._answered) < _GIST:
            self._remember(piece)
        return self._answer(piece)

    def _decide(self, data: bytes) -> bytes:
        """El primer ``\\n``: desde aquí, líneas."""
        self._decided = True
        if not self._answered:
            return self._receive_lines(data)
        # Parte de esta línea ya está respondida: lo que falta se responde como su continuación.
        end = data.index(b"\n") + 1
        line = self._take_pending() + data[:end]
        goodbye = _find_goodbye(self._answered + line)
        if goodbye:
            return self._say_goodbye(goodbye[1])
        if self._was_request(line):
            return self._refuse(line)
        return self._answer(line) + self._receive(data[end:])

    # -- líneas ---------------------------------------------------------------------------------------------

    def _receive_lines(self, data: bytes) -> bytes:
        if self._skipped is not None:
            return self._skip_line(self._skipped, data)
        end = data.rfind(b"\n") + 1
        reply = b""
        if end:
            block = self._take_pending() + data[:end]
            if self._first and self._was_request(block):
                return self._refuse(block[: block.find(b"\n") + 1])
            reply = self._answer_lines(block)
            if self.ended:
                return reply
            if self.busy:
                self._unread += data[end:]
                return reply
        self._keep(data[end:])
        if self._is_too_long(self._pending):
            # Se responde el error en cuanto se sabe y se tira el resto del mensaje, que ya no ocupa memoria.
            skipped = self._take_pending()
            self._skipped = skipped[-1:]
            self._remember(skipped)
            reply += self._error(TooLong(self._limit))
        return reply

    def _answer_lines(self, block: bytes) -> bytes:
        # La búsqueda simple es mucho más rápida que la expresión, y casi nunca encuentra nada.
        goodbye = _find_goodbye(block) if _GOODBYE in block else None
        if not goodbye:
            return self._answer(block)
        before = block[: goodbye.start()]
        reply = self._answer(before) if before else b""
        if self.busy:
            self._unread += block[goodbye.start() :]  # ya se verá otra vez cuando le toque
            return reply
        return reply + self._say_goodbye(goodbye[1])

    # -- mensajes demasiado largos --------------------------------------------------------------------------

    def _is_too_long(self, body: bytes | bytearray) -> bool:
        """Si ``body`` (lo que hay antes de un ``\\n``) pasa del máximo. Un ``\\r`` al final no cuenta: es, o puede ser,
        del terminador."""
        return len(body) - body.endswith(b"\r") > self._limit

    def _has_too_long(self, block: bytes) -> bool:
        """Si algún mensaje de ``block`` pasa del máximo. A saltos: mirar cada uno costaba más que responder."""
        start = 0
        while len(block) - start > self._limit:
            end = block.rfind(b"\n", start, start + self._limit + 1)  # hasta aquí, todos caben
            if end < 0:
                end = block.find(b"\n", start) % (len(block) + 1)  # sin ninguno, el final
                if self._is_too_long(block[start:end]):
                    return True
            start = end + 1
        return False

    def _skip_line(self, skipped: bytes, data: bytes) -> bytes:
        end = data.find(b"\n") + 1
        if not end:
            self._skipped = data[-1:] or skipped
            self._remember(data)
            return b""
        self._skipped = None
        _, terminator = _split_terminator(skipped + data[:end])
        if self._first and self._was_request(data):
            self.ended = True  # su error ya se envió: no caber
            return terminator
        return terminator + self._receive_lines(data[end:])

    # -- quien empieza por una petición de HTTP -------------------------------------------------------------

    def _remember(self, start: bytes) -> None:
        """``start``, de la primera línea, se responde o se tira. Queda lo que al acabar la línea dirá si era una
        despedida o una petición: del destino de una petición, que puede ser larguísimo, basta una letra."""
        if len(self._answered) < _GIST and (self._first or not self._decided):
            start = self._answered + start
            if len(start) >= _GIST:
                import re  # tarda en cargarse, y el cliente no la usa

                request = re.match(_REQUEST_START, start)
                start = (request[1] + start[request.end() :] if request else start)[:_GIST]
            self._answered = start

    def _was_request(self, data: bytes) -> bool:
        """Si la primera línea, que acaba en el primer ``\\n`` de ``data``, es de HTTP. Ya no se mirará ninguna más."""
        answered, self._answered = self._answered, b""
        looked, self._first = self._first, False
        return looked and _is_request(answered + data[: data.find(b"\n") + 1])

    def _refuse(self, line: bytes) -> bytes:
        """No se atiende nada más. ``line``: la petición, o lo que faltaba por responder de ella."""
        body, terminator = _split_terminator(line)
        self.ended = True
        return self._error(TooLong(self._limit) if self._is_too_long(body) else HTTPRequest()) + terminator

    # -- respuestas -----------------------------------------------------------------------------------------

    def _answer(self, block: bytes) -> bytes:
        """Las respuestas a un bloque: líneas enteras, o un solo mensaje sin terminador. Las líneas que no quepan en
        este turno quedan en ``_unread``."""
        return self._shortcut(block) or self._answer_by_parts(block)

    def _shortcut(self, block: bytes) -> bytes:
        """Todas las respuestas de una vez, o nada si no se puede: algún mensaje es malo, o no hay atajo."""
        if not self._service.block or self._has_too_long(block):
            return b""
        try:
            reply = self._service.block(block)
        except KeyboardInterrupt:
            raise
        except BaseException:  # lo dirá, con su razón, cada mensaje por separado
            return b""
        return self._fitting(reply)

    def _fitting(self, reply: object) -> bytes:
        """Lo que dio el atajo, si vale."""
        return reply if type(reply) is bytes and len(reply) <= self._limits.max_output else b""

    def _answer_by_parts(self, block: bytes) -> bytes:
        """Como ``_answer``, cuando el atajo no ha podido con ``block`` entero."""
        if block.find(b"\n", 0, -1) < 0:  # uno solo: lo normal con un servicio que no tiene atajo
            line, newline, _ = _decode(block).partition("\n")
            return self._answer_message(line, newline)
        later = b""
        if len(block) > self._slice():
            end = block.find(b"\n", self._slice()) + 1
            block, later = block[:end], block[end:]
        # Por mitades, los mensajes buenos siguen yendo en bloque: si no, uno malo haría pagar por separado los cientos
        # de miles que caben en una lectura.
        replies: list[bytes] = []
        size, turn, high_water = 0, self._limits.messages_per_turn, self._limits.high_water
        parts = [block]
        untried = bool(later)  # este trozo, por sí solo, aún puede ir en bloque
        while parts and turn > 0 and size < high_water and not self.awaiting_answer:
            part = parts.pop()
            reply = self._shortcut(part) if untried else b""
            untried = True
            if reply:
                replies.append(reply)
                size += len(reply)
                continue
            middle = part.find(b"\n", len(part) // 2) + 1 if self._service.block and len(part) > _FEW_BYTES else 0
            if 0 < middle < len(part):
                parts += (part[middle:], part[:middle])
                continue
            text = _decode(part)
            *lines, rest = text.split("\n", min(turn, _FEW_MESSAGES) if self._deferred else turn)
            is_bad, surely = None if text.isascii() else _bad_finder(), self._limit // 4
            for number, line in enumerate(lines, 1):
                if is_bad and not line.isascii() and len(line) <= surely and is_bad(line):
                    reply = _NOT_UTF8_CR if line.endswith("\r") else _NOT_UTF8
                    self._not_utf8()
                else:
                    reply = self._answer_message(line, "\n")
                replies.append(reply)
                size += len(reply)
                if size >= high_water or self._owed_terminator is not None:
                    rest = "\n".join((*lines[number:], rest))
                    break
            turn -= len(lines)
            if rest:
                parts.append(_encode(rest))
        self._unread = b"".join((*reversed(parts), later))
        self._piecemeal = bool(self._unread)
        return b"".join(replies)

    def _slice(self) -> int:
        """Bytes que se miran en un turno de los que van mensaje a mensaje. De los que se preguntan, pocos: tras cada
        pregunta hay que esperar."""
        return _FEW_BYTES if self._deferred else max(_FEW_BYTES, self._limits.messages_per_turn * _SHORT_MESSAGE)

    def _answer_message(self, line: str, newline: str) -> bytes:
        """La respuesta a un mensaje, con su terminador. ``line``: lo que hay antes de ``newline``, como da _decode."""
        terminator = newline.encode()
        message = line
        if newline and line.endswith("\r"):
            message, terminator = line[:-1], b"\r\n"
        try:
            # Un carácter son como mucho 4 bytes: casi siempre se sabe que cabe sin contarlos.
            if len(line) > self._limit // 4 and self._is_too_long(_encode(line)):
                raise TooLong(self._limit)
            if not message.isascii():
                message.encode()  # si no era UTF-8, lanza
            if self._deferred:
                self.question, self._owed_terminator = message, terminator
                return b""
            return self._fits(_reply(self._service.function, message)) + terminator
        except BadMessage as bad:
            return self._error(bad) + terminator
        except UnicodeEncodeError:
            self._not_utf8()
            return _NOT_UTF8.removesuffix(b"\n") + terminator

    def _fits(self, reply: bytes) -> bytes:
        if len(reply) > self._limits.max_output:
            raise ServiceFailed(f"la respuesta pasa de {self._limits.max_output} bytes")
        return reply

    def _error(self, bad: BadMessage) -> bytes:
        self._tell(bad)
        return f"{ERROR_START}{bad}".encode()

    def _not_utf8(self) -> None:
        """Se responde a un mensaje que no es UTF-8. Aparte de ``_error``, porque es el que menos cuesta enviar: en una
        lectura caben treinta mil, y hacer cada vez la excepción y la frase era casi todo lo que costaban."""
        if NotUTF8 not in self._told:
            self._tell(NotUTF8())

    def _tell(self, bad: BadMessage) -> None:
        if isinstance(bad, ServiceFailed) or type(bad) not in self._told:
            self._told |= {type(bad)}
            self.bad_messages += (bad,)

    def _say_goodbye(self, terminator: bytes) -> bytes:
        self.ended = self.said_goodbye = True
        return FAREWELL.encode() + terminator


class ClientProtocol:
    """El lado cliente: convierte mensajes en líneas y lo que llega en respuestas.

    Se entiende también con servidores que responden sin terminador o lo quitan. Una respuesta acaba en ``\\n``;
    mientras el servidor no haya enviado ninguno, también la acaba el silencio (``awaiting_silence`` pide el
    aviso), y siempre el fin de la entrada. Una de más de ``max_reply`` bytes no es de nadie: ni ella ni lo que llegue
    detrás.
    """

    def __init__(self, max_reply: int = DEFAULT_LIMITS.max_reply) -> None:
        self.too_long: bool = False
        """Si una respuesta pasó de ``max_reply`` bytes."""
        self._max_reply = max_reply
        self._pending = bytearray()
        self._replies: deque[str] = deque()
        self._server_sends_lines = False

    def send(self, message: str) -> bytes:
        """Los bytes que llevan ``message`` al servidor. ``MessageError`` si no puede ser un mensaje."""
        if "\n" in message:
            raise MessageError("un mensaje no puede llevar saltos de línea")
        if message.endswith("\r"):
            raise MessageError("un mensaje no puede acabar en retorno de carro: sería parte del terminador")
        if message == GOODBYE:
            raise MessageError(f"{GOODBYE} no es un mensaje: es la despedida, say_goodbye()")
        try:
            return message.encode() + b"\n"
        except UnicodeEncodeError as error:
            raise MessageError("el mensaje no es Unicode válido") from error

    def say_goodbye(self) -> bytes:
        """Los bytes de la despedida; quien los envía cierra después ese lado de la conexión.

        Van sin terminador porque hay servidores que solo conocen los bytes pelados ``DESCONEXION``; para los de
        líneas, el fin de la entrada hace de terminador.
        """
        return _GOODBYE

    def receive_data(self, data: bytes) -> None:
        """Entran ``data``, bytes recién leídos, cortados por donde sea."""
        if self.too_long:
            return
        large = len(self._pending) + len(data) > self._max_reply  # solo entonces hay que mirar una por una
        end = data.rfind(b"\n") + 1
        if end:
            self._server_sends_lines = True
            lines = (bytes(self._pending) + data[:end]).split(b"\n")[:-1]
            if large:
                lines = self._drop_from_too_long(lines)
            self._replies.extend(_readable(line.removesuffix(b"\r")) for line in lines)
            self._pending.clear()
        if not self.too_long:
            self._pending += data[end:]
        if len(self._pending) > self._max_reply:
            self.too_long = True
            self._pending.clear()

    def receive_silence(self) -> None:
        """El servidor lleva callado ``limits.reply_silence`` segundos."""
        if self.awaiting_silence:
            self._end_reply()

    def receive_eof(self) -> None:
        """El servidor no enviará más; eso acaba su última respuesta."""
        if self._pending:
            self._end_reply()

    @property
    def awaiting_silence(self) -> bool:
        """Si hay una respuesta empezada que el silencio daría por acabada."""
        return self.half_reply and not self._server_sends_lines

    @property
    def half_reply(self) -> bool:
        """Si ha llegado el principio de una respuesta, y no su final."""
        return bool(self._pending)

    @property
    def ends_replies(self) -> bool:
        """Si el servidor acaba sus respuestas en salto de línea: lo ha hecho con alguna."""
        return self._server_sends_lines

    @property
    def has_reply(self) -> bool:
        """Si hay ya alguna respuesta entera."""
        return bool(self._replies)

    @property
    def ready(self) -> int:
        """Cuántas respuestas hay enteras."""
        return len(self._replies)

    @property
    def has_begun(self) -> bool:
        """Si ha llegado algo que ``next_reply`` aún no ha dado, entero o a medias."""
        return bool(self._replies or self._pending)

    def next_reply(self) -> str | None:
        """La respuesta más antigua que esté entera, sin terminador, o ``None``. Los bytes que no son UTF-8 se
        muestran como ``\\xff``."""
        return self._replies.popleft() if self._replies else None

    def _drop_from_too_long(self, lines: list[bytes]) -> list[bytes]:
        for number, line in enumerate(lines):
            if len(line) > self._max_reply:
                self.too_long = True
                return lines[:number]
        return lines

    def _end_reply(self) -> None:
        self._replies.append(_readable(bytes(self._pending)))
        self._pending.clear()


def _decode(block: bytes) -> str:
    """``block`` en texto. Cada byte que no es UTF-8 queda como un ``_ESCAPED``, y los ``\\n``, donde estaban."""
    return block.decode("utf-8", "surrogateescape")


def _encode(block: str) -> bytes:
    """Lo contrario de ``_decode``."""
    return block.encode("utf-8", "surrogateescape")


def _bad_finder() -> Callable[[str], object]:
    """Quien dice si un mensaje, como da ``_decode``, no era UTF-8. Sin excepciones, que cuestan diez veces más."""
    import re  # tarda en cargarse, y el cliente no la usa

    return re.compile(_ESCAPED).search


def _reply(call: Callable[..., object], *message: str) -> bytes:
    """La respuesta que da ``call(*message)``, o el ``BadMessage`` que la sustituye."""
    try:
        reply = call(*message)
    except (KeyboardInterrupt, ServiceTimedOut):
        raise
    except BaseException as error:  # todo: un exit() en el servicio tampoco apaga el servidor
        raise ServiceFailed("el servicio falló con este mensaje") from error
    # La causa no viaja: es para quien lo escribió.
    try:
        text = str.encode(reply)  # type: ignore[arg-type]  # la de str: la de una clase derivada puede hacer cualquier cosa
    except TypeError:
        hint = "¿le falta un return?" if reply is None else "hazlo texto con str(), o con decode() si son bytes"
        cause = TypeError(f"devolvió {type(reply).__name__}, y no str; {hint}")
        raise ServiceFailed("el servicio no devolvió texto") from cause
    except UnicodeEncodeError as error:
        raise ServiceFailed("el servicio devolvió texto que no es Unicode válido") from error
    if b"\n" in text:
        line = ValueError("su respuesta lleva un salto de línea; quítalo, o ponla en una sola")
        raise ServiceFailed("el servicio devolvió más de una línea") from line
    return text


def _find_goodbye(block: bytes) -> re.Match[bytes] | None:
    """La primera línea de despedida de ``block``; su grupo 1 es el terminador."""
    import re  # tarda en cargarse, y el cliente no la usa

    return re.search(_GOODBYE_LINE, block)


def _is_request(line: bytes) -> bool:
    """Si ``line``, con su terminador, es la primera de una petición de HTTP."""
    if b"HTTP/" not in line[-_REQUEST_END:]:
        return False
    import re  # tarda en cargarse, y el cliente no la usa

    return re.match(_REQUEST_LINE, line) is not None


def _split_terminator(line: bytes) -> tuple[bytes, bytes]:
    """Parte una línea en su mensaje y su terminador (vacío si no acaba en ``\\n``)."""
    size = 0 if not line.endswith(b"\n") else 2 if line.endswith(b"\r\n") else 1
    return line[: len(line) - size], line[len(line) - size :]


def _whole_characters(piece: bytes) -> int:
    """Cuántos bytes de ``piece`` no son el principio de un carácter por acabar (los inválidos no lo son)."""
    tail = piece[-_WORST_TAIL:]
    return len(piece) - len(tail) + codecs.utf_8_decode(tail, "ignore", False)[1]


def _readable(reply: bytes) -> str:
    return reply.decode(errors="backslashreplace")
