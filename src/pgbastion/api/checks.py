"""The health checks: does this node have a role, answered with 200 or 503.

Load balancers ask them with GET, HEAD or OPTIONS; people read why not in the body.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from pgbastion.api.problems import Problem
from pgbastion.model.report import PostgresState
from pgbastion.model.snapshot import NodeRole, NodeSnapshot, SyncRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The parameters of a check."""

    lag_bytes_max: int | None = None
    """A standby further behind fails; None: any lag will do."""
    replication_state: str | None = None
    """One of `REPLICATION_STATES`; None: it has to stream."""


STREAMING: Final = "streaming"
# Patroni's words for how a standby gets its WAL.
REPLICATION_STATES: Final = (STREAMING, "in archive recovery")

Verdict = Problem | None
"""Why the check fails; None: it passes."""
Check = Callable[[NodeSnapshot, Asked], Verdict]


def is_primary(snapshot: NodeSnapshot, asked: Asked) -> Verdict:
    """Pass on the primary that takes writes, while its lease runs."""
    del asked
    if snapshot.claims:
        why = "; ".join(claim.sentence for claim in snapshot.claims)
        return _fails(snapshot, "split_brain", why)
    if snapshot.takes_writes:
        return None
    own = snapshot.state.is_held_by(snapshot.member_id)
    if own and snapshot.lease.left_ms <= 0:
        return _fails(snapshot, "lease_expired", "its lease has run out")
    if own:
        return _fails(snapshot, "not_ready", "it does not take writes yet")
    return _fails(snapshot, "not_primary", f"its role is {snapshot.role}")


def is_replica(snapshot: NodeSnapshot, asked: Asked) -> Verdict:
    """Pass on a standby that streams, may be read from and is near enough."""
    if snapshot.role is not NodeRole.STANDBY:
        return _fails(snapshot, "not_standby", f"its role is {snapshot.role}")
    report = snapshot.report
    member = snapshot.state.member(snapshot.member_id)
    wanted = asked.replication_state or STREAMING
    if report is None or report.streaming is not (wanted == STREAMING):
        does = "streams" if report and report.streaming else "does not stream"
        return _fails(snapshot, "not_streaming", f"its standby {does}")
    if member is None or member.noloadbalance:
        return _fails(snapshot, "noloadbalance", "it is tagged noloadbalance")
    return _near_enough(snapshot, asked)


def is_read_only(snapshot: NodeSnapshot, asked: Asked) -> Verdict:
    """Pass wherever reads are answered: on the primary and on good standbys."""
    if is_primary(snapshot, asked) is None:
        return None
    return is_replica(snapshot, asked)


def is_synchronous(snapshot: NodeSnapshot, asked: Asked) -> Verdict:
    """Pass on a standby that commits may wait for."""
    return _of_sync_role(snapshot, asked, wanted=True)


def is_asynchronous(snapshot: NodeSnapshot, asked: Asked) -> Verdict:
    """Pass on a standby that no commit waits for."""
    return _of_sync_role(snapshot, asked, wanted=False)


def is_live(snapshot: NodeSnapshot, asked: Asked) -> Verdict:
    """Pass while the daemon decides: its own report is never old then."""
    del asked
    if snapshot.member_id == 0 or snapshot.fresh_report(snapshot.node) is not None:
        return None
    return _fails(snapshot, "not_deciding", "it has made no decision for too long")


def is_ready(snapshot: NodeSnapshot, asked: Asked) -> Verdict:
    """Pass once the node does its part: primary, running standby, or witness."""
    del asked
    report = snapshot.report
    if snapshot.role in (NodeRole.PRIMARY, NodeRole.WITNESS):
        return None
    fenced = snapshot.role is NodeRole.FENCED
    if not fenced and report is not None and report.state is PostgresState.STANDBY:
        return None
    return _fails(snapshot, "not_ready", f"its role is {snapshot.role}")


CHECKS: Final[Mapping[str, Check]] = {
    "/primary": is_primary,
    "/read-write": is_primary,
    "/leader": is_primary,
    "/replica": is_replica,
    "/read-only": is_read_only,
    "/sync": is_synchronous,
    "/synchronous": is_synchronous,
    "/quorum": is_synchronous,
    "/async": is_asynchronous,
    "/asynchronous": is_asynchronous,
    "/liveness": is_live,
    "/readiness": is_ready,
}


def _of_sync_role(snapshot: NodeSnapshot, asked: Asked, *, wanted: bool) -> Verdict:
    verdict = is_replica(snapshot, asked)
    if verdict is not None:
        return verdict
    role = snapshot.own_sync_role
    if (role is not SyncRole.ASYNC) is wanted:
        return None
    return _fails(snapshot, "other_sync_role", f"as a standby it is {role}")


def _near_enough(snapshot: NodeSnapshot, asked: Asked) -> Verdict:
    if asked.lag_bytes_max is None:
        return None
    lag = snapshot.lag_bytes(snapshot.node)
    if lag is None:
        return _fails(snapshot, "lag_unknown", "its lag cannot be told")
    if lag > asked.lag_bytes_max:
        return _fails(snapshot, "lagging", f"it is {lag} bytes behind the primary")
    return None


def _fails(snapshot: NodeSnapshot, code: str, why: str) -> Problem:
    primary = snapshot.primary
    where = (
        f"the primary is {primary.name}, its API is {primary.api_url}"
        if primary
        else f"the cluster has no primary now: {snapshot.primary_reason}"
    )
    return Problem(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        code=code,
        message=f"{snapshot.node} fails this check: {why}",
        remedy=where,
    )
