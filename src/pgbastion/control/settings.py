"""Which settings a server is given, and in which order. Pure.

A standby pauses replay, or does not start, when it has less than its primary of what
`STANDBY_LIMITS` names. So a primary takes a higher value last, and a standby a lower
one: the latter is kept by the floors that pg_control carries.

Source: PostgreSQL, "Hot Standby", administrator's overview; safety rule 43.
"""

from collections.abc import Iterable, Mapping

from pgbastion.model.settings import STANDBY_LIMITS, NodeSettings, Parameters


def effective(cluster: Parameters, local: Mapping[str, str]) -> dict[str, str]:
    """Return what a node's server is to have: its own file counts before the rest."""
    return {**dict(cluster), **local}


def overrides(cluster: Parameters, local: Mapping[str, str]) -> Parameters:
    """Return what the node's own file says otherwise than the cluster."""
    agreed = dict(cluster)
    return tuple(
        sorted((n, v) for n, v in local.items() if n in agreed and agreed[n] != v)
    )


def held_back(
    wanted: Mapping[str, str],
    own: NodeSettings | None,
    standbys: Iterable[NodeSettings],
) -> dict[str, int]:
    """Return the raised limits that this primary may not take yet.

    Args:
        wanted: What it is to have in the end.
        own: What it runs with; None: it does not run.
        standbys: What those standbys run with that do.

    Returns:
        Names, each with the value to have for now.
    """
    running = dict(own.limits) if own else {}
    theirs = [dict(standby.limits) for standby in standbys]
    held: dict[str, int] = {}
    for name in STANDBY_LIMITS:
        text = wanted.get(name, "")
        have = [limits[name] for limits in theirs if name in limits]
        if not text.isdecimal() or not have or min(have) >= int(text):
            continue
        if running.get(name, 0) < int(text):
            held[name] = max(running.get(name, 0), min(have))
    return held


def why_restart(name: str, running: int | None, wanted: str | None) -> str:
    """Return why a setting waits for a restart, and in which order to restart."""
    if name not in STANDBY_LIMITS or running is None or not (wanted or "").isdecimal():
        return "it takes effect when the server is started"
    if int(wanted or 0) > running:
        return "it is raised: restart the standbys first, then the primary"
    return "it is lowered: restart the primary first, then the standbys"
