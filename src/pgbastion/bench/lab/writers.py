"""The workload: four writers whose acknowledged ids are kept outside the cluster.

Each writer inserts one row every 10 ms over its own connection. When the connection
breaks, or a new one is not ready within a second, it goes to the next address in turn.
A question that is not answered is waited for, up to ``ANSWER_S``: it is the proxy's
duty to close the sessions of a primary that is none any more.

One thread serves all writers, so that the workload takes little from the two cores that
it measures. Run as a program it writes a line for each acknowledged row and ends when
its standard input does, hence also when its parent dies.
"""

import argparse
import json
import os
import select
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

from pgbastion.bench.lab.link import Answer, Link, Phase, Target
from pgbastion.clock import NS_PER_MS, boottime_ns

ATTEMPT_EVERY_NS: Final = 10 * NS_PER_MS
CONNECT_NS: Final = 1_000 * NS_PER_MS
ANSWER_S: Final = 10.0
FLUSH_EVERY_NS: Final = 50 * NS_PER_MS
PASSWORD_VARIABLE: Final = "LAB_PASSWORD"  # noqa: S105 - the name, not the password


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """One row that the cluster has confirmed; instants of CLOCK_BOOTTIME."""

    id: int
    sent_ns: int
    received_ns: int
    via: str

    def line(self) -> str:
        """Return the record's form in the file."""
        return f"{self.id} {self.sent_ns} {self.received_ns} {self.via}\n"

    @classmethod
    def parse(cls, line: str) -> "Acknowledged":
        """Read one line of the file."""
        row, sent, received, via = line.split()
        return cls(id=int(row), sent_ns=int(sent), received_ns=int(received), via=via)


@dataclass(slots=True)
class Ids:
    """Hands out ids, rising from ``first``."""

    first: int
    used: int = 0

    def take(self) -> int:
        """Return an id that was never used."""
        self.used += 1
        return self.first + self.used - 1


@dataclass(slots=True)
class Writer:
    """One writer: connect, insert, repeat."""

    targets: Sequence[Target]
    ids: Ids
    answer_ns: int
    turn: int
    errors: Counter[str] = field(default_factory=Counter)
    _link: Link | None = None
    _since_ns: int = 0
    _id: int = 0
    _next_ns: int = 0

    def pass_at(self, now_ns: int) -> Link | None:
        """Do what is due; return the link whose socket is to be watched."""
        if self._link is not None and self._link.phase is Phase.BROKEN:
            self._give_up(self._link.failure or "connection lost")
        self._expire(now_ns)
        if now_ns >= self._next_ns:
            self._attempt(now_ns)
        return self._link

    def wake_ns(self) -> int:
        """Return when something is due even if no socket becomes ready."""
        if self._link is not None and self._link.phase is Phase.CONNECTING:
            return min(self._since_ns + CONNECT_NS, self._next_ns)
        if self._link is not None and self._link.phase is Phase.WAITING:
            return self._since_ns + self.answer_ns
        return self._next_ns

    def ready(self) -> Acknowledged | None:
        """Take what came; return the row that was acknowledged, if one was."""
        link = self._link
        if link is None:
            return None
        answer = link.advance()
        if answer is None:
            return None
        return self._judge(answer)

    def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _judge(self, answer: Answer) -> Acknowledged | None:
        if answer.acknowledged:
            return Acknowledged(
                id=self._id,
                sent_ns=self._since_ns,
                received_ns=boottime_ns(),
                via=self._target().address,
            )
        self._give_up(answer.sqlstate or "warning")
        return None

    def _attempt(self, now_ns: int) -> None:
        # Missed turns are not made up for: a writer is a client, not a queue.
        self._next_ns = now_ns - now_ns % ATTEMPT_EVERY_NS + ATTEMPT_EVERY_NS
        if self._link is None:
            self._since_ns = now_ns
            self._link = Link(self._target())
        elif self._link.phase is Phase.IDLE:
            self._since_ns = now_ns
            self._id = self.ids.take()
            self._link.ask(f"INSERT INTO lab_writes (id) VALUES ({self._id})")  # noqa: S608

    def _expire(self, now_ns: int) -> None:
        if self._link is None:
            return
        waited = now_ns - self._since_ns
        if self._link.phase is Phase.CONNECTING and waited >= CONNECT_NS:
            self._give_up("connect time-out")
        elif self._link.phase is Phase.WAITING and waited >= self.answer_ns:
            self._give_up("answer time-out")

    def _give_up(self, why: str) -> None:
        self.errors[why] += 1
        self.close()
        self.turn += 1

    def _target(self) -> Target:
        return self.targets[self.turn % len(self.targets)]


def run(writers: Sequence[Writer], record: TextIO, stop_fd: int) -> None:
    """Write until ``stop_fd`` ends, and record each acknowledged row."""
    flushed_ns = boottime_ns()
    while True:
        now_ns = boottime_ns()
        links = {
            link.fileno(): (writer, link)
            for writer in writers
            if (link := writer.pass_at(now_ns)) is not None
            and link.phase is not Phase.BROKEN
        }
        if now_ns - flushed_ns >= FLUSH_EVERY_NS:
            record.flush()
            flushed_ns = now_ns
        wake_ns = min(writer.wake_ns() for writer in writers)
        for fd in _ready(links, stop_fd, wake_ns - now_ns):
            if fd == stop_fd:
                return
            row = links[fd][0].ready()
            if row is not None:
                record.write(row.line())


def _ready(
    links: dict[int, tuple[Writer, Link]], stop_fd: int, wait_ns: int
) -> Iterator[int]:
    poll = select.poll()
    poll.register(stop_fd, select.POLLIN)
    for fd, (_, link) in links.items():
        poll.register(fd, link.events())
    wait_ms = min(max(wait_ns, 0), FLUSH_EVERY_NS) / NS_PER_MS
    for fd, _ in poll.poll(wait_ms):
        yield fd


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the writers; the last line of standard output is the summary."""
    parser = argparse.ArgumentParser(prog="writers")
    parser.add_argument("--to", required=True, help="ADDRESS:PORT, comma-separated")
    parser.add_argument("--user", required=True)
    parser.add_argument("--record", required=True, help="file of acknowledged rows")
    parser.add_argument("--first", type=int, required=True, help="the first id")
    parser.add_argument("--writers", type=int, default=4)
    options = parser.parse_args(arguments)
    password = os.environ[PASSWORD_VARIABLE]
    targets = [
        Target(address=host, port=int(port), user=options.user, password=password)
        for host, port in (to.rsplit(":", 1) for to in options.to.split(","))
    ]
    ids = Ids(first=options.first)
    writers = [
        Writer(targets, ids, answer_ns=int(ANSWER_S * 1e9), turn=number)
        for number in range(options.writers)
    ]
    with open(options.record, "a", encoding="ascii") as record:  # noqa: PTH123
        run(writers, record, sys.stdin.fileno())
    errors: Counter[str] = Counter()
    for writer in writers:
        writer.close()
        errors.update(writer.errors)
    sys.stdout.write(json.dumps({"attempted": ids.used, "errors": errors}) + "\n")


if __name__ == "__main__":
    main()
