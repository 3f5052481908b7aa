"""What the kernel knows of a TCP connection; tcp(7), TCP_INFO, linux/tcp.h."""

import errno
import fcntl
import socket
import struct
import termios
from dataclasses import dataclass
from typing import Final

_BYTES: Final = 232
# Places in struct tcp_info, which only ever grows at its end.
_UNACKED: Final = struct.Struct("@24xI")
_ACKED_AND_RECEIVED: Final = struct.Struct("@120xQQ")
_NOT_SENT: Final = struct.Struct("@144xI")
_CLOSED: Final = 7  # TCP_CLOSE, the first byte
# linux/tcp.h
_TCP_REPAIR: Final = 19
_TCP_REPAIR_QUEUE: Final = 20
_TCP_QUEUE_SEQ: Final = 21
_RECEIVE_QUEUE: Final = 1
_ON, _OFF_SILENTLY = 1, -1
_COUNT: Final = struct.Struct("@i")
# An acknowledgement seldom comes between two system calls.
_LOOKS_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """Counters of one connection, seen from this end."""

    is_closed: bool
    # Segments that are on the way.
    unacked_segments: int
    # Bytes that the peer's kernel has taken, give or take one for the handshake.
    acked_bytes: int
    # Bytes that have arrived in order, whoever has read them; a FIN counts as one.
    received_bytes: int
    # Bytes in the send buffer that were never sent.
    not_sent_bytes: int

    @property
    def waits_for_window(self) -> bool:
        """Whether there is something to send, nothing on the way, and no leave."""
        return self.not_sent_bytes > 0 and self.unacked_segments == 0


def read_tcp_info(connection: socket.socket) -> TcpInfo:
    """Ask the kernel about ``connection``.

    Raises:
        OSError: It is no connected TCP socket.
    """
    raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES)
    acked, received = _ACKED_AND_RECEIVED.unpack_from(raw)
    return TcpInfo(
        is_closed=raw[0] == _CLOSED,
        unacked_segments=_UNACKED.unpack_from(raw)[0],
        acked_bytes=acked,
        received_bytes=received,
        not_sent_bytes=_NOT_SENT.unpack_from(raw)[0],
    )


def read_queued_bytes(connection: socket.socket) -> int:
    """Return how many bytes were ever put into the send buffer.

    Give or take the same constant at every call for one connection, and perhaps less
    by what is acknowledged during the call; never more. Source: tcp(7), SIOCOUTQ.

    Raises:
        OSError: It is no connected TCP socket.
    """
    acked = read_tcp_info(connection).acked_bytes
    raw = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(_COUNT.size))
    return acked + int(_COUNT.unpack(raw)[0])


def read_queued_bytes_exactly(connection: socket.socket) -> int:
    """Return the same, and never less.

    Raises:
        OSError: It is no connected TCP socket, or acknowledgements came at every look.
    """
    for _ in range(_LOOKS_MAX):
        acked = read_tcp_info(connection).acked_bytes
        queued = read_queued_bytes(connection)
        if read_tcp_info(connection).acked_bytes == acked:
            return queued
    raise BlockingIOError(errno.EAGAIN, "the peer acknowledges bytes all the time")


def read_next_sequence(connection: socket.socket) -> int:
    """Return the sequence number of the next byte that is to arrive.

    Needs CAP_NET_ADMIN. The connection goes on undisturbed.

    Raises:
        OSError: It is no connected TCP socket, or the capability is missing.
    """
    tcp, level, reuse = socket.IPPROTO_TCP, socket.SOL_SOCKET, socket.SO_REUSEADDR
    # Leaving the repair mode clears this, which a restarted listener relies on.
    reused = connection.getsockopt(level, reuse)
    connection.setsockopt(tcp, _TCP_REPAIR, _ON)
    try:
        connection.setsockopt(tcp, _TCP_REPAIR_QUEUE, _RECEIVE_QUEUE)
        return connection.getsockopt(tcp, _TCP_QUEUE_SEQ) & 0xFFFF_FFFF
    finally:
        connection.setsockopt(tcp, _TCP_REPAIR, _OFF_SILENTLY)
        connection.setsockopt(level, reuse, reused)
