"""Frames, compared field by field with the documents that define them."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.vip import packets

MAC = bytes.fromhex("020000000001")
OTHER = bytes.fromhex("0200000000fe")
V4 = IPv4Address("10.77.0.50")
V6 = IPv6Address("2001:db8::77:50")


def word(frame: bytes, at: int) -> int:
    return int.from_bytes(frame[at : at + 2], "big")


@pytest.mark.parametrize(
    ("frame", "operation", "sender", "target_hardware"),
    [
        (packets.gratuitous_request(MAC, V4), 1, V4.packed, bytes(6)),
        (packets.gratuitous_reply(MAC, V4), 2, V4.packed, MAC),
        (packets.arp_probe(MAC, V4), 1, bytes(4), bytes(6)),
    ],
)
def test_arp_frames_follow_rfc_826_and_5227(
    frame: bytes, operation: int, sender: bytes, target_hardware: bytes
) -> None:
    assert len(frame) == 42
    assert frame[:6] == b"\xff" * 6
    assert frame[6:12] == MAC
    assert word(frame, 12) == 0x0806
    assert word(frame, 14) == 1  # ar$hrd, Ethernet
    assert word(frame, 16) == 0x0800  # ar$pro, IPv4
    assert frame[18:20] == bytes((6, 4))  # ar$hln, ar$pln
    assert word(frame, 20) == operation  # ar$op
    assert frame[22:28] == MAC  # ar$sha
    assert frame[28:32] == sender  # ar$spa: all zeroes in a probe
    assert frame[32:38] == target_hardware  # ar$tha
    assert frame[38:42] == V4.packed  # ar$tpa


def checksum_is_right(frame: bytes) -> bool:
    """RFC 4443, 2.3: the sum with the pseudo-header, as slowly as it is told."""
    message = frame[54:]
    length = len(message).to_bytes(4, "big")
    covered = frame[22:54] + length + b"\0\0\0\x3a" + message
    total = 0
    for at in range(0, len(covered), 2):
        total += covered[at] * 256 + covered[at + 1]
    return total % 0xFFFF == 0


def test_an_unsolicited_advertisement_follows_rfc_4861() -> None:
    frame = packets.unsolicited_advertisement(MAC, V6)

    assert len(frame) == 86
    assert frame[:6] == bytes.fromhex("333300000001")
    assert frame[6:12] == MAC
    assert word(frame, 12) == 0x86DD
    assert frame[14:18] == bytes.fromhex("60000000")
    assert word(frame, 18) == 32  # payload: 24 bytes and one option
    assert frame[20:22] == bytes((58, 255))  # ICMPv6, hop limit
    assert frame[22:38] == V6.packed
    assert frame[38:54] == IPv6Address("ff02::1").packed
    assert frame[54:56] == bytes((136, 0))  # type, code
    assert checksum_is_right(frame)
    assert frame[58:62] == bytes.fromhex("20000000")  # R 0, S 0, O 1
    assert frame[62:78] == V6.packed
    assert frame[78:80] == bytes((2, 1))  # target link-layer address, 8 bytes
    assert frame[80:86] == MAC


def test_a_solicitation_of_duplicate_detection_follows_rfc_4862() -> None:
    frame = packets.duplicate_solicitation(MAC, V6)

    group = IPv6Address("ff02::1:ff77:50")
    assert len(frame) == 78
    assert frame[:6] == bytes.fromhex("3333ff770050")
    assert word(frame, 18) == 24
    assert frame[20:22] == bytes((58, 255))
    assert frame[22:38] == bytes(16)
    assert frame[38:54] == group.packed
    assert frame[54:56] == bytes((135, 0))
    assert checksum_is_right(frame)
    assert frame[62:78] == V6.packed


def test_what_is_built_is_read_again() -> None:
    arp = packets.parse_arp(packets.gratuitous_reply(MAC, V4))
    told = packets.parse_advertisement(packets.unsolicited_advertisement(MAC, V6))

    assert arp is not None
    assert (arp.sender, arp.sender_hardware, arp.operation) == (V4, MAC, 2)
    assert told is not None
    assert (told.target, told.target_hardware) == (V6, MAC)


def test_the_option_names_who_answers_not_the_frame() -> None:
    frame = packets.unsolicited_advertisement(MAC, V6)
    relayed = frame[:6] + OTHER + frame[12:]

    told = packets.parse_advertisement(relayed)

    assert told is not None
    assert (told.sender_hardware, told.target_hardware) == (OTHER, MAC)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (12, b"\x08\x00"),  # another protocol
        (21, b"\xfe"),  # it may have been forwarded
        (54, b"\x88\x01"),  # code
        (56, b"\x00\x00"),  # checksum
        (62, b"\xff\x02"),  # a group is no target
    ],
)
def test_an_advertisement_that_rfc_4861_calls_invalid_is_none(
    at: int, value: bytes
) -> None:
    frame = packets.unsolicited_advertisement(MAC, V6)

    assert (
        packets.parse_advertisement(frame[:at] + value + frame[at + len(value) :])
        is None
    )


@given(st.binary(max_size=120))
def test_any_bytes_are_a_packet_or_none(frame: bytes) -> None:
    packets.parse_arp(frame)
    packets.parse_advertisement(frame)


@given(st.binary(max_size=60), st.integers(0, 85))
def test_an_advertisement_that_was_cut_or_spoilt_ends_no_reader(
    rest: bytes, at: int
) -> None:
    packets.parse_advertisement(packets.unsolicited_advertisement(MAC, V6)[:at] + rest)


def test_hardware_addresses_are_shown_as_people_write_them() -> None:
    assert packets.hardware_text(MAC) == "02:00:00:00:00:01"
