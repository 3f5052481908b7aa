"""The first line of an explanation: the gravest problem, and what to do about it.

Each rule looks at what one node knows and has a verdict or none; the first verdict is
shown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pgbastion.control.candidates import disks_below
from pgbastion.control.cluster import STUCK
from pgbastion.control.explain_facts import (
    cannot_stream,
    doing,
    fresh_reports,
    how_it_returns,
    how_standbys_return,
    members_short,
    missing_standbys,
    needs_attention,
    returning_standbys,
    silent_members,
    standbys_away,
)
from pgbastion.control.orders import barred_from_role
from pgbastion.control.sync_standbys import wanted_count
from pgbastion.model.explanation import Situation
from pgbastion.model.ids import NodeId, standby_name
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.snapshot import NodeRole, NodeSnapshot
from pgbastion.model.trouble import SILENCE

DISK_WARNING: Final = 20
"""Less of a disk than this percentage free is a warning."""
DISK_LOW: Final = 10
"""Less of a disk than this percentage free goes into the first line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The state of the cluster, and what to do next."""

    situation: Situation
    state: str
    next_step: str


Rule = Callable[[NodeSnapshot], Verdict | None]


def judge(snapshot: NodeSnapshot) -> Verdict:
    """Return the gravest verdict that applies."""
    found = (rule(snapshot) for rule in RULES)
    return next((v for v in found if v is not None), _healthy(snapshot))


def _majority_lost(snapshot: NodeSnapshot) -> Verdict | None:
    short = members_short(snapshot)
    cut_off = snapshot.view_left_ms <= 0 and snapshot.state.policy is not None
    if not short and not cut_off:
        return None
    missing = ", ".join(silent_members(snapshot)) or "the others"
    return Verdict(
        situation=Situation.MAJORITY_LOST,
        state=f"no majority: {short}, so nobody takes writes"
        if short
        else "no majority answers this node",
        next_step=f"bring back {missing} or the network to them; if they are gone for "
        "good: pgbastion raft recover",
    )


def _claimed(snapshot: NodeSnapshot) -> Verdict | None:
    if not snapshot.claims:
        return None
    return Verdict(
        situation=Situation.SPLIT_BRAIN,
        state=f"split brain: {'; '.join(c.sentence for c in snapshot.claims)}; no "
        "client is sent to a primary",
        next_step="decide which server's rows count, then stop the other: "
        "docs/howto/split-brain.md",
    )


def _split_brain(snapshot: NodeSnapshot) -> Verdict | None:
    reports = fresh_reports(snapshot)
    running = [r for r in reports if r.state is PostgresState.PRIMARY]
    outside = [r.node for r in running if runs_outside(snapshot, r)]
    if len(running) < 2 or not outside:
        return None
    names = " and ".join(r.node for r in running)
    return Verdict(
        situation=Situation.SPLIT_BRAIN,
        state=f"split brain: {names} run as primaries",
        next_step=f"{', '.join(outside)} is being stopped; if it is not, stop its "
        "PostgreSQL by hand and look at the rows that only it has",
    )


def runs_outside(snapshot: NodeSnapshot, report: NodeReport) -> bool:
    """Tell whether a server runs as a primary without being the one."""
    held = snapshot.state.assignment
    if report.state is not PostgresState.PRIMARY or held is None:
        return False
    ours = held.live and report.node == held.node
    # One that was found running has no epoch until the first begins.
    return not ours or (report.epoch != held.epoch and not report.adopted)


def _fenced(snapshot: NodeSnapshot) -> Verdict | None:
    fenced = snapshot.role is NodeRole.FENCED
    if not fenced or snapshot.state.fence(snapshot.node) is not None:
        return None
    held = snapshot.state.assignment
    if held is not None and not held.live and held.node == snapshot.node:
        # It released the role; the next holder is being looked for.
        return None
    if snapshot.stopped_primary is not None:
        # It has the role still: under a pause it stays so.
        return None
    return Verdict(
        situation=Situation.FENCED,
        state=f"{snapshot.node} is fenced: {snapshot.node_decision.sentence}",
        next_step="nothing: it will become a standby of the primary by itself",
    )


def _fenced_by_hand(snapshot: NodeSnapshot) -> Verdict | None:
    fences = snapshot.state.fences
    if not fences:
        return None
    listed = ", ".join(f"{fence.node} since {fence.at}" for fence in fences)
    return Verdict(
        situation=Situation.FENCED,
        state=f"fenced by hand: {listed}; {_primary_words(snapshot)}",
        next_step="take the fence back when the work is done",
    )


def _no_primary_yet(snapshot: NodeSnapshot) -> Verdict | None:
    state = snapshot.state
    if state.assignment is not None:
        return None
    founder = state.member(state.founder)
    if founder is None:
        return Verdict(
            situation=Situation.NO_PRIMARY_YET,
            state=f"{snapshot.node} is in no cluster yet",
            next_step="start the node that has raft.bootstrap: true, and see that "
            "cluster.peers names it; if the cluster runs, the log of "
            f"{snapshot.node} says why it is not let in",
        )
    report = snapshot.fresh_report(founder.name)
    busy = doing(report) if report is not None else "it is silent"
    return Verdict(
        situation=Situation.NO_PRIMARY_YET,
        state=f"no primary yet: {founder.name} becomes the first, {busy}",
        next_step="wait"
        if report is not None and report.state is not PostgresState.FAILED
        else f"look at the log of {founder.name}",
    )


def _ordered(snapshot: NodeSnapshot) -> Verdict | None:
    order = snapshot.state.order
    if order is None:
        return None
    if order.is_work:
        return Verdict(
            situation=Situation.SWITCHOVER,
            state=f"{order.order} of {order.target} under way",
            next_step="wait; its outcome will be in pgbastion history",
        )
    stage = "clients wait, the roles change" if order.begun else "being prepared"
    decision = snapshot.node_decision
    if decision.reason is Reason.HANDOVER_WAITS:
        stage = f"it waits, {decision.detail}"
    return Verdict(
        situation=Situation.SWITCHOVER,
        state=f"{order.order} to {order.target} under way: {stage}",
        next_step="wait; its outcome will be in pgbastion history",
    )


def _no_candidate(snapshot: NodeSnapshot) -> Verdict | None:
    held, decision = snapshot.state.assignment, snapshot.cluster_decision
    if held is None or held.live or decision.reason not in STUCK:
        return None
    missing = ", ".join(n for n in silent_members(snapshot) if snapshot.state.server(n))
    detail = f" ({decision.detail})" if decision.detail else ""
    return Verdict(
        situation=Situation.NO_CANDIDATE,
        state=f"no primary: {decision.sentence}{detail}",
        next_step=(f"start {missing}; " if missing else "")
        + _let_one_be_promoted(snapshot)
        + "where a loss is accepted: pgbastion failover --to NODE --force",
    )


def _let_one_be_promoted(snapshot: NodeSnapshot) -> str:
    """Return what to do where the nodes that have everything are kept from the role."""
    if snapshot.cluster_decision.reason is not Reason.NO_CANDIDATE:
        return ""
    servers = snapshot.state.servers
    barred = (barred_from_role(snapshot.state, m) for m in servers)
    unable = (f"{r.node}: {r.unable}" for r in fresh_reports(snapshot) if r.unable)
    kept = "; ".join((*filter(None, barred), *unable))
    return f"let one have the role again ({kept}); " if kept else ""


def _failing_over(snapshot: NodeSnapshot) -> Verdict | None:
    held = snapshot.state.assignment
    if held is None or (held.live and snapshot.routes.primary is not None):
        return None
    decision = snapshot.cluster_decision
    why = snapshot.routes.primary_reason
    if decision.reason is not Reason.NOT_LEADER and not held.live:
        why = decision.sentence
    return Verdict(
        situation=Situation.FAILOVER,
        state=f"no primary at the moment: {why}",
        next_step="wait; if this lasts, run pgbastion explain again",
    )


def _primary_silent(snapshot: NodeSnapshot) -> Verdict | None:
    held = snapshot.state.assignment
    if held is None or not held.live or snapshot.fresh_report(held.node) is not None:
        return None
    if snapshot.state.paused:
        return Verdict(
            situation=Situation.PRIMARY_SILENT,
            state=f"{held.node}, the primary, is silent, and automatic actions are "
            "paused",
            next_step="pgbastion resume, or bring it back",
        )
    return Verdict(
        situation=Situation.PRIMARY_SILENT,
        state=f"{held.node}, the primary, is silent; its lease may still run",
        next_step="wait: another node takes over when the lease has run out",
    )


def _primary_stopped(snapshot: NodeSnapshot) -> Verdict | None:
    report = snapshot.stopped_primary
    if report is None:
        return None
    what = "is stopped"
    if report.trouble is not None and report.trouble in SILENCE:
        what = f"hangs ({report.trouble.sentence})"
    state = f"no primary: PostgreSQL of {report.node} {what}"
    if snapshot.state.paused:
        return Verdict(
            situation=Situation.PRIMARY_STOPPED,
            state=f"{state}, and automatic actions are paused",
            next_step="pgbastion resume: then a standby takes over, or it is started "
            "again",
        )
    return Verdict(
        situation=Situation.PRIMARY_STOPPED,
        state=state,
        next_step="wait: a standby takes over, or it is started again; if this lasts, "
        f"look at the log of {report.node}",
    )


def _commits_wait(snapshot: NodeSnapshot) -> Verdict | None:
    held, opened = snapshot.state.assignment, snapshot.state.opened
    report = snapshot.fresh_report(held.node) if held is not None else None
    if held is None or opened is None or report is None or opened.epoch != held.epoch:
        return None
    names = {row.name for row in report.replication if row.streaming}
    # The primary's word is as old as a probe: a standby's own counts too.
    names |= {
        standby_name(r.node, r.data_id)
        for r in fresh_reports(snapshot)
        if r.streaming and r.data_id is not None
    }
    confirming = len(names.intersection(opened.sync.names))
    if confirming >= opened.sync.num_sync:
        return None
    away = ", ".join(standbys_away(snapshot)) or "a standby"
    lasting = "strict: " if snapshot.state.strict else "for a moment, "
    return Verdict(
        situation=Situation.COMMITS_WAIT,
        state=f"commits wait at {held.node}: {lasting}{confirming} of "
        f"{opened.sync.num_sync} standbys confirm them",
        next_step=how_standbys_return(snapshot) or "wait for a standby"
        if snapshot.state.strict
        else f"wait: the set of standbys goes on without {away}",
    )


def _paused(snapshot: NodeSnapshot) -> Verdict | None:
    if not snapshot.state.paused:
        return None
    return Verdict(
        situation=Situation.PAUSED,
        state=f"paused: {_primary_words(snapshot)}, and nothing is done if it fails",
        next_step="pgbastion resume when the work is done",
    )


def _disk_filling(snapshot: NodeSnapshot) -> Verdict | None:
    filling = [
        f"{report.node}: {words}"
        for report in fresh_reports(snapshot)
        for words in disks_below(report, DISK_LOW)
    ]
    if not filling:
        return None
    return Verdict(
        situation=Situation.DISK_FILLING,
        state=f"a disk is filling: {'; '.join(filling)}; {_primary_words(snapshot)}",
        next_step="make room: PostgreSQL stops when it is full; pgbastion explain "
        "--json and GET /cluster/replication say what slots retain",
    )


def _node_failed(snapshot: NodeSnapshot) -> Verdict | None:
    failed = [r for r in fresh_reports(snapshot) if needs_attention(r)]
    if not failed:
        return None
    listed = "; ".join(f"{r.node}: {doing(r)}" for r in failed)
    first = failed[0]
    anew = (
        f"; where its files are at fault: pgbastion reinit {first.node}"
        if first.reason == Reason.REJOIN_FAILED or first.files_lost
        else ""
    )
    return Verdict(
        situation=Situation.NODE_FAILED,
        state=f"{listed}; {_primary_words(snapshot)}",
        next_step=f"see to that, the log of {first.node} has more{anew}"
        if first.detail
        else f"the log of {first.node} says what is in the way{anew}",
    )


def _degraded(snapshot: NodeSnapshot) -> Verdict | None:
    state = snapshot.state
    held, opened = state.assignment, state.opened
    if held is None or opened is None or opened.epoch != held.epoch:
        return None
    wanted, found = wanted_count(state), opened.sync.num_sync
    if found >= wanted:
        return None
    return Verdict(
        situation=Situation.DEGRADED,
        state=f"degraded: {_primary_words(snapshot)}, and {found} of {wanted} standbys "
        "confirm commits",
        next_step=how_standbys_return(snapshot) or "wait for a standby",
    )


def _node_silent(snapshot: NodeSnapshot) -> Verdict | None:
    missing = missing_standbys(snapshot)
    if not missing:
        return None
    return Verdict(
        situation=Situation.NODE_SILENT,
        state=f"{', '.join(missing)} missing: {_primary_words(snapshot)}",
        next_step=_bring_back(missing),
    )


def _not_streaming(snapshot: NodeSnapshot) -> Verdict | None:
    returning = returning_standbys(snapshot)
    if not returning:
        return None
    listed = ", ".join(f"{r.node} ({doing(r)})" for r in returning)
    copying = any(r.state is PostgresState.COPYING for r in returning)
    stuck = next((r for r in returning if cannot_stream(r) or r.replay_paused), None)
    return Verdict(
        situation=Situation.COPYING if copying else Situation.NOT_STREAMING,
        state=f"not ready yet: {listed}; {_primary_words(snapshot)}",
        next_step=f"wait; if this lasts, look at the log of {returning[0].node}"
        if stuck is None
        else how_it_returns(stuck),
    )


def _replay_paused(snapshot: NodeSnapshot) -> Verdict | None:
    paused = [r for r in fresh_reports(snapshot) if r.replay_paused]
    if not paused:
        return None
    listed = "; ".join(f"{r.node}: {doing(r)}" for r in paused)
    return Verdict(
        situation=Situation.REPLAY_PAUSED,
        state=f"{listed}; {_primary_words(snapshot)}",
        next_step=how_it_returns(paused[0]),
    )


def _witness_lost(snapshot: NodeSnapshot) -> Verdict | None:
    missing = silent_members(snapshot)
    if not missing:
        return None
    listed = ", ".join(missing)
    return Verdict(
        situation=Situation.WITNESS_LOST,
        state=f"the vote of {listed} is missing: {_primary_words(snapshot)}",
        next_step=_bring_back(missing),
    )


def _bring_back(missing: Sequence[NodeId]) -> str:
    """Return what to do about missing nodes, whether they come back or not."""
    back = f"bring back {', '.join(missing)}: until then fewer failures are survived"
    return f"{back}; if it is gone for good: pgbastion remove-node --name {missing[0]}"


def _certificate_expiring(snapshot: NodeSnapshot) -> Verdict | None:
    shown = snapshot.certificate
    if shown is None or not shown.expires_soon:
        return None
    when = "has expired" if shown.left_s <= 0 else f"expires in {shown.days_left} days"
    return Verdict(
        situation=Situation.CERTIFICATE_EXPIRING,
        state=f"the certificate of {snapshot.node} {when}; {_primary_words(snapshot)}",
        next_step="it should renew itself: the log says why it does not"
        if shown.own
        else "pgbastion certs renew",
    )


def _taken_over(snapshot: NodeSnapshot) -> Verdict | None:
    adopted = [r.node for r in fresh_reports(snapshot) if r.adopted]
    if not adopted:
        return None
    return Verdict(
        situation=Situation.TAKEN_OVER,
        state=f"{', '.join(adopted)} was found running and is only watched; "
        f"{_primary_words(snapshot)}",
        next_step="restart it at a convenient time: a switchover does that",
    )


def _restart_pending(snapshot: NodeSnapshot) -> Verdict | None:
    waiting = [r for r in fresh_reports(snapshot) if r.pending_restart]
    if not waiting:
        return None
    listed = "; ".join(f"{r.node}: {', '.join(r.pending_restart)}" for r in waiting)
    return Verdict(
        situation=Situation.RESTART_PENDING,
        state=f"settings wait for a restart ({listed}); {_primary_words(snapshot)}",
        next_step="restart these servers at a convenient time, standbys first",
    )


RULES: Final[tuple[Rule, ...]] = (
    _majority_lost,
    _no_primary_yet,
    _claimed,
    _split_brain,
    _fenced,
    _ordered,
    _no_candidate,
    _failing_over,
    _primary_silent,
    _primary_stopped,
    _commits_wait,
    _paused,
    _fenced_by_hand,
    _disk_filling,
    _node_failed,
    _degraded,
    _node_silent,
    _not_streaming,
    _replay_paused,
    _witness_lost,
    _certificate_expiring,
    _taken_over,
    _restart_pending,
)


def _healthy(snapshot: NodeSnapshot) -> Verdict:
    return Verdict(
        situation=Situation.HEALTHY,
        state=f"healthy: {_primary_words(snapshot)}",
        next_step="nothing to do",
    )


# Words


def _primary_words(snapshot: NodeSnapshot) -> str:
    held, opened = snapshot.state.assignment, snapshot.state.opened
    if held is None:
        return "there is no primary"
    words = f"{held.node} is the primary"
    if opened is not None and opened.sync.num_sync:
        words += f", commits are confirmed by {opened.sync.num_sync} more"
    return words
