"""The one postmaster under guard: started or adopted, watched, killed."""

import os
import select

from pgbastion.guard import page as words
from pgbastion.guard.keeper import Keeper
from pgbastion.guard.kill import Identity, Kill
from pgbastion.guard.latches import Latches, Refused
from pgbastion.guard.page import Page
from pgbastion.guard.postmaster import Postmaster
from pgbastion.platform import handles, processes
from pgbastion.platform.choice import current
from pgbastion.platform.handles import send
from pgbastion.platform.process_end import has_ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgbastion.guard.launch import Launch
    from pgbastion.guard.wire import Message
    from pgbastion.platform.interface import Poll

NS_PER_MS = 1_000_000
KILL_STEP_MS = 1
# What is not dead by then waits in the kernel: looking more often does not help.
KILL_HASTE_NS = 200 * NS_PER_MS
KILL_STEP_SLOW_MS = 20
# After the deadline; the end of a child wakes the loop all the same.
KILL_STEP_IDLE_MS = 200
KILL_DEADLINE_MS = 1000


class Supervisor:
    """Starts, watches and kills; never waits.

    Args:
        page: The shared page.
        latches: What was promised about epochs.
        poll: Wakes the loop when an adopted postmaster ends.
        spare: Answers with processes that are never killed for sitting in PGDATA.
        tell: Sends an event to the clients and writes it to the log.
        log: Writes a line.
    """

    __slots__ = (
        "_deadline_ns",
        "_former",
        "_haste_until_ns",
        "_is_reported",
        "_is_unproven",
        "_keeper",
        "_kill",
        "_latches",
        "_left",
        "_log",
        "_page",
        "_poll",
        "_postmaster",
        "_spare",
        "_tell",
    )

    def __init__(
        self,
        page: Page,
        latches: Latches,
        poll: "Poll",
        *,
        spare: "Callable[[], frozenset[int]]",
        tell: "Callable[[Message], None]",
        log: "Callable[[str], None]",
    ) -> None:
        self._page = page
        self._latches = latches
        self._poll = poll
        self._spare = spare
        self._tell = tell
        self._log = log
        self._keeper = Keeper()
        self._postmaster: Postmaster | None = None
        self._kill: Kill | None = None
        self._deadline_ns = 0
        self._haste_until_ns = 0
        self._is_reported = False
        self._left: list[str] = []
        # A guard that ended while armed left a PostgreSQL of which nothing is known
        # but that it may have been a primary. A kill by directory settles it.
        self._is_unproven = latches.armed != 0
        # Another process's child: dead, but perhaps not reaped by whoever inherited it.
        self._former = page[words.POSTMASTER_PID]
        page[words.POSTMASTER_PID] = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing under guard runs and nothing of it is left."""
        return self._postmaster is None and self._kill is None

    @property
    def may_hold_primary(self) -> bool:
        """Whether something runs, or is not proven dead, that may be a primary."""
        if self._kill is not None or self._is_unproven:
            return True
        return self._postmaster is not None and self._postmaster.is_tainted

    def describe(self) -> "Message":
        """Return the status's part about PostgreSQL."""
        postmaster = self._postmaster
        state = "unproven" if self._is_unproven else "idle"
        if postmaster is not None:
            state = "running"
        if self._kill is not None:
            state = "not_stopped" if self._left else "killing"
        return {
            "state": state,
            "postmaster": postmaster.identity.pid if postmaster else 0,
            "postmaster_start": postmaster.identity.start if postmaster else 0,
            "pgdata": postmaster.pgdata if postmaster else "",
            "adopted": postmaster is not None and postmaster.pidfd >= 0,
            "tainted": self.may_hold_primary,
            "left": self._left,
        }

    # What clients ask for

    def start(self, launch: "Launch", *, primary: bool, epoch: int, now_ns: int) -> int:
        """Start a server; return its pid.

        Args:
            launch: How.
            primary: It may become one by itself: there is no ``standby.signal``.
            epoch: Of that primary.
            now_ns: CLOCK_BOOTTIME.

        Raises:
            Refused: ``running``, ``unproven``, ``unreaped``, ``occupied``, or a latch
                forbids it.
        """
        self._check_nothing_runs()
        if self._is_unproven:
            raise Refused("unproven", "an earlier PostgreSQL has to be killed first")
        self._check_former()
        self._check_directory(launch.pgdata, launch.uid)
        if primary:
            self._latches.check_primary(epoch, now_ns)
        self._latches.ask(now_ns)
        try:
            self._keeper.begin(launch.pgdata, launch.uid)
            pid = launch.start()
        except OSError:
            self._keeper.name(0)
            self._latches.answer()
            raise
        self._keeper.name(pid)
        found = processes.stat(pid)
        self._settle(
            Postmaster(
                Identity(pid, found.start if found else 0),
                pgdata=launch.pgdata,
                uid=launch.uid,
                is_tainted=primary,
            )
        )
        return pid

    def adopt(self, identity: Identity, *, pgdata: str, primary: bool) -> None:
        """Watch a postmaster that somebody else started.

        Args:
            identity: Its pid and start time.
            pgdata: Its data directory, as the kernel names it.
            primary: It may be one, now or later.

        Raises:
            Refused: ``running``, or ``unknown``: no such process in that directory.
        """
        self._check_nothing_runs()
        pid = identity.pid
        try:
            pidfd = handles.open_handle(pid)
        except OSError as exc:
            raise Refused("unknown", f"process {pid}: {exc.strerror}") from exc
        try:
            is_it = identity.stat() is not None and current().directory(pid) == pgdata
        except OSError:
            is_it = False
        if not is_it:
            os.close(pidfd)
            raise Refused("unknown", f"process {pid} is not that one in {pgdata}")
        self._poll.register(pidfd, select.POLLIN)
        self._settle(
            Postmaster(
                identity,
                pgdata=pgdata,
                uid=current().owner(pid) or 0,
                is_tainted=primary or self._is_unproven,
                pidfd=pidfd,
            )
        )
        self._is_unproven = False

    def signal(self, number: int) -> None:
        """Send a signal to the postmaster alone.

        Raises:
            Refused: ``not_running``.
        """
        postmaster = self._postmaster
        if postmaster is None or postmaster.has_ended:
            raise Refused("not_running", "no postmaster runs")
        identity = postmaster.identity
        send(identity.pid, number, lambda _: identity.stat() is not None)

    def kill(self, now_ns: int, deadline_ms: int) -> None:
        """Begin to kill the postmaster and everything of it.

        Raises:
            Refused: ``not_running``.
        """
        if self._kill is None and self._postmaster is None:
            raise Refused("not_running", "no postmaster is known: name its directory")
        self._begin_kill(now_ns, deadline_ms)

    def kill_directory(
        self, pgdata: str, uid: int, *, now_ns: int, deadline_ms: int
    ) -> None:
        """Begin to kill all of ``pgdata``, also what no known postmaster started.

        Raises:
            Refused: ``running``: a postmaster of another directory is under guard.
        """
        postmaster = self._postmaster
        if postmaster is not None and postmaster.pgdata != pgdata:
            raise Refused("running", f"the postmaster runs in {postmaster.pgdata}")
        if postmaster is None and self._kill is None:
            self._kill = self._new_kill(pgdata, uid, None, now_ns)
        self._begin_kill(now_ns, deadline_ms)

    def arm(self, epoch: int, now_ns: int) -> None:
        """Arm for ``epoch``; from now on the postmaster that runs is tainted.

        Raises:
            Refused: ``killing``, or a latch forbids it.
        """
        if self._kill is not None:
            raise Refused("killing", "PostgreSQL is being killed")
        if self._latches.armed not in (0, epoch) and not self.may_hold_primary:
            self._latches.disarm()
        self._latches.arm(epoch, now_ns)
        self._taint()

    def disarm(self) -> None:
        """Disarm.

        Raises:
            Refused: ``tainted``: what runs may be a primary; only its end disarms.
        """
        if self.may_hold_primary:
            raise Refused("tainted", "what runs may be a primary: only its end disarms")
        self._latches.disarm()

    def ask(self, epoch: int, now_ns: int) -> None:
        """Note that a start is under way, or with an epoch a promotion.

        Raises:
            Refused: ``not_running``, or a latch forbids a promotion.
        """
        if epoch:
            if self._postmaster is None or self._kill is not None:
                raise Refused("not_running", "no postmaster that could be promoted")
            self._latches.check_primary(epoch, now_ns)
            self._taint()
        self._latches.ask(now_ns)

    def end_epoch(self, epoch: int) -> None:
        """Latch ``epoch`` as ended; start no primary of it any more.

        Raises:
            Refused: ``running``: it is latched, but what runs may be its primary.
        """
        self._latches.end(epoch)
        armed = self._latches.armed
        if self.may_hold_primary and armed <= epoch:
            raise Refused("running", f"epoch {epoch} is latched, its primary may run")
        if armed and armed <= epoch:
            self._latches.disarm()

    # What happens by itself

    def look_at_lease(self, now_ns: int) -> None:
        """End what may be a primary if its lease has run out."""
        latches = self._latches
        if not latches.has_expired(now_ns):
            return
        epoch = latches.armed
        latches.end(epoch)
        if not self.may_hold_primary:
            latches.disarm()
        elif self._kill is None and self._postmaster is not None:
            self._step(self._begin_kill(now_ns, KILL_DEADLINE_MS), now_ns)
            self._tell({"event": "killed", "epoch": epoch})

    def advance(self, now_ns: int) -> None:
        """Reap, and bring a kill as far as it goes now."""
        self.reap()
        postmaster = self._postmaster
        if postmaster is not None and self._adopted_ended(postmaster):
            postmaster.has_ended = True
        if postmaster is not None and postmaster.has_ended and self._kill is None:
            self._begin_kill(now_ns, KILL_DEADLINE_MS)
        if self._kill is None:
            return
        if self._step(self._kill, now_ns):
            self._finish()
        elif now_ns >= self._deadline_ns and not self._is_reported:
            self._report_left(self._kill)

    def reap(self) -> bool:
        """Reap every child that has ended; tell whether there is no child left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            known = self._postmaster
            if known is not None and known.pidfd < 0 and known.identity.pid == pid:
                known.end(status)

    def look_again_ms(self, now_ns: int) -> int | None:
        """Return how soon `advance` is wanted; None: when a child ends."""
        if self._kill is None:
            return None
        if now_ns < self._haste_until_ns:
            return KILL_STEP_MS
        return KILL_STEP_IDLE_MS if self._is_reported else KILL_STEP_SLOW_MS

    def _step(self, kill: Kill, now_ns: int) -> bool:
        try:
            return kill.step(now_ns)
        except (OSError, MemoryError) as exc:
            # No descriptor, no memory: nobody can tell, so nothing is stopped. The
            # next step may find more.
            self._log(f"kill: {exc!r}")
            return False

    def _report_left(self, kill: Kill) -> None:
        try:
            self._left = kill.left()
        except (OSError, MemoryError) as exc:
            self._left = [f"not stopped: who is left cannot be told: {exc!r}"]
        self._is_reported = True
        self._tell_exited(is_stopped=False)

    def _settle(self, postmaster: Postmaster) -> None:
        self._postmaster = postmaster
        self._page[words.POSTMASTER_PID] = postmaster.identity.pid

    def _check_nothing_runs(self) -> None:
        if self._kill is not None:
            raise Refused("running", "an earlier PostgreSQL is not stopped")
        if self._postmaster is not None:
            pid = self._postmaster.identity.pid
            raise Refused("running", f"postmaster {pid} runs")

    def _check_former(self) -> None:
        # A server does not start while the pid in its lock file exists, also as a
        # zombie.
        found = processes.stat(self._former) if self._former else None
        if found is not None and found.is_dead:
            raise Refused(
                "unreaped",
                f"process {found.parent} has not reaped postmaster {found.pid} yet",
            )

    def _check_directory(self, pgdata: str, uid: int) -> None:
        for occupant in processes.occupants(pgdata, uid):
            if occupant.name in processes.NAMES_OF_POSTGRES:
                raise Refused("occupied", f"process {occupant.pid} is in {pgdata}")

    def _taint(self) -> None:
        if self._postmaster is not None:
            self._postmaster.is_tainted = True

    def _adopted_ended(self, postmaster: Postmaster) -> bool:
        if postmaster.pidfd < 0 or postmaster.has_ended:
            return False
        if not has_ended(postmaster.pidfd):
            return False
        self._poll.unregister(postmaster.pidfd)
        return True

    def _begin_kill(self, now_ns: int, deadline_ms: int) -> Kill:
        """Return the kill under way or a new one, with a new deadline."""
        kill, postmaster = self._kill, self._postmaster
        if kill is None:
            assert postmaster is not None
            victim = None if postmaster.has_ended else postmaster.identity
            kill = self._new_kill(postmaster.pgdata, postmaster.uid, victim, now_ns)
            self._kill = kill
        self._deadline_ns = now_ns + deadline_ms * NS_PER_MS
        self._haste_until_ns = now_ns + KILL_HASTE_NS
        self._is_reported = False
        return kill

    def _new_kill(
        self, pgdata: str, uid: int, victim: Identity | None, now_ns: int
    ) -> Kill:
        return Kill(
            pgdata,
            uid,
            postmaster=victim,
            reap=self.reap,
            spare=self._spare(),
            now_ns=now_ns,
        )

    def _finish(self) -> None:
        kill, postmaster = self._kill, self._postmaster
        assert kill is not None
        self._left = []
        if postmaster is not None and not self._is_reported:
            self._tell_exited(is_stopped=True)
        self._kill = None
        self._postmaster = None
        self._keeper.name(0)
        self._is_unproven = False
        self._page[words.POSTMASTER_PID] = 0
        self._latches.answer()
        if self._latches.armed <= self._latches.ended:
            self._latches.disarm()
        if postmaster is not None and postmaster.pidfd >= 0:
            os.close(postmaster.pidfd)
            # It was no child: whoever inherited it may take its time to reap it.
            self._former = postmaster.identity.pid
        self._tell({"event": "stopped", "pgdata": kill.pgdata})

    def _tell_exited(self, *, is_stopped: bool) -> None:
        postmaster = self._postmaster
        self._tell(
            {
                "event": "exited",
                "pid": postmaster.identity.pid if postmaster else 0,
                "code": postmaster.code if postmaster else None,
                "signal": postmaster.signal if postmaster else None,
                "stopped": is_stopped,
                "left": self._left,
            }
        )
