"""What reads bytes of clients, balancers and servers, and what has to hold of it.

Each function takes any bytes and fails if a reader breaks its word: it never raises,
it decides on as little as it says, and it decides the same however the bytes arrive.
`tests/unit/test_fuzz_corpus.py` feeds them the kept inputs, `scripts/fuzz-proxy` new
ones, guided by coverage.
"""

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from itertools import pairwise
from typing import Final

from pgbastion.proxy import wire
from pgbastion.proxy.proxy_protocol import Header, parse_header, render_header


def first_packet(data: bytes) -> None:
    """A packet is decided on once, within the bound, and is what was received."""
    read = wire.parse_first_packet(data)
    if isinstance(read, wire.Incomplete):
        assert len(data) < wire.STARTUP_BYTES_MAX
    elif isinstance(read, wire.Startup | wire.EncryptionRequest | wire.CancelRequest):
        assert data.startswith(read.packet)
        assert 8 <= len(read.packet) <= wire.STARTUP_BYTES_MAX
        assert wire.parse_first_packet(read.packet) == read
    if isinstance(read, wire.CancelRequest):
        secret = len(read.key.secret)
        assert wire.CANCEL_KEY_BYTES_MIN <= secret <= wire.CANCEL_KEY_BYTES_MAX
    for size in _sizes(data):
        early = wire.parse_first_packet(data[:size])
        assert isinstance(early, wire.Incomplete) or early == read


def proxy_header(data: bytes) -> None:
    """A header is decided on once, and names an address that there can be."""
    read = parse_header(data)
    if isinstance(read, Header):
        assert 16 <= read.length <= len(data)
        if read.address:
            ip_address(read.address)
            ends = (read.address, 1), (read.address, 2)
            written = render_header(*ends)
            assert parse_header(written) == Header(len(written), read.address)
    for size in _sizes(data):
        early = parse_header(data[:size])
        assert early is None or early == read


def server_stream(data: bytes) -> None:
    """Chunks tell what single bytes tell, but for what is said not to be followed.

    The first bytes say where the stream is cut.
    """
    count = data[0] if data else 0
    cuts, stream = data[1 : 1 + count], data[1 + count :]
    by_chunk, by_byte = wire.ServerStream(), wire.ServerStream()
    exact = True
    for chunk in _chunks(stream, cuts):
        # A chunk that ends like an answer is taken for one once a session is ready, or
        # when it has more messages than are stepped through; a header has five bytes.
        many = len(chunk) > 5 * wire.ServerStream._STEPS_MAX
        answered = by_chunk.ready and wire.ends_cycle(chunk[-6:])
        guesses = answered or (many and wire.ends_cycle(chunk[-6:]))
        by_chunk.feed(memoryview(chunk))
        for at in range(len(chunk)):
            by_byte.feed(memoryview(chunk)[at : at + 1])
        exact = exact and by_chunk._in_step and not guesses
        if exact:
            assert by_chunk.between_messages == by_byte.between_messages
            assert (by_chunk.key, by_chunk.ready) == (by_byte.key, by_byte.ready)
        elif answered:
            assert by_chunk.between_messages
    if by_chunk.key is not None:
        secret = len(by_chunk.key.secret)
        assert wire.CANCEL_KEY_BYTES_MIN <= secret <= wire.CANCEL_KEY_BYTES_MAX
    wire.leading_error_sqlstate(stream)
    wire.leading_error_message(stream)


READERS: Final[dict[str, Callable[[bytes], None]]] = {
    reader.__name__: reader for reader in (first_packet, proxy_header, server_stream)
}


def _sizes(data: bytes) -> Iterator[int]:
    """Yield how much of ``data`` may have arrived first: all sizes of short ones."""
    yield from range(min(len(data), 40))
    if len(data) > 40:
        yield from (len(data) // 2, len(data) - 1)


def _chunks(stream: bytes, cuts: bytes) -> Iterator[bytes]:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return (stream[begin:end] for begin, end in pairwise(places))
