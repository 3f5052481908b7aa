"""The guard as the executor sees it: start, stop until "stopped", arm, latch.

When the guard dies, everything in the data directory is killed before anything
else happens, and a new guard is started: PROCESS.md, "who dies or hangs".
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pgbastion.errors import GuardError
from pgbastion.guard.other_nodes import other_daemon_in
from pgbastion.ha.ports import GuardFacts, RunningServer
from pgbastion.model.ids import Epoch
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.guard_client import GuardClient, GuardRefused, kill_by_directory
from pgbastion.postgres.guard_messages import (
    Exited,
    Gone,
    GuardEvent,
    Killed,
    PostmasterSignal,
    WatchdogSeen,
    WatchdogSetting,
)
from pgbastion.postgres.guard_spawn import continue_stopped, reap
from pgbastion.postgres.guard_writer import become_writer
from pgbastion.postgres.server_log import SERVER_LOG, keep_within_bound, last_words

KILL_DEADLINE_S: Final = 2.0
GUARD_END_S: Final = 10.0
STOPPED_LOOK_S: Final = 0.25
"""How often to look whether somebody has stopped the guard."""
PAGE_NAME: Final = "page"
# The guard's word for a directory in which somebody else's server runs.
OCCUPIED: Final = "occupied"
# Its word where the postmaster has ended.
NOT_RUNNING: Final = "not_running"
# Most of the budget is for an orderly end, a part for an abrupt one.
SIGNALS_OF_A_STOP: Final[tuple[tuple[PostmasterSignal, float], ...]] = (
    ("INT", 0.7),
    ("QUIT", 0.2),
)
CHILD_DIED_CODE: Final = 1
"""How a postmaster exits that a process of its own took along: it restarts none."""
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

log = get_logger("guard")


class GuardLink:
    """This node's guard.

    Args:
        run_dir: The node's run directory.
        data_dir: PostgreSQL's data directory.
        user: As whom PostgreSQL runs.
        uid: The same user's number.
        on_event: Called after anything changed.
        watchdog: The hardware watchdog; None: none is used.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        data_dir: Path,
        user: str,
        uid: int,
        on_stopped: Callable[[], None],
        on_event: Callable[[], None],
        watchdog: WatchdogSetting | None = None,
    ) -> None:
        self._watchdog = watchdog
        self._watchdog_refused = ""
        self._run_dir = run_dir
        self._data_dir = data_dir
        # Read while nothing runs yet: on a disk that hangs it would block the loop.
        self._real_data_dir = os.path.realpath(data_dir)
        self._user = user
        self._uid = uid
        self._on_stopped = on_stopped
        self._on_event = on_event
        self._client: GuardClient | None = None
        self._idle = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        self._is_ending = False
        self._server_said = ""
        self._removals: tuple[str, ...] = ()
        self._kept: dict[str, int] = {}
        self.generation = 0

    async def start_afresh(self) -> None:
        """Forget the latches of an earlier life, where nothing runs any more.

        For a node without an identity: what was latched for the epochs of a cluster
        that it no longer belongs to says nothing about the next one's.

        Raises:
            GuardError: There is no guard to ask, and none can be started.
        """
        page = self._run_dir / PAGE_NAME
        if not page.exists():
            return
        gone = asyncio.Event()
        client = await GuardClient.connect_or_spawn(
            self._run_dir,
            on_event=lambda event: gone.set() if isinstance(event, Gone) else None,
            python=sys.executable,
        )
        try:
            status = await client.status()
            if status.state == "unproven" and not self._may_have_postmaster():
                # Its guard died while armed, and the directory was emptied since.
                directory = (self._real_data_dir, self._uid)
                await client.kill(deadline_s=KILL_DEADLINE_S, directory=directory)
                status = await client.status()
            if status.state != "idle":
                return
            await client.quit()
            async with asyncio.timeout(GUARD_END_S):
                await gone.wait()
            page.unlink(missing_ok=True)
            log.info("page_made_anew", reason="this node has no identity")
        finally:
            await client.close()

    def _may_have_postmaster(self) -> bool:
        return os.path.lexists(self._data_dir / "postmaster.pid")

    async def connect(self) -> None:
        """Connect to the node's guard, started if there is none, and become its writer.

        Raises:
            GuardError: No guard, or another daemon of this node lives.
        """
        client = await GuardClient.connect_or_spawn(
            self._run_dir, on_event=self._take, python=sys.executable
        )
        try:
            self.generation = await become_writer(client, self._run_dir / PAGE_NAME)
        except GuardError:
            await client.close()
            raise
        self._client = client
        if self._removals:
            # A new guard, in the middle of this daemon's life.
            await client.removals(self._removals)
        for address, until_ns in self._kept.items():
            await client.keep(address, until_ns)
        status = await client.status()
        if self._watchdog is not None or status.watchdog != "off":
            # Also none, in place of one that an earlier daemon had named.
            await self._set_watchdog(client)
        for warning in status.warnings:
            log.warning("guard_warns", warning=warning)
        self._note()

    async def use_watchdog(self, setting: WatchdogSetting | None) -> None:
        """Have another watchdog used, or the same with other times; None: none.

        Raises:
            GuardError: The guard does not answer.
        """
        if setting == self._watchdog:
            return
        former, self._watchdog = self._watchdog, setting
        if self._client is None:
            return
        try:
            await self._set_watchdog(self._client)
        except GuardError:
            self._watchdog = former
            raise
        self._note()

    async def _set_watchdog(self, client: GuardClient) -> None:
        """Have the guard use the watchdog; None: no longer any."""
        unused = WatchdogSetting(device="", timeout_s=0, least_s=0, required=False)
        try:
            await client.watch(self._watchdog or unused)
            self._watchdog_refused = ""
            problem = client.latest.watchdog_problem if client.latest else ""
            if problem:
                log.warning("watchdog_unusable", error=problem)
        except GuardRefused as exc:
            if self._watchdog is not None:
                self._watchdog_refused = f"the guard cannot use a watchdog: {exc}"
                log.warning("watchdog_unusable", error=self._watchdog_refused)

    def _unable(self, problem: str) -> str:
        """Return why nothing may become a primary here; empty: nothing is."""
        if self._watchdog is None or not self._watchdog.required:
            return ""
        problem = problem or self._watchdog_refused
        return f"its watchdog is required: {problem}" if problem else ""

    def facts(self) -> GuardFacts:
        """Return what the guard last said; without a guard, the worst."""
        status = self._client.latest if self._client else None
        if self._client is None or status is None:
            return GuardFacts(running=True, started_as_primary=True)
        return GuardFacts(
            running=status.state != "idle",
            pid=status.postmaster,
            started_ns=status.postmaster_start * _TICK_NS,
            started_as_primary=status.tainted,
            adopted=status.adopted,
            armed_epoch=Epoch(status.armed),
            ended_epoch=Epoch(status.ended),
            asked_ns=status.asked_ns,
            child_died=self._client.exit_code == CHILD_DIED_CODE,
            watchdog=status.watchdog,
            unable=self._unable(status.watchdog_problem),
            server_said=self._server_said,
        )

    async def start(
        self, command: tuple[str, ...], *, primary: bool, epoch: Epoch
    ) -> None:
        """Start the postmaster as the guard's child.

        Raises:
            GuardError: It is refused. A server that runs there without a guard, which
                no lease holds back, is killed: the next start finds nobody. That of
                another node's daemon, to which somebody gave the same directory, is
                not.
        """
        client = self._connected()
        self._idle.clear()
        try:
            pid = await client.start(
                command,
                user=self._user,
                pgdata=self._data_dir,
                log=self._run_dir / SERVER_LOG,
                primary_epoch=epoch if primary else None,
            )
        except GuardRefused as exc:
            self._note()
            if exc.reason == OCCUPIED:
                await self._check_not_anothers()
                log.error("unguarded_server_fenced", error=str(exc))
                await self._kill(client)
            raise
        log.info("postgres_started", pid=pid, primary=primary, epoch=epoch)
        self._on_event()

    async def keep_going(self) -> None:
        """Have the guard go on whenever somebody has stopped it, until cancelled."""
        while True:
            if self._client is not None:
                continue_stopped(self._client.guard_pid)
            await asyncio.sleep(STOPPED_LOOK_S)

    async def keep_log_short(self) -> None:
        """Keep the server's log within its bound, until cancelled."""
        await keep_within_bound(self._run_dir / SERVER_LOG)

    async def adopt(self, server: RunningServer) -> None:
        """Watch a postmaster that somebody else started as a primary."""
        self._idle.clear()
        await self._connected().adopt(
            server.pid, server.start, pgdata=self._data_dir, primary=True
        )
        log.info("postgres_adopted", pid=server.pid)
        self._on_event()

    async def stop(self, *, fast_ms: int) -> None:
        """Stop the server: fast, immediate, kill; return at "stopped".

        Raises:
            GuardError: Some process is left; the message says which.
        """
        client = self._connected()
        if not self.facts().running:
            return
        if fast_ms and self.facts().pid:
            for name, share in SIGNALS_OF_A_STOP:
                try:
                    await client.signal(name)
                except GuardRefused as exc:
                    if exc.reason != NOT_RUNNING:
                        raise
                    # It has ended this moment; what is left of it has to, too.
                    break
                if await self._idle_within(share * fast_ms / 1_000):
                    return
        await self._kill(client)

    async def fence_unguarded(self) -> None:
        """Kill a server that somebody else started on the data directory.

        Raises:
            GuardError: Some process is left, or it is another node's; the message says
                which.
        """
        if not self.facts().running:
            await self._check_not_anothers()
            await self._kill(self._connected())

    async def _check_not_anothers(self) -> None:
        """See that the daemon of no other node has a server in the data directory."""
        daemon = await asyncio.to_thread(
            other_daemon_in, self._real_data_dir, self._uid, str(self._run_dir)
        )
        if daemon:
            raise GuardError(
                f"the daemon of another node, process {daemon}, runs PostgreSQL in "
                f"{self._data_dir}: give each node a postgresql.data_dir of its own"
            )

    async def _kill(self, client: GuardClient) -> None:
        """Kill everything in the data directory, started by whomever."""
        directory = (self._real_data_dir, self._uid)
        outcome = await client.kill(deadline_s=KILL_DEADLINE_S, directory=directory)
        # Its events may have come before the end of all, or come after this.
        if self._note() and self._renewing is None:
            self._on_stopped()
        if not outcome.stopped:
            raise GuardError(f"not stopped: {'; '.join(outcome.left)}")

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def arm(self, epoch: Epoch) -> None:
        """Have PostgreSQL killed when this epoch's lease runs out."""
        await self._connected().arm(epoch)

    async def disarm(self) -> None:
        """Take an arming back."""
        await self._connected().disarm()

    async def end_epoch(self, epoch: Epoch) -> None:
        """Latch the end of this epoch and all before it."""
        await self._connected().end_epoch(epoch)

    async def ask(self, epoch: Epoch) -> None:
        """Note that a promotion in ``epoch`` is asked for from now on."""
        await self._connected().asked(on=True, promote_epoch=epoch)

    async def answered(self) -> None:
        """Note that what was asked for has happened."""
        if self.facts().asked_ns:
            await self._connected().asked(on=False)

    async def remove_at_end(self, addresses: tuple[str, ...]) -> None:
        """Have these addresses removed when the lease ends, whoever lives then."""
        self._removals = addresses
        await self._connected().removals(addresses)

    async def keep_address(self, address: str, until_ns: int) -> None:
        """Have this address removed at an end of its own, whoever lives then."""
        self._kept[address] = until_ns
        await self._connected().keep(address, until_ns)

    async def quit(self) -> None:
        """End the guard, once nothing runs; no new one is started."""
        self._is_ending = True
        await self._connected().quit()

    async def dismiss(self) -> None:
        """End a guard that has nothing to watch: this daemon does not stay.

        One that watches PostgreSQL, or cannot be asked, goes on.
        """
        if self._client is not None and not self.facts().running:
            with contextlib.suppress(GuardError):
                await self.quit()
        await self.close()

    async def close(self) -> None:
        """Close the connection; the guard goes on."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        if self._client is not None:
            await self._client.close()

    def _connected(self) -> GuardClient:
        if self._client is None:
            raise GuardError("there is no guard")
        return self._client

    def _note(self) -> bool:
        """Take in whether something runs; tell whether that has just ended."""
        ran = not self._idle.is_set()
        if self.facts().running:
            self._idle.clear()
        else:
            self._idle.set()
        self._on_event()
        return ran and self._idle.is_set()

    def _take(self, event: GuardEvent) -> None:
        log.info("guard_event", event_said=repr(event))
        if isinstance(event, Exited) and event.code:
            # A few blocks of a file in memory.
            place = self._run_dir / SERVER_LOG
            self._server_said = said = last_words(place)
            log.error(
                "postgres_failed", exit_code=event.code, said=said, see=str(place)
            )
        if isinstance(event, WatchdogSeen) and event.problem:
            log.warning("watchdog_unusable", error=event.problem)
        if isinstance(event, Killed):
            log.warning("lease_ran_out", epoch=event.epoch)
        if isinstance(event, Gone):
            orphan = self.facts().pid if event.is_dead else 0
            self._client = None
            if self._renewing is None and not self._is_ending:
                renewing = self._renew(is_dead=event.is_dead, orphan=orphan)
                self._renewing = asyncio.create_task(renewing)
        ended = self._note()
        if ended or (isinstance(event, Exited) and self._idle.is_set()):
            self._on_stopped()

    async def _renew(self, *, is_dead: bool, orphan: int) -> None:
        """Kill what a dead guard left, then get a new one.

        Args:
            is_dead: The guard has ended, it is not only the connection.
            orphan: Its postmaster; 0: none ran.
        """
        if is_dead:
            left = await kill_by_directory(
                self._real_data_dir, self._uid, deadline_s=KILL_DEADLINE_S
            )
            log.error("guard_died", left="; ".join(left))
        if orphan:
            # Where this daemon is a container's first process nobody else does, and no
            # server starts beside the zombie of the one before.
            reap(orphan)
        while self._client is None:
            try:
                await self.connect()
                if self.facts().running and not self.facts().pid:
                    # The dead guard was armed, and its successor cannot know that all
                    # was killed just now: it has to see for itself.
                    await self.stop(fast_ms=0)
            except GuardError as exc:
                log.error("no_guard", error=str(exc))
                await asyncio.sleep(1)
        self._renewing = None
        if self._idle.is_set():
            self._on_stopped()
