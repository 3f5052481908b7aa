"""The phases of a change of the primary, as one node saw them. Pure.

A node's decisions say what it does and what it waits for, each with its reason. What
follows one another within a phase is one span of a trace.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pgbastion.model.reasons import Reason

SPANS_MAX: Final = 64
LEAD_NS: Final = 1_000_000_000
"""What led to the loss ended no longer than this before what followed it."""

DETECTION: Final = "detection"
FIRST_SESSION: Final = "first session"
PHASES: Final[Mapping[str, frozenset[Reason]]] = {
    "preparation": frozenset({Reason.PREPARING_HANDOVER, Reason.HOLDING_CLIENTS}),
    "decision": frozenset(
        {
            Reason.CRASHED_STANDBY_READY,
            Reason.POSTGRES_HUNG,
            Reason.POSTMASTER_HUNG,
            Reason.BACKENDS_HUNG,
            Reason.DISK_HUNG,
            Reason.DISK_FAILED,
            Reason.DISK_FULL,
            Reason.LEASE_RAN_OUT,
            Reason.HOLDER_RELEASED,
            Reason.VOUCHED_FOR,
            Reason.FURTHEST_CHOSEN,
            Reason.FORCED,
        }
    ),
    "stop": frozenset(
        {
            Reason.HANDING_OVER,
            Reason.STOPPING_AS_REVOKED,
            Reason.LEASE_EXPIRING,
            Reason.FENCING,
        }
    ),
    "release": frozenset({Reason.RELEASING, Reason.HANDED_OVER}),
    "lease wait": frozenset(
        {Reason.LEASE_MAY_RUN, Reason.AGES_UNKNOWN, Reason.PAUSE_MAY_LAST_THERE}
    ),
    "survey": frozenset(
        {
            Reason.SURVEYING,
            Reason.CATCHING_UP,
            Reason.COMMITS_MAY_BE_MISSING,
            Reason.NO_CANDIDATE,
            Reason.LAG_TOO_LARGE,
            Reason.TARGET_NOT_AS_FAR,
        }
    ),
    "lease grant": frozenset({Reason.WAITING_FOR_LEASE}),
    "promotion": frozenset(
        {
            Reason.STARTING_FOR_PROMOTION,
            Reason.ARMING,
            Reason.PROMOTING,
            Reason.PROMOTION_RUNNING,
        }
    ),
    "opening": frozenset({Reason.WAITING_FOR_SYNC_STANDBY, Reason.OPENING}),
}
_PHASE_OF: Final = {reason: name for name, of in PHASES.items() for reason in of}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that took its time; instants are wall-clock, in nanoseconds."""

    name: str
    begun_ns: int
    ended_ns: int
    attributes: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of the primary, as this node saw it."""

    epoch: int
    whole: Span
    phases: tuple[Span, ...]


class Phases:
    """Collects what a node decides, until a change of the primary is complete."""

    def __init__(self) -> None:
        self._open: dict[str, Span] = {}
        self._ended: deque[Span] = deque(maxlen=SPANS_MAX)

    def decided(self, who: str, reason: Reason, now_ns: int) -> None:
        """Take a decision that differs from the one before.

        Args:
            who: ``node`` for this node, ``cluster`` for the Raft leader's.
            reason: Why.
            now_ns: The wall clock.
        """
        name = _PHASE_OF.get(reason)
        running = self._open.get(who)
        if running is not None and running.name == name:
            reasons = f"{running.attributes['reasons']},{reason}"
            self._open[who] = replace(
                running, attributes={**running.attributes, "reasons": reasons}
            )
            return
        if running is not None:
            self._ended.append(replace(running, ended_ns=now_ns))
            del self._open[who]
        if name is not None:
            about = {"decided_by": who, "reasons": str(reason)}
            self._open[who] = Span(
                name=name, begun_ns=now_ns, ended_ns=now_ns, attributes=about
            )

    def complete(self, epoch: int, gap_ns: int, now_ns: int) -> Change:
        """Return the change that has just ended: a primary takes clients again."""
        lost_ns = now_ns - gap_ns
        running = [replace(span, ended_ns=now_ns) for span in self._open.values()]
        seen, begun_ns = [], lost_ns
        # Backwards from the loss: what is not next to it belongs to something else.
        for span in sorted((*self._ended, *running), key=_end, reverse=True):
            if span.ended_ns < begun_ns - LEAD_NS:
                break
            seen.append(span)
            begun_ns = min(begun_ns, span.begun_ns)
        self._ended.clear()
        seen.sort(key=lambda span: span.begun_ns)
        reacted_ns = next(
            (span.begun_ns for span in seen if span.ended_ns > lost_ns), now_ns
        )
        if reacted_ns > lost_ns:
            found = Span(name=DETECTION, begun_ns=lost_ns, ended_ns=reacted_ns)
            seen = sorted([*seen, found], key=lambda span: span.begun_ns)
        whole = Span(
            name="change of the primary",
            begun_ns=begun_ns,
            ended_ns=now_ns,
            attributes={"epoch": epoch, "gap_ms": gap_ns // 1_000_000},
        )
        return Change(epoch=epoch, whole=whole, phases=tuple(seen))


def _end(span: Span) -> int:
    return span.ended_ns
