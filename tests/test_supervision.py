"""La política de los procesos, sin procesos ni reloj: se le cuenta lo que pasa y se mira qué pide."""

from __future__ import annotations

import random

import pytest

from comunicacion_tcp.limits import MIN_WORKER_TIMEOUT, Limits
from comunicacion_tcp.supervision import (
    CUT,
    CUT_SHORT,
    DRAIN,
    END_PATIENCE,
    MOST_FAILURES,
    MOST_RETIRING,
    RETIRE,
    START_PATIENCE,
    TOGETHER,
    TURN,
    YOUNG,
    Fork,
    Kill,
    Order,
    Supervision,
    Watcher,
)

LIMITS = Limits()
KILLED, REFUSED = -9, 1  # con qué acaba un proceso: una señal, o un código


class Notes(Watcher):
    """Lo contado, en orden. ``causes``: cómo acabó cada uno, que es lo que se dirá a una persona."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.causes: list[tuple[object, ...]] = []
        self.rows: list[int] = []  # las que dejan

    def serving(self) -> None:
        self.told.append(("serving",))

    def replaced(self, pid: int) -> None:
        self.told.append(("replaced", pid))

    def ended(self, row: int) -> None:
        self.rows.append(row)

    def died(self, pid: int, status: int, delay: float) -> None:
        self.told.append(("died", pid, delay))
        self.causes.append(("died", status))

    def hung(self, pid: int, seconds: float, *, served: bool) -> None:
        self.told.append(("hung", pid))
        self.causes.append(("hung", seconds, served))

    def not_started(self, pid: int, status: int, delay: float) -> None:
        self.told.append(("not_started", pid, delay))
        self.causes.append(("not_started", status))

    def gave_up(self, failures: int) -> None:
        self.told.append(("gave_up", failures))

    def reloaded(self) -> None:
        self.told.append(("reloaded",))

    def reload_failed(self, pid: int, status: int) -> None:
        self.told.append(("reload_failed", pid))
        self.causes.append(("reload_failed", status))


class Drill:
    """Una ``Supervision`` con procesos de mentira: nacen cuando los pide, y mueren si los mata."""

    def __init__(self, wanted: int = 3, limits: Limits = LIMITS, *, ready: bool = True) -> None:
        self.notes = Notes()
        self.supervision = Supervision(wanted, limits, self.notes)
        self.now = 100.0
        self.obedient = True  # si dejan de aceptar en cuanto se les dice
        self.at_once = ready  # si cada uno sirve en cuanto nace
        self.born: dict[int, Fork] = {}
        self.orders: list[tuple[int, str]] = []
        self._next = 1
        self._looks = 0
        self.turn()

    def turn(self, seconds: float = 0.0, *, beating: bool = True) -> None:
        """Pasan ``seconds``, de segundo en segundo como mucho, y se hace lo que pida."""
        end = self.now + seconds
        while True:
            self._looks += 1
            assert self._looks < 50_000, "no acaba"  # las que más, unas diez mil
            if beating:
                for pid in self.born:
                    self.supervision.alive(pid, self.now)
            actions = self.supervision.step(self.now)
            for action in actions:
                self._do(action)
            if actions:
                continue  # lo que se hizo puede pedir más, ya
            if self.now >= end:
                return
            self.now = min(end, self.now + self.supervision.pause(self.now))

    def _do(self, action: object) -> None:
        if isinstance(action, Fork):
            pid, self._next = self._next, self._next + 1
            assert action.row not in {fork.row for fork in self.born.values()}, "dos con la misma fila"
            self.born[pid] = action
            self.supervision.forked(pid, action, self.now)
            if self.at_once:
                self.supervision.ready(pid, self.now)
        elif isinstance(action, Kill):
            self.end(action.pid, KILLED)
        elif isinstance(action, Order):
            self.orders.append((action.pid, action.what))
            if action.what == RETIRE and self.obedient:
                self.supervision.retired(action.pid)

    def end(self, pid: int, status: int = 0) -> None:
        del self.born[pid]
        self.supervision.died(pid, status, self.now)

    def begin_reload(self, wanted: int) -> int:
        """Se pide una recarga, y desde ahora nadie sirve hasta que se diga. Devuelve la generación."""
        self.at_once = False
        number = self.supervision.reload(wanted, LIMITS)
        self.turn()
        return number

    def take_orders(self) -> list[tuple[int, str]]:
        orders, self.orders = self.orders, []
        return orders


# -- empezar ------------------------------------------------------------------------------------------------


def test_the_first_goes_alone_and_the_others_when_it_serves() -> None:
    drill = Drill(3, ready=False)
    assert list(drill.born) == [1]
    assert drill.born[1].first
    drill.supervision.ready(1, drill.now)
    drill.turn()
    assert [(fork.row, fork.first) for fork in drill.born.values()] == [(0, True), (1, False), (2, False)]
    assert drill.notes.told == []
    for pid in (2, 3):
        drill.supervision.ready(pid, drill.now)
    drill.turn()
    assert drill.notes.told == [("serving",)]
    assert drill.supervision.serving == 3


def test_one_that_says_why_it_cannot_start_is_believed() -> None:
    drill = Drill(ready=False)
    drill.end(1, REFUSED)
    drill.turn(60)
    assert drill.notes.told == [("gave_up", 1)]
    assert drill.supervision.exit_code == 1
    assert not drill.born


def test_one_that_cannot_start_is_not_the_end_if_a_reload_was_asked() -> None:
    drill = Drill(1, ready=False)
    drill.supervision.reload(1, LIMITS)
    drill.at_once = True
    drill.end(1, REFUSED)
    drill.turn()
    assert drill.notes.told == [("not_started", 1, 0.1), ("reloaded",), ("serving",)]


def test_one_killed_while_starting_is_tried_again_ever_later_and_then_no_more() -> None:
    drill = Drill(ready=False)
    pid, since = 1, drill.now
    while drill.born:
        drill.end(pid, KILLED)
        pid += 1
        while not drill.born and drill.supervision.exit_code is None:
            drill.turn(0.05)
    delays = [0.1, 0.2, 0.4, 0.8]
    assert [told[2] for told in drill.notes.told if told[0] == "not_started"] == delays
    assert drill.notes.told[-1] == ("gave_up", MOST_FAILURES)
    assert drill.supervision.exit_code == 1
    assert drill.now - since >= sum(delays)


def test_one_that_takes_too_long_to_start_counts_as_one_that_cannot() -> None:
    drill = Drill(ready=False)
    drill.turn(START_PATIENCE - 1, beating=False)
    assert 1 in drill.born
    drill.turn(1, beating=False)
    assert drill.notes.told[:2] == [("hung", 1), ("not_started", 1, 0.1)]
    assert drill.notes.causes == [("hung", START_PATIENCE, False), ("not_started", KILLED)]


def test_the_system_gives_no_more_processes() -> None:
    notes = Notes()
    supervision = Supervision(1, LIMITS, notes)
    now = 0.0
    asked = []
    while supervision.exit_code is None and now < 60:
        for action in supervision.step(now):
            assert isinstance(action, Fork)
            asked.append(now)
            supervision.not_forked(action, now)
        now += supervision.pause(now)
    assert asked == pytest.approx([0, 0.1, 0.3, 0.7, 1.5])
    # Ni proceso ni código de salida hay.
    assert notes.told == [*(("not_started", 0, delay) for delay in (0.1, 0.2, 0.4, 0.8)), ("gave_up", MOST_FAILURES)]
    assert set(notes.causes) == {("not_started", 0)}


# -- morir --------------------------------------------------------------------------------------------------


def test_one_that_dies_is_replaced_at_once_in_its_row() -> None:
    drill = Drill()
    drill.turn(30)
    drill.end(2, KILLED)
    drill.turn()
    assert drill.born[4] == Fork(generation=0, row=1, first=False)
    assert drill.notes.told == [("serving",), ("died", 2, 0), ("replaced", 4)]
    assert (drill.notes.causes, drill.notes.rows) == ([("died", KILLED)], [1])


def test_there_is_always_a_first_and_only_one() -> None:
    drill = Drill()
    drill.turn(30)
    drill.end(1, KILLED)
    drill.end(3, KILLED)
    drill.turn()
    assert [(pid, fork.first) for pid, fork in drill.born.items()] == [(2, False), (4, True), (5, False)]


def test_when_all_die_at_once_one_goes_first_again() -> None:
    drill = Drill()
    drill.turn(30)
    for pid in (1, 2, 3):
        drill.end(pid, KILLED)
    drill.at_once = False
    drill.turn()
    assert list(drill.born) == [4]
    drill.supervision.ready(4, drill.now)
    drill.turn()
    assert list(drill.born) == [4, 5, 6]


def test_those_that_die_newborn_are_replaced_ever_later_and_never_given_up_while_another_serves() -> None:
    drill = Drill(2)
    births = []
    for _ in range(20):
        pid = max(drill.born)
        drill.end(pid, KILLED)
        died = drill.now
        while max(drill.born) < pid:
            drill.turn(0.05)
        births.append(drill.now - died)
    assert births == sorted(births)
    # Con un techo bajo: a los que llegan a servir los puede estar matando un cliente.
    assert 0.9 < births[-1] <= 1.1
    assert drill.supervision.serving == 2


def test_a_replacement_that_cannot_start_is_tried_again_while_another_serves() -> None:
    drill = Drill(2)
    drill.turn(30)
    drill.at_once = False
    drill.end(1, KILLED)
    drill.turn()
    for _ in range(2 * MOST_FAILURES):
        (pid,) = drill.born.keys() - {2}
        drill.end(pid, REFUSED)
        drill.turn(31)
    assert drill.supervision.exit_code is None
    assert ("gave_up", MOST_FAILURES) not in drill.notes.told


def test_many_that_die_newborn_are_not_one_that_cannot_start() -> None:
    drill = Drill(2 * MOST_FAILURES)
    for pid in list(drill.born):
        drill.end(pid, KILLED)
    drill.at_once = False
    while not drill.born:
        drill.turn(1)
    drill.end(max(drill.born), KILLED)
    drill.turn(31)
    assert drill.born
    assert drill.supervision.exit_code is None


def test_failures_to_start_are_counted_since_the_last_that_served() -> None:
    drill = Drill(1)
    for _ in range(2 * MOST_FAILURES):
        drill.turn(30)
        drill.at_once = False
        drill.end(max(drill.born), KILLED)  # servía
        drill.turn(1)
        drill.end(max(drill.born), KILLED)  # empezaba
        drill.at_once = True
        drill.turn(31)
        assert drill.supervision.serving == 1
    assert drill.supervision.exit_code is None
    drill.turn(30)
    drill.at_once = False
    drill.end(max(drill.born), KILLED)
    for failures in range(MOST_FAILURES):
        assert drill.supervision.exit_code is None, failures
        drill.turn(31)
        drill.end(max(drill.born), KILLED)
    drill.turn()
    assert drill.supervision.exit_code == 1


def test_each_that_dies_young_waits_twice_what_the_one_before() -> None:
    drill = Drill(1)
    for _ in range(4):
        drill.end(max(drill.born), KILLED)
        drill.turn(0.8)  # lo que más se espera; y el nuevo, aún joven
    drill.turn(1)
    drill.end(max(drill.born), KILLED)  # llevaba ya un segundo
    assert [told[2] for told in drill.notes.told if told[0] == "died"] == [0.1, 0.2, 0.4, 0.8, 0]


def test_who_served_just_what_it_takes_is_not_young() -> None:
    drill = Drill(1)
    drill.turn(YOUNG)
    drill.end(1, KILLED)
    assert drill.notes.told[-1] == ("died", 1, 0)


def test_it_is_looked_at_when_the_next_try_is_due_and_every_second() -> None:
    drill = Drill(1, ready=False)
    assert drill.supervision.pause(drill.now) == TURN
    for delay in (0.1, 0.2, 0.4, 0.8):
        drill.end(max(drill.born), KILLED)
        assert drill.supervision.pause(drill.now) == pytest.approx(delay)
        drill.turn(delay)
    drill = Drill(2)
    drill.turn(30)
    drill.at_once = False
    drill.end(1, KILLED)
    for _ in range(8):
        drill.turn(31)
        drill.end(max(drill.born), REFUSED)
    assert drill.supervision.pause(drill.now) == TURN  # aunque falte más para el siguiente


def test_one_that_cannot_start_is_tried_again_ever_later_up_to_a_point() -> None:
    drill = Drill(2)
    drill.turn(30)
    drill.at_once = False
    drill.end(1, KILLED)
    for _ in range(12):
        drill.turn(31)
        (pid,) = drill.born.keys() - {2}
        drill.end(pid, REFUSED)
    delays = [told[2] for told in drill.notes.told if told[0] == "not_started"]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 30


def test_if_some_cannot_start_those_that_can_are_enough_to_say_it_serves() -> None:
    drill = Drill(3, ready=False)
    drill.supervision.ready(1, drill.now)
    drill.turn()
    drill.end(2, REFUSED)
    drill.turn()
    assert drill.notes.told == [("not_started", 2, 0.1), ("serving",)]
    drill.at_once = True
    drill.supervision.ready(3, drill.now)
    drill.turn(31)
    assert drill.notes.told[2:] == [("replaced", 3), ("replaced", 4)]


def test_a_long_life_forgives_past_failures() -> None:
    drill = Drill(1)
    for pid in (1, 2, 3):
        drill.end(pid, KILLED)
        drill.turn(2)
    drill.turn(60)
    drill.end(4, KILLED)
    drill.turn()
    assert 5 in drill.born


# -- callar -------------------------------------------------------------------------------------------------


def test_one_that_gives_no_sign_of_life_is_killed_and_replaced() -> None:
    drill = Drill(2)
    since = drill.now
    while 1 in drill.born:
        drill.supervision.alive(2, drill.now)
        drill.turn(1, beating=False)
    assert LIMITS.worker_timeout <= drill.now - since <= LIMITS.worker_timeout + 2
    assert drill.notes.told == [("serving",), ("hung", 1), ("replaced", 3)]
    assert drill.notes.causes == [("hung", drill.now - since, True)]
    assert sorted(drill.born) == [2, 3]


def test_one_that_serves_may_be_silent_only_as_long_as_its_limit_says() -> None:
    drill = Drill(1, Limits(worker_timeout=MIN_WORKER_TIMEOUT))
    drill.turn(MIN_WORKER_TIMEOUT / 2, beating=False)
    assert 1 in drill.born
    drill.turn(MIN_WORKER_TIMEOUT / 2, beating=False)
    assert 1 not in drill.born


def test_if_it_was_us_who_slept_nobody_is_blamed() -> None:
    drill = Drill(2)
    drill.now += 3600
    drill.turn(2, beating=False)
    assert drill.notes.told == [("serving",)]
    drill.turn(LIMITS.worker_timeout, beating=False)
    assert ("hung", 1) in drill.notes.told  # desde que despertamos, sí


@pytest.mark.parametrize(("away", "blamed"), [(5, True), (6, True), (6.5, False)])
def test_we_slept_if_we_took_half_of_its_limit_more_than_a_turn(away: float, blamed: bool) -> None:
    drill = Drill(1, Limits(worker_timeout=10))
    drill.now += away
    drill.turn(9.5 if not blamed else 10 - away, beating=False)
    assert (1 not in drill.born) == blamed


def test_one_that_is_going_away_and_hangs_is_killed_too() -> None:
    drill = Drill(1)
    drill.supervision.reload(1, LIMITS)
    drill.turn()
    assert drill.take_orders() == [(1, RETIRE)]
    for _ in range(int(LIMITS.worker_timeout) + 1):
        drill.supervision.alive(2, drill.now)
        drill.turn(1, beating=False)
    assert list(drill.born) == [2]


@pytest.mark.parametrize("leave", ["retire", "stop"])
def test_one_that_is_ending_may_be_silent_as_long_as_ending_takes(leave: str) -> None:
    # Acabado su bucle ya no da señales, y aún espera a la salida y a lo que dejó el servicio.
    quick = Limits(worker_timeout=MIN_WORKER_TIMEOUT)
    drill = Drill(1, quick)
    if leave == "stop":
        drill.supervision.stop(drill.now)
    else:
        drill.supervision.reload(1, quick)
    drill.turn()
    for _ in range(int(END_PATIENCE) - 1):
        drill.supervision.alive(2, drill.now)
        drill.turn(1, beating=False)
    assert 1 in drill.born
    drill.turn(2, beating=False)
    assert 1 not in drill.born


# -- recargar -----------------------------------------------------------------------------------------------


def test_a_reload_brings_all_the_new_before_retiring_any_of_the_old() -> None:
    drill = Drill(3)
    number = drill.begin_reload(2)
    assert drill.born[4] == Fork(generation=number, row=3, first=True)
    drill.supervision.ready(4, drill.now)
    drill.turn()
    assert drill.take_orders() == []
    assert sorted(drill.born) == [1, 2, 3, 4, 5]
    drill.supervision.ready(5, drill.now)
    drill.turn()
    assert drill.take_orders() == [(1, RETIRE), (2, RETIRE), (3, RETIRE)]
    assert drill.notes.told == [("serving",), ("reloaded",)]
    assert drill.supervision.generations == {number}  # de la de antes no nacerá nadie, y no se guarda
    for pid in (1, 2, 3):
        drill.end(pid)
    drill.turn(30)
    assert sorted(drill.born) == [4, 5]


def test_it_is_not_reloaded_while_any_of_the_old_may_accept() -> None:
    drill = Drill(3)
    drill.obedient = False
    drill.supervision.reload(1, LIMITS)
    drill.supervision.reload(2, LIMITS)  # detrás de la otra
    drill.turn()
    assert drill.take_orders() == [(1, RETIRE), (2, RETIRE), (3, RETIRE)]
    drill.supervision.retired(1)
    drill.end(2, KILLED)
    drill.turn(1)
    assert ("reloaded",) not in drill.notes.told
    assert sorted(drill.born) == [1, 3, 4]
    drill.supervision.retired(3)
    drill.obedient = True
    drill.turn(1)
    assert drill.notes.told.count(("reloaded",)) == 2


def test_if_nobody_is_left_to_relieve_it_is_reloaded_too() -> None:
    drill = Drill(1)
    drill.turn(30)
    drill.begin_reload(1)
    drill.supervision.ready(2, drill.now)
    drill.end(1, KILLED)
    drill.turn()
    assert [told[0] for told in drill.notes.told] == ["serving", "died", "reloaded"]


def test_one_of_the_old_that_does_not_obey_does_not_hold_the_reload_for_ever() -> None:
    drill = Drill(1)
    drill.obedient = False
    drill.supervision.reload(1, LIMITS)
    drill.turn()
    for _ in range(int(LIMITS.worker_timeout) + 2):
        drill.supervision.alive(2, drill.now)
        drill.turn(1, beating=False)
    assert drill.notes.told == [("serving",), ("hung", 1), ("reloaded",)]


def test_who_is_going_away_has_its_time_and_then_that_of_closing() -> None:
    limits = Limits(handover=50, drain=20)
    drill = Drill(1, limits)
    drill.supervision.reload(1, limits)
    drill.turn(49)
    assert drill.take_orders() == [(1, RETIRE)]
    drill.turn(1)
    assert drill.take_orders() == [(1, DRAIN)]
    drill.turn(20 + END_PATIENCE - 1)
    assert sorted(drill.born) == [1, 2]
    drill.turn(1)
    assert (list(drill.born), drill.take_orders()) == ([2], [])
    assert drill.notes.causes[-1][2] is False  # no servía: no se pondrá otro


def test_after_a_reload_past_failures_are_forgotten() -> None:
    drill = Drill(1)
    for pid in (1, 2, 3):
        drill.end(pid, KILLED)
        drill.turn(0.8)
    drill.supervision.reload(1, LIMITS)
    drill.turn()
    drill.end(max(drill.born), KILLED)
    assert [told[2] for told in drill.notes.told if told[0] == "died"] == [0.1, 0.2, 0.4, 0.1]


def test_two_batches_may_be_going_away_at_once_and_the_third_closes_the_first() -> None:
    many = MOST_RETIRING // 2 + 8
    drill = Drill(many)
    for _ in range(3):
        assert DRAIN not in [what for _, what in drill.take_orders()]
        drill.supervision.reload(many, LIMITS)
        drill.turn()
    closed = [pid for pid, what in drill.take_orders() if what == DRAIN]
    assert closed == list(range(1, many + 1))


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_reload_that_cannot_start_keeps_the_old(which: str) -> None:
    drill = Drill(2)
    drill.begin_reload(2)
    if which == "second":
        drill.supervision.ready(3, drill.now)
        drill.turn()
    drill.end(max(drill.born), REFUSED)
    drill.turn()
    if which == "second":
        assert drill.take_orders() == [(3, RETIRE)]  # puede que ya hable con alguien
        drill.end(3)
    drill.turn(30)
    assert sorted(drill.born) == [1, 2]
    assert drill.take_orders() == []
    assert [told[0] for told in drill.notes.told] == ["serving", "reload_failed"]
    assert drill.notes.causes == [("reload_failed", REFUSED)]
    assert drill.supervision.generations == {0}


def test_a_new_one_that_serves_and_dies_before_the_others_serve_keeps_the_old() -> None:
    drill = Drill(2)
    drill.turn(30)
    drill.begin_reload(3)
    drill.supervision.ready(3, drill.now)
    drill.turn()
    drill.end(3, REFUSED)
    drill.turn(30)
    assert sorted(drill.born) == [1, 2]
    assert drill.notes.told == [("serving",), ("reload_failed", 3)]


def test_each_one_lives_with_the_deadlines_it_was_born_with() -> None:
    drill = Drill(1, Limits(drain=1))
    drill.supervision.reload(1, Limits(worker_timeout=50, drain=100))
    drill.turn()
    drill.turn(END_PATIENCE + 10)
    assert drill.take_orders() == [(1, RETIRE)]
    drill.turn(49, beating=False)
    assert 2 in drill.born
    drill.supervision.stop(drill.now)
    drill.turn(END_PATIENCE + 99)
    assert 2 in drill.born
    drill.turn(2)
    assert drill.supervision.exit_code == CUT_SHORT


def test_it_says_which_generations_may_need_another_process() -> None:
    drill = Drill(1)
    assert drill.supervision.generations == {0}
    drill.at_once = False
    for _ in range(3):
        last = drill.supervision.reload(1, LIMITS)
    drill.turn()
    assert drill.supervision.generations == {0, 1, last}
    drill.end(2, REFUSED)
    assert drill.supervision.generations == {0, last}


def test_an_old_one_that_dies_during_a_reload_is_replaced() -> None:
    drill = Drill(2)
    drill.turn(30)
    drill.begin_reload(2)
    drill.end(1, KILLED)
    drill.turn()
    assert drill.born[4].generation == 0


def test_reloads_asked_during_one_are_only_one_more() -> None:
    drill = Drill(2)
    drill.at_once = False
    for _ in range(50):
        drill.supervision.reload(2, LIMITS)
        drill.turn()
    assert len(drill.born) == 3
    drill.at_once = True
    drill.supervision.ready(3, drill.now)
    drill.turn()
    assert [fork.generation for fork in drill.born.values()] == [0, 0, 1, 1, 50, 50]
    assert sorted(drill.take_orders()) == [(1, RETIRE), (2, RETIRE), (3, RETIRE), (4, RETIRE)]


def test_who_never_ends_its_conversations_is_drained_and_then_killed() -> None:
    drill = Drill(1)
    drill.supervision.reload(1, LIMITS)
    drill.turn()
    assert drill.take_orders() == [(1, RETIRE)]
    drill.turn(LIMITS.handover - 2)
    assert drill.take_orders() == []
    drill.turn(4)
    assert drill.take_orders() == [(1, DRAIN)]
    drill.turn(LIMITS.drain + END_PATIENCE + 2)
    assert list(drill.born) == [2]


def test_without_a_deadline_the_old_stay_as_long_as_they_need() -> None:
    drill = Drill(1, Limits(handover=0))
    drill.supervision.reload(1, LIMITS)
    drill.turn(10_000)
    assert drill.take_orders() == [(1, RETIRE)]
    assert list(drill.born) == [1, 2]


def test_those_going_away_are_not_ever_more() -> None:
    drill = Drill(4, Limits(handover=0))
    for _ in range(MOST_RETIRING):
        drill.supervision.reload(4, Limits(handover=0))
        drill.turn()
        for pid, what in drill.take_orders():
            if what == DRAIN:
                drill.end(pid)
        drill.turn()
    assert len(drill.born) == 4 + MOST_RETIRING
    assert min(drill.born) == 4 * MOST_RETIRING - MOST_RETIRING + 1  # se van antes los más antiguos


def test_one_reload_from_many_to_few_says_goodbye_to_nobody() -> None:
    drill = Drill(2 * MOST_RETIRING)
    drill.supervision.reload(4, LIMITS)
    drill.turn(10)
    assert {what for _, what in drill.take_orders()} == {RETIRE}


def test_one_of_the_old_that_ends_badly_is_nobodys_failure() -> None:
    drill = Drill(1)
    drill.supervision.reload(1, LIMITS)
    drill.turn()
    drill.end(1, REFUSED)
    drill.turn(30)
    assert list(drill.born) == [2]
    assert drill.notes.told == [("serving",), ("reloaded",)]


# -- detenerse ----------------------------------------------------------------------------------------------


def test_stopping_drains_them_all_and_ends_well() -> None:
    drill = Drill(2)
    assert not drill.supervision.stopping
    drill.supervision.stop(drill.now)
    assert drill.supervision.stopping
    drill.turn()
    assert drill.take_orders() == [(1, DRAIN), (2, DRAIN)]
    assert drill.supervision.exit_code is None
    for pid in (1, 2):
        drill.end(pid)
    drill.turn()
    assert drill.supervision.exit_code == 0
    assert not drill.born


def test_stopping_twice_cuts_them_all() -> None:
    drill = Drill(2)
    drill.supervision.stop(drill.now)
    drill.turn()
    drill.take_orders()
    drill.now += TOGETHER
    drill.supervision.stop(drill.now)
    drill.turn()
    assert drill.take_orders() == [(1, CUT), (2, CUT)]
    drill.turn(END_PATIENCE - 1)
    assert len(drill.born) == 2
    drill.turn(1)
    assert not drill.born
    assert drill.supervision.exit_code == CUT_SHORT


def test_two_stops_together_are_one() -> None:
    drill = Drill(2)
    for _ in range(3):
        drill.supervision.stop(drill.now)
        drill.now += TOGETHER / 4
    drill.turn()
    assert drill.take_orders() == [(1, DRAIN), (2, DRAIN)]


def test_who_does_not_stop_in_time_is_killed() -> None:
    drill = Drill(2)
    drill.supervision.stop(drill.now)
    drill.turn()
    drill.end(1)
    drill.turn(LIMITS.drain + END_PATIENCE + 2)
    assert not drill.born
    assert drill.supervision.exit_code == CUT_SHORT


def test_who_was_still_starting_has_nothing_to_deliver() -> None:
    drill = Drill(2, ready=False)
    drill.supervision.stop(drill.now)
    drill.turn()
    assert not drill.born
    assert drill.supervision.exit_code == 0


def test_one_cut_short_while_stopping_is_told_in_the_code() -> None:
    drill = Drill(1)
    drill.supervision.stop(drill.now)
    drill.turn()
    drill.end(1, REFUSED)
    drill.turn()
    assert drill.supervision.exit_code == CUT_SHORT


def test_a_stranger_that_dies_is_nobody() -> None:
    drill = Drill(1)
    drill.supervision.died(999, KILLED, drill.now)
    drill.supervision.alive(999, drill.now)
    drill.supervision.ready(999, drill.now)
    drill.turn(10)
    assert list(drill.born) == [1]


# -- lo que sea ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_it_ends_with_those_wanted_and_stops_with_none(seed: int) -> None:
    dice = random.Random(seed)
    drill = Drill(3)
    for _ in range(200):
        what = dice.choice(["wait", "kill", "kill", "reload", "slow", "quick", "ready", "silence"])
        if what == "kill" and drill.born:
            drill.end(dice.choice(list(drill.born)), dice.choice([KILLED, REFUSED, 0]))
        elif what == "reload":
            drill.supervision.reload(3, LIMITS)
        elif what in ("slow", "quick"):
            drill.at_once = what == "quick"
        elif what == "ready":
            for pid in drill.born:
                drill.supervision.ready(pid, drill.now)
        drill.turn(dice.choice([0, 0.1, 3, 20]), beating=what != "silence")
        assert len({fork.row for fork in drill.born.values()}) == len(drill.born)
        if drill.supervision.exit_code is not None:
            assert drill.notes.told[-1][0] == "gave_up"
            return
    drill.at_once = True
    for pid in drill.born:
        drill.supervision.ready(pid, drill.now)
    drill.turn(LIMITS.handover + 100)
    if drill.supervision.exit_code is None:
        assert drill.supervision.serving == 3
        drill.supervision.stop(drill.now)
        drill.turn(60)
    assert drill.supervision.exit_code is not None
    assert not drill.born
