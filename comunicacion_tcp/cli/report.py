"""Lo que se cuenta de cada cosa que le pasa al servidor: la frase, su gravedad, y cuántas veces seguidas.

Aquí no se sabe qué forma tiene una línea (``log.py``) ni dónde se escribe (``output.py``).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
from collections.abc import Callable
from functools import partial
from logging import ERROR, INFO, WARNING
from typing import Any

from ..addresses import Peer, format_address, unix_path
from ..errors import BadMessage, BadProxyHeader, BadService, BadTLSFile, Refusal, ServiceFailed, TLSFailed
from ..loops import EXITS
from ..observer import Observer
from .log import Log
from .sentences import bad_service, bad_tls_file, handshake_failed, named, proxy_header_bad, reason
from .traces import trace

Tell = Callable[[int, str, str, dict[str, Any]], None]
"""``Log.tell``."""

_INTERVAL = 10.0  # segundos: se ve que algo dura sin llenar la pantalla
_LINES = 10  # de cada clase en ese rato: bastan para ver de dónde viene, y quien las provoque no llena ningún disco


class Reporter(Observer):
    """Cuenta en ``log`` lo que pasa en el servidor. ``loop``: quien da la hora y avisa cuando pasa un rato.

    Un suceso nuevo es un método con su frase: ``_tell`` si se cuenta siempre, ``_tell_some`` si otro puede provocarlo
    cuantas veces quiera.
    """

    def __init__(self, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self._tell = log.tell
        self._loop = loop
        self._rations: dict[str, Ration] = {}

    # -- la vida del servidor -------------------------------------------------------------------------------

    def listening(self, addresses: list[Peer], *, usual: bool, encrypted: bool, lent: bool = False) -> None:
        """Empieza a escuchar en ``addresses``. ``usual`` y ``lent``, como en ``tell_listening``."""
        tell_listening(self._tell, addresses, usual=usual, encrypted=encrypted, lent=lent)

    def measuring(self, addresses: list[Peer]) -> None:
        """Da las métricas en ``addresses``."""
        tell_measuring(self._tell, addresses)

    def service_reloaded(self, name: str) -> None:
        """Cambió el fuente del servicio ``name``, y ya responde el nuevo."""
        line = f"Servicio recargado: desde ahora responde el nuevo {name}."
        self._tell(INFO, "service_reloaded", line, {"service": name})

    def service_unusable(self, bad: BadService) -> None:
        """Cambió el fuente del servicio y no sirve: sigue el de antes."""
        line = f"Se sigue con el servicio de antes. {bad_service(bad)}"
        self._tell(ERROR, "service_unusable", line, {"service": bad.name, "cause": bad.cause or bad})

    def stopping(self, conversations: int) -> None:
        """Se le pidió acabar, y deja de aceptar."""
        if conversations:
            line = f"Deteniendo el servidor: {_count(conversations)} por cerrar..."
            self._tell(INFO, "stopping", line, {"conversations": conversations})

    def stopped(self, cut: int) -> None:
        """Acabó, y tuvo que cortar ``cut`` conversaciones."""
        self._sum_up_all()
        line = f"Servidor detenido con {_count(cut)} sin entregar todo." if cut else "Servidor detenido."
        self._tell(WARNING if cut else INFO, "stopped", line, {"cut": cut})

    # -- lo que cuenta el servidor --------------------------------------------------------------------------

    def accepted(self, peer: Peer) -> None:
        self._tell(INFO, "accepted", f"Conexión aceptada de {peer}", {"peer": peer})

    def said_goodbye(self, peer: Peer) -> None:
        self._tell(INFO, "said_goodbye", "Mensaje de desconexión recibido. Cerrando la conexión.", {"peer": peer})

    def left(self, peer: Peer) -> None:
        self._tell(INFO, "left", f"El cliente {peer} se fue sin despedirse. Cerrando la conexión.", {"peer": peer})

    def lost(self, peer: Peer, cause: Exception) -> None:
        line = f"Se perdió la conexión con {peer}: {reason(cause)}."
        self._tell_some(WARNING, "lost", line, {"peer": peer, "cause": cause})

    def refused(self, peer: Peer, why: Refusal) -> None:
        line = f"Conexión rechazada de {peer}: {why}."
        self._tell_some(WARNING, "refused", line, {"peer": peer, "cause": why})

    def idle(self, peer: Peer) -> None:
        line = f"El cliente {peer} lleva demasiado callado. Cerrando la conexión."
        self._tell_some(INFO, "idle", line, {"peer": peer})

    def bad_message(self, peer: Peer, bad: BadMessage) -> None:
        cause = bad.__cause__ if isinstance(bad, ServiceFailed) else None
        detail = f" ({named(cause)})" if cause else ""
        line = f"Mensaje erróneo de {peer}: {bad}{detail}."
        failed = (cause or bad) if isinstance(bad, ServiceFailed) else None
        self._tell_some(WARNING, "bad_message", line, {"peer": peer, "cause": cause or bad}, failed=failed)

    def undelivered(self, peer: Peer) -> None:
        line = f"Conexión cortada con {peer}: quedaban respuestas por entregar."
        self._tell_some(WARNING, "undelivered", line, {"peer": peer})

    def lowered(self, connections: int, wanted: int) -> None:
        line = (
            f"Aviso: se admiten {connections} conexiones a la vez, y no {wanted}, porque no hay más descriptores de "
            "fichero. Sube el límite con «ulimit -n», o baja --max-conexiones."
        )
        self._tell(WARNING, "lowered", line, {"connections": connections, "wanted": wanted})

    def cannot_accept(self, cause: OSError) -> None:
        self._tell_some(ERROR, "cannot_accept", _still_serving(reason(cause)), {"cause": cause})

    def handshake_failed(self, peer: Peer, cause: TLSFailed) -> None:
        line = f"Un saludo TLS de {peer} no se completó: {handshake_failed(cause)}."
        self._tell_some(WARNING, "handshake_failed", line, {"peer": peer, "cause": cause})

    def proxy_header_bad(self, peer: Peer, bad: BadProxyHeader) -> None:
        line = f"Una conexión de {peer}, de un balanceador, no dijo a quién trae: {proxy_header_bad(bad)}."
        self._tell_some(WARNING, "proxy_header_bad", line, {"peer": peer, "cause": bad})

    def certificate_reread(self) -> None:
        line = "Certificado leído otra vez: las conexiones nuevas usan el nuevo."
        self._tell(INFO, "certificate_reread", line, {})

    def certificate_unusable(self, bad: BadTLSFile) -> None:
        line = f"Se sigue con el certificado de antes. {bad_tls_file(bad)}"
        self._tell(ERROR, "certificate_unusable", line, {"cause": bad})

    # -- lo que cuenta asyncio ------------------------------------------------------------------------------

    def failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Lo que asyncio no supo a quién contar (``loop.set_exception_handler``)."""
        cause = context.get("exception")
        if isinstance(cause, OSError) and cause.errno == errno.ENOTCONN:
            return  # el cliente cortó mientras se le cerraba: ya no hay nada que entregarle
        if isinstance(cause, EXITS) and "future" in context:
            return  # ya se contó al lanzarse; ahora se borra la tarea, sin que nadie la esperara
        if isinstance(cause, EXITS):
            text = f"una tarea o un aviso del servicio quiso acabar el programa ({named(cause)})"
        elif isinstance(cause, OSError) or cause is None:
            text = reason(cause) or str(context.get("message"))
        else:
            text = named(cause)
        self._tell_some(ERROR, "failed", _still_serving(text), {"cause": cause} if cause else {}, failed=cause)

    # -- por dentro -----------------------------------------------------------------------------------------

    def _tell_some(
        self, level: int, event: str, line: str, fields: dict[str, Any], failed: BaseException | None = None
    ) -> None:
        """``failed``: el fallo del servicio, si lo hubo; de por dónde pasó se escribe cada camino una vez."""
        ration = self._rations.get(event)
        if not ration:
            ration = self._rations[event] = Ration(level, self._loop.time())
            self._loop.call_later(_INTERVAL, partial(self._sum_up, event))
        if ration.admits(line):
            steps = trace(failed) if failed else []
            if steps and ration.is_new(tuple(step for step in steps if step.startswith("File"))):  # sin los mensajes
                fields["traceback"] = steps
            self._tell(level, event, line, fields)

    def _sum_up_all(self) -> None:
        for event in list(self._rations):
            self._sum_up(event)

    def _sum_up(self, event: str) -> None:
        ration = self._rations.pop(event, None)
        if ration and ration.hidden:
            seconds = max(1, round(self._loop.time() - ration.since))
            line = f"... y {ration.hidden} más en {seconds} s; lo último: {ration.last}"
            self._tell(ration.level, event, line, {"count": ration.hidden, "seconds": seconds})


class WorkerReporter(Reporter):
    """Lo que cuenta uno de varios procesos: lo que es de todos lo cuenta el padre. ``first``: si es el primero de los
    suyos, que habla por los demás."""

    def __init__(self, log: Log, loop: asyncio.AbstractEventLoop, *, first: bool) -> None:
        super().__init__(log, loop)
        self._first = first

    def listening(self, addresses: list[Peer], *, usual: bool, encrypted: bool, lent: bool = False) -> None:
        pass

    def stopping(self, conversations: int) -> None:
        pass

    def stopped(self, cut: int) -> None:
        self._sum_up_all()
        if cut:
            line = f"El proceso {os.getpid()} acaba con {_count(cut)} sin entregar todo."
            self._tell(WARNING, "stopped", line, {"cut": cut})

    def lowered(self, connections: int, wanted: int) -> None:
        if self._first:
            super().lowered(connections, wanted)

    def measuring(self, addresses: list[Peer]) -> None:
        pass

    def service_reloaded(self, name: str) -> None:
        if self._first:
            super().service_reloaded(name)


class Ration:
    """Lo que se escribe de una clase de sucesos en un rato: ``_LINES`` líneas distintas; lo demás se cuenta.

    ``level``: su gravedad. ``since``: cuándo empezó el rato.
    """

    def __init__(self, level: int, since: float) -> None:
        self.level = level
        self.since = since
        self.hidden: int = 0
        self.last: str = ""
        self._shown: set[str] = set()
        self._paths: set[tuple[str, ...]] = set()  # como mucho, uno por cada línea

    def is_new(self, path: tuple[str, ...]) -> bool:
        """Si el camino ``path`` de una excepción no se ha escrito ya en este rato."""
        new = path not in self._paths
        self._paths.add(path)
        return new

    def admits(self, line: str) -> bool:
        """Si ``line`` se escribe; si no, queda contada en ``hidden`` y guardada en ``last``."""
        if len(self._shown) < _LINES and line not in self._shown:
            self._shown.add(line)
            return True
        self.hidden += 1
        self.last = line
        return False


def tell_measuring(tell: Tell, addresses: list[Peer]) -> None:
    """Se dan las métricas en ``addresses``."""
    where = " y ".join(f"http://{format_address(*address)}/metrics" for address in addresses)
    tell(INFO, "measuring", f"Métricas en {where}", {"addresses": addresses})


def tell_listening(
    tell: Tell, addresses: list[Peer], *, usual: bool, encrypted: bool, lent: bool = False, processes: int = 0
) -> None:
    """Se escucha en ``addresses``. ``usual``: si se pidió donde siempre. ``lent``: si los sockets los dio systemd, y lo
    pedido no se mira. ``processes``: cuántos procesos, si los hay, y este es su padre: se dice su número, que es a
    quien se le mandan las señales."""
    where = "" if usual and not lent else " en " + " y ".join(format_address(*address) for address in addresses)
    parent = f" (padre: {os.getpid()})"
    crowd = f", con {processes} procesos{parent}" if processes > 1 else f", con 1 proceso{parent}" if processes else ""
    fields: dict[str, Any] = {"addresses": addresses}
    if processes:
        fields["processes"] = processes
    tell(INFO, "listening", f"Servidor escuchando{where}{crowd}...", fields)
    if not encrypted and not all(map(_is_local, addresses)):
        line = (
            "Aviso: fuera de esta máquina, sin cifrar, cualquiera por el camino lee y cambia los mensajes. Cifra con "
            "--tls-cert y --tls-clave."
        )
        tell(WARNING, "not_encrypted", line, {})
    if lent and not usual:
        line = "Aviso: se escucha en los sockets que dio systemd, y no donde dicen --host y --puerto. Quítalos."
        tell(WARNING, "address_ignored", line, {})


def _is_local(address: Peer) -> bool:
    host, _ = address
    return unix_path(host) is not None or ipaddress.ip_address(host).is_loopback


def _still_serving(text: str) -> str:
    return f"Algo falló y se sigue sirviendo: {text}."


def _count(conversations: int) -> str:
    return "1 conexión" if conversations == 1 else f"{conversations} conexiones"
