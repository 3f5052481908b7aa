"""A guard for tests: in a run directory of its own, with stand-ins for servers.

Whatever a test does, `guard_lab` ends the guard and everything that it started.
"""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import pytest

from pgbastion.guard import page as words
from pgbastion.guard.kill import kill_by_directory
from pgbastion.guard.page import Page
from pgbastion.platform import processes
from pgbastion.platform.choice import current
from pgbastion.platform.clock import boottime_ns
from pgbastion.postgres.guard_client import GuardClient, GuardRefused
from pgbastion.postgres.guard_messages import GuardEvent

T = TypeVar("T")

TESTS: Final = Path(__file__).parents[1]
SOURCE: Final = TESTS.parent / "src"
WAIT_S: Final = 10.0
LOOK_S: Final = 0.002
MS: Final = 1_000_000
# A stand-in for a server: it goes to its data directory, has a child in a session of
# its own there, and takes SIGQUIT as PostgreSQL does.
SERVER: Final = ("/bin/sh", "-c", 'cd "$PGDATA"; setsid sleep 600 & exec sleep 600')
# The same, and the child ignores SIGQUIT and has left the directory.
STUBBORN: Final = (
    "/bin/sh",
    "-c",
    """cd "$PGDATA"
    (cd /; trap "" QUIT TERM HUP; exec setsid sleep 600) &
    exec sleep 600""",
)


of_linux = pytest.mark.skipif(
    not current().ends_orphans, reason="not run: promised on Linux only"
)
"""For what ``weaker`` of the portable platform takes back."""


def server_account() -> pwd.struct_passwd:
    """Return the user that servers run as: never root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


async def until(look: Callable[[], T], seconds: float = WAIT_S) -> T:
    """Return what ``look`` gives as soon as it is true."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not seen within {seconds} s"
        await asyncio.sleep(LOOK_S)


def alive(pid: int) -> bool:
    """Tell whether ``pid`` runs: it is there and no zombie."""
    return processes.start_of(pid) != 0


@dataclass(kw_only=True)
class GuardLab:
    """A run directory, a data directory and the guard's client."""

    run_dir: Path
    pgdata: Path
    client: GuardClient
    account: pwd.struct_passwd
    events: list[GuardEvent] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    clients: list[GuardClient] = field(default_factory=list)

    @property
    def page(self) -> Page:
        """The shared page."""
        if not self.pages:
            self.pages.append(Page(str(self.run_dir / "page")))
        return self.pages[0]

    def lease(self, epoch: int, *, left_ms: int = 60_000, lead_ms: int = 0) -> int:
        """Write a lease to the page, as the engine does; return when the guard acts."""
        expiry_ns = boottime_ns() + left_ms * MS
        self.page[words.LEAD_NS] = lead_ms * MS
        self.page[words.EXPIRY_NS] = expiry_ns
        self.page[words.EPOCH] = epoch
        return expiry_ns - lead_ms * MS

    async def start(
        self, argv: tuple[str, ...] = SERVER, *, epoch: int | None = None
    ) -> int:
        """Start a stand-in; with an epoch as a primary; wait until it is settled."""
        pid = await self.client.start(
            argv,
            user=self.account.pw_name,
            pgdata=self.pgdata,
            log=self.run_dir / "server.log",
            primary_epoch=epoch,
        )
        await until(lambda: is_settled(pid))
        return pid

    async def start_primary(self, epoch: int, *, left_ms: int = 60_000) -> int:
        """Give the page a lease, arm and start."""
        self.lease(epoch, left_ms=left_ms)
        await self.client.arm(epoch)
        return await self.start(epoch=epoch)

    async def another_client(self) -> GuardClient:
        """Return one more connection to the guard, which hears of nothing."""
        client = await GuardClient.connect(self.run_dir, on_event=lambda _: None)
        self.clients.append(client)
        return client

    async def event(self, kind: type[T], seconds: float = WAIT_S) -> T:
        """Wait for an event of ``kind``, take it and return it."""

        def look() -> list[T]:
            return [event for event in self.events if isinstance(event, kind)]

        found = (await until(look, seconds))[0]
        self.events.remove(found)  # type: ignore[arg-type]
        return found


def is_settled(pid: int) -> bool:
    """Tell whether a stand-in has become its last program and has its child."""
    found = processes.stat(pid)
    children = processes.descendants(pid)
    names = [processes.stat(child) for child in children]
    return (
        found is not None
        and found.name in (b"sleep", *processes.NAMES_OF_POSTGRES)
        and any(child is not None and child.name == b"sleep" for child in names)
    )


@contextmanager
def lab_directories() -> Iterator[tuple[Path, Path]]:
    """Make a run directory and a data directory that the servers' user may enter."""
    account = server_account()
    base = Path(tempfile.mkdtemp(prefix="guard-lab-"))
    try:
        base.chmod(0o755)
        run_dir, pgdata = base / "run", base / "data"
        run_dir.mkdir(mode=0o711)
        pgdata.mkdir(mode=0o700)
        os.chown(pgdata, account.pw_uid, account.pw_gid)
        yield run_dir, pgdata
    finally:
        shutil.rmtree(base)


@asynccontextmanager
async def guard_lab() -> AsyncIterator[GuardLab]:
    """Run a guard whose page this process writes."""
    with lab_directories() as (run_dir, pgdata):
        events: list[GuardEvent] = []
        client = await GuardClient.connect_or_spawn(run_dir, on_event=events.append)
        lab = GuardLab(
            run_dir=run_dir,
            pgdata=pgdata,
            client=client,
            account=server_account(),
            events=events,
        )
        try:
            assert await client.hello(write=True) == 1
            yield lab
        finally:
            await clear_away(lab)


async def clear_away(lab: GuardLab) -> None:
    """End the guard and all that it started."""
    found = [lab.client.guard_pid, *processes.descendants(lab.client.guard_pid)]
    for client in (lab.client, *lab.clients):
        await client.close()
    for page in lab.pages:
        page.close()
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await until(lambda: processes.stat(lab.client.guard_pid) is None or _reaped(lab))
    deadline_ns = boottime_ns() + 10_000 * MS
    uid = lab.account.pw_uid
    left = kill_by_directory(str(lab.pgdata), uid, deadline_ns=deadline_ns)
    assert not left


def _reaped(lab: GuardLab) -> bool:
    try:
        return os.waitpid(lab.client.guard_pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def python_beside(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Run ``code`` in a process of its own, which can import the package."""
    paths = [str(SOURCE), str(TESTS), *filter(None, sys.path)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": ":".join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def refused(reason: str) -> Iterator[None]:
    """Expect the guard to refuse, for ``reason``."""
    with pytest.raises(GuardRefused) as caught:
        yield
    assert caught.value.reason == reason
