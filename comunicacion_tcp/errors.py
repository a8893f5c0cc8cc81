"""El árbol de errores, con la culpa repartida: nuestra, del otro extremo o de la red.

Aquí se nombra lo que puede salir mal y se guardan los hechos (dirección, límite, causa). Las frases que
lee una persona, con qué hacer después, están en ``cli/sentences.py``.

    ComunicacionError
    ├── MessageError            nuestra: ese texto no puede viajar como un mensaje
    ├── BadMessage              ese mensaje recibe «ERROR: ...» en vez de su respuesta
    │   ├── NotUTF8                 del otro extremo
    │   ├── TooLong                 del otro extremo
    │   ├── TooSlow                 del otro extremo; además termina la conversación
    │   ├── HTTPRequest             del otro extremo; además termina la conversación
    │   └── ServiceFailed           nuestra: el servicio falló o devolvió algo que no es un mensaje
    │       └── ServiceTimedOut         no respondió a tiempo
    ├── Refusal                 esa conexión recibe «ERROR: ...» y se cierra
    │   ├── ServerFull              no caben más
    │   ├── AddressFull             no caben más desde esa dirección
    │   └── OnlyThroughBalancer     no viene del balanceador
    ├── HeldTooMuch             entre todas las conversaciones guardaban demasiado, y se cortó la que más
    ├── BadProxyHeader          del otro extremo: el balanceador no dice bien a quién trae
    ├── BadTLSFile              nuestra: un certificado o una clave que no sirven
    ├── BadService              nuestra: una función que no se puede servir
    ├── BadSocket               nuestra: un socket que dio systemd y en el que no se puede escuchar
    └── NetworkError            de la red; lleva la dirección y, si la hay, la causa del sistema
        ├── UnknownHost             el nombre no se resuelve
        ├── ServerNotRunning        nadie escucha ahí (cliente)
        ├── ConnectionLost          la conexión se cortó a mitad (cliente)
        │   └── Truncated               sin el aviso de cierre de TLS: quizá la cortó un tercero
        ├── TLSFailed               no se pudo empezar a cifrar
        │   └── CertificateRejected     no nos fiamos del certificado del otro extremo
        ├── TimedOut                el otro extremo no contestó a tiempo (cliente)
        ├── TooMuchSaid             el servidor dijo más de lo que se le guarda (cliente)
        ├── OutOfStep               no se sabe qué respuesta es de qué mensaje (cliente)
        ├── AddressInUse            el puerto ya tiene dueño (servidor)
        ├── PortNotAllowed          el sistema no deja usar ese puerto (servidor)
        └── AddressNotOurs          esa dirección no es de esta máquina (servidor)
"""

from __future__ import annotations


class ComunicacionError(Exception):
    """La raíz: quien quiera atrapar cualquier error de este paquete atrapa este.

    Todos viajan entre procesos (``pickle``) y se copian, con sus hechos y su causa, y dos son iguales si lo son ellos.
    Una causa que no pueda viajar llega como un ``RuntimeError`` con su texto.
    """

    # Una excepción, sin más, se rehace llamando a su clase con args, que aquí es la frase y no lo que se le dio.
    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args), {name: _portable(fact) for name, fact in self._facts().items()}

    def __copy__(self) -> ComunicacionError:
        copy = _rebuild(type(self), self.args)
        copy.__setstate__(self._facts())
        return copy

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (
            [self.args, *_comparable(self._facts())] == [other.args, *_comparable(other._facts())]
        )

    def __hash__(self) -> int:
        return hash((type(self), repr(self.args)))

    def _facts(self) -> dict[str, object]:
        return {**vars(self), "__cause__": self.__cause__} if self.__cause__ else vars(self)


def _rebuild(kind: type[ComunicacionError], args: tuple[object, ...]) -> ComunicacionError:
    return kind.__new__(kind, *args)


def _portable(fact: object) -> object:
    if not isinstance(fact, BaseException):
        return fact
    import pickle  # solo lo necesita quien ya lo ha cargado

    try:
        pickle.loads(pickle.dumps(fact))  # noqa: S301  # lo acabamos de hacer nosotros
    except Exception:  # la clase de otro puede hacer cualquier cosa, y al rehacerla, dejar colgado a quien espera
        return RuntimeError(f"{type(fact).__name__}: {fact}")
    return fact


def _comparable(facts: dict[str, object]) -> list[object]:
    """Los hechos, en orden. De una causa, su clase y lo que dice: dos excepciones corrientes nunca son iguales."""
    return [
        (name, (type(fact), str(fact)) if isinstance(fact, BaseException) else fact)
        for name, fact in sorted(facts.items())
    ]


class MessageError(ComunicacionError, ValueError):
    """El texto no puede ser un mensaje: lleva un salto de línea, acaba en retorno de carro, es la despedida o no es
    Unicode válido."""


class BadMessage(ComunicacionError):
    """Un mensaje que no obtiene su respuesta. ``str(error)`` es lo que viaja detrás de «ERROR: »."""


class NotUTF8(BadMessage):
    """Los bytes del mensaje no son UTF-8 (RFC 3629: tampoco formas largas ni sustitutos)."""

    def __init__(self) -> None:
        super().__init__("el mensaje no es UTF-8 válido")


class TooLong(BadMessage):
    """El mensaje pasa del tamaño máximo.

    ``limit``: el máximo, en bytes sin contar el terminador.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"el mensaje pasa de {limit} bytes")
        self.limit = limit


class TooSlow(BadMessage):
    """El final del mensaje no llegó a tiempo.

    ``seconds``: cuánto se le esperó desde que empezó.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"el mensaje no acabó en {seconds:g} s; se cierra la conexión")
        self.seconds = seconds


class HTTPRequest(BadMessage):
    """La conversación empezó por una petición de HTTP: la de un navegador, al que cualquier página web puede mandar que
    la haga."""

    def __init__(self) -> None:
        super().__init__("esto es HTTP, y este servidor no lo habla; se cierra la conexión")


class ServiceFailed(BadMessage):
    """El servicio no dio una respuesta que se pueda enviar; ``__cause__`` es su excepción, si la hubo.

    El texto no cuenta nada del interior del servicio: viaja a un desconocido.
    """


class ServiceTimedOut(ServiceFailed):
    """El servicio no respondió a tiempo.

    ``seconds``: cuánto se le esperó. En su ``__traceback__``, por dónde iba, si había empezado.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"el servicio no respondió en {seconds:g} s")
        self.seconds = seconds


class Refusal(ComunicacionError):
    """Una conexión que no se atiende. ``str(error)`` es lo que viaja detrás de «ERROR: »."""


class ServerFull(Refusal):
    """El servidor tiene ya todas las conversaciones que admite."""

    def __init__(self) -> None:
        super().__init__("el servidor está completo; inténtalo más tarde")


class AddressFull(Refusal):
    """Desde esa dirección hay ya todas las conversaciones que se admiten."""

    def __init__(self) -> None:
        super().__init__("hay demasiadas conexiones desde tu dirección; cierra alguna")


class OnlyThroughBalancer(Refusal):
    """No viene de una dirección de la que el servidor espere una cabecera PROXY."""

    def __init__(self) -> None:
        super().__init__("a este servidor solo se llega por su balanceador; conéctate a él")


class HeldTooMuch(ComunicacionError):
    """Entre todas las conversaciones guardaban más de ``limit`` bytes (``Limits.max_held``), y se cortó la que más."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"entre todas las conversaciones se guardaban más de {limit} bytes, y esta era la que más")
        self.limit: int = limit


class BadProxyHeader(ComunicacionError):
    """Una conexión que no empezó por una cabecera PROXY buena.

    ``problem``: ``"absent"`` (empieza por otra cosa), ``"cut"`` (colgó a la mitad), ``"late"`` (no llegó a tiempo),
    ``"too_long"``, ``"syntax"``, ``"address"`` o ``"port"`` (versión 1), ``"version"``, ``"command"``, ``"family"``,
    ``"length"`` (menos de lo que ocupan sus direcciones), ``"field"`` o ``"checksum"`` (versión 2).
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class BadTLSFile(ComunicacionError):
    """Un fichero de TLS que no sirve.

    ``role``: qué debía ser (``"cert"``, ``"key"`` o ``"ca"``). ``path``: el fichero. ``problem``: ``"unreadable"``,
    ``"no_certificate"``, ``"no_key"``, ``"mismatch"`` (la clave es de otro certificado) o ``"locked"`` (la clave tiene
    contraseña). ``cause``: el error del sistema o de OpenSSL, o ``None``.
    """

    def __init__(self, role: str, path: str, problem: str, cause: BaseException | None = None) -> None:
        super().__init__(f"{path}: {problem}")
        self.role = role
        self.path = path
        self.problem = problem
        self.cause = cause


class BadSocket(ComunicacionError):
    """Algo que systemd pasó para escuchar, y en lo que no se puede.

    ``number``: su descriptor. ``name``: el que le da systemd, o nada. ``problem``: ``"closed"`` (no está abierto; en
    ``cause``, el error del sistema), ``"not_stream"`` (no es un socket de TCP, ni de Unix que dé un chorro de bytes) o
    ``"not_listening"`` (no escucha: es una conexión).
    """

    def __init__(self, number: int, name: str, problem: str, cause: OSError | None = None) -> None:
        super().__init__(f"{number}: {problem}")
        self.number = number
        self.name = name
        self.problem = problem
        self.cause = cause


class BadService(ComunicacionError):
    """Un servicio, ``"modulo:funcion"``, que no se puede cargar.

    ``name``: lo que se pidió. ``problem``: qué pasa, y con él qué es ``what``:

    - ``"format"``: no es ``modulo:funcion``.
    - ``"file"``: es la ruta de un fichero; ``what``, cómo se pediría como módulo.
    - ``"no_module"``: no existe el módulo ``what``.
    - ``"missing_import"``: existe, pero importa ``what``, que no existe.
    - ``"syntax"``: no es Python; ``what``, lo que dice Python.
    - ``"import_failed"``: falló al ejecutarse; ``cause``, con qué.
    - ``"endless"``: no acaba de ejecutarse.
    - ``"no_name"``: en el módulo no está ``what``; ``known``, lo que se le parece o, si nada, las funciones que hay.
    - ``"not_callable"``: no es una función, sino un ``what``.
    - ``"class"``, ``"generator"``: es una clase, o responde con ``yield``.
    - ``"arguments"``: no se puede llamar solo con un texto; ``what``, sus argumentos.

    ``place``: dónde, ``"fichero.py:línea"``, si se sabe. ``cause``: la excepción, o ``None``.
    """

    def __init__(
        self,
        name: str,
        problem: str,
        what: str = "",
        *,
        place: str = "",
        known: tuple[str, ...] = (),
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(f"{name}: {problem}" + f" ({what})" * bool(what))
        self.name = name
        self.problem = problem
        self.what = what
        self.place = place
        self.known = known
        self.cause = cause


class NetworkError(ComunicacionError):
    """Algo falló entre esta máquina y la otra.

    ``address``: ``"host:puerto"``, como se le diría a una persona. ``cause``: el error del sistema o ``None``.
    """

    def __init__(self, address: str, cause: BaseException | None = None) -> None:
        super().__init__(f"{address}: {cause}" if cause else address)
        self.address = address
        self.cause = cause


class UnknownHost(NetworkError):
    """El nombre de la máquina no se resuelve a ninguna dirección."""


class ServerNotRunning(NetworkError):
    """La máquina existe, pero en ese puerto no escucha nadie."""


class ConnectionLost(NetworkError):
    """No hay conexión: el otro extremo la cerró o la cortó, o aún no se había abierto.

    ``unanswered``: en ``send_many``, cuántos mensajes pedidos se quedaron sin respuesta.
    """

    unanswered = 0

    def __str__(self) -> str:
        return super().__str__() if self.cause else f"{self.address}: no hay conexión; se abre con «with» o connect()"


class Truncated(ConnectionLost):
    """La conexión cifrada se cortó sin el aviso de cierre de TLS: lo último pudo perderse, o alguien lo quitó."""


class TLSFailed(NetworkError):
    """El saludo de TLS no se completó.

    ``problem``: ``"not_tls"`` (el otro extremo no habla TLS), ``"versions"`` o ``"nothing_shared"`` (ninguna versión o
    ningún cifrado en común), ``"needs_certificate"`` (el servidor pide un certificado de cliente),
    ``"ours_rejected"`` (no acepta el nuestro), ``"silent"`` (no contesta), ``"cut"`` (colgó) u ``"other"``.
    """

    def __init__(self, address: str, cause: BaseException | None = None, problem: str = "other") -> None:
        super().__init__(address, cause)
        self.problem = problem


class CertificateRejected(TLSFailed):
    """El certificado del otro extremo no vale.

    ``problem``: ``"expired"``, ``"not_yet_valid"``, ``"unknown_ca"``, ``"self_signed"``, ``"wrong_name"`` u
    ``"other"``.
    """


class TimedOut(NetworkError):
    """El otro extremo no contestó a tiempo.

    ``seconds``: cuánto se esperó. ``connecting``: si lo que se esperaba era la conexión o una respuesta.
    ``unfinished``: si es que la respuesta no acaba; si no, en ese tiempo no llegó nada.
    """

    def __init__(self, address: str, seconds: float, *, connecting: bool, unfinished: bool = False) -> None:
        super().__init__(address)
        self.seconds = seconds
        self.connecting = connecting
        self.unfinished = unfinished


class TooMuchSaid(NetworkError):
    """El servidor dijo más de lo que se le guarda; lo que pasa del límite se pierde, y se cierra la conexión.

    ``limit``: cuántos bytes. ``unasked``: si es lo que dijo sin que se le preguntara, y nadie recogió
    (``take_unasked``); si no, una sola respuesta.
    """

    def __init__(self, address: str, limit: int, *, unasked: bool = False) -> None:
        super().__init__(address)
        self.limit: int = limit
        self.unasked: bool = unasked


class OutOfStep(NetworkError):
    """El servidor dijo algo que nadie le preguntó, y ya no se sabe qué respuesta es de qué mensaje; se cierra la
    conexión.

    ``said``: la línea que sobra, o una de las que pueden sobrar.
    """

    def __init__(self, address: str, said: str) -> None:
        super().__init__(address)
        self.said = said


class AddressInUse(NetworkError):
    """Otro programa escucha ya en ese puerto."""


class PortNotAllowed(NetworkError):
    """El sistema no deja a este usuario escuchar en ese puerto."""


class AddressNotOurs(NetworkError):
    """La dirección no pertenece a esta máquina."""
