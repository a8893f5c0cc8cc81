"""``Supervision``: qué hacer con los procesos que sirven. Puro: le cuentan lo que pasa, con su hora, y dice qué toca.

Aquí no se crea ni se mata ningún proceso (``supervisor.py``) ni se le dice nada a una persona (``Watcher``).

La vida de un proceso:

    estado      pasa                                          y entonces
    ----------  --------------------------------------------  -----------------------------------------------
    empezando   dice que ya sirve                             sirviendo
    empezando   muere, o tarda ``START_PATIENCE``             otro intento, cada vez más tarde; o se deja
    sirviendo   muere                                         se pone otro: ya o, si era recién nacido, enseguida
    sirviendo   calla ``worker_timeout``                      se mata, y se pone otro
    sirviendo   se recarga, y los nuevos ya sirven todos      yéndose: no acepta, y acaba sus conversaciones
    yéndose     pasa ``handover``, o son ya demasiados        cerrando
    cualquiera  se detiene el servidor                        cerrando: responde lo que tiene y acaba
    cerrando    pasa ``drain`` y ``END_PATIENCE``             se mata

Una *generación* son los procesos que empezaron con la misma configuración (también los plazos de arriba) y el mismo
servicio. De cada una empieza primero uno solo: si el servicio no se deja importar, o el certificado no vale, se sabe
por él, y se dice una vez. La siguiente sirve junto a la de antes hasta que está completa; si antes muere alguno, o se
mata, se queda la de antes.
"""

from __future__ import annotations

from .limits import DEFAULT_LIMITS, Limits
from .records import Record

START_PATIENCE = 60.0  # segundos desde que un proceso nace hasta que sirve: importar algo muy pesado tarda menos
END_PATIENCE = 5.0  # segundos, además de limits.drain, para acabar: lo que esperan la salida y el servicio, y de sobra
MOST_FAILURES = 5  # intentos seguidos de que empiece el primero: con más, solo se tarda más en saber que no puede
YOUNG = 1.0  # segundos: quien muere antes de llevar sirviendo esto morirá otra vez, y reponerlo ya sería no parar
_FIRST_DELAY = 0.1  # segundos hasta el segundo intento; cada uno espera el doble que el anterior
_LONGEST_DELAY = 30.0  # y como mucho esto: quien arregla lo que falla no espera más a que se note
# Y por uno que llegó a servir, esto: si lo mata un mensaje, más sería dejar que un cliente apague el servidor.
_LONGEST_DELAY_OF_SERVED = 1.0
MOST_RETIRING = 64  # que acaban a la vez lo suyo, o dos tandas si son más: a unos 5 MB cada uno, 320 MB
TOGETHER = 0.5  # segundos: dos peticiones de acabar así de juntas son una que llegó por dos sitios, no una prisa
TURN = 1.0  # segundos entre dos miradas, como mucho

NOT_STARTED, CUT_SHORT = 1, 3
"""Con qué código acaba quien no consiguió empezar, y quien se detuvo y tuvo que cortar a alguien."""

STARTING, SERVING, RETIRING, CLOSING, KILLED = "empezando", "sirviendo", "yéndose", "cerrando", "muerto"

# Lo que se le ordena a un proceso.
RETIRE, DRAIN, CUT = "retire", "drain", "cut"


class Fork(Record):
    """Que nazca un proceso de la generación ``generation``. ``row``: un número que no tiene ningún otro de los que
    viven, el menor. ``first``: si es el primero de los suyos, o quien está en su lugar; lo es uno solo."""

    generation: int = 0
    row: int = 0
    first: bool = False


class Order(Record):
    """Que se diga ``what`` al proceso ``pid``: ``RETIRE`` (no aceptes, y acaba lo que tienes), ``DRAIN`` (responde lo
    recibido, cierra y acaba) o ``CUT`` (acaba ya)."""

    pid: int = 0
    what: str = ""


class Kill(Record):
    """Que se mate al proceso ``pid``, sin pedírselo."""

    pid: int = 0


Action = Fork | Order | Kill


class _Plan(Record):
    """Lo que se quiere de una generación: cuántos, y con qué límites."""

    wanted: int = 1
    limits: Limits = DEFAULT_LIMITS


class Insistence:
    """Cómo hay que acabar cada vez que se pide. La hora viene de fuera, en segundos de un reloj que no vuelve atrás."""

    def __init__(self) -> None:
        self._first: float | None = None

    def ask(self, now: float) -> str:
        """La primera vez, ``DRAIN``; después, ``CUT``, salvo que sea casi a la vez, que no es nada nuevo: con Ctrl-C la
        terminal avisa a todos, y quien lanzó este programa quizá lo repite."""
        if self._first is None:
            self._first = now
            return DRAIN
        return CUT if now - self._first >= TOGETHER else ""


class Watcher:
    """A quién se cuenta lo que pasa con los procesos. Aquí no hace nada; se hereda lo que interese.

    ``status``, en todos: el código de salida del proceso o, si es negativo, la señal que lo mató.
    """

    def serving(self) -> None:
        """Están todos por primera vez o, si alguno no consigue empezar, los que pueden."""

    def replaced(self, pid: int) -> None:
        """El proceso ``pid`` sirve ya: en el sitio de uno que murió, o de uno que no conseguía empezar."""

    def ended(self, row: int) -> None:
        """Acabó el que tenía el número ``row``, como fuera; se cuenta antes de que lo tenga otro."""

    def died(self, pid: int, status: int, delay: float) -> None:
        """Murió uno que servía; se pondrá otro dentro de ``delay`` segundos."""

    def hung(self, pid: int, seconds: float, *, served: bool) -> None:
        """Uno lleva ``seconds`` segundos sin dar señales de vida, y se le mata. ``served``: si servía, y se pondrá
        otro."""

    def not_started(self, pid: int, status: int, delay: float) -> None:
        """Uno murió sin llegar a servir; se probará con otro dentro de ``delay`` segundos."""

    def gave_up(self, failures: int) -> None:
        """Nadie sirve, ninguno consiguió empezar en ``failures`` intentos, y se deja de intentar."""

    def reloaded(self) -> None:
        """Solo aceptan ya los nuevos, y los de antes acaban lo que tienen."""

    def reload_failed(self, pid: int, status: int) -> None:
        """El proceso ``pid``, de los nuevos, acabó antes de que sirvieran todos: se queda lo de antes."""


class Worker:
    """Un proceso."""

    __slots__ = ("accepts", "deadline", "first", "generation", "heard", "limits", "pid", "row", "since", "state", "was")

    def __init__(self, pid: int, fork: Fork, limits: Limits, now: float) -> None:
        self.pid: int = pid
        self.limits: Limits = limits  # los de su generación, que pueden no ser los de ahora
        self.generation: int = fork.generation
        self.row: int = fork.row
        self.first: bool = fork.first
        self.state: str = STARTING
        self.was: str = STARTING  # en qué estado estaba cuando se le mató
        self.since: float = now
        self.heard: float = now
        self.accepts: bool = True  # si puede aceptar a alguien: hasta que diga que no
        self.deadline: float = 0.0  # hasta cuándo puede seguir en su estado, si está yéndose o cerrando


class Supervision:
    """La política. Se le cuenta cada cosa con su hora ``now`` (segundos de un reloj que no vuelve atrás), y después, o
    como mucho cada ``pause()`` segundos, ``step(now)`` da lo que hay que hacer.

    ``wanted``: cuántos procesos. Cuando ``exit_code`` deja de ser ``None``, se acabó.
    """

    def __init__(self, wanted: int, limits: Limits, watcher: Watcher) -> None:
        self._watcher = watcher
        self._plans = {0: _Plan(wanted=wanted, limits=limits)}  # de cada generación que sirve o quiere servir
        self._current = 0
        self._candidate: int | None = None
        self._last_generation = 0
        self._asked: _Plan | None = None  # otra recarga, pedida durante una
        self._relieved: int | None = None  # la generación a que relevan los de ahora, hasta que ninguno de ella acepte
        self._workers: dict[int, Worker] = {}
        self._failures = 0  # muertes seguidas de recién nacidos: de ellas depende lo que se espera
        self._stillborn = 0  # intentos seguidos sin que ninguno haya llegado a servir
        self._retry_at = 0.0
        self._most_retiring = MOST_RETIRING  # o dos veces los de la última tanda, que nunca está de más
        self._complete = False  # si estuvieron todos alguna vez
        self._stopping = ""  # DRAIN o CUT
        self._insistence = Insistence()
        self._code = 0  # con cuál se acabará
        self._orders: list[Action] = []
        self._looked: float | None = None
        self.exit_code: int | None = None
        """Con qué código acabar, cuando ya no queda ningún proceso; hasta entonces, ``None``."""

    @property
    def stopping(self) -> bool:
        """Si se está deteniendo."""
        return bool(self._stopping)

    @property
    def generation(self) -> int:
        """La que sirve: la 0, o lo que devolvió ``reload``."""
        return self._current

    @property
    def generations(self) -> set[int]:
        """Las que pueden necesitar otro proceso: la que sirve, la que empieza y la que vendrá después."""
        return {*self._plans, *([self._last_generation] if self._asked else [])}

    @property
    def wanted(self) -> int:
        """Cuántos deben servir."""
        return self._plans[self._current].wanted

    @property
    def serving(self) -> int:
        """Cuántos sirven."""
        return sum(worker.state == SERVING for worker in self._workers.values())

    # -- lo que pasa ----------------------------------------------------------------------------------------

    def forked(self, pid: int, fork: Fork, now: float) -> None:
        """Nació el proceso que se pidió."""
        plan = self._plans.get(fork.generation)
        worker = self._workers[pid] = Worker(pid, fork, plan.limits if plan else DEFAULT_LIMITS, now)
        if not plan:  # se abandonó después de pedirlo: no tiene nada que responder
            self._kill(worker)

    def not_forked(self, fork: Fork, now: float) -> None:
        """El sistema no da más procesos."""
        self._could_not_start(0, 0, fork.generation, now)

    def ready(self, pid: int, now: float) -> None:
        """Dice que ya sirve."""
        worker = self._workers.get(pid)
        if worker and worker.state == STARTING:
            worker.state, worker.since, worker.heard = SERVING, now, now
            self._stillborn = 0
            if self._complete and worker.generation == self._current:
                self._watcher.replaced(pid)

    def retired(self, pid: int) -> None:
        """Dice que ya no acepta, como se le ordenó."""
        if pid in self._workers:
            self._workers[pid].accepts = False

    def alive(self, pid: int, now: float) -> None:
        """Da señales de vida."""
        if pid in self._workers:
            self._workers[pid].heard = now

    def died(self, pid: int, status: int, now: float) -> None:
        """Acabó con ``status``."""
        worker = self._workers.pop(pid, None)
        if worker is None:
            return
        self._watcher.ended(worker.row)
        state = worker.was if worker.state == KILLED else worker.state
        if self._stopping:
            # A quien estaba sirviendo se le quería bien acabado; de quien no empezó, no esperaba nadie nada.
            if status != 0 and state != STARTING:
                self._code = CUT_SHORT
        elif state == STARTING or worker.generation == self._candidate:
            self._could_not_start(pid, status, worker.generation, now)
        elif state == SERVING:
            self._failures = self._failures + 1 if now - worker.since < YOUNG else 0
            delay = min(self._delay(), _LONGEST_DELAY_OF_SERVED)
            self._retry_at = now + delay
            if worker.state != KILLED:
                self._watcher.died(pid, status, delay)

    def reload(self, wanted: int, limits: Limits) -> int:
        """Que empiecen otros ``wanted`` con ``limits`` y, cuando estén, se vayan los de ahora. Devuelve el número de la
        generación nueva; si aún se está con otra, esta irá después."""
        self._last_generation += 1
        self._asked = _Plan(wanted=wanted, limits=limits)
        if self._candidate is None and self._relieved is None:
            self._next_reload()
        return self._last_generation

    def stop(self, now: float) -> None:
        """Que acaben todos, respondiendo lo que tengan; si se insiste, ya."""
        how = self._insistence.ask(now)
        if not how:
            return
        self._stopping = how
        for worker in self._workers.values():
            if worker.state != KILLED:
                self._close(worker, how)

    # -- lo que toca ----------------------------------------------------------------------------------------

    def step(self, now: float) -> list[Action]:
        """Lo que hay que hacer. De cada ``Fork`` hay que contar ``forked`` o ``not_forked`` antes de volver."""
        away = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        for worker in self._workers.values():
            if away > TURN + worker.limits.worker_timeout / 2:
                # Quien no ha mirado somos nosotros (Ctrl-Z, la máquina dormida): lo que dijera está por leer.
                worker.heard = now
            self._look_at(worker, now)
        if self._stopping:
            if not self._workers:
                self.exit_code = self._code
        else:
            self._relieve()
            self._finish_reload()
            self._thin()
            self._see_if_complete()
            self._fill(now)
        orders, self._orders = self._orders, []
        return orders

    def pause(self, now: float) -> float:
        """Segundos que se puede esperar, como mucho, hasta volver a llamar a ``step``."""
        if self._retry_at > now:
            return min(TURN, self._retry_at - now)
        return TURN

    # -- por dentro -----------------------------------------------------------------------------------------

    def _look_at(self, worker: Worker, now: float) -> None:
        if worker.state == KILLED:
            return
        leaving = worker.state in (RETIRING, CLOSING)
        if worker.state == STARTING:
            silent = now - worker.since
            hung = silent >= START_PATIENCE
        else:
            silent = now - worker.heard
            # Acabado su bucle calla, y aún puede esperar a la salida y al servicio.
            hung = silent >= max(worker.limits.worker_timeout, END_PATIENCE if leaving else 0)
        if leaving:
            if not worker.deadline:
                worker.deadline = now + self._patience(worker)
            if worker.state == RETIRING and now >= worker.deadline:
                self._close(worker, DRAIN)
                worker.deadline = now + self._patience(worker)
            hung = hung or now >= worker.deadline
        if hung:
            self._watcher.hung(worker.pid, silent, served=worker.state == SERVING)
            self._kill(worker)

    def _patience(self, worker: Worker) -> float:
        if worker.state == RETIRING:
            return worker.limits.handover or float("inf")
        return END_PATIENCE + (0 if self._stopping == CUT else worker.limits.drain)

    def _close(self, worker: Worker, how: str) -> None:
        worker.deadline = 0.0
        if worker.state == STARTING:  # no tiene nada que responder
            self._kill(worker)
        else:
            worker.state = RETIRING if how == RETIRE else CLOSING
            self._orders.append(Order(pid=worker.pid, what=how))

    def _kill(self, worker: Worker) -> None:
        worker.was, worker.state = worker.state, KILLED
        self._orders.append(Kill(pid=worker.pid))

    def _of(self, generation: int, *states: str) -> list[Worker]:
        return [one for one in self._workers.values() if one.generation == generation and one.state in states]

    def _see_if_complete(self) -> None:
        serving = len(self._of(self._current, SERVING))
        # Si alguno no puede, con los que pueden ya se sirve: quien espera a saberlo (systemd) no espera a todos.
        if not self._complete and (serving == self.wanted or (serving and self._failures)):
            self._complete = True
            self._watcher.serving()

    def _fill(self, now: float) -> None:
        rows = {worker.row for worker in self._workers.values()}
        for generation in (self._current, self._candidate):
            if generation is None or (generation == self._current and now < self._retry_at):
                continue
            living = self._of(generation, STARTING, SERVING)
            first = not any(one.first for one in living)
            begun = any(one.state == SERVING for one in living)
            allowed = self._plans[generation].wanted if begun else 1  # primero, uno
            for _ in range(allowed - len(living)):
                row = next(number for number in range(len(rows) + 1) if number not in rows)
                rows.add(row)
                self._orders.append(Fork(generation=generation, row=row, first=first))
                first = False

    def _relieve(self) -> None:
        """Si los nuevos están todos, sirven ellos, y los de antes se van."""
        new = self._candidate
        if new is None or len(self._of(new, SERVING)) < self._plans[new].wanted:
            return
        old, self._current, self._candidate = self._current, new, None
        del self._plans[old]
        relieved = self._of(old, STARTING, SERVING)
        for worker in relieved:
            self._close(worker, RETIRE)
        self._relieved = old
        self._most_retiring = max(MOST_RETIRING, 2 * len(relieved))
        self._failures, self._retry_at = 0, 0.0

    def _finish_reload(self) -> None:
        """Si ninguno de los de antes acepta ya, se dice; antes, a quien conectara le podría responder uno de ellos."""
        if self._relieved is not None and not any(one.accepts for one in self._of(self._relieved, RETIRING)):
            self._relieved = None
            self._watcher.reloaded()
            self._next_reload()

    def _thin(self) -> None:
        """Si de tanto recargar se juntan demasiados yéndose, que cierren los más antiguos."""
        retiring = [worker for worker in self._workers.values() if worker.state == RETIRING]
        for worker in retiring[: -self._most_retiring]:
            self._close(worker, DRAIN)

    def _next_reload(self) -> None:
        self._candidate = None
        if self._asked is not None:
            self._candidate, self._plans[self._last_generation] = self._last_generation, self._asked
            self._asked = None

    def _could_not_start(self, pid: int, status: int, generation: int, now: float) -> None:
        if generation == self._candidate:
            del self._plans[generation]
            for worker in self._of(generation, STARTING, SERVING):
                self._close(worker, RETIRE)
            self._watcher.reload_failed(pid, status)
            self._next_reload()
            return
        if generation != self._current:  # de una recarga que ya se abandonó
            return
        self._failures += 1
        self._stillborn += 1
        # Un código de salida es que dijo por qué no puede, y otro diría lo mismo; una señal, que algo lo mató.
        # Y si ya se pidió una recarga, quizá lo arregla.
        certain = status > 0 or self._stillborn >= MOST_FAILURES
        if certain and not self._workers and self._candidate is None:
            self._code, self._stopping = NOT_STARTED, DRAIN
            self._watcher.gave_up(self._stillborn)
            return
        delay = self._delay()
        self._retry_at = now + delay
        self._watcher.not_started(pid, status, delay)

    def _delay(self) -> float:
        return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(self._failures - 1, 30)) if self._failures else 0.0
