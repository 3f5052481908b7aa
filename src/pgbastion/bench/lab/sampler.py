"""Write a row at every server every 50 ms, as the lease's check asks for.

At each turn a row is inserted directly at every server, all at one instant. After 40 ms
without an answer the socket is closed, and nothing is cancelled: the commit may still
happen, but nobody was told. A connection that answers is kept, since signing in anew
twenty times a second would load the machine more than the cluster does. A second
connection a server asks whether it is in recovery.

Its answers are judged by `overlaps`. Run as a program it records until its standard
input ends.
"""

import argparse
import json
import os
import select
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, TextIO

from pgbastion.bench.lab.link import Answer, Link, Phase, Target
from pgbastion.bench.lab.overlaps import Sample
from pgbastion.bench.lab.writers import PASSWORD_VARIABLE
from pgbastion.clock import NS_PER_MS, boottime_ns

SAMPLE_EVERY_NS: Final = 50 * NS_PER_MS
ANSWER_NS: Final = 40 * NS_PER_MS
CONNECT_NS: Final = 1_000 * NS_PER_MS
# Two turns may be missed before a claim counts as interrupted.
CLAIM_BROKEN_NS: Final = 3 * SAMPLE_EVERY_NS


class Kind(StrEnum):
    """What a probe asks."""

    WRITE = "write"
    CLAIM = "claim"


@dataclass(slots=True)
class Probe:
    """One question to one server, asked at every turn."""

    node: str
    target: Target
    kind: Kind
    outcomes: Counter[str] = field(default_factory=Counter)
    _link: Link | None = None
    _since_ns: int = 0

    def turn(self, now_ns: int) -> None:
        """Ask, or connect where there is no connection."""
        if self._link is None:
            self._since_ns = now_ns
            self._link = Link(self.target)
        elif self._link.phase is Phase.IDLE:
            self._since_ns = now_ns
            self._link.ask(self._query(now_ns))

    def expire(self, now_ns: int) -> None:
        """Close what was not answered in time or is broken."""
        link = self._link
        if link is None:
            return
        waited_ns = now_ns - self._since_ns
        if link.phase is Phase.WAITING and waited_ns >= ANSWER_NS:
            self._drop("unanswered")
        elif link.phase is Phase.CONNECTING and waited_ns >= CONNECT_NS:
            self._drop("connect time-out")
        elif link.phase is Phase.BROKEN:
            self._drop("connection lost")

    def watched(self) -> Link | None:
        """Return the link whose socket is to be watched."""
        if self._link is None or self._link.phase is Phase.BROKEN:
            return None
        return self._link

    def ready(self) -> Sample | None:
        """Take what came; return it if the server acted as a primary."""
        if self._link is None:
            return None
        answer = self._link.advance()
        if answer is None:
            return None
        received_ns = boottime_ns()
        if received_ns - self._since_ns >= ANSWER_NS:
            # It lay in the socket while this program was late: nobody was told in time.
            self._drop("unanswered")
            return None
        self.outcomes["acknowledged" if answer.acknowledged else answer.sqlstate] += 1
        return self._sample(answer, received_ns)

    def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _sample(self, answer: Answer, received_ns: int) -> Sample | None:
        if not answer.acknowledged:
            return None
        if self.kind is Kind.CLAIM and answer.value == "t":
            return None
        timeline = int(answer.value, 16) if self.kind is Kind.WRITE else 0
        return Sample(
            node=self.node,
            timeline=timeline,
            sent_ns=self._since_ns,
            received_ns=received_ns,
        )

    def _query(self, now_ns: int) -> str:
        if self.kind is Kind.CLAIM:
            return "SELECT pg_is_in_recovery()"
        return (
            f"INSERT INTO lab_samples (node, at_ns) VALUES ('{self.node}', {now_ns})"  # noqa: S608
            " RETURNING substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
        )

    def _drop(self, why: str) -> None:
        self.outcomes[why] += 1
        self.close()


def run(probes: Sequence[Probe], record: TextIO, stop_fd: int) -> None:
    """Sample until ``stop_fd`` ends, and record what primaries answered."""
    next_ns = boottime_ns()
    while True:
        now_ns = boottime_ns()
        for probe in probes:
            probe.expire(now_ns)
        if now_ns >= next_ns:
            next_ns = now_ns - now_ns % SAMPLE_EVERY_NS + SAMPLE_EVERY_NS
            record.flush()
            for probe in probes:
                probe.turn(boottime_ns())
        watched = {
            link.fileno(): (probe, link)
            for probe in probes
            if (link := probe.watched()) is not None
        }
        for fd in _ready(watched, stop_fd, next_ns - boottime_ns()):
            if fd == stop_fd:
                return
            probe = watched[fd][0]
            sample = probe.ready()
            if sample is not None:
                record.write(_line(probe.kind, sample))


def read_record(path: Path) -> tuple[list[Sample], list[Sample]]:
    """Return the acknowledged writes and the claims of a record."""
    found: dict[Kind, list[Sample]] = {Kind.WRITE: [], Kind.CLAIM: []}
    for line in path.read_text(encoding="ascii").splitlines():
        kind, node, timeline, sent, received = line.split()
        sample = Sample(
            node=node,
            timeline=int(timeline),
            sent_ns=int(sent),
            received_ns=int(received),
        )
        found[Kind(kind)].append(sample)
    return found[Kind.WRITE], found[Kind.CLAIM]


def _line(kind: Kind, sample: Sample) -> str:
    return (
        f"{kind} {sample.node} {sample.timeline}"
        f" {sample.sent_ns} {sample.received_ns}\n"
    )


def _ready(
    watched: dict[int, tuple[Probe, Link]], stop_fd: int, wait_ns: int
) -> Iterator[int]:
    poll = select.poll()
    poll.register(stop_fd, select.POLLIN)
    for fd, (_, link) in watched.items():
        poll.register(fd, link.events())
    # 10 ms: an unanswered socket is closed between two turns, not at the next one.
    wait_ms = min(max(wait_ns / NS_PER_MS, 0), 10)
    for fd, _ in poll.poll(wait_ms):
        yield fd


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sampler; the last line of standard output counts the outcomes."""
    parser = argparse.ArgumentParser(prog="sampler")
    parser.add_argument(
        "--at", required=True, help="NODE=ADDRESS:PORT, comma-separated"
    )
    parser.add_argument("--user", required=True)
    parser.add_argument("--record", required=True)
    options = parser.parse_args(arguments)
    password = os.environ[PASSWORD_VARIABLE]
    probes = []
    for server in options.at.split(","):
        node, place = server.split("=")
        address, port = place.rsplit(":", 1)
        target = Target(
            address=address, port=int(port), user=options.user, password=password
        )
        probes += [Probe(node, target, kind) for kind in Kind]
    with open(options.record, "a", encoding="ascii") as record:  # noqa: PTH123
        run(probes, record, sys.stdin.fileno())
    outcomes: dict[str, Counter[str]] = {}
    for probe in probes:
        probe.close()
        outcomes[f"{probe.node} {probe.kind}"] = probe.outcomes
    sys.stdout.write(json.dumps(outcomes) + "\n")


if __name__ == "__main__":
    main()
