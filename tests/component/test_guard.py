"""The guard's socket: who may talk to it, and who writes the page."""

import asyncio
import json
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator

import pytest

from pgbastion.errors import GuardError
from pgbastion.guard import page as words
from pgbastion.postgres.guard_client import GuardClient
from pgbastion.postgres.guard_messages import Gone, WriterEnded
from pgbastion.postgres.guard_writer import become_writer
from support.guard_lab import (
    SERVER,
    GuardLab,
    alive,
    guard_lab,
    lab_directories,
    python_beside,
    refused,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ASK_FOR_WRITER_LOCK = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(b'{"v":1,"id":1,"do":"hello","write":true}\\n')
print(json.loads(sock.makefile().readline())["generation"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
async def lab() -> AsyncIterator[GuardLab]:
    async with guard_lab() as made:
        yield made


def raw(lab: GuardLab) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(str(lab.run_dir / "guard.sock"))
    return sock


def has_ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(10) == b""
    except ConnectionError:
        return True


def answer_to(lab: GuardLab, uid: int) -> bytes:
    """Ask for the status as another user; return what comes back."""
    code = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
try:
    sock.sendall(b'{"v":1,"id":1,"do":"status"}\\n')
    print(sock.recv(10).decode(), end="")
except ConnectionError:
    pass
"""
    asking = python_beside(code, str(lab.run_dir / "guard.sock"), str(uid))
    out, _ = asking.communicate()
    assert asking.returncode == 0
    return out.encode()


# Who may talk to it


async def test_socket_page_and_log_are_the_owner_s_only(lab: GuardLab) -> None:
    for name in ("guard.sock", "page", "guard.log", "guard.lock"):
        mode = (lab.run_dir / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600, name


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's process")
async def test_another_user_s_process_is_not_answered(lab: GuardLab) -> None:
    (lab.run_dir / "guard.sock").chmod(0o666)

    assert answer_to(lab, lab.account.pw_uid) == b""
    assert (await lab.client.status()).state == "idle"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's process")
async def test_the_client_does_not_believe_another_user_s_guard() -> None:
    with lab_directories() as (run_dir, _):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(run_dir / "guard.sock"))
        # The credentials that a client sees are those of the moment of listen().
        os.seteuid(65534)
        try:
            listener.listen(1)
        finally:
            os.seteuid(0)
        with pytest.raises(GuardError, match="cannot tell who"):
            await GuardClient.connect(run_dir, on_event=lambda _: None)
        listener.close()


async def test_one_run_directory_has_one_guard(lab: GuardLab) -> None:
    others = await asyncio.gather(
        *(
            GuardClient.connect_or_spawn(lab.run_dir, on_event=lambda _: None)
            for _ in range(4)
        )
    )
    lab.clients += others

    assert {other.guard_pid for other in others} == {lab.client.guard_pid}


async def test_clients_that_come_at_once_start_one_guard() -> None:
    with lab_directories() as (run_dir, _):
        clients = await asyncio.gather(
            *(
                GuardClient.connect_or_spawn(run_dir, on_event=lambda _: None)
                for _ in range(4)
            )
        )
        assert len({client.guard_pid for client in clients}) == 1
        await clients[0].quit()
        await until(lambda: not alive(clients[0].guard_pid))
        for client in clients:
            await client.close()


async def test_a_line_that_is_no_request_ends_its_connection_only(
    lab: GuardLab,
) -> None:
    for line in (b"nonsense\n", b"[1]\n", b"\xff\n", b"[" * 60_000 + b"\n"):
        with raw(lab) as sock:
            sock.sendall(line)
            assert sock.recv(10) == b""
    with raw(lab) as sock:
        sock.sendall(b"x" * 100_000)
        assert await until(lambda: has_ended(sock))

    assert (await lab.client.status()).state == "idle"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"v": 2, "do": "status"}, "version"),
        ({"v": 1, "do": "no_such_thing"}, "unknown"),
        ({"v": 1, "do": 5}, "invalid"),
        ({"v": 1, "do": "kill", "deadline_ms": "soon"}, "invalid"),
        ({"v": 1, "do": "kill", "pgdata": "a\0b", "uid": 1}, "invalid"),
        ({"v": 1, "do": "kill"}, "not_running"),
        ({"v": 1, "do": "arm", "epoch": 4}, "writer"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_its_reason(
    lab: GuardLab, request_: dict[str, object], reason: str
) -> None:
    code = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(sys.argv[2].encode() + b"\\n")
print(sock.makefile().readline())
"""
    asked = json.dumps({"id": 9, **request_})
    other = python_beside(code, str(lab.run_dir / "guard.sock"), asked)
    out, _ = await asyncio.to_thread(other.communicate)
    answer = json.loads(out)

    assert (answer["id"], answer["ok"], answer["reason"]) == (9, False, reason)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("argv", "postgres"),
        ("argv", ["postgres"]),
        ("argv", []),
        ("argv", ["/bin/true", 5]),
        ("uid", -1),
        ("uid", True),
        ("uid", 0),
        ("pgdata", "relative"),
        ("environment", {"A": 5}),
        ("environment", ["A"]),
        ("primary", 1),
    ],
)
async def test_a_start_with_a_wrong_field_starts_nothing(
    lab: GuardLab, field: str, value: object
) -> None:
    request = {
        "argv": list(SERVER),
        "user": lab.account.pw_name,
        "uid": lab.account.pw_uid,
        "gid": lab.account.pw_gid,
        "home": "/",
        "pgdata": str(lab.pgdata),
        "log": "/dev/null",
        "primary": False,
        "epoch": 0,
        "environment": {},
    }

    with pytest.raises(GuardError):
        await lab.client._ask("start", **{**request, field: value})

    assert (await lab.client.status()).state == "idle"


async def test_what_is_no_address_is_not_taken_for_removal(lab: GuardLab) -> None:
    for names in (["10.0.0.1/24"], ["eth0"], [""], ["10.0.0.1"] * 65):
        with refused("failed"):
            await lab.client.removals(names)
    with refused("invalid"):
        await lab.client._ask("removals", addresses=[7])

    await lab.client.removals(["10.0.0.1", "fd00::1"])
    await lab.client.removals([])


# Who writes the page


async def test_the_writer_keeps_its_generation_when_it_connects_again(
    lab: GuardLab,
) -> None:
    again = await lab.another_client()

    assert await again.hello(write=True) == 1
    assert lab.page[words.GENERATION] == 1


async def test_one_writer_of_the_page_at_a_time_while_it_lives(lab: GuardLab) -> None:
    other = python_beside(ASK_FOR_WRITER_LOCK, str(lab.run_dir / "guard.sock"))
    out, _ = await asyncio.to_thread(other.communicate)

    assert out.strip() == "None"
    assert lab.page[words.GENERATION] == 1


async def test_the_next_writer_gets_the_next_generation_once_the_former_ended() -> None:
    with lab_directories() as (run_dir, _):
        events: list[object] = []
        client = await GuardClient.connect_or_spawn(run_dir, on_event=events.append)
        former = python_beside(ASK_FOR_WRITER_LOCK, str(run_dir / "guard.sock"))
        assert former.stdout is not None
        assert (await asyncio.to_thread(former.stdout.readline)).strip() == "1"
        assert await client.hello(write=True) is None

        waiting = asyncio.create_task(become_writer(client, run_dir / "page"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        former.kill()
        assert await waiting == 2
        assert WriterEnded() in events

        await asyncio.to_thread(former.communicate)
        await client.quit()
        await until(lambda: Gone(is_dead=True) in events)
        await client.close()


async def test_a_guard_s_successor_knows_the_writer(lab: GuardLab) -> None:
    os.kill(lab.client.guard_pid, signal.SIGKILL)
    await lab.event(Gone)
    await lab.client.close()
    lab.client = await GuardClient.connect_or_spawn(
        lab.run_dir, on_event=lab.events.append
    )
    other = python_beside(ASK_FOR_WRITER_LOCK, str(lab.run_dir / "guard.sock"))
    out, _ = await asyncio.to_thread(other.communicate)

    assert out.strip() == "None"
    assert await lab.client.hello(write=True) == 1


# The client


async def test_a_callback_that_fails_does_not_deafen_the_client(
    lab: GuardLab,
) -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: failures.append(context["exception"])
    )
    calls: list[object] = []

    def failing(event: object) -> None:
        calls.append(event)
        raise LookupError

    client = await GuardClient.connect(lab.run_dir, on_event=failing)
    lab.clients.append(client)
    await client.hello(write=False)
    await lab.start()
    await lab.client.kill()
    await until(lambda: len(calls) == 2)

    assert (await client.status()).state == "idle"
    assert [type(failure) for failure in failures] == [LookupError, LookupError]


async def test_what_waits_for_an_answer_fails_when_the_guard_dies(
    lab: GuardLab,
) -> None:
    os.kill(lab.client.guard_pid, signal.SIGSTOP)
    asking = asyncio.create_task(lab.client.status())
    await asyncio.sleep(0.05)
    os.kill(lab.client.guard_pid, signal.SIGKILL)

    with pytest.raises(GuardError, match="ended"):
        await asking
    assert await lab.event(Gone) == Gone(is_dead=True)
    with pytest.raises(GuardError, match="no connection"):
        await lab.client.status()


async def test_a_guard_that_cannot_start_says_why() -> None:
    with lab_directories() as (run_dir, _):
        (run_dir / "page").write_bytes(bytes(12))

        with pytest.raises(GuardError, match="12 bytes, not 4096"):
            await GuardClient.connect_or_spawn(run_dir, on_event=lambda _: None)
