"""The guard's socket: one JSON object a line, from processes of its own user or root.

A request is ``{"v": 1, "id": N, "do": NAME, ...}``, its answer ``{"v": 1, "id": N,
"ok": true, ...}`` or ``{"v": 1, "id": N, "ok": false, "reason": WORD, "message":
TEXT}``; an event has ``"event": NAME`` and no id. Answers and events carry the status.
"""

import json
import os
import select
import socket

from pgbastion.platform import handles
from pgbastion.platform.choice import current

VERSION = 1
LINE_BYTES_MAX = 64 << 10
UNSENT_BYTES_MAX = 256 << 10
CONNECTIONS_MAX = 32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]


class Closed(Exception):  # noqa: N818 - how connections end
    """The connection cannot go on: ended, or its peer broke the protocol."""


def listen(path: str) -> socket.socket:
    """Listen on a Unix socket at ``path`` with mode 0600, in place of a stale one.

    Raises:
        OSError: The path is too long or cannot be bound.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(CONNECTIONS_MAX)
    listener.setblocking(False)
    return listener


class Connection:
    """One client: who it is, what it sent and what it has not taken yet.

    Raises:
        Closed: It is neither of this process's user nor of root.
    """

    __slots__ = ("_incoming", "_outgoing", "_sock", "fd", "pid", "wants_events")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        pid, uid = current().peer(sock)
        if uid not in (0, os.geteuid()):
            raise Closed(f"user {uid} is not allowed here")
        self._sock = sock
        self.fd = sock.fileno()
        self.pid = pid
        self.wants_events = False
        self._incoming = b""
        self._outgoing = b""

    def pidfd(self) -> int:
        """Return a new pidfd of the peer.

        Raises:
            OSError: The peer has ended, or is in a PID namespace of its own.
        """
        return handles.open_peer(self._sock, self.pid)

    def receive(self) -> "list[Message]":
        """Return the requests that have arrived whole.

        Raises:
            Closed: The peer has gone, or sent no JSON object or too long a line.
        """
        try:
            data = self._sock.recv(LINE_BYTES_MAX)
        except BlockingIOError:
            return []
        except OSError as exc:
            raise Closed(str(exc)) from exc
        if not data:
            raise Closed("end of stream")
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        if len(self._incoming) > LINE_BYTES_MAX:
            raise Closed("line too long")
        return [_decoded(line) for line in lines]

    def send(self, message: "Message") -> None:
        """Queue ``message`` and send what the peer takes now.

        Raises:
            Closed: The peer has gone or lets more than its share wait.
        """
        line = json.dumps({"v": VERSION, **message}, separators=(",", ":"))
        self._outgoing += line.encode() + b"\n"
        if len(self._outgoing) > UNSENT_BYTES_MAX:
            raise Closed("the peer does not read")
        self.flush()

    def flush(self) -> None:
        """Send what the peer takes now of what is queued.

        Raises:
            Closed: The peer has gone.
        """
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[self._sock.send(self._outgoing) :]
        except BlockingIOError:
            return
        except OSError as exc:
            raise Closed(str(exc)) from exc

    def interest(self) -> int:
        """Return the events that this connection waits for."""
        return select.POLLIN | (select.POLLOUT if self._outgoing else 0)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def _decoded(line: bytes) -> "Message":
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise Closed(f"no JSON: {exc}") from exc
    if not isinstance(message, dict):
        raise Closed("no JSON object")
    return message
