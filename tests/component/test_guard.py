"""The guard as a process: who may talk to it, what it starts and what it outlives."""

import asyncio
import json
import os
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbastion.errors import GuardError
from pgbastion.guard import page as words
from pgbastion.guard import procfs
from pgbastion.postgres.guard_client import GuardClient
from pgbastion.postgres.guard_messages import Exited, Gone, Stopped, Vacant
from support.guard_lab import (
    SERVER,
    STUBBORN,
    GuardLab,
    alive,
    boottime_ns,
    guard_lab,
    lab_directories,
    python_beside,
    refused,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

# Signals 32 and 33: glibc keeps them to itself, and posix_spawn leaves them ignored.
OF_THE_C_LIBRARY = 0x1_8000_0000
ASK_FOR_OFFICE = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(b'{"v":1,"id":1,"do":"hello","write":true}\\n')
print(json.loads(sock.makefile().readline())["generation"], flush=True)
sys.stdin.read()
"""
# Starts the guard as a daemon does, then a server under it, and waits to be killed.
BE_A_DAEMON = """
import asyncio, sys
from pathlib import Path
from support.guard_lab import SERVER, server_account
from pgbastion.postgres.guard_client import GuardClient
async def main():
    run_dir, pgdata = map(Path, sys.argv[1:])
    client = await GuardClient.connect_or_spawn(run_dir, on_event=print)
    await client.hello(write=True)
    pid = await client.start(SERVER, user=server_account().pw_name, pgdata=pgdata,
                             log=run_dir / "log", primary_epoch=None)
    print(client.guard_pid, pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def lab() -> AsyncIterator[GuardLab]:
    async with guard_lab() as made:
        yield made


def raw(lab: GuardLab) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(str(lab.run_dir / "guard.sock"))
    return sock


def content(path: Path | str) -> bytes:
    return Path(path).read_bytes()


def entries(path: str) -> set[str]:
    return {entry.name for entry in Path(path).iterdir()}


def process_status(pid: int) -> dict[str, str]:
    lines = content(f"/proc/{pid}/status").decode().splitlines()
    return dict(line.split(":\t") for line in lines if ":\t" in line)


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


@contextmanager
def sitting_in(directory: Path, name: str) -> Iterator[int]:
    """Run a process of that name whose working directory is ``directory``."""
    code = """
import os, sys
os.chdir(sys.argv[1])
open("/proc/self/comm", "w").write(sys.argv[2])
print("sits", flush=True)
sys.stdin.read()
"""
    sitter = python_beside(code, str(directory), name)
    try:
        assert sitter.stdout is not None
        assert sitter.stdout.readline() == "sits\n"
        yield sitter.pid
    finally:
        sitter.kill()
        sitter.communicate()


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
        ({"v": 1, "do": "arm", "epoch": 4}, "office"),
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


async def test_an_address_to_remove_is_refused_until_it_can_be(lab: GuardLab) -> None:
    await lab.client._ask("removals", addresses=[])
    with refused("unsupported"):
        await lab.client._ask("removals", addresses=["10.0.0.1/24"])


# Who writes the page


async def test_the_writer_keeps_its_generation_when_it_connects_again(
    lab: GuardLab,
) -> None:
    again = await lab.another_client()

    assert await again.hello(write=True) == 1
    assert lab.page[words.GENERATION] == 1


async def test_nobody_else_writes_while_the_writer_lives(lab: GuardLab) -> None:
    other = python_beside(ASK_FOR_OFFICE, str(lab.run_dir / "guard.sock"))
    out, _ = await asyncio.to_thread(other.communicate)

    assert out.strip() == "None"
    assert lab.page[words.GENERATION] == 1


async def test_the_next_writer_gets_the_next_generation_once_the_former_ended() -> None:
    with lab_directories() as (run_dir, _):
        events: list[object] = []
        client = await GuardClient.connect_or_spawn(run_dir, on_event=events.append)
        former = python_beside(ASK_FOR_OFFICE, str(run_dir / "guard.sock"))
        assert former.stdout is not None
        assert (await asyncio.to_thread(former.stdout.readline)).strip() == "1"
        assert await client.hello(write=True) is None

        waiting = asyncio.create_task(client.take_office(10))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        former.kill()
        assert await waiting == 2
        assert Vacant() in events

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
    other = python_beside(ASK_FOR_OFFICE, str(lab.run_dir / "guard.sock"))
    out, _ = await asyncio.to_thread(other.communicate)

    assert out.strip() == "None"
    assert await lab.client.hello(write=True) == 1


# What it starts


async def test_a_server_inherits_three_descriptors_and_no_secret(
    lab: GuardLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = await lab.start()

    environment = content(f"/proc/{pid}/environ")
    names = {line.partition(b"=")[0] for line in environment.split(b"\0") if line}
    # A program that has just begun still has its libraries open.
    await until(lambda: entries(f"/proc/{pid}/fd") == {"0", "1", "2"})
    assert b"PGDATA=" + os.fsencode(lab.pgdata) in environment
    assert names <= {
        *(b"PATH HOME USER LOGNAME PGDATA PWD OLDPWD SHLVL _ LANG LANGUAGE TZ").split(),
        *(b"LC_ALL LC_CTYPE PG_OOM_ADJUST_FILE PG_OOM_ADJUST_VALUE").split(),
        b"LD_LIBRARY_PATH",
    }


async def test_the_guard_does_not_keep_the_daemon_s_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGBASTION_SECRET", "a secret of sixteen bytes")
    async with guard_lab() as lab:
        environment = content(f"/proc/{lab.client.guard_pid}/environ")

    assert b"PGBASTION_SECRET" not in environment


async def test_a_server_carries_its_bare_name(lab: GuardLab) -> None:
    pid = await lab.start()

    command = content(f"/proc/{pid}/cmdline")
    assert str(lab.pgdata).encode() not in command
    assert b"pgbastion" not in command


async def test_a_server_has_a_session_of_its_own_and_default_signals(
    lab: GuardLab,
) -> None:
    pid = await lab.start()

    masks = process_status(pid)
    assert os.getsid(pid) == pid
    assert os.getsid(lab.client.guard_pid) == lab.client.guard_pid
    assert int(masks["SigBlk"], 16) == 0
    assert int(masks["SigIgn"], 16) & ~OF_THE_C_LIBRARY == 0
    assert masks["NoNewPrivs"] == "1"
    assert int(masks["CapEff"], 16) == 0


async def test_a_program_that_cannot_be_run_is_reported_as_exited(
    lab: GuardLab,
) -> None:
    await lab.client.start(
        ["/no/such/program"],
        user=lab.account.pw_name,
        pgdata=lab.pgdata,
        log=lab.run_dir / "server.log",
        primary_epoch=None,
    )

    exited = await lab.event(Exited)
    assert (exited.code, exited.stopped) == (127, True)
    assert b"program" in content(lab.run_dir / "server.log")


async def test_a_log_that_cannot_be_opened_does_not_keep_a_server_from_starting(
    lab: GuardLab,
) -> None:
    pid = await lab.client.start(
        SERVER,
        user=lab.account.pw_name,
        pgdata=lab.pgdata,
        log=Path("/proc/no/such/log"),
        primary_epoch=None,
    )

    await until(lambda: procfs.descendants(pid))
    assert Path(f"/proc/{pid}/fd/1").samefile(os.devnull)  # noqa: ASYNC240


async def test_only_one_server_runs(lab: GuardLab) -> None:
    await lab.start()

    with refused("running"):
        await lab.start()


async def test_nothing_starts_beside_a_server_that_sits_in_the_directory(
    lab: GuardLab,
) -> None:
    with sitting_in(lab.pgdata, "postgres") as beside:
        await until(lambda: procfs.directory(beside) == str(lab.pgdata))
        with refused("occupied"):
            await lab.start()


async def test_a_signal_reaches_the_postmaster_alone(lab: GuardLab) -> None:
    pid = await lab.start(STUBBORN)
    await lab.client.signal("TERM")

    exited = await lab.event(Exited)
    assert (exited.pid, exited.signal, exited.stopped) == (pid, signal.SIGTERM, True)
    with refused("not_running"):
        await lab.client.signal("HUP")


# What it outlives


async def test_guard_and_server_outlive_the_daemon() -> None:
    with lab_directories() as (run_dir, pgdata):
        daemon = python_beside(BE_A_DAEMON, str(run_dir), str(pgdata))
        assert daemon.stdout is not None
        said = await asyncio.to_thread(daemon.stdout.readline)
        guard, server = map(int, said.split())
        daemon.kill()
        await asyncio.to_thread(daemon.communicate)

        began = time.monotonic()
        client = await GuardClient.connect(run_dir, on_event=lambda _: None)
        status = await client.status()
        took_s = time.monotonic() - began

        assert (client.guard_pid, status.postmaster) == (guard, server)
        assert status.state == "running"
        assert took_s < 0.5
        assert await client.take_office(5) == 2
        assert (await client.kill()).stopped
        await client.quit()
        await until(lambda: not alive(guard))
        await client.close()


async def test_sigterm_does_not_end_a_guard_under_which_something_runs(
    lab: GuardLab,
) -> None:
    await lab.start()
    os.kill(lab.client.guard_pid, signal.SIGTERM)
    assert (await lab.client.status()).state == "running"

    with refused("running"):
        await lab.client.quit()

    await lab.client.kill()
    assert (await lab.client.status()).state == "idle"
    os.kill(lab.client.guard_pid, signal.SIGTERM)
    assert await lab.event(Gone) == Gone(is_dead=True)


async def test_the_guard_ends_when_nothing_runs_and_nobody_is_connected() -> None:
    with lab_directories() as (run_dir, _):
        # The same process with ten seconds made a third of one.
        code = (
            "import sys; from pgbastion.guard import main, server; "
            "server.LONELY_NS = 300_000_000; sys.exit(main.main(sys.argv[1]))"
        )
        guard = python_beside(code, str(run_dir))
        assert guard.stdout is not None
        assert await asyncio.to_thread(guard.stdout.readline) == "ready\n"
        client = await GuardClient.connect(run_dir, on_event=lambda _: None)
        await asyncio.sleep(0.6)
        assert (await client.status()).state == "idle"
        await client.close()

        assert await asyncio.to_thread(guard.wait, 10) == 0
        guard.communicate()
        assert not (run_dir / "guard.sock").exists()


async def test_the_guard_is_small_and_idle(lab: GuardLab) -> None:
    def used_ticks() -> int:
        line = content(f"/proc/{lab.client.guard_pid}/stat")
        fields = line.rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])

    rollup = content(f"/proc/{lab.client.guard_pid}/smaps_rollup")
    sizes = dict(line.split()[:2] for line in rollup.splitlines()[1:])
    before = used_ticks()
    await asyncio.sleep(1)

    assert int(sizes[b"Pss:"]) < 12 * 1024
    assert used_ticks() - before <= 2


async def test_the_heartbeat_moves(lab: GuardLab) -> None:
    before = boottime_ns()
    await lab.client.status()

    assert lab.page[words.GUARD_BEAT_NS] >= before


async def test_stopped_follows_a_kill(lab: GuardLab) -> None:
    await lab.start(STUBBORN)
    guard = lab.client.guard_pid
    below = procfs.descendants(guard)
    assert len(below) == 2

    outcome = await lab.client.kill()

    assert outcome.stopped
    assert not any(map(alive, below))
    assert (await lab.event(Exited)).signal == signal.SIGKILL
    assert (await lab.event(Stopped)).pgdata == str(lab.pgdata)
    assert lab.page[words.POSTMASTER_PID] == 0


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
