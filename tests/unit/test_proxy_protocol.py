"""PROXY protocol, version 2: what a balancer says of its client."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.proxy.proxy_protocol import (
    SIGNATURE,
    Header,
    missing_bytes,
    parse_header,
    render_header,
)

PORTS = st.integers(0, 65_535)
HERE = ("10.0.0.1", 5432)


@given(st.ip_addresses().map(str), PORTS, st.binary(max_size=40))
def test_what_is_rendered_is_read(host: str, port: int, rest: bytes) -> None:
    header = render_header((host, port), HERE)
    read = parse_header(header + rest)
    assert isinstance(read, Header)
    assert read.length == len(header)
    # An IPv4 address in IPv6 form is the IPv4 address.
    assert read.address in (host, host.removeprefix("::ffff:")) or "::ffff" in host


@given(st.ip_addresses().map(str), st.data())
def test_a_part_of_a_header_is_incomplete(host: str, data: st.DataObject) -> None:
    header = render_header((host, 1), HERE)
    assert parse_header(header[: data.draw(st.integers(0, len(header) - 1))]) is None


@given(st.ip_addresses().map(str), st.binary(max_size=40))
def test_reading_what_is_missing_takes_a_header_and_nothing_after_it(
    host: str, rest: bytes
) -> None:
    """A handshake that follows is somebody else's."""
    header = render_header((host, 1), HERE)
    stream, read = header + rest, 0
    while missing := missing_bytes(stream[:read]):
        read += missing

    assert stream[:read] == header


@given(st.binary(max_size=60))
def test_any_bytes_have_an_answer(received: bytes) -> None:
    for begin in (b"", SIGNATURE):
        answer = parse_header(begin + received)
        assert answer is None or isinstance(answer, str | Header)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        SIGNATURE + struct.pack("!BBH", 0x11, 0x11, 12),
        SIGNATURE + struct.pack("!BBH", 0x22, 0x11, 12),
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 60_000),
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 4) + b"1234",
    ],
    ids=["text", "request", "version", "command", "long", "short"],
)
def test_what_is_no_header_is_refused_in_words(header: bytes) -> None:
    assert isinstance(parse_header(header), str)


def test_a_balancer_may_speak_for_itself() -> None:
    local = SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)
    assert parse_header(local) == Header(16, "")
    unix = SIGNATURE + struct.pack("!BBH", 0x21, 0x31, 216) + bytes(216)
    assert parse_header(unix) == Header(232, "")


def test_what_a_balancer_adds_is_passed_over() -> None:
    plain = render_header(("192.0.2.1", 7), HERE)
    longer = plain[:14] + struct.pack("!H", 12 + 5) + plain[16:] + b"\x04\0\2hi"
    assert parse_header(longer) == Header(33, "192.0.2.1")
