"""One direction of a session whose bytes the kernel may move.

Its bytes take one of two ways, never both at a time. The program redirects them while
it has credit and nothing that it passed up before is outstanding. Otherwise they come
up here, are sent on like in any relay, and only when all of them are on their way does
a new grant let the program go on. See `program`.

While the program moves the bytes, nobody listens here: an event a message would cost
more than the message. The program's alarm says when there is something to hear again.
"""

import contextlib
import socket
from asyncio import TimerHandle
from typing import Final

from pgbastion.proxy.kernel.program import BROKEN, TAIL_BYTES, WORDS_PER_SLOT, Word
from pgbastion.proxy.relay import Flow, Relay
from pgbastion.proxy.tcp_info import (
    read_next_sequence,
    read_queued_bytes,
    read_queued_bytes_exactly,
    read_tcp_info,
)
from pgbastion.proxy.wire import ServerStream, ends_cycle

# Bytes that may be on the way to a receiver that has not acknowledged them.
WINDOW_BYTES: Final = 1 << 20
# When to look again whether the kernel has queued what it redirected: soon at first,
# less often when the receiver does not read.
_LOOK_SOONEST_S: Final = 0.001
_LOOK_LATEST_S: Final = 0.05
# No count of passed bytes is ever this: the program passes everything up.
_NEVER: Final = 2**64 - 1


class KernelFlow(Flow):
    """A `Flow` that grants credit to the program and cleans up after it."""

    __slots__ = (
        "_at",
        "_look_s",
        "_moved_before",
        "_queued_before",
        "_read_before",
        "_seen",
        "_settled",
        "_tended",
        "_timer",
        "_unjudged",
        "_words",
    )

    def __init__(
        self, relay: Relay, flow: Flow, *, words: memoryview, slot: int, lease_slot: int
    ) -> None:
        """Take over from ``flow``, all of whose bytes are on their way.

        Raises:
            OSError: A socket is no usable TCP connection any more.
        """
        super().__init__(relay, flow.source, flow.sink, flow.stream)
        self.moved = self._moved_before = flow.moved
        self._words = words
        self._at = slot * WORDS_PER_SLOT
        self._read_before = read_tcp_info(self.source).received_bytes
        # Less would let later bytes pass for queued too early, more for ever too late.
        self._queued_before = read_queued_bytes_exactly(self.sink)
        # How many bytes the program was never asked about, once that is certain.
        self._unjudged: int | None = None
        # Values of REDIRECTED: when all of it was last known to be in the queue; when
        # a chunk last came up here; when the flow was last tended.
        self._settled = self._seen = self._tended = 0
        self._look_s = _LOOK_SOONEST_S
        self._timer: TimerHandle | None = None
        for word in Word:
            words[self._at + word] = 0
        words[self._at + Word.LEASE] = lease_slot
        # `has_read_all` tells whether this still was so when it is asked.
        words[self._at + Word.NEXT] = read_next_sequence(self.source)

    @property
    def total(self) -> int:
        """Bytes moved in this direction, here and by the program."""
        return self.moved + self._words[self._at + Word.REDIRECTED]

    def has_read_all(self) -> bool:
        """Tell whether this process has read every byte that ever arrived.

        Raises:
            OSError: The source is broken.
        """
        drained = _is_drained(self.source)
        return drained and self._read() == read_tcp_info(self.source).received_bytes

    def is_in_sequence(self) -> bool:
        """Tell whether the program knows which byte comes next, with none under way.

        Raises:
            OSError: The source is broken.
        """
        return self._words[self._at + Word.NEXT] == read_next_sequence(self.source)

    def read_rest(self) -> bytes:
        """Read at once what came after `has_read_all` and was never judged.

        Of a piece that was read in part the program would get the whole.
        """
        words, at = self._words, self._at
        size = read_tcp_info(self.source).received_bytes - self._read()
        if size <= 0:
            return b""
        try:
            rest = self.source.recv(size)
        except (BlockingIOError, InterruptedError):
            return b""
        if not words[at + Word.PASSED]:
            words[at + Word.NEXT] = (words[at + Word.NEXT] + len(rest)) % BROKEN
        return rest

    def tend(self) -> bool:
        """Raise the credit, or grant it anew; tell whether the flow is in use.

        Raises:
            OSError: A socket is broken; its own event tells the relay.
        """
        words, at = self._words, self._at
        if words[at + Word.NEXT] >= BROKEN:
            self._break()
            return False
        if self.ended or self.waiting:
            return False
        if words[at + Word.PASSED] != words[at + Word.CONSUMED]:
            self.relay.host.poller.unmute_reader(self.source.fileno())
            self._grant()
            return True
        redirected = words[at + Word.REDIRECTED]
        limit = words[at + Word.LIMIT]
        if not limit:
            self._grant()
        elif limit - redirected < WINDOW_BYTES // 2:
            self._raise_limit()
        in_use = redirected != self._tended or not limit
        self._tended = redirected
        return in_use

    def on_alarm(self) -> None:
        """Listen where bytes were passed up, raise the credit where it runs out.

        Raises:
            OSError: A socket is broken; its own event tells the relay.
        """
        words, at = self._words, self._at
        if words[at + Word.NEXT] >= BROKEN:
            self._break()
            return
        self.relay.host.on_warm(self.relay)
        if words[at + Word.PASSED] != words[at + Word.CONSUMED]:
            self.relay.host.poller.unmute_reader(self.source.fileno())
        elif not (self.ended or self.waiting):
            self._raise_limit()

    def deliver(self, chunk: memoryview) -> None:
        """Send ``chunk`` after everything that the program has redirected."""
        self.relay.host.on_warm(self.relay)
        if not self._is_settled(unsent=len(chunk)):
            self.keep(chunk)
            self._look_later()
            return
        super().deliver(chunk)
        if self._unjudged is not None and not self.waiting:
            # Where a socket is broken, its own event tells the relay.
            with contextlib.suppress(OSError):
                self._grant()

    def finish(self) -> None:
        """Pass the end on after everything that came before it."""
        self.relay.host.poller.remove_reader(self.source.fileno())
        if self._has_all() and self._is_settled(unsent=0):
            super().finish()
        else:
            self._look_later()

    def halt(self) -> None:
        """Stop moving, also in the kernel."""
        self._words[self._at + Word.LIMIT] = 0
        self._words[self._at + Word.CONSUMED] = _NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().halt()

    def is_between_messages(self) -> bool:
        """Tell whether the sink has whole messages only.

        Of what the program moved only the end is known.
        """
        if self._words[self._at + Word.REDIRECTED] == self._seen:
            return super().is_between_messages()
        if self.stream is None or self.waiting or not self._is_settled(unsent=0):
            return False
        tail = self._words[self._at + Word.TAIL].to_bytes(8, "little")
        return ends_cycle(tail[:TAIL_BYTES])

    def follow(self, stream: ServerStream, chunk: memoryview) -> None:
        """Show ``chunk`` to ``stream``, which has not seen what was redirected."""
        redirected = self._words[self._at + Word.REDIRECTED]
        if redirected != self._seen:
            self._seen = redirected
            stream.lose_step()
        super().follow(stream, chunk)

    def _break(self) -> None:
        """End the session: bytes came twice, and could not be told apart any more."""
        self.relay.host.on_event(
            "proxy_stream_broken", {"client": self.relay.client_address}
        )
        self.relay.abort()

    def _read(self) -> int:
        """Return how many bytes were ever read here."""
        return self._read_before + self.moved - self._moved_before

    def _grant(self) -> None:
        """Let the program go on if all that it passed up is on its way."""
        if self._unjudged is None and not self._find_unjudged():
            return
        if self._unjudged is None:
            return
        # Bytes that were passed up after this was computed make the program's own
        # comparison fail: it goes on passing, and nothing overtakes them.
        consumed = self._read() - self._unjudged
        words, at = self._words, self._at
        if consumed != words[at + Word.PASSED] or not self._raise_limit():
            return
        words[at + Word.CONSUMED] = consumed
        poller = self.relay.host.poller
        poller.mute_reader(self.source.fileno())
        # A piece that was judged before the program could see this gave no alarm.
        if words[at + Word.PASSED] != consumed:
            poller.unmute_reader(self.source.fileno())

    def _find_unjudged(self) -> bool:
        """Find out how many bytes arrived before the program judged any.

        With nothing left to be read, what has arrived is what was judged and what was
        not. If something arrives in between, the program's count tells, and another
        time will do.
        """
        words, at = self._words, self._at
        judged = words[at + Word.PASSED]
        if not _is_drained(self.source):
            return False
        received = read_tcp_info(self.source).received_bytes
        if words[at + Word.PASSED] != judged:
            return False
        self._unjudged = received - judged
        return True

    def _raise_limit(self) -> bool:
        """Allow `WINDOW_BYTES` beyond what the receiver has acknowledged.

        The alarm is set to half of what may still be redirected.

        Returns:
            Whether that is enough for the program to go on for a while.
        """
        words, at = self._words, self._at
        acked = read_tcp_info(self.sink).acked_bytes - self._queued_before
        sent = self.moved - self._moved_before
        limit = max(acked - sent + WINDOW_BYTES, words[at + Word.LIMIT])
        left = limit - words[at + Word.REDIRECTED]
        words[at + Word.CALL_AT] = limit - left // 2
        words[at + Word.LIMIT] = limit
        return left >= WINDOW_BYTES // 2

    def _is_settled(self, *, unsent: int) -> bool:
        """Tell whether all that the program redirected is in the sink's queue.

        Only then may anything be sent from here, lest it overtakes.

        Args:
            unsent: How many of the bytes counted in ``moved`` were not sent yet.
        """
        redirected = self._words[self._at + Word.REDIRECTED]
        if redirected == self._settled:
            return True
        sent = self.moved - self._moved_before - unsent
        if read_queued_bytes(self.sink) - self._queued_before < redirected + sent:
            return False
        self._settled = redirected
        return True

    def _has_all(self) -> bool:
        """Tell whether everything that arrived was read here or redirected.

        What the program passed up may become readable a little after the end does.
        """
        redirected = self._words[self._at + Word.REDIRECTED]
        end = 1  # a FIN is counted like a byte
        received = read_tcp_info(self.source).received_bytes
        return self._read() + redirected + end >= received

    def _look_later(self) -> None:
        loop = self.relay.host.loop
        self._timer = loop.call_later(self._look_s, self._look)
        self._look_s = min(self._look_s * 2, _LOOK_LATEST_S)

    def _look(self) -> None:
        self._timer = None
        if self.relay.lease.is_over():
            self.relay.host.on_expired()
            return
        # With nobody reading from the sink, nobody else would learn of this.
        failure = self.sink.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure or read_tcp_info(self.sink).is_closed:
            self.relay.sink_broke(self)
            return
        if not self._is_settled(unsent=len(self.waiting)):
            self._look_later()
            return
        self._look_s = _LOOK_SOONEST_S
        poller = self.relay.host.poller
        if self.waiting:
            poller.add_writer(self.sink.fileno(), self.on_writable)
        else:
            # The end was met before the last bytes: read on up to the end.
            poller.add_reader(self.source.fileno(), self.on_readable)


def _is_drained(connection: socket.socket) -> bool:
    """Tell whether nothing that has arrived is left to be read."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return True
    return False
