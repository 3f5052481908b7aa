"""The answers about settings of PostgreSQL that the cluster has agreed on."""

from pgbastion.api import shapes
from pgbastion.control.settings import why_restart
from pgbastion.model.cluster import Member, ReplicationMode
from pgbastion.model.report import NodeReport
from pgbastion.model.settings import STANDBY_LIMITS
from pgbastion.model.snapshot import NodeSnapshot

MS_PER_S = 1_000


def config(snapshot: NodeSnapshot) -> shapes.ConfigAnswer:
    """Tell the settings that the cluster has agreed on, in Patroni's form too."""
    state, newest = snapshot.state, snapshot.state.settings
    quorum = state.mode is ReplicationMode.QUORUM
    return {
        "version": newest.version if newest else 0,
        "by": newest.by if newest else "",
        "at": newest.at if newest else "",
        "postgresql": {"parameters": dict(newest.parameters) if newest else {}},
        "ttl": state.policy.lease_ms / MS_PER_S if state.policy else 0,
        "synchronous_mode": "quorum" if quorum else state.mode is ReplicationMode.SYNC,
        "synchronous_mode_strict": state.strict,
    }


def config_status(snapshot: NodeSnapshot) -> shapes.ConfigStatusAnswer:
    """Tell how far each node is with the settings, and what waits for a restart."""
    newest = snapshot.state.settings
    return {
        "version": newest.version if newest else 0,
        "nodes": [_node(snapshot, member) for member in snapshot.state.servers],
    }


def config_history(snapshot: NodeSnapshot) -> shapes.ConfigHistoryAnswer:
    """Tell the newest versions of the settings, to look at and to go back to."""
    return {
        "versions": [
            {
                "version": version.version,
                "by": version.by,
                "at": version.at,
                "parameters": dict(version.parameters),
            }
            for version in snapshot.state.settings_versions
        ]
    }


def _node(snapshot: NodeSnapshot, member: Member) -> shapes.NodeConfigFacts:
    report = snapshot.fresh_report(member.name)
    settings = report.settings if report else None
    return {
        "node": member.name,
        "version": settings.version if settings else None,
        "overrides": dict(settings.overrides) if settings else {},
        "pending_restart": _pending(snapshot, report),
        "held_back": [
            {
                "name": name,
                "reason": "it is raised, and not every standby runs with it yet: "
                "restart the standbys first",
            }
            for name in (settings.waiting if settings else ())
        ],
    }


def _pending(
    snapshot: NodeSnapshot, report: NodeReport | None
) -> list[shapes.WaitingFacts]:
    if report is None:
        return []
    settings, newest = report.settings, snapshot.state.settings
    running = dict(settings.limits) if settings else {}
    wanted = dict(newest.parameters) if newest else {}
    wanted |= dict(settings.overrides) if settings else {}
    names = set(report.pending_restart)
    # What pg_control asks of a standby keeps a lowered limit out of its file.
    names |= {
        name
        for name in STANDBY_LIMITS
        if name in running
        and wanted.get(name, "").isdecimal()
        and int(wanted[name]) < running[name]
    }
    return [
        {
            "name": name,
            "reason": why_restart(name, running.get(name), wanted.get(name)),
        }
        for name in sorted(names)
    ]
