"""The answers of the read endpoints: plain values made from one snapshot.

Where Patroni's tools read a field, it carries Patroni's word.
"""

from typing import Final

from pgbastion.api import shapes, transport
from pgbastion.api.gossip import gossip_hint
from pgbastion.control.lease import granted_ms, longest_lease_policy
from pgbastion.control.membership import voting_note
from pgbastion.control.policy import not_adopted
from pgbastion.model.cluster import Member, Order, Schedule
from pgbastion.model.ids import standby_name
from pgbastion.model.report import NodeReport, PostgresState, SlotRow
from pgbastion.model.snapshot import DecisionSnapshot, NodeSnapshot, SyncRole
from pgbastion.model.wal import Lsn, WalEnd, format_lsn

UNKNOWN: Final = "unknown"
_STATES: Final = {
    PostgresState.NONE: "running",
    PostgresState.EMPTY: "stopped",
    PostgresState.STOPPED: "stopped",
    PostgresState.STARTING: "starting",
    PostgresState.STANDBY: "running",
    PostgresState.PRIMARY: "running",
    PostgresState.COPYING: "creating replica",
    PostgresState.FAILED: "start failed",
}


def health(snapshot: NodeSnapshot) -> shapes.HealthAnswer:
    """Tell what this node is."""
    report = snapshot.report
    return {
        "node": snapshot.node,
        "role": snapshot.role,
        "state": state_word(report) if report else "starting",
        "vip": snapshot.vip,
        "leader": snapshot.leader_name,
        "term": snapshot.raft.term,
        "epoch": snapshot.state.epoch,
        "timeline": _timeline(report),
        "lease_left_ms": snapshot.lease.left_ms,
        "paused": snapshot.state.paused,
        "version": snapshot.version,
        "warnings": list(snapshot.warnings),
        **standing(snapshot),
        **split_brain(snapshot),
    }


def standing(snapshot: NodeSnapshot) -> shapes.StandingFacts:
    """Tell whether commits may wait for this node; no field: none does."""
    role = snapshot.own_sync_role
    if role is SyncRole.QUORUM:
        return {"quorum_standby": True}
    return {"sync_standby": True} if role is SyncRole.SYNC else {}


def split_brain(snapshot: NodeSnapshot) -> shapes.SplitBrain:
    """Tell who claims the primary role without having it; no field: nobody."""
    if not snapshot.claims:
        return {}
    return {
        "split_brain": [
            {"node": c.node, "claim": c.kind, "epoch": c.epoch, "text": c.sentence}
            for c in snapshot.claims
        ]
    }


def cluster(snapshot: NodeSnapshot) -> shapes.ClusterAnswer:
    """Tell the members, and where clients are sent."""
    primary = snapshot.primary
    return {
        "scope": snapshot.scope,
        "members": [_member(snapshot, m) for m in snapshot.state.members],
        "primary": primary.name if primary else None,
        "epoch": snapshot.state.epoch,
        "backends": {
            "primary": [_backend(primary)] if primary else [],
            "replica": [_backend(m) for m in snapshot.routes.replicas],
        },
        "voting": _voting(snapshot),
        **_pause(snapshot),
        **split_brain(snapshot),
        **_next_switchover(snapshot),
    }


def _pause(snapshot: NodeSnapshot) -> shapes.PauseFacts:
    return {"pause": True} if snapshot.state.paused else {}


def _next_switchover(snapshot: NodeSnapshot) -> shapes.NextFacts:
    """Name the scheduled switchover that comes next, in Patroni's words."""
    wishes = sorted(snapshot.state.scheduled, key=lambda wish: wish.due_at)
    if not wishes:
        return {}
    held, first = snapshot.state.assignment, wishes[0]
    found: shapes.SwitchoverFacts = {"at": first.due_at}
    if held is not None:
        found["from"] = held.node
    if first.target is not None:
        found["to"] = first.target
    return {"scheduled_switchover": found}


def cluster_state(snapshot: NodeSnapshot) -> shapes.ClusterStateAnswer:
    """Tell where this node's state machine stands."""
    state, held, report = snapshot.state, snapshot.state.assignment, snapshot.report
    sync = state.opened.sync if state.opened else None
    return {
        "node": snapshot.node,
        "role": snapshot.role,
        "state": report.state if report else "starting",
        "decision": _decision(snapshot.node_decision),
        "cluster_decision": _decision(snapshot.cluster_decision),
        "view_left_ms": snapshot.view_left_ms,
        "lease": {
            "epoch": snapshot.lease.epoch,
            "left_ms": snapshot.lease.left_ms,
        },
        "assignment": None
        if held is None
        else {
            "epoch": held.epoch,
            "node": held.node,
            "timeline": held.timeline,
            "opened": held.opened,
            "revoked": held.revoked,
            "released": held.released,
        },
        "policy": _policy(snapshot),
        "synchronous": {
            "mode": state.mode,
            "epoch": state.opened.epoch if state.opened else 0,
            "names": list(sync.names) if sync else [],
            "num_sync": sync.num_sync if sync else 0,
            "strict": state.strict,
            "changed_at": state.replication_at or None,
        },
        "paused": state.paused,
        "paused_at": state.paused_at or None,
        "log_index": state.index,
        "system_identifier": state.system_identifier,
        "routes": {
            "primary": snapshot.primary.name if snapshot.primary else None,
            "primary_reason": snapshot.primary_reason,
            "replicas": [m.name for m in snapshot.routes.replicas],
            "replica_reason": snapshot.routes.replica_reason,
        },
    }


def _policy(snapshot: NodeSnapshot) -> shapes.PolicyFacts | None:
    state = snapshot.state
    policy, longest = state.policy, longest_lease_policy(state)
    if policy is None or longest is None:
        return None
    waiting = not_adopted(state, snapshot.known_reports)
    return {
        "profile": policy.profile,
        "revision": policy.revision,
        "lease_ms": policy.lease_ms,
        "granted_ms": granted_ms(state),
        "longest_ms": longest.lease_ms,
        "not_adopted": [member.name for member in waiting],
        "changed_at": state.policy_at or None,
    }


def raft_state(snapshot: NodeSnapshot) -> shapes.RaftStateAnswer:
    """Tell this node's part in the Raft group."""
    raft = snapshot.raft
    return {
        "node": snapshot.node,
        "member_id": snapshot.member_id,
        "role": raft.role,
        "term": raft.term,
        "leader": snapshot.leader_name,
        "leader_id": raft.leader,
        "voters": list(raft.voters),
        "learners": list(raft.learners),
        "quorum": raft.quorum,
        "note": _voting(snapshot),
        "committed_index": raft.committed,
        "applied_index": raft.applied,
        "last_index": raft.last_index,
        "certificate": transport.certificate(snapshot.certificate),
    }


def raft_peers(snapshot: NodeSnapshot) -> shapes.PeersAnswer:
    """Tell of every member of the Raft group, this node included."""
    raft = snapshot.raft
    matched = {peer.member_id: peer.matched for peer in raft.peers}
    return {
        "peers": [
            {
                "id": member.name,
                "member_id": member.member_id,
                "address": member.raft_address,
                "suffrage": _suffrage(snapshot, member),
                "leader": member.member_id == raft.leader,
                "self": member.member_id == snapshot.member_id,
                "joined": member.joined,
                "matched_index": matched.get(member.member_id),
                "gossip": gossip_hint(snapshot, member.raft_address),
            }
            for member in snapshot.state.members
        ]
    }


def directives(snapshot: NodeSnapshot) -> shapes.DirectivesAnswer:
    """Tell the newest orders and what became of them, then what is scheduled."""
    state = snapshot.state
    listed = [_directive(order) for order in state.orders]
    return {"directives": listed + [_scheduled(wish) for wish in state.scheduled]}


def _directive(order: Order) -> shapes.DirectiveFacts:
    return {
        "id": order.order_id,
        "order": order.order,
        "to": order.target or None,
        "epoch": order.epoch,
        "cause": order.cause,
        "at": order.at,
        "expires_at": order.expires_at,
        "begun": order.begun,
        "outcome": order.outcome,
        "detail": order.detail,
        "settled_at": order.settled_at or None,
    }


def _scheduled(wish: Schedule) -> shapes.DirectiveFacts:
    """Tell what is to be ordered later, in an order's form."""
    return {
        "id": wish.order_id,
        "order": "switchover",
        "to": wish.target,
        "epoch": None,
        "cause": wish.cause,
        "at": wish.at,
        "due_at": wish.due_at,
        "expires_at": wish.expires_at,
        "begun": False,
        "outcome": None,
        "detail": "",
        "settled_at": None,
    }


def replication(snapshot: NodeSnapshot) -> shapes.ReplicationAnswer:
    """Tell how far each standby is behind the primary."""
    held = snapshot.state.assignment
    source = snapshot.reports.get(held.node) if held else None
    rows = {row.name: row for row in source.report.replication} if source else {}
    vitals = source.report.vitals if source else None
    slots = {slot.node: slot.name for slot in vitals.slots} if vitals else {}
    standbys: list[shapes.StandbyFacts] = []
    for member in snapshot.state.servers:
        if snapshot.state.is_held_by(member.member_id):
            continue
        report = snapshot.fresh_report(member.name)
        data_id = member.data_id
        row = rows.get(standby_name(member.name, data_id)) if data_id else None
        standbys.append(
            {
                "node": member.name,
                "state": state_word(report) if report else UNKNOWN,
                "sync_role": snapshot.sync_role(member),
                "following": report.following if report else None,
                "wal_end": _lsn(report.wal_end) if report else None,
                "write_lsn": _position(row.write_lsn) if row else None,
                "flush_lsn": _position(row.flush_lsn) if row else None,
                "replay_lsn": _position(report.replay_lsn) if report else None,
                "lag_bytes": snapshot.lag_bytes(member.name),
                "lag_seconds": snapshot.lag_s(member.name),
                "slot": slots.get(member.name),
                "progress": report.progress if report else None,
            }
        )
    return {
        "primary": held.node if held and held.live else None,
        "wal_end": _lsn(source.report.wal_end) if source else None,
        "timeline": held.timeline if held else None,
        "standbys": standbys,
        "slots": [_slot(slot) for slot in vitals.slots] if vitals else [],
    }


def state_word(report: NodeReport) -> str:
    """Return what PostgreSQL does, in the words that Patroni has for a member."""
    if report.state is PostgresState.STANDBY and report.streaming:
        return "streaming"
    return running_word(report)


def running_word(report: NodeReport) -> str:
    """Return whether PostgreSQL runs, in the words that Patroni has for a node."""
    return _STATES[report.state]


def _member(snapshot: NodeSnapshot, member: Member) -> shapes.MemberFacts:
    report = snapshot.fresh_report(member.name)
    lag = snapshot.lag_bytes(member.name)
    return {
        **_restart_due(report),
        **_fenced(snapshot, member),
        **_tags(member),
        "name": member.name,
        "role": _member_role(snapshot, member),
        "state": _member_state(snapshot, member, report),
        "host": member.host,
        "port": member.postgres_port,
        "api_url": member.api_url,
        "timeline": _timeline(report),
        "lag": UNKNOWN if lag is None else lag,
    }


def _fenced(snapshot: NodeSnapshot, member: Member) -> shapes.FenceFacts:
    fence = snapshot.state.fence(member.name)
    if fence is None:
        return {}
    return {"fenced": True, "fenced_by": fence.cause, "fenced_at": fence.at}


def _tags(member: Member) -> shapes.TagFacts:
    """Return the tags that are not as by default, as Patroni's tools read them."""
    tags: dict[str, bool | int] = {
        name: True
        for name, has in (
            ("nofailover", member.nofailover),
            ("nosync", member.nosync),
            ("noloadbalance", member.noloadbalance),
        )
        if has
    }
    if member.failover_priority != 1:
        tags["failover_priority"] = member.failover_priority
    if member.replica_weight != 1:
        tags["replica_weight"] = member.replica_weight
    return {"tags": tags} if tags else {}


def _restart_due(report: NodeReport | None) -> shapes.RestartFacts:
    """Say why the server should be restarted, where it should; Patroni's word first."""
    if report is None or not (report.adopted or report.pending_restart):
        return {}
    return {
        "pending_restart": True,
        "pending_restart_settings": list(report.pending_restart),
        "taken_over": report.adopted,
    }


def _member_role(snapshot: NodeSnapshot, member: Member) -> str:
    if member.is_witness:
        return "witness" if member.joined else "announced"
    if snapshot.state.is_held_by(member.member_id):
        return "leader"
    return snapshot.sync_role(member)


def _member_state(
    snapshot: NodeSnapshot, member: Member, report: NodeReport | None
) -> str:
    if report is None:
        return UNKNOWN
    if report.state is PostgresState.PRIMARY and not snapshot.state.is_held_by(
        member.member_id
    ):
        return "stopping"
    return state_word(report)


def _voting(snapshot: NodeSnapshot) -> str:
    return voting_note(len(snapshot.raft.voters), len(snapshot.raft.learners))


def _suffrage(snapshot: NodeSnapshot, member: Member) -> str:
    if member.member_id in snapshot.raft.voters:
        return "voter"
    return "learner" if member.member_id in snapshot.raft.learners else "none"


def _backend(member: Member) -> shapes.BackendFacts:
    return {"node": member.name, "host": member.host, "port": member.postgres_port}


def _decision(decision: DecisionSnapshot) -> shapes.DecisionFacts:
    return {
        "reason": decision.reason,
        "sentence": decision.sentence,
        "detail": decision.detail,
    }


def _timeline(report: NodeReport | None) -> int | None:
    return report.wal_end.timeline if report and report.wal_end else None


def _slot(slot: SlotRow) -> shapes.SlotFacts:
    return {
        "name": slot.name,
        "kind": slot.kind,
        "active": slot.active,
        "restart_lsn": _position(slot.restart_lsn),
        "wal_status": slot.wal_status,
        "retained_bytes": slot.retained_bytes,
    }


def _position(lsn: Lsn | None) -> str | None:
    return None if lsn is None else format_lsn(lsn)


def _lsn(end: WalEnd | None) -> str | None:
    return format_lsn(end.lsn) if end else None
