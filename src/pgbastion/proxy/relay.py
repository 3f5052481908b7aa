"""The relay in user space: moves the bytes of one session between two sockets."""

import contextlib
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from time import clock_gettime_ns
from typing import Final

from pgbastion.platform.clock import CLOCK
from pgbastion.proxy.lingering_close import LingeringCloses
from pgbastion.proxy.poller import Poller
from pgbastion.proxy.routes import Backend, DataPath, Limits, Service
from pgbastion.proxy.sessions import About, SessionInfo, peer_name
from pgbastion.proxy.sockets import reset
from pgbastion.proxy.tls import Tls, TlsSocket
from pgbastion.proxy.wire import IDLE, CancelKey, ServerStream

NOBODY: Final = About(0.0)
_FOREVER_NS: Final = 2**63 - 1
# After so many chunks a session is worth the system calls of a faster path.
_CHUNKS_UNTIL_WARM: Final = 16


class Lease:
    """Until when bytes may flow; one object is shared by all sessions that it binds."""

    __slots__ = ("_mirror", "expires_ns")

    def __init__(self, expires_ns: int = _FOREVER_NS) -> None:
        self.expires_ns = expires_ns
        self._mirror: memoryview | None = None

    def set(self, expires_ns: int) -> None:
        """Take a new instant."""
        self.expires_ns = expires_ns
        if self._mirror is not None:
            self._mirror[0] = max(expires_ns, 0)

    def mirror(self, word: memoryview | None) -> None:
        """Keep ``word`` equal to the instant from now on."""
        self._mirror = word
        self.set(self.expires_ns)

    def is_over(self) -> bool:
        """Tell whether the instant has come."""
        return clock_gettime_ns(CLOCK) >= self.expires_ns


class Mode(Enum):
    """What the bytes of a session are."""

    PLAIN = auto()
    ENCRYPTED = auto()


@dataclass(frozen=True, slots=True)
class Engagement:
    """Which server a session is with, and in which epoch."""

    service: Service
    backend: Backend
    epoch: int
    # Whether that server was the primary, so that epoch and expiry bind the session.
    bound: bool


class RelayHost:
    """What all relays of a proxy share."""

    def __init__(self, loop: AbstractEventLoop, poller: Poller, limits: Limits) -> None:
        self.loop = loop
        self.poller = poller
        self.limits = limits
        self.closing = LingeringCloses(loop, poller, limits.linger_s)
        # Every read goes here and is sent on before the next one, so an idle session
        # owns no buffer.
        self.scratch = memoryview(bytearray(limits.chunk_bytes))
        # Set where TLS ends in the proxy.
        self.tls: Tls | None = None
        self.on_event: Callable[[str, Mapping[str, object]], None] = _nobody_asks
        self.on_key: Callable[[Relay, CancelKey], None] = _nobody_asks
        self.on_end: Callable[[Relay], None] = _nobody_asks
        self.on_expired: Callable[[], None] = _nobody_asks
        # Called now and then for a session that moves bytes.
        self.on_warm: Callable[[Relay], None] = _nobody_asks


def _nobody_asks(*_what: object) -> None:
    """Stand in until the owner of the host has set its callback."""


class Flow:
    """One direction of a session.

    At most one chunk is kept here: while the sink does not take it, the source is not
    read, so that TCP itself slows the sender down.
    """

    __slots__ = ("ended", "moved", "relay", "sink", "source", "stream", "waiting")

    def __init__(
        self,
        relay: "Relay",
        source: socket.socket,
        sink: socket.socket,
        stream: ServerStream | None,
    ) -> None:
        self.relay = relay
        self.source = source
        self.sink = sink
        self.stream = stream
        self.waiting = b""
        # Bytes that went through this process.
        self.moved = 0
        self.ended = False

    @property
    def total(self) -> int:
        """Bytes moved in this direction."""
        return self.moved

    def begin(self, received: bytes) -> None:
        """Start moving; ``received`` was read from the source already."""
        poller = self.relay.host.poller
        if received:
            self.moved += len(received)
            if self.stream is not None:
                self.follow(self.stream, memoryview(received))
            self.waiting = received
            poller.add_writer(self.sink.fileno(), self.on_writable)
        else:
            poller.add_reader(self.source.fileno(), self.on_readable)

    def halt(self) -> None:
        """Stop moving; the sockets may be closed afterwards."""
        poller = self.relay.host.poller
        poller.remove_reader(self.source.fileno())
        poller.remove_writer(self.sink.fileno())

    def on_readable(self) -> None:
        """Move one chunk."""
        relay = self.relay
        if relay.lease.is_over():
            relay.host.on_expired()
            return
        scratch = relay.host.scratch
        try:
            size = self.source.recv_into(scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            relay.source_broke(self)
            return
        if not size:
            self.finish()
            return
        chunk = scratch[:size]
        self.moved += size
        if self.stream is not None:
            self.follow(self.stream, chunk)
        self.deliver(chunk)
        relay.chunks_until_warm -= 1
        if not relay.chunks_until_warm:
            relay.chunks_until_warm = _CHUNKS_UNTIL_WARM
            relay.host.on_warm(relay)

    def deliver(self, chunk: memoryview) -> None:
        """Send ``chunk``; what the sink does not take stops the source."""
        try:
            sent = self.sink.send(chunk)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.relay.sink_broke(self)
            return
        if sent < len(chunk):
            self.keep(chunk[sent:])
            self.relay.host.poller.add_writer(self.sink.fileno(), self.on_writable)

    def keep(self, rest: memoryview) -> None:
        """Keep ``rest`` until it can be sent, and read nothing more meanwhile."""
        self.waiting = bytes(rest)
        self.relay.host.poller.remove_reader(self.source.fileno())

    def on_writable(self) -> None:
        """Send more of what the sink did not take before."""
        relay = self.relay
        if relay.lease.is_over():
            relay.host.on_expired()
            return
        try:
            sent = self.sink.send(self.waiting)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            relay.sink_broke(self)
            return
        self.waiting = self.waiting[sent:]
        if self.waiting:
            return
        relay.host.poller.remove_writer(self.sink.fileno())
        if self.ended:
            relay.flow_ended(self)
        else:
            relay.host.poller.add_reader(self.source.fileno(), self.on_readable)

    def finish(self) -> None:
        """Take the end of the source's stream; pass it on once all is sent."""
        self.ended = True
        self.relay.host.poller.remove_reader(self.source.fileno())
        if not self.waiting:
            self.relay.flow_ended(self)

    def is_between_messages(self) -> bool:
        """Tell whether the sink has whole messages only."""
        stream = self.stream
        return stream is not None and stream.between_messages and not self.waiting

    def abandon(self) -> None:
        """Drop what the sink will never take."""
        self.halt()
        self.ended, self.waiting = True, b""

    def follow(self, stream: ServerStream, chunk: memoryview) -> None:
        """Show ``chunk`` to ``stream``; report the cancel key when it is complete."""
        had_key = stream.key is not None
        stream.feed(chunk)
        if bytes(chunk[-6:]) == IDLE:
            self.relay.idle_at = self.relay.up.total
        if stream.key is not None and not had_key:
            self.relay.host.on_key(self.relay, stream.key)


class Relay:
    """One session between a client and a server."""

    __slots__ = (
        "_half_open",
        "_open",
        "about",
        "chunks_until_warm",
        "client",
        "client_address",
        "down",
        "engagement",
        "host",
        "idle_at",
        "lease",
        "server",
        "up",
    )

    def __init__(
        self,
        host: RelayHost,
        client: socket.socket,
        server: socket.socket,
        engagement: Engagement,
        *,
        client_address: str,
        lease: Lease,
        mode: Mode,
        about: About = NOBODY,
    ) -> None:
        self.host = host
        self.about = about
        self.client = client
        self.client_address = client_address
        self.server = server
        self.engagement = engagement
        self.lease = lease
        stream = ServerStream() if mode is Mode.PLAIN else None
        self.up = Flow(self, client, server, None)
        self.down = Flow(self, server, client, stream)
        # How much the client had sent when the server last said that it is idle.
        self.idle_at = -1
        self.chunks_until_warm = _CHUNKS_UNTIL_WARM
        self._half_open: TimerHandle | None = None
        self._open = True

    @property
    def bytes_to_server(self) -> int:
        """How much the client has sent."""
        return self.up.total

    @property
    def bytes_to_client(self) -> int:
        """How much the server has sent."""
        return self.down.total

    @property
    def key(self) -> CancelKey | None:
        """The session's cancel key; None while or because it cannot be read."""
        return self.down.stream.key if self.down.stream is not None else None

    @property
    def is_opaque(self) -> bool:
        """Whether TLS ends here, so that its bytes are none of the kernel's."""
        return isinstance(self.client, TlsSocket) or isinstance(self.server, TlsSocket)

    @property
    def is_idle(self) -> bool:
        """Whether the session is known to be between two transactions."""
        return self.idle_at == self.up.total and self.down.is_between_messages()

    def describe(self, path: DataPath, now_s: float) -> SessionInfo:
        """Tell what there is to be told of the session."""
        known = self.about
        return SessionInfo(
            service=self.engagement.service,
            client=peer_name(self.client, self.client_address),
            state="open",
            age_s=now_s - known.since_s,
            node=self.engagement.backend.node,
            epoch=self.engagement.epoch,
            path=path.value,
            user=known.user,
            database=known.database,
            application=known.application,
            encryption=known.encryption.value,
            bytes_to_server=self.bytes_to_server,
            bytes_to_client=self.bytes_to_client,
        )

    def start(self, from_client: bytes, from_server: bytes = b"") -> None:
        """Begin; what was read from either side was not sent on yet."""
        self.down.begin(from_server)
        self.up.begin(from_client)

    def cut(self) -> None:
        """Reset the server's side at once; nothing flows any more."""
        self.up.halt()
        self.down.halt()
        reset(self.server)

    def dismiss(self, last_words: bytes) -> None:
        """Close the client's side after `cut`, with ``last_words`` where they fit in.

        They fit in where every message that the client has begun to receive is whole.
        """
        if self.down.ended or not self.down.is_between_messages():
            last_words = b""
        self.host.closing.close(self.client, last_words)
        self._end()

    def abort(self) -> None:
        """End both sides at once, without a word, if they have not ended yet."""
        if self._open:
            self._client_is_gone()

    def source_broke(self, flow: Flow) -> None:
        """Handle a reset or a time-out of the side that ``flow`` reads."""
        if flow is self.down:
            # What the server said before is still owed to the client.
            flow.finish()
        else:
            self._client_is_gone()

    def sink_broke(self, flow: Flow) -> None:
        """Handle a side that takes no bytes any more."""
        if flow is self.down:
            self._client_is_gone()
            return
        # The server is gone, but its last words may be on the way to the client.
        flow.abandon()
        self.flow_ended(flow)

    def flow_ended(self, flow: Flow) -> None:
        """Pass on that ``flow``'s source has closed its sending side."""
        with contextlib.suppress(OSError):
            flow.sink.shutdown(socket.SHUT_WR)
        if self.up.ended and self.down.ended and not self._has_rest():
            self._close()
        elif flow is self.down:
            self._half_open = self.host.loop.call_later(
                self.host.limits.half_open_s, self._close
            )

    def _has_rest(self) -> bool:
        return bool(self.up.waiting or self.down.waiting)

    def _client_is_gone(self) -> None:
        self.cut()
        self.client.close()
        self._end()

    def _close(self) -> None:
        self.up.halt()
        self.down.halt()
        self.server.close()
        self.client.close()
        self._end()

    def _end(self) -> None:
        if self._half_open is not None:
            self._half_open.cancel()
            self._half_open = None
        if self._open:
            self._open = False
            self.host.on_end(self)
