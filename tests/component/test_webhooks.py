"""Webhooks with a real receiver, also one that is down for a while; callbacks."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from pgbastion.node.callbacks import RoleCallback
from pgbastion.node.webhooks import FOLDER, SPOOLED_MAX, VALID_S, Hook, Webhook
from pgbastion.observe.events import Event, EventKind

pytestmark = pytest.mark.anyio

HOST = "127.38.0.2"
SECRET = b"a secret"
SOON_S = 20.0
POLL_S = 0.02
# A receiver that is down: seconds here, five minutes in full.
DOWN_S = 300.0 if os.environ.get("PGBASTION_TEST_FULL") else 1.0


class Receiver(BaseHTTPRequestHandler):
    got: ClassVar[list[tuple[dict[str, str], bytes]]] = []
    status: ClassVar[int] = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.status == 200:
            self.got.append((dict(self.headers), body))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def receiving(port: int) -> Any:
    server = HTTPServer((HOST, port), Receiver)
    thread = Thread(target=lambda: server.serve_forever(0.05))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def port() -> int:
    Receiver.got.clear()
    Receiver.status = 200
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


def event(number: int) -> Event:
    return Event(
        seq=number,
        key=f"role-{number}",
        kind=EventKind.ROLE,
        what="assigned",
        node="n1",
        at="now",
        fields={"primary": "n2"},
    )


def webhook(port: int, directory: Path) -> Webhook:
    hook = Hook(url=f"http://{HOST}:{port}/hook", secret=SECRET)
    return Webhook(hook, directory, backoff_s=(0.05, min(DOWN_S, 60.0)))


@contextlib.asynccontextmanager
async def running(hook: Webhook) -> AsyncIterator[None]:
    task = asyncio.create_task(hook.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(question: Callable[[], bool], within_s: float = SOON_S) -> None:
    """Wait for what a thread or another process does."""
    for _ in range(int(within_s / POLL_S) + 1):
        if question():
            return
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"not within {within_s:g} s")


async def received(number: int, within_s: float = SOON_S) -> list[str]:
    await until(lambda: len(Receiver.got) >= number, within_s)
    return [json.loads(body)["id"] for _, body in Receiver.got]


def spooled(directory: Path) -> list[Path]:
    return sorted((directory / FOLDER).rglob("*.json"))


async def test_an_event_is_delivered_signed(port: int, tmp_path: Path) -> None:
    hook = webhook(port, tmp_path)
    with receiving(port):
        async with running(hook):
            hook.take(event(1))
            await received(1)
            await until(lambda: not spooled(tmp_path))

    headers, body = Receiver.got[0]
    at = headers["Pgbastion-Timestamp"]
    wanted = hmac.new(SECRET, at.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["Pgbastion-Signature"] == f"sha256={wanted}"
    assert headers["Pgbastion-Event-Id"] == "role-1"
    assert json.loads(body)["data"] == {"primary": "n2"}
    assert abs(int(at) - time.time()) < 60


@pytest.mark.timeout(DOWN_S + 120)
async def test_a_receiver_that_is_down_gets_everything_in_order_later(
    port: int, tmp_path: Path
) -> None:
    hook = webhook(port, tmp_path)
    async with running(hook):
        for number in range(1, 6):
            hook.take(event(number))
        await asyncio.sleep(DOWN_S)
        assert len(spooled(tmp_path)) == 5
        with receiving(port):
            found = await received(5, within_s=2 * DOWN_S + SOON_S)

    assert found == [f"role-{number}" for number in range(1, 6)]


async def test_a_receiver_that_refuses_is_asked_again(
    port: int, tmp_path: Path
) -> None:
    Receiver.status = 500
    hook = webhook(port, tmp_path)
    with receiving(port):
        async with running(hook):
            hook.take(event(1))
            await asyncio.sleep(0.2)
            Receiver.status = 200
            assert await received(1) == ["role-1"]


async def test_a_restart_forgets_nothing(port: int, tmp_path: Path) -> None:
    first = webhook(port, tmp_path)
    async with running(first):
        first.take(event(1))
        await until(lambda: bool(spooled(tmp_path)))

    second = webhook(port, tmp_path)
    with receiving(port):
        async with running(second):
            assert await received(1) == ["role-1"]


async def test_what_waits_is_bounded_in_number_and_age(
    port: int, tmp_path: Path
) -> None:
    hook = webhook(port, tmp_path)
    hook.take(event(1))
    await asyncio.to_thread(hook._spool)
    (folder,) = {path.parent for path in spooled(tmp_path)}
    for number in range(2, SPOOLED_MAX + 10):
        (folder / f"{number:020}.json").write_text("{}")
    old = time.time() - VALID_S - 60
    os.utime(folder / f"{5:020}.json", (old, old))

    kept = hook._spooled()

    assert len(kept) == SPOOLED_MAX
    assert kept == spooled(tmp_path)
    assert kept[-1].name == f"{SPOOLED_MAX + 9:020}.json"


def test_a_secret_does_not_show() -> None:
    assert "a secret" not in repr(Hook(url="http://x", secret=SECRET))


# Callbacks


def callback(program: Path, limit_s: float = 5.0) -> RoleCallback:
    return RoleCallback(
        program=lambda: program, limit_s=lambda: limit_s, cluster=lambda: "main"
    )


def program(directory: Path, text: str) -> tuple[Path, Path]:
    said = directory / "said"
    made = directory / "program"
    made.write_text(f"#!/bin/sh\n{text}\n".replace("SAID", str(said)))
    made.chmod(0o755)
    return made, said


@contextlib.asynccontextmanager
async def calling(one: RoleCallback) -> AsyncIterator[None]:
    task = asyncio.create_task(one.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def says(path: Path, text: str) -> None:
    await until(lambda: path.exists() and text in path.read_text())


async def test_a_change_of_role_runs_the_program_once(tmp_path: Path) -> None:
    made, said = program(tmp_path, 'echo "$@" >> SAID')
    one = callback(made)
    async with calling(one):
        one.note("standby")
        one.note("standby")
        await says(said, "on_role_change standby main")
        one.note("primary")
        await says(said, "on_role_change primary main")

    assert len(said.read_text().splitlines()) == 2


async def test_a_newer_change_ends_the_program_that_runs(tmp_path: Path) -> None:
    made, said = program(
        tmp_path, 'echo "begins $2" >> SAID; [ "$2" = standby ] && sleep 60; exit 0'
    )
    one = callback(made, limit_s=60)
    async with calling(one):
        one.note("standby")
        await says(said, "begins standby")
        one.note("primary")
        await says(said, "begins primary")


async def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    made, said = program(tmp_path, 'echo "$$ begins $2" >> SAID; sleep 60')
    one = callback(made, limit_s=0.2)
    async with calling(one):
        one.note("standby")
        await says(said, "begins standby")
        pid = int(said.read_text().split()[0])
        await until(lambda: not Path(f"/proc/{pid}").exists())
        one.note("primary")
        await says(said, "begins primary")


async def test_a_program_that_cannot_be_run_hurts_nobody(tmp_path: Path) -> None:
    one = callback(tmp_path / "missing")
    async with calling(one):
        one.note("primary")
        await asyncio.sleep(0.05)
        assert one._role == "primary"
