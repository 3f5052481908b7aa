"""What the proxy reads and writes of PostgreSQL's protocol. No I/O here.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", chapters "Message
Formats" and "Start-up"; RFC 8446 section 5.1 for the first bytes of TLS.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

SSL_REQUEST_CODE: Final = 80877103
GSS_REQUEST_CODE: Final = 80877104
CANCEL_REQUEST_CODE: Final = 80877102

# The server's own bound, MAX_STARTUP_PACKET_LENGTH; a longer one is refused unread.
STARTUP_BYTES_MAX: Final = 10_000
# Protocol 3.2 allows cancel keys of up to 256 bytes; before, they had 4.
CANCEL_KEY_BYTES_MIN: Final = 4
CANCEL_KEY_BYTES_MAX: Final = 256

SSL_REQUEST: Final = struct.pack("!II", 8, SSL_REQUEST_CODE)
GSS_REQUEST: Final = struct.pack("!II", 8, GSS_REQUEST_CODE)
# A fatal alert record, "internal_error": the only refusal that TLS understands.
TLS_REFUSAL: Final = b"\x15\x03\x01\x00\x02\x02\x50"

TLS_HANDSHAKE: Final = 0x16
_HEADER: Final = struct.Struct("!II")
_LENGTH: Final = struct.Struct("!I")
# ReadyForQuery outside of a transaction.
IDLE: Final = b"Z\0\0\0\5I"
_READY: Final = tuple(b"Z\0\0\0\5" + status for status in (b"I", b"T", b"E"))


class SqlState(StrEnum):
    """The conditions that the proxy reports in its own name."""

    CONNECTION_FAILURE = "08006"
    PROTOCOL_VIOLATION = "08P01"
    FEATURE_NOT_SUPPORTED = "0A000"
    INVALID_AUTHORIZATION = "28000"
    TOO_MANY_CONNECTIONS = "53300"
    ADMIN_SHUTDOWN = "57P01"
    CANNOT_CONNECT_NOW = "57P03"


@dataclass(frozen=True, slots=True)
class Incomplete:
    """More bytes are needed before anything can be said."""


@dataclass(frozen=True, slots=True)
class EncryptionRequest:
    """SSLRequest or GSSENCRequest; the server answers with one byte."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class DirectTls:
    """A TLS handshake without a request for it (``sslnegotiation=direct``)."""


@dataclass(frozen=True, slots=True)
class Startup:
    """A StartupMessage of protocol 3; ``parameters`` is what could be read of it."""

    packet: bytes
    minor: int
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CancelKey:
    """What names a running query: process id and secret, from BackendKeyData."""

    process_id: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """A request to cancel the query that ``key`` names."""

    packet: bytes = field(repr=False)
    key: CancelKey


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A start-up packet of a version that no server since PostgreSQL 14 speaks."""

    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """No packet of PostgreSQL's; ``problem`` is a sentence for the client."""

    problem: str


FirstPacket = (
    Incomplete
    | EncryptionRequest
    | DirectTls
    | Startup
    | CancelRequest
    | Unsupported
    | Malformed
)


def parse_first_packet(received: bytes | bytearray) -> FirstPacket:
    """Tell what a client begins with.

    Args:
        received: Everything received so far. It may go on beyond the packet; a
            result with ``packet`` says how much of it the packet is.

    Returns:
        Incomplete only while the bytes may still become a packet within the bounds,
        so a caller that stops at another answer reads at most `STARTUP_BYTES_MAX`.
    """
    if received[:1] == bytes((TLS_HANDSHAKE,)):
        return DirectTls()
    if len(received) < 4:
        return Incomplete()
    (length,) = _LENGTH.unpack_from(received)
    if not 8 <= length <= STARTUP_BYTES_MAX:
        return Malformed("The length of the first packet is out of bounds.")
    if len(received) < 8:
        return Incomplete()
    (code,) = _LENGTH.unpack_from(received, 4)
    problem = _length_problem(code, length)
    if problem:
        return Malformed(problem)
    if code >> 16 != 3 and code not in _REQUEST_CODES:
        return Unsupported(code >> 16, code & 0xFFFF)
    if len(received) < length:
        return Incomplete()
    packet = bytes(received[:length])
    if code == CANCEL_REQUEST_CODE:
        return CancelRequest(packet, _cancel_key(packet[8:]))
    if code in _REQUEST_CODES:
        return EncryptionRequest(packet)
    return Startup(packet, code & 0xFFFF, _startup_parameters(packet[8:]))


_REQUEST_CODES: Final = (SSL_REQUEST_CODE, GSS_REQUEST_CODE, CANCEL_REQUEST_CODE)


def _length_problem(code: int, length: int) -> str:
    """Return what is wrong with a packet's length for its kind, empty if nothing."""
    if code in (SSL_REQUEST_CODE, GSS_REQUEST_CODE) and length != 8:
        return "An encryption request has a wrong length."
    if code == CANCEL_REQUEST_CODE:
        key_bytes = length - 12
        if not CANCEL_KEY_BYTES_MIN <= key_bytes <= CANCEL_KEY_BYTES_MAX:
            return "A cancel request has a wrong length."
    return ""


def _cancel_key(body: bytes) -> CancelKey:
    return CancelKey(_LENGTH.unpack_from(body)[0], body[4:])


def _startup_parameters(body: bytes) -> Mapping[str, str]:
    """Read the pairs of a StartupMessage as far as they are well formed.

    The server judges the rest: its complaint is the one that the client's author
    can look up.
    """
    words = body.split(b"\0")
    parameters: dict[str, str] = {}
    for name, value in zip(words[::2], words[1::2], strict=False):
        if not name:
            break
        parameters[name.decode(errors="replace")] = value.decode(errors="replace")
    return parameters


def error_response(
    sqlstate: SqlState, message: str, *, detail: str = "", hint: str = ""
) -> bytes:
    """Build an ErrorResponse of severity FATAL.

    Source: PostgreSQL documentation, "Error and Notice Message Fields".
    """
    fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate.value, "M": message}
    if detail:
        fields["D"] = detail
    if hint:
        fields["H"] = hint
    body = b"".join(
        kind.encode() + text.replace("\0", " ").encode() + b"\0"
        for kind, text in fields.items()
    )
    return b"E" + _LENGTH.pack(len(body) + 5) + body + b"\0"


def leading_error_sqlstate(received: bytes) -> str | None:
    """Return the SQLSTATE when ``received`` begins with a whole ErrorResponse.

    NegotiateProtocolVersion may come before it: a server says first what it speaks,
    and then that it is starting up.
    """
    return _leading_error_field(received, b"C")


def leading_error_message(received: bytes) -> str:
    """Return the message of the ErrorResponse that ``received`` begins with."""
    return _leading_error_field(received, b"M") or "it turned the client away"


def _leading_error_field(received: bytes, kind: bytes) -> str | None:
    if received[:1] == b"v" and len(received) >= 5:
        received = received[1 + _LENGTH.unpack_from(received, 1)[0] :]
    if received[:1] != b"E" or len(received) < 5:
        return None
    (length,) = _LENGTH.unpack_from(received, 1)
    if len(received) < 1 + length:
        return None
    for text in received[5 : 1 + length].split(b"\0"):
        if text[:1] == kind:
            return text[1:].decode(errors="replace")
    return None


def ends_cycle(tail: memoryview | bytes) -> bool:
    """Tell whether the last six bytes of a stream look like a ReadyForQuery."""
    return bytes(tail) in _READY


class ServerStream:
    """Follows the messages of a server's unencrypted stream.

    It answers two questions: which cancel key the session has, and whether the bytes
    so far end with a message, so that one of our own may follow.

    A chunk that ends with ReadyForQuery, as most answers do, needs no other look. In
    others only headers are looked at, and at most ``_STEPS_MAX`` of them: rows of a
    bulk copy would cost more than moving them. A stream that went past this is out of
    step until a chunk ends with ReadyForQuery. Bytes of a row can look like it; then a
    message of ours would end up in a message that never becomes whole, or at worst in
    the last row before the connection ends.
    """

    __slots__ = ("_header", "_in_step", "_key_body", "_need", "key", "ready")

    _STEPS_MAX = 64

    def __init__(self) -> None:
        self.key: CancelKey | None = None
        # Whether ReadyForQuery was seen: the session has been authenticated.
        self.ready = False
        self._in_step = True
        self._need = 0  # bytes until the next header
        self._header = b""  # the part of a header that has arrived
        self._key_body: bytearray | None = None  # BackendKeyData that is arriving

    @property
    def between_messages(self) -> bool:
        """Whether everything so far is whole messages."""
        return self._in_step and self._need == 0 and not self._header

    def feed(self, chunk: memoryview) -> None:
        """Take the next bytes of the stream."""
        if self.ready and ends_cycle(chunk[-6:]):
            self._in_step, self._need, self._header = True, 0, b""
        elif not self._in_step or not self._follow(chunk):
            self._in_step = ends_cycle(chunk[-6:])
            self.ready = self.ready or self._in_step
            self._need, self._header, self._key_body = 0, b"", None

    def lose_step(self) -> None:
        """Take note that bytes went by unseen."""
        self._in_step = False

    def _follow(self, chunk: memoryview) -> bool:
        """Step from header to header; tell whether the chunk's end was reached."""
        size = len(chunk)
        if size <= self._need and self._key_body is None:
            self._need -= size
            return True
        at = self._finish_message(chunk)
        for _ in range(self._STEPS_MAX):
            if at >= size:
                return True
            missing = 5 - len(self._header)
            head = self._header + chunk[at : at + missing].tobytes()
            at += missing
            if len(head) < 5:
                self._header = head
                return True
            self._header = b""
            at = self._begin_message(head, chunk, at)
        # A message may end exactly at the last step.
        return at >= size

    def _begin_message(self, head: bytes, chunk: memoryview, at: int) -> int:
        (length,) = _LENGTH.unpack_from(head, 1)
        self._need = max(length - 4, 0)
        if not self.ready:
            if head[0] == 0x5A:  # ReadyForQuery
                self.ready = True
            elif head[0] == 0x4B and self._is_key_length(self._need):
                self._key_body = bytearray()
        if self._key_body is not None:
            return self._finish_message(chunk, at)
        end = at + self._need
        self._need = max(end - len(chunk), 0)
        return end

    @staticmethod
    def _is_key_length(body_bytes: int) -> bool:
        return 4 + CANCEL_KEY_BYTES_MIN <= body_bytes <= 4 + CANCEL_KEY_BYTES_MAX

    def _finish_message(self, chunk: memoryview, at: int = 0) -> int:
        """Take what ``chunk`` has of the message under way; return where it ends."""
        end = at + self._need
        if self._key_body is not None:
            self._key_body += chunk[at:end]
            if end <= len(chunk):
                self.key = _cancel_key(bytes(self._key_body))
                self._key_body = None
        self._need = max(end - len(chunk), 0)
        return end
