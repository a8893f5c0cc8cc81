"""``--procesos``: el padre de los procesos que sirven. Abre los sockets, los vigila y cuenta lo que les pasa.

Aquí no se sirve nada (``serving.py``), no se decide cuándo hace falta otro (``comunicacion_tcp/supervision.py``) ni se
crea ninguno (``comunicacion_tcp/supervisor.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
import socket
import sys
import time
from collections.abc import Callable
from logging import ERROR, INFO, WARNING

from ..addresses import Peer
from ..board import CONFIGURATION_RELOADS, HEARTBEAT, RELOAD_FAILED, RESTARTS, STOPPING, WANTED_PROCESSES, Board
from ..descriptors import raise_limit
from ..errors import BadSocket, NetworkError
from ..listener import address_of, adopt_sockets, file_of, open_sockets, remove_file
from ..processors import available
from ..supervision import TURN, Supervision, Watcher
from ..supervisor import Helper, Seat, Supervisor
from .log import LEVELS, lines_lost, logging_to
from .metrics import CannotMeasure, open_metrics
from .output import CarefulOutput, Turn, complain_briefly, not_for_long
from .report import tell_listening, tell_measuring
from .sentences import bad_socket, listening_failed
from .serving import AUTO, FAILED, OK, Launch, Post, formatter_of, is_usual_place
from .terminal import complain, is_terminal
from .under_systemd import Manager, manager

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from ..metrics_server import MetricsServer

_READING = 5.0  # segundos para leer la configuración: un disco de red, aun lento, tarda menos
_LOOK_AT = "(mira «ulimit -u», «ulimit -n» y la memoria)"  # cuando el sistema no da más procesos
# Puestos en la pizarra: dos veces los más que se pueden pedir. Quien no quepa sirve sin contarse. Es 1 MB.
_SEATS = 2048


def in_processes(launch: Launch, again: Callable[[], Launch]) -> int | tuple[Launch, Post]:
    """Vuelve en el padre cuando todo acaba, con el código de salida, y en cada hijo en cuanto nace. ``again``: lo que
    se pide ahora, leído otra vez; si está mal lo dice, y lanza ``SystemExit``."""
    options, limits = launch
    raise_limit(limits.max_connections + limits.reserve)
    try:
        systemd = manager()
        lent = bool(systemd.sockets)
        if lent:
            sockets = adopt_sockets(systemd.sockets, limits.keepalive)
        else:
            sockets = open_sockets(options.host, options.puerto, limits.backlog, limits.keepalive)
    except BadSocket as bad:
        complain(bad_socket(bad))
        return FAILED
    except NetworkError as error:
        complain(listening_failed(error))
        return FAILED
    board, web = None, None
    if options.metricas:
        board = Board(_SEATS, started=time.time())
        try:
            web = open_metrics(options.metricas, board)
        except CannotMeasure as error:
            complain(str(error))
            return FAILED
    # Los ficheros de los sockets de Unix que abrió systemd son suyos.
    files = [] if lent else [(address_of(sock), file_of(address_of(sock))) for sock in sockets]
    with contextlib.ExitStack() as stack:
        fleet = _Fleet(launch, again, sockets, systemd, board, web.addresses if web else [], stack)
        outcome = fleet.run()
        if isinstance(outcome, Helper):
            return _give_metrics(web, sockets, outcome)
        if web:
            web.release()
        if isinstance(outcome, Seat):
            systemd.notifier.close()  # solo el padre habla con él
            return fleet.launches[outcome.generation], Post(outcome, sockets, board, lent, fleet.turn)
    for address, file in files:
        remove_file(address, file)
    return outcome


def _give_metrics(web: MetricsServer | None, sockets: list[socket.socket], helper: Helper) -> int:
    """Lo que hace el proceso aparte, hasta que acaben los demás: alguien debe decir que se están deteniendo."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for sock in sockets:
        sock.close()
    if web:
        web.run(helper.parent, helper.alive)
    return OK


class _Fleet(Watcher):
    """El padre: pide las recargas, y cuenta lo que pasa."""

    def __init__(
        self,
        launch: Launch,
        again: Callable[[], Launch],
        sockets: list[socket.socket],
        systemd: Manager,
        board: Board | None,
        measured_at: list[Peer],
        stack: contextlib.ExitStack,
    ) -> None:
        self.launches = {0: launch}  # de cada generación que sirve o va a servir, lo que se pidió
        self._options = launch.options  # las del principio: dónde se escucha no cambia
        self._again = again
        self._sockets = sockets
        self._lent = bool(systemd.sockets)
        self._notifier = systemd.notifier
        self._next_watchdog = 0.0
        self._status = ""
        self._last_unusable = False  # si lo último que se leyó no valía, aunque haya otra recarga en marcha
        self._stack = stack  # donde queda, hasta el final, lo que hay que deshacer
        self.turn = Turn()
        self._output = CarefulOutput(sys.stdout, lambda count: self._formatter.format(lines_lost(count)), self.turn)
        self._write_as_asked(launch)
        self._gave_up = False
        self._supervision = Supervision(_wanted(launch), launch.limits, self)
        self._measured_at = measured_at
        self._board = board or Board()  # sin métricas, una que nadie lee
        self._row = self._board.launcher
        self._row.take(time.monotonic())
        self._supervisor = Supervisor(self._supervision, self._reload, self._turn, helped=board is not None)

    def run(self) -> int | Seat | Helper:
        """El código de salida o, en un hijo, su puesto."""
        outcome = self._supervisor.run()
        if isinstance(outcome, int) and not self._gave_up:
            line = "Servidor detenido con conversaciones sin entregar todo." if outcome else "Servidor detenido."
            self._tell(WARNING if outcome else INFO, "stopped", line, {})
            self._output.flush()
        return outcome

    def _write_as_asked(self, launch: Launch) -> None:
        """Desde ahora se cuenta en la forma y desde la gravedad que pide ``launch``."""
        self._stack.close()
        self._formatter = formatter_of(launch.options, several=True)
        level = LEVELS[launch.options.nivel]
        self._tell = self._stack.enter_context(logging_to(self._output.write, self._formatter, level)).tell

    # -- en cada vuelta -------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._row.cells[HEARTBEAT] = time.monotonic()
        self._row.cells[WANTED_PROCESSES] = self._supervision.wanted
        self._row.cells[STOPPING] = self._supervision.stopping
        if self._supervision.stopping and self._sockets:
            self._notifier.stopping()
            # Antes que los hijos: así el último de ellos que cierre es quien acepta a los que aún esperaban.
            for sock in self._sockets:
                sock.close()
            self._sockets.clear()
            if is_terminal(sys.stdout):
                self._output.write("")  # detrás de «^C»
            if not self._gave_up:
                self._tell(INFO, "stopping", "Deteniendo el servidor...", {})
        self._keep_posted()
        self._output.flush()

    def _keep_posted(self) -> None:
        """A systemd: que el padre vive (los hijos se lo dicen a él), y cuántos sirven."""
        now = time.monotonic()
        if now >= self._next_watchdog:
            # Una vuelta antes: a la siguiente ya sería tarde.
            self._next_watchdog = now + self._notifier.watchdog_interval - TURN
            self._notifier.watchdog()
        serving = self._supervision.serving
        status = f"Sirven {serving} procesos" if serving != 1 else "Sirve 1 proceso"
        rejected = self._row.cells[RELOAD_FAILED["configuration"]]
        status += ", con lo de antes: la última recarga no pudo ser." if rejected else "."
        if status != self._status:
            self._status = status
            self._notifier.status(status)

    def _reload(self) -> None:
        self._notifier.reloading()
        # Ni una salida de errores que nadie lee, ni un fichero que no acaba de leerse, detienen a quien vigila.
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint), not_for_long(_READING):
                launch = self._again()
        except SystemExit:
            self._keep(complaint.getvalue().strip())
            return
        except TimeoutError:
            self._keep(f"Leer la nueva lleva más de {_READING:g} s: mira en qué disco está y cuánto ocupa.")
            return
        asked, kept = launch.options, self._options
        # Con la última que se aceptó, que puede estar aún empezando.
        lost = _lost(self.launches[max(self._supervision.generations)].options, asked)
        if lost:
            self._keep(
                f"En la nueva falta lo que no puede faltar ({lost}): ponlo; o, para quitarlo, detén el servidor y "
                "arráncalo."
            )
            return
        if (asked.host, asked.puerto) != (kept.host, kept.puerto):
            self._keep_address("--host y --puerto no cambian")
        if asked.metricas != kept.metricas:
            self._keep_address("--metricas no cambia")
        self._last_unusable = False
        self._tell(INFO, "reloading", "Recargando la configuración, el certificado y el servicio...", {})
        if not self._lent:
            for sock in self._sockets:
                sock.listen(launch.limits.backlog)
        self.launches[self._supervision.reload(_wanted(launch), launch.limits)] = launch
        self.launches = {number: self.launches[number] for number in self._supervision.generations}

    def _keep(self, why: str) -> None:
        self._last_unusable = True
        self._stay(f"Se sigue con la configuración de antes. {why}", {})

    def _keep_address(self, what: str) -> None:
        line = f"Aviso: {what} al recargar. Para eso, detén el servidor y arráncalo otra vez."
        self._tell(WARNING, "address_kept", line, {})

    def _stay(self, line: str, fields: dict[str, int]) -> None:
        """La recarga no pudo ser: lo dice ``line``."""
        self._row.cells[RELOAD_FAILED["configuration"]] = 1
        self._row.cells[CONFIGURATION_RELOADS["failed"]] += 1
        self._tell(ERROR, "reload_failed", line, fields)
        self._notifier.ready()

    # -- lo que pasa ----------------------------------------------------------------------------------------

    def serving(self) -> None:
        options = self._options
        tell_listening(
            self._tell,
            [address_of(sock) for sock in self._sockets],
            usual=is_usual_place(options),
            encrypted=bool(options.tls_cert),
            lent=self._lent,
            processes=self._supervision.wanted,
        )
        if self._measured_at:
            tell_measuring(self._tell, self._measured_at)
        self._notifier.ready()

    def ended(self, row: int) -> None:
        self._board.seat(row).leave()

    def replaced(self, pid: int) -> None:
        self._tell(INFO, "worker_replaced", f"El proceso {pid} sirve ya.", {"worker": pid})

    def died(self, pid: int, status: int, delay: float) -> None:
        self._row.cells[RESTARTS] += 1
        when = f" dentro de {delay:g} s" if delay else ""
        line = f"El proceso {pid} ha acabado sin que nadie se lo pidiera ({_how(status)}): se pone otro{when}."
        self._tell(WARNING, "worker_died", line, {"worker": pid, "status": status, "seconds": delay})

    def hung(self, pid: int, seconds: float, *, served: bool) -> None:
        self._row.cells[RESTARTS] += served  # si no, se cuenta cuando acabe, o nadie lo sustituye
        line = f"El proceso {pid} lleva {seconds:.0f} s sin dar señales de vida: se corta."
        self._tell(ERROR, "worker_hung", line, {"worker": pid, "seconds": round(seconds, 3)})

    def not_started(self, pid: int, status: int, delay: float) -> None:
        self._row.cells[RESTARTS] += 1
        who = (
            f"El proceso {pid} ha acabado sin llegar a servir ({_how(status)})"
            if pid
            else f"No se pueden crear procesos {_LOOK_AT}"
        )
        line = f"{who}: se prueba otra vez en {delay:g} s."
        fields = {"worker": pid, "status": status, "seconds": delay}
        self._tell(ERROR, "worker_not_started", self._with_reason(line), fields)

    def gave_up(self, failures: int) -> None:
        self._gave_up = True
        if self._supervisor.reason:
            complain_briefly(self._supervisor.reason)
        tries = "a la primera" if failures == 1 else f"en {failures} intentos"
        line = f"Ningún proceso ha conseguido servir {tries}, y no se intenta más."
        self._tell(ERROR, "gave_up", line, {"failures": failures})

    def reloaded(self) -> None:
        self._row.cells[RELOAD_FAILED["configuration"]] = self._last_unusable
        self._row.cells[CONFIGURATION_RELOADS["ok"]] += 1
        self._write_as_asked(self.launches[self._supervision.generation])
        line = "Recargado: sirven procesos nuevos, y los de antes acaban lo que tienen."
        self._tell(INFO, "reloaded", line, {})
        self._notifier.ready()

    def reload_failed(self, pid: int, status: int) -> None:
        who = (
            f"el proceso {pid}, nuevo, acabó antes de que sirvieran todos ({_how(status)})"
            if pid
            else f"no se pueden crear otros {_LOOK_AT}"
        )
        self._stay(self._with_reason(f"Se sigue con los procesos de antes: {who}."), {"status": status})

    def _with_reason(self, line: str) -> str:
        """``line``, y por qué, si quien acabó lo dijo."""
        return f"{line} {self._supervisor.reason}".rstrip()


def _lost(before: argparse.Namespace, after: argparse.Namespace) -> str:
    """Lo que había en ``before``, no hay en ``after`` y no puede faltar: un fichero a medio escribir, o vacío, no puede
    dejar un servidor en claro, ni abierto a cualquiera, ni respondiendo otra cosa."""
    return ", ".join(
        f"--{name.replace('_', '-')}"
        for name in ("tls_cert", "tls_ca", "proxy_de", "servicio")
        if getattr(before, name) and not getattr(after, name)
    )


def _wanted(launch: Launch) -> int:
    wanted = launch.options.procesos
    return available() if wanted == AUTO else int(wanted or 1)  # sin ella, al recargar: uno


def _how(status: int) -> str:
    """Cómo acabó un proceso."""
    if status >= 0:
        return f"código {status}"
    try:
        return f"señal {signal.Signals(-status).name}"
    except ValueError:
        return f"señal {-status}"
