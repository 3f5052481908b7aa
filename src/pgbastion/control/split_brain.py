"""Who claims the primary role without having it, and for how long that counts.

While a claim counts, no proxy leads anybody to the primary port: neither of the two
is known to be the one that a client means.

Source: docs/explanation/safety.md; docs/howto/split-brain.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pgbastion.model.claims import Claim, ClaimKind
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import NodeId
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import Received

CONFIRM_MS: Final = 700
"""How long a former holder may claim on before it counts: one that wakes up after its
lease says so once more, and its guard has killed it by then."""
QUIET_MS: Final = 2_000
"""How long nobody must have claimed before the port opens: whoever started a server by
hand, or has a service manager do it, may start it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitView:
    """What claims are looked for in; instants in milliseconds on this node's clock."""

    now_ms: int
    state: ClusterState
    reports: Mapping[NodeId, Received]
    report_max_ms: int
    """An older report says nothing about now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The claims that count now, and what must be remembered for the next look."""

    claims: tuple[Claim, ...] = ()
    first_ms: Mapping[Claim, int] = field(default_factory=dict)
    """Since when each is known."""
    last_ms: Mapping[Claim, int] = field(default_factory=dict)
    """When each was last heard of."""

    @property
    def sentence(self) -> str:
        """All claims as a clause for people; empty: there is none."""
        if not self.claims:
            return ""
        return "split brain: " + "; ".join(claim.sentence for claim in self.claims)


def watch_claims(before: Split, view: SplitView) -> Split:
    """Return what is known of wrong claims after one more look."""
    heard = dict(_claims(view))
    first = {c: before.first_ms.get(c, at_ms) for c, at_ms in heard.items()}
    last = dict(heard)
    for claim, at_ms in before.last_ms.items():
        if claim not in heard and view.now_ms - at_ms < QUIET_MS:
            first[claim], last[claim] = before.first_ms[claim], at_ms
    counting = {claim for claim in last if _counts(claim, first, last)}
    return Split(
        claims=tuple(sorted(counting, key=lambda c: (c.node, c.kind, c.epoch))),
        first_ms=first,
        last_ms=last,
    )


def _counts(
    claim: Claim, first: Mapping[Claim, int], last: Mapping[Claim, int]
) -> bool:
    if claim.kind is not ClaimKind.FORMER_HOLDER:
        return True
    return last[claim] - first[claim] >= CONFIRM_MS


def _claims(view: SplitView) -> Iterator[tuple[Claim, int]]:
    """Yield each wrong claim with the instant at which it was last made."""
    held = view.state.assignment
    if held is None:
        return
    for node, received in view.reports.items():
        if view.now_ms - received.at_ms > view.report_max_ms:
            continue
        report = received.report
        primary = report.state is PostgresState.PRIMARY and report.answers
        claims = primary and node != held.node
        # Of a later epoch than this node knows: this node's knowledge is the old one.
        if claims and report.epoch <= held.epoch:
            former = _is_former_holder(view.state, report)
            kind = ClaimKind.FORMER_HOLDER if former else ClaimKind.NEVER_ASSIGNED
            yield Claim(node=node, kind=kind, epoch=report.epoch), received.at_ms
        for seen in report.unwatched_primaries:
            if seen != held.node and view.state.named(seen) is not None:
                yield Claim(node=seen, kind=ClaimKind.UNWATCHED), received.at_ms


def _is_former_holder(state: ClusterState, report: NodeReport) -> bool:
    """Tell whether it runs on as what it was assigned in an earlier epoch.

    Promoted out of band since, it would be on another timeline.
    """
    end = report.wal_end
    return end is not None and any(
        change.what == "assigned"
        and (change.node, change.epoch) == (report.node, report.epoch)
        and change.timeline == end.timeline
        for change in state.history
    )
