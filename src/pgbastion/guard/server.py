"""The guard's one thread: sockets, signals and the loop.

In each pass the look at the lease comes first, so that a node that was frozen ends its
primary before it answers anybody.
"""

import os
import select
import signal

from pgbastion.guard import page as words
from pgbastion.guard import wire
from pgbastion.guard.addresses import Removals
from pgbastion.guard.commands import Commands
from pgbastion.guard.latches import Latches
from pgbastion.guard.page import Page
from pgbastion.guard.supervisor import Supervisor
from pgbastion.guard.watchdog import Watchdog
from pgbastion.guard.wire import Closed, Connection
from pgbastion.guard.writer_lock import WriterLock
from pgbastion.platform.choice import current
from pgbastion.platform.clock import boottime_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pgbastion.guard.wire import Message

NS_PER_MS = 1_000_000
# While armed the expiry is looked at this often, since it may also move back.
ARMED_LOOK_MS = 50
IDLE_LOOK_MS = 1000
# Nothing runs and nobody is connected for this long: the guard ends.
LONELY_NS = 10_000 * NS_PER_MS


class Guard:
    """Everything that the process does after its start.

    Args:
        page: The shared page.
        listener: The socket for clients.
        log: Writes a line.
        warnings: What the kernel refused at the start; part of the status.
    """

    def __init__(
        self,
        page: Page,
        listener: "socket.socket",
        *,
        log: "Callable[[str], None]",
        warnings: list[str],
    ) -> None:
        self._page = page
        self._listener = listener
        self._log = log
        self._warnings = warnings
        self._clients: dict[int, Connection] = {}
        self._poll = current().poll()
        self._latches = Latches(page)
        self._lock = WriterLock(page)
        self._supervisor = Supervisor(
            page,
            self._latches,
            self._poll,
            spare=self._spare,
            tell=self._tell,
            log=log,
        )
        self._removals = Removals(log)
        self._watchdog = Watchdog(self._latches, log)
        self._commands = Commands(
            self._supervisor,
            self._latches,
            self._lock,
            self._removals,
            self._watchdog,
            watch=self._watch,
        )
        self._wake = _signal_pipe()
        self._is_asked_to_end = False
        self._lonely_since_ns = boottime_ns()
        signal.signal(signal.SIGTERM, self._note_term)
        self._poll.register(listener.fileno(), select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        if self._lock.pidfd >= 0:
            self._watch(self._lock.pidfd)

    def run(self) -> None:
        """Guard until there is nothing left to guard."""
        while not self._is_over():
            ready = self._poll.poll(self._pause_s())
            now_ns = boottime_ns()
            self._page[words.GUARD_BEAT_NS] = now_ns
            self._supervisor.look_at_lease(now_ns)
            # After the kill's first step: the kernel may let a removal wait.
            self._look_at_addresses(now_ns)
            for fd, _ in ready:
                self._serve(fd)
            self._supervisor.advance(boottime_ns())
            self._look_at_watchdog()
        # Nothing runs any more: whoever ends cleanly leaves nothing that fires.
        self._watchdog.close()

    def _look_at_watchdog(self) -> None:
        before = self._watchdog.problem
        holds = self._supervisor.may_hold_primary
        self._watchdog.look(boottime_ns(), holds_primary=holds)
        if self._watchdog.problem != before:
            self._tell({"event": "watchdog", "problem": self._watchdog.problem})

    def _look_at_addresses(self, now_ns: int) -> None:
        """Remove the addresses while no lease of this node's stands behind them.

        At every look, not once: a daemon that was stopped in the middle of adding one
        goes on with that when it is continued.
        """
        if self._removals.names and self._latches.forbids_addresses(now_ns):
            self._removals.remove()
        self._removals.remove_kept(now_ns)

    def _is_over(self) -> bool:
        now_ns = boottime_ns()
        if self._clients or not self._supervisor.is_idle:
            self._lonely_since_ns = now_ns
        if not self._supervisor.is_idle:
            self._is_asked_to_end = False
            return False
        return (
            self._commands.wants_quit
            or self._is_asked_to_end
            or now_ns - self._lonely_since_ns >= LONELY_NS
        )

    def _pause_s(self) -> float:
        now_ns = boottime_ns()
        pause_ms = float(IDLE_LOOK_MS)
        step_ms = self._supervisor.look_again_ms(now_ns)
        if step_ms is not None:
            pause_ms = step_ms
        if self._latches.armed:
            pause_ms = min(pause_ms, ARMED_LOOK_MS)
            left_ms = (self._latches.acts_at_ns() - now_ns) / NS_PER_MS
            if 0 < left_ms < pause_ms:
                pause_ms = left_ms
        end_ns = self._removals.next_end_ns(now_ns)
        if end_ns is not None:
            pause_ms = min(pause_ms, (end_ns - now_ns) / NS_PER_MS)
        return pause_ms / 1000

    def _serve(self, fd: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
        elif fd == self._wake:
            _drain(self._wake)
        elif fd == self._lock.pidfd:
            self._poll.unregister(fd)
            self._lock.release()
            self._tell({"event": "vacant"})
        elif fd in self._clients:
            self._talk(self._clients[fd])

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as exc:
            self._log(f"accept: {exc}")
            return
        if len(self._clients) >= wire.CONNECTIONS_MAX:
            sock.close()
            return
        try:
            client = Connection(sock)
        except (Closed, OSError) as exc:
            sock.close()
            self._log(f"refused: {exc}")
            return
        self._clients[client.fd] = client
        self._poll.register(client.fd, select.POLLIN)

    def _talk(self, client: Connection) -> None:
        try:
            client.flush()
            for request in client.receive():
                answer = self._commands.answer(request, client, boottime_ns())
                self._record(request, answer)
                status = self._status()
                client.send({"id": request.get("id"), **answer, "status": status})
            self._poll.modify(client.fd, client.interest())
        except Closed:
            self._drop(client)

    def _drop(self, client: Connection) -> None:
        self._poll.unregister(client.fd)
        del self._clients[client.fd]
        client.close()

    def _tell(self, event: "Message") -> None:
        self._log(" ".join(f"{name}={value}" for name, value in event.items()))
        message = {**event, "status": self._status()}
        for client in list(self._clients.values()):
            if not client.wants_events:
                continue
            try:
                client.send(message)
                self._poll.modify(client.fd, client.interest())
            except Closed:
                self._drop(client)

    def _record(self, request: "Message", answer: "Message") -> None:
        name = request.get("do")
        if not answer["ok"]:
            self._log(f"refused: {name}: {answer['reason']}: {answer['message']}")
        elif name not in ("status", "hello"):
            self._log(f"done: {name} epoch={request.get('epoch')}")

    def _status(self) -> "Message":
        return {
            "version": wire.VERSION,
            "guard": os.getpid(),
            "armed": self._latches.armed,
            "ended": self._latches.ended,
            "asked_ns": self._page[words.ASKED_NS],
            "generation": self._lock.generation,
            "writer": self._lock.holder,
            "removals": self._removals.names,
            "watchdog": self._watchdog.state,
            "watchdog_problem": self._watchdog.problem,
            "warnings": self._warnings,
            **self._supervisor.describe(),
        }

    def _spare(self) -> frozenset[int]:
        return frozenset(client.pid for client in self._clients.values())

    def _watch(self, pidfd: int) -> None:
        self._poll.register(pidfd, select.POLLIN)

    def _note_term(self, *_: object) -> None:
        # While PostgreSQL runs the guard outlives everybody: then this is ignored.
        self._is_asked_to_end = True


def _signal_pipe() -> int:
    """Return a descriptor that becomes readable when a child ends or SIGTERM comes."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        return
