"""Explains a cluster from what one node knows: state, next step, who, why not, what if.

The first line comes from ``control.explain_verdict``; what would happen if a node died
from ``control.explain_what_if``, which asks the real decisions.
"""

from collections.abc import Iterator

from pgbastion.control.candidates import disks_below
from pgbastion.control.explain_facts import (
    doing,
    fresh_reports,
    members_short,
    needs_attention,
)
from pgbastion.control.explain_verdict import DISK_WARNING, judge
from pgbastion.control.explain_what_if import foresee, living_reports
from pgbastion.control.lease import granted_ms, longest_lease_policy
from pgbastion.control.loss import possible_loss, primary_lives, why_ineligible
from pgbastion.control.orders import why_unfit
from pgbastion.control.policy import not_adopted
from pgbastion.control.role_history import role_changes, sentence_of_change
from pgbastion.control.sync_standbys import wanted_count
from pgbastion.model.cluster import ClusterState, Member
from pgbastion.model.explanation import (
    Explanation,
    Foreseen,
    Prospect,
    Readiness,
)
from pgbastion.model.reasons import Reason
from pgbastion.model.snapshot import NodeSnapshot, SyncRole

SYNC_WORDS = {
    SyncRole.SYNC: "synchronous standby",
    SyncRole.QUORUM: "quorum standby",
    SyncRole.ASYNC: "asynchronous standby",
}


def explain(snapshot: NodeSnapshot) -> Explanation:
    """Return the state and its reasons, what would happen, and what to do next."""
    state = snapshot.state
    verdict = judge(snapshot)
    leader = state.member(snapshot.raft.leader)
    held = state.assignment
    holder = held.node if held is not None and held.live else None
    living = living_reports(snapshot)
    asked = (m.name for m in state.members if m.name in living or _holds(state, m))
    foreseen = tuple(foresee(snapshot, node) for node in asked)
    return Explanation(
        situation=verdict.situation,
        state=verdict.state,
        next_step=verdict.next_step,
        node=snapshot.node,
        leader=leader.name if leader else None,
        leader_url=leader.api_url if leader else None,
        primary=holder,
        serving=snapshot.primary is not None and snapshot.stopped_primary is None,
        primary_lines=tuple(_primary(snapshot)),
        others=tuple(
            _readiness(snapshot, m) for m in state.members if m.name != holder
        ),
        foreseen=foreseen,
        blocking=tuple(_blocking(snapshot, foreseen)),
        warnings=tuple(_warnings(snapshot)),
    )


def _holds(state: ClusterState, member: Member) -> bool:
    return state.assignment is not None and state.assignment.node == member.name


def _primary(snapshot: NodeSnapshot) -> Iterator[str]:
    """Yield who has the role, since when and why; or why nobody has it."""
    state = snapshot.state
    held = state.assignment
    if held is None:
        yield "none yet"
        return
    left = ""
    if snapshot.lease.epoch == held.epoch and snapshot.lease.left_ms > 0:
        left = f", lease for {snapshot.lease.left_ms / 1_000:.1f} s"
    assigned = (c for c in role_changes(state) if c.assigned_at)
    change = next((c for c in assigned if c.epoch == held.epoch), None)
    when = f" since {change.assigned_at}" if change else ""
    word = "is" if held.live else "was"
    yield (
        f"{held.node} {word} the primary{when}: epoch {held.epoch}, timeline "
        f"{held.timeline}{left}"
    )
    if change:
        yield f"why it was chosen: {sentence_of_change(change)}"
    opened = state.opened
    if held.live and opened is not None and opened.epoch == held.epoch:
        yield _commits(state)
    if snapshot.primary is None:
        yield f"{snapshot.node} sends no client to a primary: {snapshot.primary_reason}"


def _commits(state: ClusterState) -> str:
    sync = state.opened.sync if state.opened else None
    if sync is None or sync.num_sync == 0:
        return "commits are confirmed by the primary alone"
    names = ", ".join(name.rpartition("_")[0] for name in sync.names)
    return f"each commit is confirmed by {sync.num_sync} of {names}"


# Why not the others


def _readiness(snapshot: NodeSnapshot, member: Member) -> Readiness:
    name = member.name
    if not member.joined:
        return Readiness(
            node=name, ready=False, sentence="was announced, has not joined yet"
        )
    if member.is_witness:
        silent = "" if snapshot.fresh_report(name) else ", and is silent"
        return Readiness(node=name, ready=False, sentence=f"is a witness{silent}")
    why = _why_not(snapshot, member)
    if why is not None:
        report = snapshot.fresh_report(name)
        busy = f" ({doing(report)})" if report is not None else ""
        return Readiness(
            node=name, ready=False, sentence=f"cannot take over: {why}{busy}"
        )
    lag = snapshot.lag_bytes(name)
    behind = "" if lag is None else f", {lag} bytes to replay"
    role = SYNC_WORDS[snapshot.sync_role(member)]
    return Readiness(node=name, ready=True, sentence=f"is ready: {role}{behind}")


def _why_not(snapshot: NodeSnapshot, member: Member) -> str | None:
    state, reports = snapshot.state, snapshot.known_reports
    if primary_lives(state, reports):
        return why_unfit(state, reports, member.name)
    why = why_ineligible(state, reports, member.name)
    if why is None and state.opened is not None:
        why = possible_loss(state, reports, member.name)
    return why


# What is in the way


def _blocking(snapshot: NodeSnapshot, foreseen: tuple[Foreseen, ...]) -> Iterator[str]:
    state = snapshot.state
    if state.paused:
        yield "automatic actions are paused"
    short = members_short(snapshot)
    if short:
        yield f"no majority: {short}"
    held = state.assignment
    if held is None:
        yield "there has been no primary yet"
        return
    if not held.live:
        decision = snapshot.cluster_decision
        if decision.reason is not Reason.NOT_LEADER:
            detail = f" ({decision.detail})" if decision.detail else ""
            yield f"{decision.sentence}{detail}"
        return
    for each in foreseen:
        lost = each.prospect in (Prospect.NO_PRIMARY, Prospect.MAJORITY_LOST)
        known = each.reason is Reason.PAUSED or short
        if each.node == held.node and lost and not known:
            yield each.sentence


def _warnings(snapshot: NodeSnapshot) -> Iterator[str]:
    yield from _on_commits(snapshot)
    yield from _on_nodes(snapshot)
    yield from (claim.sentence for claim in snapshot.claims)
    for fence in snapshot.state.fences:
        yield f"{fence.node} is fenced by hand: {fence.cause}"
    shown = snapshot.certificate
    if shown is not None and shown.expires_soon:
        yield f"the certificate of {snapshot.node} has {shown.days_left} days left"
    api = snapshot.api_certificate
    if api is not None and api.expires_soon:
        yield f"the certificate of {snapshot.node}'s API {api.words}"
    yield from _on_profile(snapshot)
    voters = len(snapshot.raft.voters)
    if voters == 2:
        yield "with two votes the loss of either node stops writes: add a witness"
    for member_id in snapshot.raft.learners:
        member = snapshot.state.member(member_id)
        if member is not None:
            yield f"{member.name} has no vote yet"
    versions = {r.report.version for r in snapshot.reports.values()}
    if len(versions) > 1:
        yield f"several releases run: {', '.join(sorted(versions))}"


def _on_commits(snapshot: NodeSnapshot) -> Iterator[str]:
    state = snapshot.state
    held, opened = state.assignment, state.opened
    if held is None or opened is None or opened.epoch != held.epoch or not held.live:
        return
    wanted, found = wanted_count(state), opened.sync.num_sync
    if found < wanted:
        yield f"{found} of {wanted} standbys confirm commits"


def _on_profile(snapshot: NodeSnapshot) -> Iterator[str]:
    """Yield how far a change of the profile is, and whose file says another."""
    state, longest = snapshot.state, longest_lease_policy(snapshot.state)
    policy, shortening = state.policy, state.shortening
    if policy is None or policy.profile is None or longest is None:
        return
    if shortening is not None and shortening.adopted:
        yield (
            f"the profile becomes {policy.profile}: a failover still waits for leases "
            f"of {longest.lease_ms / 1_000:g} s, until the last of them has run out"
        )
    elif shortening is not None:
        waiting = not_adopted(state, snapshot.known_reports)
        names = ", ".join(m.name for m in waiting) or "the Raft leader's next step"
        yield (
            f"the profile becomes {policy.profile}: leases stay at "
            f"{granted_ms(state) / 1_000:g} s, it waits for {names}"
        )
    for report in fresh_reports(snapshot):
        if report.unpaced:
            yield f"{report.node} cannot go by {policy.profile}: {report.unpaced}"
        if report.file_profile not in (None, policy.profile):
            yield (
                f"the file of {report.node} says failover.profile "
                f"{report.file_profile}, the cluster goes by {policy.profile}"
            )


def _on_nodes(snapshot: NodeSnapshot) -> Iterator[str]:
    for member in snapshot.state.members:
        report = snapshot.fresh_report(member.name)
        name = member.name
        if report is None:
            if member.joined:
                yield f"{name} is silent"
            continue
        if needs_attention(report):
            yield f"{name} needs attention: {doing(report)}"
        yield from (f"{name}: {flaw}" for flaw in report.flaws)
        if report.replay_paused:
            yield f"{name}: {doing(report)}"
        if report.watchdog == "unusable":
            yield f"{name} has no usable hardware watchdog"
        if report.adopted:
            yield (
                f"{name} was found running: until its next restart it survives the "
                "death of daemon and guard together"
            )
        for words in disks_below(report, DISK_WARNING):
            yield f"{name}: {words}"
        if report.pending_restart:
            settings = ", ".join(report.pending_restart)
            yield f"{name} has settings that wait for a restart: {settings}"
