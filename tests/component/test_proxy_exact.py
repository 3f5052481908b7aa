"""Every byte once, in its order, whatever the sizes, the pauses and the way it takes.

Both sides of a session talk at once, in messages from one byte to three megabytes. Now
and then a reader stalls until the credit is used up, or the lease lapses for the length
of one message: both make the way of that direction change. One side ends before the
other. With PGBASTION_TEST_FULL it is a million messages on either path.
"""

import asyncio
import hashlib
import os
import random
import socket
from dataclasses import dataclass, field

import pytest

from pgbastion.proxy.routes import DataPath, Limits
from support.proxy_lab import RawPair, raw_pair

FULL = bool(os.environ.get("PGBASTION_TEST_FULL"))

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.timeout(1_800 if FULL else 60),
]

MESSAGES = 1_000_000 if FULL else 3_000
MESSAGES_A_SESSION = 25_000
# A side that has closed its half may wait long for the other's end.
LIMITS = Limits(half_open_s=1_000)
LARGE_BYTES = 3_000_000
# Small, so that a reader that is slow soon uses up the credit.
RECEIVE_BUFFER_BYTES = 1 << 16


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@dataclass
class Stream:
    """One direction: what was sent, and what arrived."""

    pair: RawPair
    source: socket.socket
    sink: socket.socket
    rng: random.Random
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    lapses: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    sent: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    received: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    async def send(self, messages: int) -> None:
        """Send ``messages``, the last one large, then the end."""
        for number in range(messages):
            message = self._message(large=number == messages - 1)
            self.sent.update(message)
            self.sent_bytes += len(message)
            if self.rng.random() < 0.02:
                message = message[self._send_while_lapsed(message) :]
            await self.pair.loop.sock_sendall(self.source, message)
            if self.rng.random() < 0.1:
                # Only then may the program go on after user space had to help.
                await self._until_all_is_read()
        self.source.shutdown(socket.SHUT_WR)

    async def receive(self) -> None:
        """Read up to the end."""
        while data := await self.pair.loop.sock_recv(self.sink, self._size(17)):
            self.received.update(data)
            self.received_bytes += len(data)
            self.progress.set()
            if self.rng.random() < 0.002:
                await asyncio.sleep(self.rng.uniform(0, 0.05))

    def check(self) -> None:
        assert self.received_bytes == self.sent_bytes
        assert self.received.digest() == self.sent.digest()

    def _send_while_lapsed(self, message: bytes) -> int:
        """Send some of ``message`` while the program may redirect nothing."""
        lease = self.pair.relay.lease
        until_ns = lease.expires_ns
        lease.set(0)
        try:
            return self.source.send(message)
        except BlockingIOError:
            return 0
        finally:
            lease.set(until_ns)
            self.lapses += 1

    async def _until_all_is_read(self) -> None:
        while self.received_bytes < self.sent_bytes:
            self.progress.clear()
            await self.progress.wait()
        await asyncio.sleep(self.rng.uniform(0, 0.002))

    def _message(self, *, large: bool) -> bytes:
        if large or self.rng.random() < 0.004:
            return self.rng.randbytes(self.rng.randrange(1, LARGE_BYTES))
        return self.rng.randbytes(self._size(13))

    def _size(self, exponent: int) -> int:
        return int(2 ** self.rng.uniform(0, exponent))


async def talk(data_path: DataPath, seed: int, messages: int) -> None:
    """Run one session, and compare what arrived with what was sent."""
    rng = random.Random(seed)
    async with raw_pair(data_path, LIMITS, left_s=3_600) as pair:
        relay = pair.relay
        for end in (pair.client, pair.server):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        in_user_space = relay.up.moved, relay.down.moved
        up = Stream(pair, pair.client, pair.server, random.Random(rng.random()))
        down = Stream(pair, pair.server, pair.client, random.Random(rng.random()))
        of_up = int(messages * rng.uniform(0.3, 0.7))
        await asyncio.gather(
            up.send(of_up),
            down.send(messages - of_up),
            up.receive(),
            down.receive(),
        )
        up.check()
        down.check()
        assert up.lapses
        assert down.lapses
        if data_path is DataPath.KERNEL:
            for flow, before in zip((relay.up, relay.down), in_user_space, strict=True):
                assert before < flow.moved < flow.total, "one way only was used"


async def test_random_messages_arrive_as_they_were_sent(data_path: DataPath) -> None:
    left, seed = MESSAGES, 0
    while left:
        messages = min(left, MESSAGES_A_SESSION)
        try:
            await talk(data_path, seed, messages)
        except BaseException as exc:
            exc.add_note(f"session of seed {seed}")
            raise
        left -= messages
        seed += 1
