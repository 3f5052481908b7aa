"""The daemon's end of the guard's socket.

Refusals are exceptions, not values: whoever asks to arm before a promotion must not be
able to go on by forgetting to look at the answer.
"""

import asyncio
import contextlib
import json
import os
import pwd
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from pgbastion.clock import boottime_ns
from pgbastion.errors import GuardError
from pgbastion.guard import kill
from pgbastion.guard.main import SOCKET_NAME
from pgbastion.guard.wire import LINE_BYTES_MAX, VERSION
from pgbastion.postgres.guard_messages import (
    Exited,
    Gone,
    GuardEvent,
    GuardStatus,
    KillOutcome,
    PostmasterSignal,
    Stopped,
    WatchdogSetting,
    WriterEnded,
    parse_event,
    parse_status,
)
from pgbastion.postgres.guard_spawn import (
    continue_stopped,
    guard_behind,
    reap,
    spawn,
)

DEFAULT_DEADLINE_S: Final = 3.0
# An ending process closes its sockets a moment before its pidfd says that it ended.
DEATH_AFTER_EOF_S: Final = 0.25
ANSWER_BYTES_MAX: Final = 4 * LINE_BYTES_MAX


class GuardRefused(GuardError):  # noqa: N818 - the guard works, a rule forbids
    """A rule of the guard's forbids the command; ``reason`` is one word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"the guard refuses: {message}")
        self.reason = reason


class GuardClient:
    """One connection to the guard of a run directory.

    `connect_or_spawn` makes it. Calls have a deadline; an unanswered one raises
    `GuardError`, and whether it was done is unknown until `status` says so.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        guard_pid: int,
        pidfd: int,
        on_event: Callable[[GuardEvent], None],
    ) -> None:
        self.guard_pid = guard_pid
        self.latest: GuardStatus | None = None
        self.exit_code: int | None = None
        self._reader = reader
        self._writer = writer
        self._pidfd = pidfd
        self._on_event = on_event
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._kill_waiters: set[asyncio.Future[KillOutcome]] = set()
        self._writer_ended = asyncio.Event()
        self._dead = asyncio.Event()
        self._is_over = False
        asyncio.get_running_loop().add_reader(pidfd, self._note_death)
        self._reading = asyncio.create_task(self._read(), name="guard-client")

    @classmethod
    async def connect_or_spawn(
        cls,
        run_dir: Path,
        *,
        on_event: Callable[[GuardEvent], None],
        python: str = sys.executable,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> Self:
        """Connect to the guard of ``run_dir``, started first if there is none.

        Args:
            run_dir: The node's run directory, on tmpfs; it exists.
            on_event: Called in the event loop for each event.
            python: The interpreter for a new guard.
            deadline_s: For all of it, in seconds.

        Raises:
            GuardError: No guard can be reached or started.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    try:
                        return await cls.connect(run_dir, on_event=on_event)
                    except GuardError:
                        # "held": another guard has the lock, and listens in a moment
                        # or is about to end. Either way the next round settles it.
                        await spawn(run_dir, python)
        except TimeoutError as exc:
            raise GuardError(f"no guard in {run_dir} after {deadline_s} s") from exc

    @classmethod
    async def connect(
        cls, run_dir: Path, *, on_event: Callable[[GuardEvent], None]
    ) -> Self:
        """Connect to the guard of ``run_dir``.

        Raises:
            GuardError: There is none, or it is another user's process.
        """
        path = run_dir / SOCKET_NAME
        try:
            reader, writer = await asyncio.open_unix_connection(
                path, limit=ANSWER_BYTES_MAX
            )
        except OSError as exc:
            raise GuardError(f"cannot connect to {path}") from exc
        try:
            pid, pidfd = guard_behind(writer)
        except OSError as exc:
            writer.close()
            raise GuardError(f"cannot tell who listens at {path}: {exc}") from exc
        continue_stopped(pid)
        return cls(reader, writer, guard_pid=pid, pidfd=pidfd, on_event=on_event)

    async def hello(self, *, write: bool) -> int | None:
        """Ask for events, and with ``write`` to be the page's writer.

        Returns:
            The generation for this process; None if it was not asked for, or while
            the process that is the writer lives.
        """
        answer = await self._ask("hello", write=write)
        generation: int | None = answer["generation"]
        return generation

    async def ask_for_writer_lock(self) -> int | None:
        """Ask to be the page's writer; return the generation, None: somebody is."""
        self._writer_ended.clear()
        return await self.hello(write=True)

    async def writer_lock_is_free(self, until_s: float) -> None:
        """Wait, at most until then, for the end of the writer seen when asking."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await self._writer_ended.wait()

    async def status(self) -> GuardStatus:
        """Return what the guard says of itself now."""
        return parse_status((await self._ask("status"))["status"])

    async def start(
        self,
        argv: Sequence[str],
        *,
        user: str,
        pgdata: Path,
        log: Path,
        primary_epoch: int | None,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Start PostgreSQL as the guard's child; return the postmaster's pid.

        Args:
            argv: The server's program, an absolute path, and its arguments. A ``-D``
                that names ``pgdata`` is left out: the server has it as PGDATA.
            user: As whom; only root may name another than its own.
            pgdata: The data directory.
            log: For standard output and error; not on the data directory's disk.
            primary_epoch: The epoch of the primary that starts, None when there is a
                ``standby.signal``, so that none does.
            environment: Added to the server's environment.

        Raises:
            GuardRefused: Something runs, or no primary of that epoch may start. With
                the reason ``unreaped``, ask again: the postmaster of a guard that was
                killed is a zombie until the system's init has reaped it.
            GuardError: There is no such user.
        """
        # The guard compares with what the kernel says, where no link is left.
        resolved = await asyncio.to_thread(os.path.realpath, pgdata)
        command = await asyncio.to_thread(_without_directory, argv, resolved)
        entry = await asyncio.to_thread(_account, user)
        answer = await self._ask(
            "start",
            argv=command,
            user=user,
            uid=entry.pw_uid,
            gid=entry.pw_gid,
            # Some users have none.
            home=entry.pw_dir or "/",
            pgdata=resolved,
            log=str(log),
            primary=primary_epoch is not None,
            epoch=primary_epoch or 0,
            environment=dict(environment or {}),
        )
        pid: int = answer["pid"]
        return pid

    async def adopt(self, pid: int, start: int, *, pgdata: Path, primary: bool) -> None:
        """Have a postmaster watched that was found running.

        Args:
            pid: The postmaster.
            start: When it was started, in the platform's unit.
            pgdata: Its working directory.
            primary: It may be a primary, now or later.

        Raises:
            GuardRefused: Something runs, or it is not that process.
        """
        resolved = await asyncio.to_thread(os.path.realpath, pgdata)
        await self._ask("adopt", pid=pid, start=start, pgdata=resolved, primary=primary)

    async def signal(self, name: PostmasterSignal) -> None:
        """Send the postmaster a signal: INT stops fast, QUIT at once, HUP reloads."""
        await self._ask("signal", signal=name)

    async def kill(
        self,
        *,
        deadline_s: float = 1.0,
        directory: tuple[str, int] | None = None,
    ) -> KillOutcome:
        """Kill PostgreSQL with all its processes and wait for the outcome.

        Args:
            deadline_s: When the guard reports who is left; it goes on after that.
            directory: The data directory, as the kernel names it, and the number of
                the user as whom PostgreSQL runs: to kill also what no postmaster
                under guard started.

        Raises:
            GuardRefused: Nothing is known to run and no directory was named.
        """
        request: dict[str, Any] = {"deadline_ms": round(deadline_s * 1000)}
        if directory is not None:
            request["pgdata"], request["uid"] = directory
        waiter: asyncio.Future[KillOutcome]
        waiter = asyncio.get_running_loop().create_future()
        self._kill_waiters.add(waiter)
        try:
            await self.hello(write=False)
            await self._ask("kill", **request)
            async with asyncio.timeout(deadline_s + DEFAULT_DEADLINE_S):
                return await waiter
        except TimeoutError as exc:
            raise GuardError("the guard does not report the kill's outcome") from exc
        finally:
            self._kill_waiters.discard(waiter)

    async def arm(self, epoch: int) -> None:
        """Arm for ``epoch``: before a promotion or a start as a primary.

        Raises:
            GuardRefused: The epoch has ended here or its lease is not in the page.
        """
        await self._ask("arm", epoch=epoch)

    async def disarm(self) -> None:
        """Disarm.

        Raises:
            GuardRefused: What runs may be a primary: only its end disarms.
        """
        await self._ask("disarm")

    async def end_epoch(self, epoch: int) -> None:
        """Latch that ``epoch`` has ended here: no primary of it starts any more.

        Raises:
            GuardRefused: It is latched, but what runs may be its primary.
        """
        await self._ask("end_epoch", epoch=epoch)

    async def asked(self, *, on: bool, promote_epoch: int = 0) -> None:
        """Say that a promotion (or another start) begins, or that it is over.

        Must be answered before the promotion is asked of the server. `start` says so
        by itself.

        Raises:
            GuardRefused: Not armed for ``promote_epoch``, or nothing to promote runs.
        """
        await self._ask("asked", on=on, epoch=promote_epoch)

    async def removals(self, addresses: Sequence[str]) -> None:
        """Have these addresses removed when the lease ends, in place of earlier ones.

        Raises:
            GuardRefused: One is not an address.
        """
        await self._ask("removals", addresses=list(addresses))

    async def keep(self, address: str, until_ns: int) -> None:
        """Have this address removed from ``until_ns`` on, 0: never by itself.

        Raises:
            GuardRefused: It is not an address, or this guard has too many of them.
        """
        await self._ask("keep", address=address, until_ns=until_ns)

    async def watch(self, setting: WatchdogSetting) -> None:
        """Have this watchdog armed before anything becomes a primary.

        Raises:
            GuardRefused: ``unknown``: the guard is of an earlier release.
        """
        await self._ask(
            "watchdog",
            device=setting.device,
            timeout_s=setting.timeout_s,
            least_s=setting.least_s,
            required=setting.required,
        )

    async def quit(self) -> None:
        """End the guard, which `Gone` confirms.

        Raises:
            GuardRefused: PostgreSQL runs, or is not stopped.
        """
        try:
            await self._ask("quit")
        except GuardRefused:
            raise
        except GuardError:
            # It may end before its answer has left: that is what was asked for.
            if not self._dead.is_set():
                raise

    async def close(self) -> None:
        """Close the connection; the guard goes on. After `Gone` nothing is left."""
        if self._is_over:
            return
        self._end("the connection is closed")
        self._reading.cancel()
        await asyncio.wait([self._reading])

    async def _ask(self, name: str, **fields: object) -> dict[str, Any]:
        if self._is_over:
            raise GuardError(f"{name}: there is no connection to the guard")
        number = self._next_id
        self._next_id += 1
        answered: asyncio.Future[dict[str, Any]]
        answered = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        line = json.dumps({"v": VERSION, "id": number, "do": name, **fields})
        try:
            async with asyncio.timeout(DEFAULT_DEADLINE_S):
                self._writer.write(line.encode() + b"\n")
                await self._writer.drain()
                answer = await answered
        except (TimeoutError, OSError) as exc:
            raise GuardError(f"{name}: the guard does not answer") from exc
        finally:
            self._waiting.pop(number, None)
        if not answer["ok"]:
            raise GuardRefused(answer["reason"], answer["message"])
        return answer

    async def _read(self) -> None:
        """Take in answers and events until the connection ends."""
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except (OSError, ValueError, KeyError, TypeError):
            # A broken stream and a broken line are the same to us: no guard there.
            pass
        try:
            async with asyncio.timeout(DEATH_AFTER_EOF_S):
                await self._dead.wait()
        except TimeoutError:
            self._leave(is_dead=False)

    def _take(self, message: dict[str, Any]) -> None:
        if self._is_over:
            return
        self.latest = parse_status(message["status"])
        if "event" not in message:
            answered = self._waiting.pop(message["id"], None)
            if answered is not None and not answered.done():
                answered.set_result(message)
            return
        event = parse_event(message)
        if isinstance(event, Exited):
            self.exit_code = event.code
        if isinstance(event, Stopped):
            self._settle_kill(KillOutcome(stopped=True, left=()))
        elif isinstance(event, Exited) and not event.stopped:
            self._settle_kill(KillOutcome(stopped=False, left=event.left))
        elif isinstance(event, WriterEnded):
            self._writer_ended.set()
        if event is not None:
            self._tell(event)

    def _settle_kill(self, outcome: KillOutcome) -> None:
        for waiter in self._kill_waiters:
            if not waiter.done():
                waiter.set_result(outcome)

    def _note_death(self) -> None:
        reap(self.guard_pid)
        self._dead.set()
        self._leave(is_dead=True)

    def _leave(self, *, is_dead: bool) -> None:
        if self._is_over:
            return
        self._end("the guard has ended" if is_dead else "the connection ended")
        self._tell(Gone(is_dead=is_dead))

    def _tell(self, event: GuardEvent) -> None:
        # A callback that fails is the loop's to report, and must not end the reading.
        asyncio.get_running_loop().call_soon(self._on_event, event)

    def _end(self, why: str) -> None:
        """Let go of everything but the task that reads, which ends by itself."""
        self._is_over = True
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._writer.close()
        self._fail(why)

    def _fail(self, why: str) -> None:
        waiters: list[asyncio.Future[Any]]
        waiters = [*self._waiting.values(), *self._kill_waiters]
        for waiting in waiters:
            if not waiting.done():
                waiting.set_exception(GuardError(why))
                # Whoever waited may be gone itself; then nobody asks for it.
                waiting.exception()


async def kill_by_directory(
    pgdata: str, uid: int, *, deadline_s: float
) -> tuple[str, ...]:
    """Kill everything whose working directory is ``pgdata``: the guard is dead.

    Args:
        pgdata: The data directory, as the kernel names it.
        uid: As whom PostgreSQL runs.
        deadline_s: When to give up, in seconds.

    Returns:
        What is left, one line a process; empty: PostgreSQL is stopped.
    """
    deadline_ns = boottime_ns() + int(deadline_s * 1e9)
    left = await asyncio.to_thread(
        kill.kill_by_directory, pgdata, uid, deadline_ns=deadline_ns
    )
    return tuple(left)


def _without_directory(argv: Sequence[str], pgdata: str) -> list[str]:
    # `pkill -9 -f` with this program's name, which is a part of many data directories'
    # names, is to end daemon and guard, and by the guard's death the server. It must
    # not hit the postmaster: its backends would go on.
    command = list(argv)
    for at in range(1, len(command) - 1):
        if command[at] == "-D" and os.path.realpath(command[at + 1]) == pgdata:
            del command[at : at + 2]
            break
    return command


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError as exc:
        raise GuardError(f"there is no user {user}") from exc
