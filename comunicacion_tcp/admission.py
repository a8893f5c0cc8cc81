"""``Admission``: quién está dentro, quién cabe y por qué no. Puro: no sabe de sockets ni de bucles.

Aquí no se le dice nada a nadie: eso lo hace ``connection.py``.
"""

from __future__ import annotations

import socket
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

from .addresses import Peer, unix_path
from .errors import AddressFull, Refusal, ServerFull
from .limits import Limits


class Member(Hashable, Protocol):
    """Lo que se admite: algo que dice de quién viene."""

    @property
    def peer(self) -> Peer: ...


AnyMember = TypeVar("AnyMember", bound=Member)


class Admission(Generic[AnyMember]):
    """Las conexiones de un servidor, y las cuentas de cuántas admite en total y desde cada dirección.

    Las rechazadas están también, con su razón, mientras se les dice que no; pero no cuentan.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._members: dict[AnyMember, Refusal | None] = {}
        self._from: dict[object, int] = {}  # cuántas desde cada dirección, si se limitan
        self._nobodys: set[AnyMember] = set()  # las que no cuentan para ninguna
        self._most_refused = 0  # rechazadas a la vez a las que se espera
        self.capacity: int = limits.max_connections
        """Cuántas caben."""
        self.admitted: int = 0
        """Cuántas hay, sin contar las rechazadas."""

    def __iter__(self) -> Iterator[AnyMember]:
        return iter(list(self._members))

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: AnyMember) -> bool:
        return member in self._members

    def fit(self, descriptors: int) -> None:
        """Que quepan en ``descriptors``, los que puede abrir aún el proceso."""
        most, reserve = self._limits.max_connections, self._limits.reserve
        self.capacity = min(most, max(1, descriptors - reserve, descriptors // 2))
        self._most_refused = min(reserve, descriptors - self.capacity) // 2  # la otra mitad, para lo demás

    def why_not(self, peer: Peer) -> Refusal | None:
        """Por qué no se admite a ``peer``; ``None`` si cabe."""
        return self.full() or self.address_full(peer)

    def full(self) -> Refusal | None:
        """Si no cabe nadie más, la razón."""
        return ServerFull() if self.admitted >= self.capacity else None

    def address_full(self, peer: Peer) -> Refusal | None:
        """Si no cabe nadie más desde donde viene ``peer``, la razón."""
        most = self._limits.max_per_address
        if most and self._from.get(network(peer), 0) >= most:
            return AddressFull()
        return None

    @property
    def overwhelmed(self) -> bool:
        """Si hay ya bastantes rechazadas despidiéndose: a las demás se les cierra en el acto."""
        return len(self._members) - self.admitted >= self._most_refused

    def enter(self, member: AnyMember, refusal: Refusal | None, *, somebodys: bool = True) -> None:
        """Entra ``member``, quizá solo para que se le diga ``refusal``. ``somebodys``: si cuenta para su dirección."""
        self._members[member] = refusal
        if not refusal:
            self.admitted += 1
            if somebodys:
                self._count(member.peer, 1)
            else:
                self._nobodys.add(member)

    def refusal(self, member: AnyMember) -> Refusal | None:
        """Por qué no se atiende a ``member``, si no se la atiende."""
        return self._members.get(member)

    def replace(self, member: AnyMember, other: AnyMember) -> None:
        """``other`` ocupa el sitio de ``member``, que es del mismo cliente."""
        self._members[other] = self._members.pop(member)
        if member in self._nobodys:
            self._nobodys.remove(member)
            self._nobodys.add(other)

    def identify(self, member: AnyMember, other: AnyMember) -> Refusal | None:
        """Como ``replace``, de uno que no contaba para ninguna dirección: ya se sabe que es de la de ``other``. Si
        desde ella no cabe nadie más, queda solo para que se le diga: devuelve la razón."""
        self.replace(member, other)
        if other not in self._nobodys:
            return None  # ya estaba rechazado
        self._nobodys.remove(other)
        refusal = self._members[other] = self.address_full(other.peer)
        if refusal:
            self.admitted -= 1
        else:
            self._count(other.peer, 1)
        return refusal

    def leave(self, member: AnyMember) -> bool:
        """Sale ``member``. Devuelve si era de las admitidas (y si no había salido ya)."""
        if member not in self._members or self._members.pop(member):
            return False
        self.admitted -= 1
        if member in self._nobodys:
            self._nobodys.remove(member)
        else:
            self._count(member.peer, -1)
        return True

    def _count(self, peer: Peer, more: int) -> None:
        if self._limits.max_per_address and (place := network(peer)) is not None:
            self._from[place] = self._from.get(place, 0) + more
            if not self._from[place]:
                del self._from[place]  # la tabla no guarda más direcciones que conversaciones hay


def network(peer: Peer) -> object | None:
    """A quién se cuenta una conversación: su dirección; en IPv6 su red /64, cuyas direcciones son de uno. A nadie,
    si viene de esta misma máquina por un socket de Unix."""
    host, _ = peer
    if unix_path(host) is not None:
        return None
    if ":" not in host:
        return host
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8]
