"""The proxy's reading and writing of the protocol, against slow and obvious twins."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.proxy import wire
from pgbastion.proxy.refusals import SENTENCES, Refusal, render_refusal
from pgbastion.proxy.wire import (
    CancelKey,
    CancelRequest,
    DirectTls,
    EncryptionRequest,
    Incomplete,
    Malformed,
    ServerStream,
    SqlState,
    Startup,
    Unsupported,
    error_response,
    leading_error_sqlstate,
    parse_first_packet,
)

words = st.text(
    st.characters(blacklist_characters="\0", codec="utf-8"), min_size=1, max_size=20
)
keys = st.binary(min_size=4, max_size=256)


def packet_of(code: int, body: bytes = b"") -> bytes:
    return struct.pack("!II", len(body) + 8, code) + body


def startup_of(parameters: dict[str, str], minor: int = 0) -> bytes:
    pairs = "".join(f"{name}\0{value}\0" for name, value in parameters.items())
    return packet_of(3 << 16 | minor, pairs.encode() + b"\0")


@given(st.dictionaries(words, words, max_size=5), st.sampled_from([0, 2, 9999]))
def test_a_startup_packet_is_read_with_its_parameters(
    parameters: dict[str, str], minor: int
) -> None:
    packet = startup_of(parameters, minor)

    assert parse_first_packet(packet) == Startup(packet, minor, parameters)


@given(st.integers(0, 2**32 - 1), keys)
def test_a_cancel_request_is_read_with_a_key_of_any_length(
    process_id: int, secret: bytes
) -> None:
    packet = packet_of(80877102, struct.pack("!I", process_id) + secret)

    expected = CancelRequest(packet, CancelKey(process_id, secret))
    assert parse_first_packet(packet) == expected


@pytest.mark.parametrize("packet", [wire.SSL_REQUEST, wire.GSS_REQUEST])
def test_an_encryption_request_is_read(packet: bytes) -> None:
    assert parse_first_packet(packet) == EncryptionRequest(packet)


@given(st.binary(max_size=40))
def test_what_follows_the_first_packet_is_left_alone(rest: bytes) -> None:
    packet = startup_of({"user": "u"})

    read = parse_first_packet(packet + rest)

    assert isinstance(read, Startup)
    assert read.packet == packet


@given(st.binary(max_size=60))
def test_tls_is_known_by_its_first_byte(rest: bytes) -> None:
    assert parse_first_packet(b"\x16" + rest) == DirectTls()


@given(st.data())
def test_a_part_of_a_packet_is_incomplete(data: st.DataObject) -> None:
    whole = data.draw(
        st.sampled_from(
            [
                wire.SSL_REQUEST,
                startup_of({"user": "somebody", "database": "db"}),
                packet_of(80877102, bytes(12)),
            ]
        )
    )
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]

    assert parse_first_packet(part) == Incomplete()


@given(st.binary(max_size=300))
def test_any_bytes_have_an_answer(received: bytes) -> None:
    read = parse_first_packet(received)

    if isinstance(read, Incomplete):
        assert len(received) < wire.STARTUP_BYTES_MAX


@pytest.mark.parametrize("length", [0, 4, 7, 10_001, 2**30, 2**31, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_after_four_bytes(length: int) -> None:
    assert isinstance(parse_first_packet(struct.pack("!I", length)), Malformed)


@pytest.mark.parametrize(
    ("code", "length"),
    [(80877103, 9), (80877104, 12), (80877102, 15), (80877102, 269), (80877102, 8)],
)
def test_a_request_of_a_wrong_length_is_refused_unread(code: int, length: int) -> None:
    assert isinstance(parse_first_packet(struct.pack("!II", length, code)), Malformed)


def test_another_major_version_is_named() -> None:
    assert parse_first_packet(packet_of(2 << 16)) == Unsupported(2, 0)


def test_a_browser_is_refused() -> None:
    assert isinstance(parse_first_packet(b"GET / HTTP/1.1\r\n\r\n"), Malformed)


def fields_of(response: bytes) -> dict[str, str]:
    """Read an ErrorResponse the slow way."""
    kind, length = struct.unpack_from("!cI", response)
    assert (kind, length) == (b"E", len(response) - 1)
    assert response.endswith(b"\0\0")
    texts = response[5:-2].decode().split("\0")
    return {text[0]: text[1:] for text in texts}


@given(words, st.just("") | words, st.just("") | words)
def test_an_error_response_carries_its_fields(
    message: str, detail: str, hint: str
) -> None:
    response = error_response(
        SqlState.ADMIN_SHUTDOWN, message, detail=detail, hint=hint
    )

    expected = {"S": "FATAL", "V": "FATAL", "C": "57P01", "M": message}
    expected |= {"D": detail} if detail else {}
    expected |= {"H": hint} if hint else {}
    assert fields_of(response) == expected


def test_a_zero_byte_in_a_text_does_not_end_a_field() -> None:
    response = error_response(SqlState.ADMIN_SHUTDOWN, "a\0Cxxxxx")

    assert fields_of(response)["C"] == "57P01"


@pytest.mark.parametrize("refusal", list(Refusal))
def test_every_refusal_has_a_sentence_and_a_condition(refusal: Refusal) -> None:
    fields = fields_of(render_refusal(refusal, "why"))

    assert fields["C"] == SENTENCES[refusal].sqlstate
    assert len(fields["M"]) > 10
    assert fields["D"] == "why"


@given(st.data())
def test_the_condition_of_a_whole_error_is_read(data: st.DataObject) -> None:
    # A server of a newer protocol says first what it does not speak.
    before = data.draw(st.sampled_from([b"", b"v\0\0\0\x0c\0\3\0\0\0\0\0\0"]))
    response = before + error_response(SqlState.TOO_MANY_CONNECTIONS, "too many")
    size = data.draw(st.integers(0, len(response) + 3))
    received = (response + b"Z\0\0")[:size]

    expected = "53300" if size >= len(response) else None
    assert leading_error_sqlstate(received) == expected


def test_another_message_has_no_condition() -> None:
    behind = error_response(SqlState.TOO_MANY_CONNECTIONS, "too many")
    assert leading_error_sqlstate(b"R\0\0\0\x08\0\0\0\0" + behind) is None


READY = b"Z\0\0\0\5I"
messages = st.one_of(
    st.just(READY),
    st.builds(
        lambda kind, body: kind + struct.pack("!I", len(body) + 4) + body,
        st.sampled_from([b"D", b"S", b"C", b"N", b"d"]),
        st.binary(max_size=30),
    ),
)


def chunked(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(messages, max_size=30), st.lists(st.integers(0, 10_000), max_size=20))
def test_the_end_of_a_message_is_known_wherever_the_stream_is_cut(
    parts: list[bytes], cuts: list[int]
) -> None:
    ends = {0}
    for part in parts:
        ends.add(max(ends) + len(part))
    stream = ServerStream()
    at = 0
    for chunk in chunked(b"".join(parts), cuts):
        stream.feed(memoryview(chunk))
        at += len(chunk)
        assert stream.between_messages == (at in ends)


@given(keys, st.lists(st.integers(0, 400), max_size=20))
def test_the_cancel_key_is_found_wherever_the_stream_is_cut(
    secret: bytes, cuts: list[int]
) -> None:
    body = struct.pack("!I", 4711) + secret
    key_data = b"K" + struct.pack("!I", len(body) + 4) + body
    stream = ServerStream()
    for chunk in chunked(b"R\0\0\0\x08\0\0\0\0" + key_data + READY, cuts):
        stream.feed(memoryview(chunk))

    assert stream.key == CancelKey(4711, secret)
    assert stream.ready
    assert stream.between_messages


def test_a_key_is_looked_for_before_the_session_is_ready_only() -> None:
    stream = ServerStream()
    stream.feed(memoryview(READY + b"K\0\0\0\x0c" + bytes(8)))

    assert stream.key is None


def test_a_key_of_a_wrong_length_is_ignored() -> None:
    stream = ServerStream()
    stream.feed(memoryview(b"K\0\0\0\x08" + bytes(4) + READY))

    assert stream.key is None
    assert stream.between_messages


def test_many_rows_in_a_chunk_put_it_out_of_step_until_ready_ends_one() -> None:
    row = b"D\0\0\0\x05x"
    stream = ServerStream()
    seen = []
    for chunk in (row * 65, row, row * 100 + READY, row[:3], row[3:]):
        stream.feed(memoryview(chunk))
        seen.append(stream.between_messages)

    assert seen == [False, False, True, False, True]


def test_as_many_rows_as_are_looked_at_stay_in_step() -> None:
    stream = ServerStream()
    stream.feed(memoryview(b"D\0\0\0\x05x" * 64))

    assert stream.between_messages


def test_the_secret_of_a_key_is_not_shown() -> None:
    assert "s3cr" not in repr(CancelRequest(b"s3cr", CancelKey(1, b"s3cr")))
