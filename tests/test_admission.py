"""Quién cabe: las cuentas, sin sockets."""

from __future__ import annotations

import pytest

from comunicacion_tcp.addresses import Peer
from comunicacion_tcp.admission import Admission, network
from comunicacion_tcp.errors import AddressFull, ServerFull
from comunicacion_tcp.limits import Limits

HERE: Peer = ("192.0.2.1", 1)
THERE: Peer = ("192.0.2.2", 1)


class Visitor:
    def __init__(self, peer: Peer = HERE) -> None:
        self.peer = peer


def admission(**limits: int) -> Admission[Visitor]:
    return Admission(Limits(**limits))


def test_it_admits_as_many_as_fit() -> None:
    room = admission(max_connections=2)
    first, second = Visitor(), Visitor()
    for visitor in (first, second):
        assert room.why_not(visitor.peer) is None
        room.enter(visitor, None)
    assert isinstance(room.why_not(THERE), ServerFull)
    assert room.leave(first)
    assert room.why_not(THERE) is None


def test_one_that_leaves_twice_is_counted_once() -> None:
    room, visitor = admission(), Visitor()
    room.enter(visitor, None)
    assert [room.leave(visitor), room.leave(visitor), room.admitted] == [True, False, 0]


def test_the_refused_take_no_place_and_keep_their_reason() -> None:
    room, visitor, why = admission(max_connections=1), Visitor(), ServerFull()
    room.enter(visitor, why)
    assert (room.admitted, len(room), visitor in room, room.refusal(visitor)) == (0, 1, True, why)
    assert room.why_not(HERE) is None
    assert not room.leave(visitor)
    assert not room


@pytest.mark.parametrize(
    ("descriptors", "reserve", "most"),
    [
        (1000, 4, 2),
        (1000, 5, 2),  # la mitad de lo reservado
        (40, 32, 10),  # o de lo que quede, si es menos
    ],
)
def test_too_many_refused_at_once_are_not_waited_for(descriptors: int, reserve: int, most: int) -> None:
    room = admission(max_connections=20, reserve=reserve)
    assert room.overwhelmed  # sin saber cuántos caben, a nadie
    room.fit(descriptors)
    refused = [Visitor() for _ in range(most)]
    for visitor in refused:
        assert not room.overwhelmed
        room.enter(visitor, ServerFull())
    assert room.overwhelmed
    room.leave(refused[0])
    assert not room.overwhelmed


def test_those_inside_are_not_refused_ones() -> None:
    room = admission(max_connections=10, reserve=4)
    room.fit(1000)
    for _ in range(10):
        room.enter(Visitor(), None)
    assert not room.overwhelmed


@pytest.mark.parametrize(("descriptors", "capacity"), [(20_000, 10_000), (100, 68), (41, 20), (1, 1), (0, 1)], ids=str)
def test_as_many_fit_as_descriptors_there_are(descriptors: int, capacity: int) -> None:
    room = admission()
    room.fit(descriptors)
    assert room.capacity == capacity


def test_each_address_has_its_own_count() -> None:
    room = admission(max_per_address=1)
    visitor, heir = Visitor(), Visitor()
    room.enter(visitor, None)
    assert isinstance(room.why_not(HERE), AddressFull)
    assert room.why_not(THERE) is None
    room.replace(visitor, heir)
    assert isinstance(room.why_not(HERE), AddressFull)
    assert list(room) == [heir]
    assert room.leave(heir)
    assert room.why_not(HERE) is None
    assert not room._from  # la tabla no crece con quien ya se fue


def test_one_that_has_not_said_who_it_is_takes_a_place_of_no_address() -> None:
    room = admission(max_per_address=1, max_connections=3)
    stranger, heir = Visitor(HERE), Visitor(THERE)
    room.enter(stranger, None, somebodys=False)
    assert room.address_full(HERE) is None
    assert room.identify(stranger, heir) is None
    assert isinstance(room.address_full(THERE), AddressFull)
    another, late = Visitor(HERE), Visitor(THERE)
    room.enter(another, None, somebodys=False)
    room.enter(other := Visitor(("192.0.2.3", 1)), None)
    assert room.full()
    why = room.identify(another, late)
    assert isinstance(why, AddressFull)
    assert (room.refusal(late), room.admitted) == (why, 2)  # deja el sitio
    assert [room.leave(late), room.leave(heir), room.leave(other)] == [False, True, True]
    assert not room._from


def test_one_that_is_nobodys_can_go_on_being_so() -> None:
    room = admission(max_per_address=1)
    stranger, heir = Visitor(), Visitor()
    room.enter(stranger, None, somebodys=False)
    room.replace(stranger, heir)
    assert room.address_full(HERE) is None
    assert room.leave(heir)
    assert not room._nobodys
    assert not room._from


def test_one_refused_before_saying_who_it_is_goes_on_refused() -> None:
    room = admission(max_connections=1)
    stranger, heir, why = Visitor(HERE), Visitor(THERE), ServerFull()
    room.enter(stranger, why, somebodys=False)
    assert room.identify(stranger, heir) is None
    assert (room.refusal(heir), room.admitted) == (why, 0)
    assert not room.leave(heir)


def test_the_addresses_of_one_ipv6_network_count_together() -> None:
    same = {network((host, 1)) for host in ("2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::")}
    assert len(same) == 1
    assert network(("2001:db8:0:1::1", 1)) not in same
    assert network(("fe80::1%eth0", 1)) == network(("fe80::2", 1))
    assert network(HERE) != network(THERE)


def test_those_of_this_machine_are_not_counted() -> None:
    room = admission(max_per_address=1)
    room.enter(Visitor(("unix:/tmp/s", 1)), None)
    assert room.why_not(("unix:/tmp/s", 1)) is None
