"""``proxy_header.py``: las cabeceras de la norma, byte a byte y en cualquier corte; y lo que no lo es, fuera."""

from __future__ import annotations

import itertools
import socket
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comunicacion_tcp.addresses import Peer
from comunicacion_tcp.errors import BadProxyHeader
from comunicacion_tcp.proxy_header import LONGEST, LONGEST_LINE, ProxyHeader, ProxyHeaderParser, Trusted

from .support.proxy import (
    BAD,
    CRC32C,
    LOCAL,
    MORE,
    PROXY,
    SIGNATURE,
    TCP4,
    TCP6,
    UNIX,
    UNSPEC,
    Reading,
    binary,
    crc32c,
    field,
    line,
    local,
    read,
    tcp4,
    tcp6,
    unix,
)

ANA = ("192.0.2.7", 59319)
# De la más larga posible, la norma: 107 bytes con su CRLF.
WORST = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"
assert len(WORST) == LONGEST_LINE
GOOD: list[tuple[bytes, Peer | None]] = [
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 59319 5000\r\n", ANA),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0)),
    (b"PROXY TCP6 2001:DB8::7 ::1 59319 5000\r\n", ("2001:db8::7", 59319)),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 59319 5000\r\n", ANA),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN lo que sea \x00\xff\r\n", None),
    (WORST, None),
    (SIGNATURE + b"\x21\x11\x00\x0c" + bytes([192, 0, 2, 7, 192, 0, 2, 1]) + b"\xe7\xb7\x13\x88", ANA),
    (tcp4("192.0.2.7", 59319, field(0x04, b"") + field(0xEA, b"x" * 300)), ANA),
    (tcp4("192.0.2.7", 59319, field(0x20, b"x" * (LONGEST - 16 - 12 - 3))), ANA),
    (tcp6("2001:db8::7", 1), ("2001:db8::7", 1)),
    (tcp6("::ffff:192.0.2.7", 59319), ANA),
    (unix(b""), ("unix:", 0)),
    (unix(b"/run/ana"), ("unix:/run/ana", 0)),
    (unix(b"\x00abstracto"), ("unix:", 0)),
    (unix(b"/" + b"x" * 107), ("unix:/" + "x" * 107, 0)),
    (unix(b"\xff"), (r"unix:\xff", 0)),
    (binary(), None),
    (binary(b"\x00no son campos"), None),
]
LOCALS = [local(), local(b"x" * (LONGEST - 16)), binary(b"x", 0x99, LOCAL), binary(b"", TCP6, LOCAL)]
HOSTILE = {
    "absent": [
        *(
            b"hola\n",
            b"\n",
            b"\x00",
            b" PROXY TCP4",
            b"PROXY\tTCP4",
            b"PROXYTCP4 ",
            b"proxy TCP4 ",
            b"GET / HTTP/1.1\r\n",
        ),
        *(b"\x16\x03\x01\x02\x00", b"SSH-2.0-", b"\r\n\r\n\x00\r\nQUIT\r", b"\r\n\r\nQUIT", SIGNATURE[1:]),
    ],
    "syntax": [
        *(b"PROXY \r\n", b"PROXY  \r\n", b"PROXY tcp4 192.0.2.7 192.0.2.1 1 2\r\n", b"PROXY UNKNOWNX\r\n"),
        *(b"PROXY unknown\r\n", b"PROXY TCP4\r\n", b"PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n"),
        *(b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n", b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 \r\n"),
        *(b"PROXY TCP4  192.0.2.7 192.0.2.1 1 2\r\n", b"PROXY UDP4 192.0.2.7 192.0.2.1 1 2\r\n"),
        *(b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n", b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\r\n", b"PROXY UNKNOWN\n"),
        *(b"PROXY UNKNOWN \r \r\n", b"PROXY UNKNOWN\rx"),
    ],
    "address": [
        b"PROXY TCP4 " + text + b" 1 2\r\n"
        for text in (
            *(b"192.0.2.07 192.0.2.1", b"192.0.2 192.0.2.1", b"192.0.2.256 192.0.2.1", b"192.0.2.7.8 192.0.2.1"),
            *(b"0x7f.0.0.1 192.0.2.1", b"192.0.2.7 nada", b"localhost 192.0.2.1", b"::1 ::1", b" "),
            *(
                b"192.0.2.7\x00 192.0.2.1",
                b"192.0.2.\xd9\xa7 192.0.2.1",
                b"192.0.2.+7 192.0.2.1",
                b"192.0.2.7/32 1.1.1.1",
            ),
        )
    ]
    + [
        b"PROXY TCP6 " + text + b" 1 2\r\n"
        for text in (
            *(b"192.0.2.7 192.0.2.1", b"::1::1 ::1", b"1:2:3:4:5:6:7 ::1", b"1:2:3:4:5:6:7:8:9 ::1", b"::g ::1"),
            *(
                b"::12345 ::1",
                b"fe80::1%eth0 ::1",
                b"::1 fe80::1%1",
                b"[::1] ::1",
                b"::1/128 ::1",
                b"::ffff:1.2.3.04 ::1",
            ),
        )
    ],
    "port": [
        b"PROXY TCP4 192.0.2.7 192.0.2.1 " + text + b"\r\n"
        for text in (
            *(b"01 2", b"65536 2", b"1 65536", b"-1 2", b"+1 2", b"1_0 2", b"1 x", b"1 ", b" 1", b"1 2\x00"),
            *(b"00 0", b"1 \xd9\xa7", b"99999999999999999999 1"),
        )
    ],
    "version": [SIGNATURE + bytes([first]) + b"\x11\x00\x0c" for first in (0x00, 0x11, 0x31, 0xF1)],
    "command": [SIGNATURE + bytes([first]) + b"\x11\x00\x0c" for first in (0x22, 0x2F)],
    # Otras familias; sin transporte; datagramas; otros transportes.
    "family": [SIGNATURE + bytes([PROXY, kind]) for kind in (0x41, 0xF1, 0x10, 0x01, 0x12, 0x22, 0x32, 0x13)],
    "length": [
        *(SIGNATURE + bytes([PROXY, TCP4, 0, 11]), SIGNATURE + bytes([PROXY, TCP4, 0, 0])),
        *(SIGNATURE + bytes([PROXY, TCP6, 0, 35]), SIGNATURE + bytes([PROXY, UNIX, 0, 215])),
    ],
    "field": [
        tcp4("192.0.2.7", 1, more)
        for more in (
            *(b"\x04", b"\x04\x00", b"\x04\x00\x01", field(0x04, b"xx")[:-1], field(0x04, b"") + b"\x04\xff\xff"),
            *(field(CRC32C, b"123"), field(CRC32C, b"12345")),
        )
    ],
    "checksum": [tcp4("192.0.2.7", 1, field(CRC32C, b"\x00\x00\x00\x00"))],
    "too_long": [
        *(b"PROXY UNKNOWN " + b"x" * 93, b"PROXY TCP4 " + b" " * 200, WORST[:-2] + b"x\r\n"),
        *(SIGNATURE + bytes([PROXY, TCP4, 0xFF, 0xFF]), SIGNATURE + bytes([LOCAL, UNSPEC, 0xFF, 0xFF])),
        SIGNATURE + bytes([PROXY, TCP4]) + (LONGEST - 16 + 1).to_bytes(2, "big"),
    ],
}


def feed(pieces: list[bytes]) -> ProxyHeader | None:
    """Lo que dice el lector tras esos trozos; lo que llega detrás de la cabecera va en ``rest``."""
    parser = ProxyHeaderParser()
    for number, piece in enumerate(pieces):
        if header := parser.receive(piece):
            return ProxyHeader(header.peer, header.local, header.rest + b"".join(pieces[number + 1 :]))
    return None


@pytest.mark.parametrize(("header", "peer"), GOOD)
@pytest.mark.parametrize("behind", [b"", b"hola\r\n", b"PROXY UNKNOWN\r\n", b"\x16\x03\x01"])
def test_each_good_header_in_two_pieces_cut_anywhere(header: bytes, peer: Peer | None, behind: bytes) -> None:
    data = header + behind
    for place in range(len(data) + 1):
        assert feed([data[:place], data[place:]]) == ProxyHeader(peer, False, behind), place


@pytest.mark.parametrize("header", [header for header, _ in GOOD] + LOCALS)
def test_byte_by_byte_it_ends_exactly_at_its_last_byte(header: bytes) -> None:
    parser = ProxyHeaderParser()
    assert not parser.begun
    for index in range(len(header) - 1):
        assert parser.receive(header[index : index + 1]) is None
        assert parser.begun
    assert parser.receive(header[-1:])


@pytest.mark.parametrize("header", LOCALS)
def test_the_balancer_itself_brings_nobody(header: bytes) -> None:
    assert feed([header + b"hola\n"]) == ProxyHeader(None, True, b"hola\n")


# De HAProxy 2.6, con «send-proxy-v2 proxy-v2-options crc32c,unique-id»: la suma, y un campo vacío.
WITH_CHECKSUM = (
    SIGNATURE + b"!\x11\x00\x16\x7f\x00\x00\x01\x7f\x00\x00\x01\x82dIq\x03\x00\x04\xc7\x88\xda\xc9\x05\x00\x00"
)


def test_a_checksum_that_comes_is_checked() -> None:
    assert feed([WITH_CHECKSUM]) == ProxyHeader(("127.0.0.1", 33380), False, b"")
    for index in (*range(16, 28), *range(31, 36)):  # las direcciones; la suma, y la clase del otro campo
        spoilt = WITH_CHECKSUM[:index] + bytes([WITH_CHECKSUM[index] ^ 1]) + WITH_CHECKSUM[index + 1 :]
        with pytest.raises(BadProxyHeader, match="checksum"):
            feed([spoilt])
    twice = WITH_CHECKSUM[:15] + b"\x1d" + WITH_CHECKSUM[16:] + WITH_CHECKSUM[28:35]
    with pytest.raises(BadProxyHeader, match="field"):
        feed([twice])


def test_the_largest_header_takes_a_few_steps_for_each_byte() -> None:
    header = tcp4("192.0.2.7", 59319, field(CRC32C, b"mala") + field(0xE0, bytes(LONGEST - 16 - 12 - 7 - 3)))
    assert len(header) == LONGEST
    steps, before = 0, sys.gettrace()

    def count(*_: object) -> Any:
        nonlocal steps
        steps += 1
        return count

    sys.settrace(count)
    try:
        assert reading([header]) == BAD
    finally:
        sys.settrace(before)
    assert steps < 6 * LONGEST  # bit a bit eran diecinueve por byte, y 8 ms del bucle


@pytest.mark.parametrize(("problem", "data"), [(problem, one) for problem, many in HOSTILE.items() for one in many])
def test_what_is_not_a_header_is_told_the_same_in_every_cut(problem: str, data: bytes) -> None:
    for pieces in [[data], [data[:7], data[7:]], [data[:13], data[13:]], [bytes([byte]) for byte in data]]:
        with pytest.raises(BadProxyHeader) as caught:
            feed(pieces)
        assert caught.value.problem == problem
    with pytest.raises(BadProxyHeader) as caught:
        feed([data + b"hola\r\n" * 1000])
    assert caught.value.problem == problem


@pytest.mark.parametrize(
    "header", [header for header, _ in GOOD[:5]] + [tcp4("192.0.2.7", 1), tcp6("::1", 1), local(b"xx")]
)
def test_a_header_cut_short_is_still_missing_something(header: bytes) -> None:
    for size in range(len(header)):
        assert feed([header[:size]]) is None


def test_only_what_a_header_can_measure_is_kept() -> None:
    for endless in (b"PROXY UNKNOWN " + b"x" * 10_000, SIGNATURE + bytes([PROXY, TCP4, 0xFF, 0xFF]) + b"x" * 10_000):
        parser = ProxyHeaderParser()
        with pytest.raises(BadProxyHeader):
            for index in range(LONGEST_LINE):
                parser.receive(endless[index : index + 1])


# -- contra el modelo ---------------------------------------------------------------------------------------

PIECES = [
    *(b"PROXY ", b"PROXY", b"TCP4", b"TCP6", b"UNKNOWN", b" ", b"\r\n", b"\r", b"\n", b"0", b"65535", b"65536", b"007"),
    *(b"192.0.2.7", b"1.2.3", b"::1", b"2001:db8::7", b"::ffff:1.2.3.4", b"%", b"x" * 60, b"\x00", b"hola\n"),
    *(SIGNATURE, bytes([PROXY]), bytes([LOCAL]), bytes([TCP4]), bytes([TCP6]), bytes([UNIX]), b"\x00\x0c", b"\x00\x24"),
    *(b"\x00\xd8", b"\x00\x00", b"\x10\x01", bytes(12), bytes(216), field(0x04, b"ab")),
]
lines = st.builds(
    line,
    st.sampled_from(["192.0.2.7", "::1", "2001:db8::7", "1.2.3.04", "::ffff:1.2.3.4", ""]),
    st.integers(min_value=-1, max_value=70_000),
    st.sampled_from(["TCP4", "TCP6", "UNKNOWN", "tcp4"]),
    st.sampled_from(["192.0.2.1", "::2", "x"]),
)
binaries = st.builds(
    binary,
    st.binary(max_size=60) | st.sampled_from([bytes(12), bytes(36), bytes(216), bytes(12) + field(0x04, b"ab")]),
    st.sampled_from([UNSPEC, TCP4, TCP6, UNIX, 0x12, 0x41]),
    st.sampled_from([LOCAL, PROXY, 0x22, 0x11]),
)
streams = st.lists(st.sampled_from(PIECES) | lines | binaries | st.binary(max_size=4), max_size=9).map(b"".join)
places = st.lists(st.integers(min_value=0, max_value=200), max_size=20)


def reading(pieces: list[bytes]) -> Reading:
    """Lo que dice el lector, como lo diría el modelo."""
    try:
        header = feed(pieces)
    except BadProxyHeader:
        return BAD
    return ("local" if header.local else "done", header.peer, header.rest) if header else MORE


@given(streams, places)
@example(WORST[:-1], [])
@example(WORST, [106])
def test_any_bytes_in_any_cut_equal_the_reference(stream: bytes, places: list[int]) -> None:
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert reading(pieces) == read(stream)


@given(st.binary(max_size=40), st.binary(max_size=40), st.booleans())
def test_a_checksum_equals_the_reference(before: bytes, behind: bytes, good: bool) -> None:
    more = field(0xE0, before) + field(CRC32C, bytes(4)) + field(0xE1, behind)
    blank = tcp4("192.0.2.7", 59319, more)
    place = 16 + 12 + 3 + len(before) + 3
    checksum = crc32c(blank) if good else bytes(byte ^ 1 for byte in crc32c(blank))
    stream = blank[:place] + checksum + blank[place + 4 :]
    assert reading([stream]) == read(stream) == (("done", ANA, b"") if good else BAD)


# -- de quién se cree ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("networks", "host", "trusted"),
    [
        (["192.0.2.7"], "192.0.2.7", True),
        (["192.0.2.7"], "192.0.2.8", False),
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),  # por un socket que atiende las dos familias
        (["::ffff:10.0.0.0/104"], "10.0.0.1", True),
        (["::ffff:10.0.0.1"], "10.0.0.1", True),
        (["::ffff:10.0.0.1"], "10.0.0.2", False),
        (["::/0"], "10.0.0.1", False),  # toda IPv6 no es toda IPv4
        (["fd00::/8"], "fd12::1", True),
        (["fd00::/8"], "fe80::1%eth0", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["::1"], "127.0.0.1", False),
        (["unix"], "unix:/run/mensajes.sock", True),
        (["unix"], "127.0.0.1", False),
        (["127.0.0.1"], "unix:/run/mensajes.sock", False),
        (["127.0.0.1", "unix"], "127.0.0.1", True),
    ],
)
def test_who_is_trusted(networks: list[str], host: str, trusted: bool) -> None:
    assert ((host, 1) in Trusted(networks)) is trusted


@pytest.mark.parametrize(
    "networks", [[], [""], ["localhost"], ["10.0.0.1/8"], ["10.0.0.0/33"], ["unix:/a"], ["10.0.0.0/8 "]]
)
def test_what_is_not_a_network_is_an_error(networks: list[str]) -> None:
    with pytest.raises(ValueError, match=r"red"):
        Trusted(networks)


def test_one_network_alone() -> None:
    assert ("127.0.0.1", 1) in Trusted("127.0.0.1")


def test_addresses_are_written_as_the_system_does() -> None:
    header = feed([tcp6("2001:db8:0:0:0:0:0:7", 1)])
    assert header
    assert header.peer
    assert header.peer[0] == socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, header.peer[0]))
