"""What the kernel knows of a TCP connection; tcp(7), TCP_INFO, linux/tcp.h."""

import socket
import struct
from dataclasses import dataclass
from typing import Final

_BYTES: Final = 232
# Places in struct tcp_info, which only ever grows at its end.
_UNACKED: Final = struct.Struct("@24xI")
_BYTES_ACKED: Final = struct.Struct("@120xQ")
_NOT_SENT: Final = struct.Struct("@144xI")
_SENT_AND_REPEATED: Final = struct.Struct("@200xQQ")


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """Counters of one side's sending direction."""

    # Segments that are on the way.
    unacked_segments: int
    # Bytes that the peer's kernel has taken.
    acked_bytes: int
    # Bytes in the send buffer that were never sent.
    not_sent_bytes: int
    # Bytes sent for the first time.
    sent_bytes: int

    @property
    def queued_bytes(self) -> int:
        """Bytes that were ever put into the send buffer."""
        return self.sent_bytes + self.not_sent_bytes

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
    sent, repeated = _SENT_AND_REPEATED.unpack_from(raw)
    return TcpInfo(
        unacked_segments=_UNACKED.unpack_from(raw)[0],
        acked_bytes=_BYTES_ACKED.unpack_from(raw)[0],
        not_sent_bytes=_NOT_SENT.unpack_from(raw)[0],
        sent_bytes=sent - repeated,
    )
