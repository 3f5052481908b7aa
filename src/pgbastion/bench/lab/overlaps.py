"""Judge the sampler's record: did two nodes acknowledge writes at one time?

An acknowledged interval runs from the instant at which the client sent a write to the
one at which it had the answer; somewhere in between the server confirmed it. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pgbastion.clock import NS_PER_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A write that one server acknowledged, or its claim to be no standby.

    ``timeline`` stands for the epoch: every new epoch begins with a promotion. It is 0
    for a claim.
    """

    node: str
    timeline: int
    sent_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Two nodes acknowledged, or one did in an epoch that was over."""

    older: Sample
    newer: Sample

    def __str__(self) -> str:
        """Say who, and by how much, for a failed assertion."""
        apart_ms = (self.older.received_ns - self.newer.sent_ns) / NS_PER_MS
        return (
            f"{self.older.node} (timeline {self.older.timeline}) acknowledged"
            f" {apart_ms:.1f} ms after a write was sent to"
            f" {self.newer.node} (timeline {self.newer.timeline}) that it acknowledged"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubleClaim:
    """A time in which two nodes both said that they are no standby."""

    nodes: tuple[str, str]
    ms: float


def violations(samples: Sequence[Sample]) -> list[Violation]:
    """Return every breach of S1 that the acknowledged writes show.

    Two intervals of different nodes or timelines that overlap are one. So is an
    acknowledgement of an older timeline, or of another node of the same timeline,
    that begins after one of a newer timeline ended: samples are points, and what two
    nodes do in turn they do at one time.
    """
    found: list[Violation] = []
    newest: Sample | None = None
    last: dict[tuple[str, int], Sample] = {}
    for sample in sorted(samples, key=lambda each: each.sent_ns):
        writer = (sample.node, sample.timeline)
        rivals = [
            other
            for name, other in last.items()
            if name != writer and other.received_ns > sample.sent_ns
        ]
        if not rivals and newest is not None and _is_over(sample, newest):
            rivals = [newest]
        found.extend(_ordered(rival, sample) for rival in rivals)
        if newest is None or sample.timeline > newest.timeline:
            newest = sample
        if writer not in last or last[writer].received_ns < sample.received_ns:
            last[writer] = sample
    return found


def _is_over(sample: Sample, newest: Sample) -> bool:
    """Tell whether ``newest`` shows that the epoch of ``sample`` was over."""
    if sample.timeline == newest.timeline:
        return sample.node != newest.node
    return sample.timeline < newest.timeline


def double_claims(claims: Iterable[Sample], broken_after_ns: int) -> list[DoubleClaim]:
    """Return the times in which two nodes claimed to be no standby.

    A node claims from one answer to the next when they are at most ``broken_after_ns``
    apart; a node that was frozen in between claimed nothing.
    """
    spans = _spans(claims, broken_after_ns)
    found = []
    for index, (node, start, end) in enumerate(spans):
        for other, other_start, other_end in spans[index + 1 :]:
            shared_ns = min(end, other_end) - max(start, other_start)
            if node != other and shared_ns > 0:
                found.append(DoubleClaim(nodes=(node, other), ms=shared_ns / NS_PER_MS))
    return found


def _spans(
    claims: Iterable[Sample], broken_after_ns: int
) -> list[tuple[str, int, int]]:
    by_node: dict[str, list[Sample]] = {}
    for claim in sorted(claims, key=lambda each: each.sent_ns):
        by_node.setdefault(claim.node, []).append(claim)
    spans = []
    for node, own in by_node.items():
        start = own[0].sent_ns
        for before, after in pairwise(own):
            if after.sent_ns - before.received_ns > broken_after_ns:
                spans.append((node, start, before.received_ns))
                start = after.sent_ns
        spans.append((node, start, own[-1].received_ns))
    return spans


def _ordered(one: Sample, other: Sample) -> Violation:
    older, newer = sorted((one, other), key=lambda each: each.timeline)
    return Violation(older=older, newer=newer)
