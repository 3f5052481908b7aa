"""The relay: bytes stay as they are, slow readers slow senders, ends are passed on."""

import asyncio
import contextlib
import hashlib
import random
import socket
import struct
import time

import pytest

from pgbastion.proxy.routes import DataPath, Limits
from pgbastion.testing.stand_in_server import number_pattern, row
from support.proxy_lab import (
    SSL_REQUEST,
    RawPair,
    eventually,
    proxy_lab,
    query,
    raw_pair,
    startup,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LINGER_RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def send_in_pieces(
    pair: RawPair, to: socket.socket, data: bytes, rng: random.Random
) -> None:
    at = 0
    while at < len(data):
        size = int(2 ** rng.uniform(0, 18))
        await pair.loop.sock_sendall(to, data[at : at + size])
        at += size
        if rng.random() < 0.1:
            await asyncio.sleep(rng.uniform(0, 0.003))


async def receive_in_pieces(
    pair: RawPair, at: socket.socket, size: int, rng: random.Random
) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = await pair.loop.sock_recv(at, int(2 ** rng.uniform(0, 18)))
        assert data
        received += data
        if rng.random() < 0.05:
            await asyncio.sleep(rng.uniform(0, 0.003))
    return bytes(received)


async def test_bytes_arrive_as_they_were_sent_in_both_directions_at_once(
    data_path: DataPath,
) -> None:
    async with raw_pair(data_path) as pair:
        rng = random.Random(35)
        up, down = rng.randbytes(6_000_000), rng.randbytes(7_000_000)
        async with asyncio.timeout(30):
            _, _, got_up, got_down = await asyncio.gather(
                send_in_pieces(pair, pair.client, up, random.Random(1)),
                send_in_pieces(pair, pair.server, down, random.Random(2)),
                receive_in_pieces(pair, pair.server, len(up), random.Random(3)),
                receive_in_pieces(pair, pair.client, len(down), random.Random(4)),
            )

        assert hashlib.sha256(got_up).digest() == hashlib.sha256(up).digest()
        assert hashlib.sha256(got_down).digest() == hashlib.sha256(down).digest()


async def test_a_reader_that_stalls_stops_the_sender(data_path: DataPath) -> None:
    """What piles up is the kernel's buffers and one chunk, not the whole stream."""
    async with raw_pair(data_path) as pair:
        block = bytes(1 << 20)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 1 << 28:
                async with asyncio.timeout(0.5):
                    await pair.loop.sock_sendall(pair.server, block)
                sent += len(block)
        assert sent < 64 << 20
        assert len(pair.relay.down.waiting) <= Limits().chunk_bytes

        # The other direction is not affected, and the stalled one goes on.
        await pair.loop.sock_sendall(pair.client, b"still here")
        assert await pair.receive(pair.server, 10) == b"still here"
        assert await pair.receive(pair.client, sent) == bytes(sent)


async def test_a_client_that_closes_its_sending_side_still_gets_the_answer(
    data_path: DataPath,
) -> None:
    async with raw_pair(data_path) as pair:
        pair.client.shutdown(socket.SHUT_WR)
        assert await pair.end_of(pair.server) == b""

        await pair.loop.sock_sendall(pair.server, b"answer")
        assert await pair.receive(pair.client, 6) == b"answer"

        pair.server.close()
        assert await pair.end_of(pair.client) == b""
        await eventually(lambda: pair.lab.proxy.snapshot().connections == 0)


async def test_a_server_that_closes_its_sending_side_still_hears_the_client(
    data_path: DataPath,
) -> None:
    async with raw_pair(data_path) as pair:
        await pair.loop.sock_sendall(pair.server, b"last words")
        pair.server.shutdown(socket.SHUT_WR)
        assert await pair.end_of(pair.client) == b"last words"

        await pair.loop.sock_sendall(pair.client, b"thanks")
        assert await pair.receive(pair.server, 6) == b"thanks"


async def test_a_half_open_client_is_closed_after_a_while(data_path: DataPath) -> None:
    async with raw_pair(data_path, Limits(half_open_s=0.2)) as pair:
        pair.server.close()
        assert await pair.end_of(pair.client) == b""

        await eventually(lambda: pair.lab.proxy.snapshot().connections == 0)


async def test_the_last_words_of_a_server_arrive_before_the_end(
    data_path: DataPath,
) -> None:
    """Also when the reader is slow and the server is gone long before."""
    async with raw_pair(data_path) as pair:
        data = b"".join(number_pattern(n, 1000) for n in range(20_000))
        sending = asyncio.create_task(pair.loop.sock_sendall(pair.server, data))
        sending.add_done_callback(lambda _: pair.server.close())
        await asyncio.sleep(0.05)

        assert await pair.end_of(pair.client) == data
        await sending


async def test_a_reset_of_the_server_ends_the_client_after_what_was_sent(
    data_path: DataPath,
) -> None:
    async with raw_pair(data_path) as pair:
        await pair.loop.sock_sendall(pair.server, b"before")
        assert await pair.receive(pair.client, 6) == b"before"
        pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        pair.server.close()

        assert await pair.end_of(pair.client) == b""


async def test_a_reset_of_the_client_resets_the_server(data_path: DataPath) -> None:
    async with raw_pair(data_path) as pair:
        pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        pair.client.close()

        with pytest.raises(ConnectionResetError):
            await pair.end_of(pair.server)
        await eventually(lambda: pair.lab.proxy.snapshot().connections == 0)


async def test_a_reset_right_after_data_is_noticed(data_path: DataPath) -> None:
    """Data and error are there at one wake-up, and one read finds the data only."""
    async with raw_pair(data_path) as pair:
        pair.client.send(b"data")
        pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        pair.client.close()

        with pytest.raises(ConnectionResetError):
            await pair.end_of(pair.server)
        await eventually(lambda: pair.lab.proxy.snapshot().connections == 0)


async def test_a_client_that_goes_while_it_is_owed_much_ends_the_server(
    data_path: DataPath,
) -> None:
    async with raw_pair(data_path) as pair:
        sending = asyncio.create_task(
            pair.loop.sock_sendall(pair.server, bytes(64 << 20))
        )
        await asyncio.sleep(0.1)
        pair.client.close()

        with pytest.raises(ConnectionError):
            await sending
        await eventually(lambda: pair.lab.proxy.snapshot().connections == 0)


async def test_a_server_that_goes_while_it_is_owed_much_does_not_end_the_answer(
    data_path: DataPath,
) -> None:
    async with raw_pair(data_path) as pair:
        sending = asyncio.create_task(
            pair.loop.sock_sendall(pair.client, bytes(64 << 20))
        )
        await asyncio.sleep(0.1)
        await pair.loop.sock_sendall(pair.server, b"sorry")
        pair.server.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.05)
        pair.server.close()

        assert (await pair.receive(pair.client, 5)) == b"sorry"
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sending


async def test_a_session_with_a_stalled_reader_is_superseded_at_once(
    data_path: DataPath,
) -> None:
    async with raw_pair(data_path) as pair:
        sending = asyncio.create_task(
            pair.loop.sock_sendall(pair.server, row(bytes(1 << 20)) * 64)
        )
        await asyncio.sleep(0.1)

        pair.lab.proxy.set_routes(pair.lab.routes(None, epoch=2))

        with pytest.raises(ConnectionResetError):
            await sending
        received = await pair.end_of(pair.client)
        assert b"57P01" not in received


async def test_an_urgent_byte_is_one_like_the_others(data_path: DataPath) -> None:
    async with raw_pair(data_path) as pair:
        pair.client.send(b"a")
        pair.client.send(b"b", socket.MSG_OOB)
        await pair.loop.sock_sendall(pair.client, b"c")
        assert await pair.receive(pair.server, 3) == b"abc"

        pair.client.close()
        assert await pair.end_of(pair.server) == b""


async def test_both_sides_notice_a_dead_peer(data_path: DataPath) -> None:
    """Keepalive and TCP_USER_TIMEOUT are on, and small messages are not delayed."""
    async with raw_pair(data_path) as pair:
        limits = Limits()
        for side in (pair.relay.client, pair.relay.server):
            tcp = socket.IPPROTO_TCP
            assert side.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert side.getsockopt(tcp, socket.TCP_NODELAY) == 1
            idle_s = side.getsockopt(tcp, socket.TCP_KEEPIDLE)
            assert idle_s == limits.keepalive_idle_s
            timeout_ms = side.getsockopt(tcp, socket.TCP_USER_TIMEOUT)
            assert timeout_ms == limits.user_timeout_ms


async def test_readers_that_stall_outlive_the_time_out_of_dead_peers(
    data_path: DataPath,
) -> None:
    """TCP_USER_TIMEOUT alone would end them although their kernels answer every probe.

    Client and server stall at once, as in a COPY each way, and then go on.
    """
    async with raw_pair(data_path, Limits(user_timeout_ms=600)) as pair:
        data = random.Random(3).randbytes(16 << 20)
        ends = pair.client, pair.server
        sending = [
            asyncio.create_task(pair.loop.sock_sendall(end, data)) for end in ends
        ]
        sides = pair.relay.client, pair.relay.server
        await eventually(lambda: [_time_out_of(side) for side in sides] == [0, 0])
        await asyncio.sleep(2)

        for flow in (pair.relay.up, pair.relay.down):
            assert len(flow.waiting) <= Limits().chunk_bytes
            assert flow.total < len(data)
        assert not any(task.done() for task in sending)
        # What a reload says counts from the next look on.
        pair.lab.proxy.set_limits(Limits(user_timeout_ms=900))
        received = await asyncio.gather(*(pair.receive(e, len(data)) for e in ends))
        assert received == [data, data]
        await asyncio.gather(*sending)
        await eventually(lambda: [_time_out_of(side) for side in sides] == [900, 900])


def _time_out_of(side: socket.socket) -> int:
    return side.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


async def test_two_thousand_sessions_end_within_a_second(data_path: DataPath) -> None:
    async with proxy_lab("n1", "n2", data_path=data_path) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        clients = []
        for _ in range(20):
            opened = [await lab.connect() for _ in range(100)]
            for client in opened:
                client.send(startup())
            await asyncio.gather(*(client.until_ready() for client in opened))
            clients += opened

        begin = time.perf_counter()
        lab.proxy.set_routes(lab.routes("n2", epoch=2))

        # By now every server's side has been reset and every client's side sent to.
        assert time.perf_counter() - begin < 1.0
        assert lab.proxy.snapshot().connections == 0
        errors = await asyncio.gather(*(client.error() for client in clients))
        assert {error["C"] for error in errors} == {"57P01"}


async def test_rows_of_many_sizes_arrive_whole(data_path: DataPath) -> None:
    async with proxy_lab("n1", data_path=data_path) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()
        for count, size in ((5000, 3), (300, 10_000), (3, 5_000_000)):
            rows = await client.query(f"rows {count} {size}")
            assert rows == [number_pattern(n, size) for n in range(count)]


async def test_opaque_sessions_are_relayed_in_many_small_messages(
    data_path: DataPath,
) -> None:
    async with proxy_lab("n1", data_path=data_path) as lab:
        lab.servers["n1"].tls = True
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"S"
        for number in range(500):
            client.send(query(str(number)))
            assert await client.read(len(query(str(number)))) == query(str(number))
