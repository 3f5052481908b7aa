"""Has the parts of a running node go by other timings."""

from dataclasses import replace
from typing import TYPE_CHECKING

from pgbastion.config.timings import Timings, timings_on_node
from pgbastion.config.watchdog import WatchdogMode, fits
from pgbastion.model.profile import Profile
from pgbastion.node.pacing import Pacing
from pgbastion.node.parts import (
    bounds_of,
    cut_timeout_ms,
    limits_of,
    pace_of,
    watchdog_of,
)

if TYPE_CHECKING:
    from pgbastion.node.running import Node


def build_pacing(node: "Node") -> Pacing:
    """Return what has this node follow the cluster's profile."""
    # The engine was made with these: a changed file counts from the next start.
    raft = node.config.raft
    node.loop.reporter.file_profile = node.config.failover.profile

    def on_this_node(profile: Profile) -> Timings:
        return timings_on_node(
            profile,
            heartbeat_ms=raft.heartbeat_interval,
            election_ms=raft.election_timeout,
        )

    def look(every_ms: int) -> None:
        if node.observer is not None:
            node.observer.go_by(probe_ms=every_ms)

    def refuses(timings: Timings) -> str:
        required = node.config.watchdog.mode is WatchdogMode.REQUIRED
        if node.instance is None or not required or fits(timings):
            return ""
        return (
            "its watchdog.mode is required, and the lease is too short for a device "
            "that counts seconds"
        )

    async def rearm(timings: Timings) -> None:
        # Before the pace changes: one that is too short would reset a slower node.
        if node.guard is not None:
            changed = replace(node.config, timings=timings)
            await node.guard.use_watchdog(watchdog_of(changed))

    return Pacing(
        node.loop.sight,
        node.page,
        state=lambda: node.host.state,
        is_confirmed=lambda: node.loop.is_confirmed,
        timings=node.config.timings,
        timings_of=on_this_node,
        look=look,
        refuses=refuses,
        prepare=rearm,
        take=lambda timings: go_by(node, timings),
    )


def go_by(node: "Node", timings: Timings) -> None:
    """Have every part of a running node go by these timings from now on."""
    node.config = config = replace(node.config, timings=timings)
    fresh_ms = 3 * timings.probe_ms
    node.engine.pace(heartbeat_ms=timings.heartbeat_ms, election_ms=timings.election_ms)
    node.ordering.fresh_ms = timings.sync_silent_ms
    node.executor.stop_ms = timings.stop_ms
    node.members.fresh_ms = fresh_ms
    node.host.survey.cut_timeout_ms = cut_timeout_ms(timings)
    node.front.snapshots.report_max_ms = fresh_ms
    if node.settings is not None:
        node.settings.fresh_ms = timings.sync_silent_ms
    if node.observer is not None:
        node.observer.go_by(probe_ms=timings.probe_ms)
    if node.instance is not None:
        node.instance.go_by(bounds_of(timings))
    if node.split_watch is not None:
        node.split_watch.go_by(probe_ms=timings.probe_ms)
    if node.slots is not None:
        node.slots.fresh_ms = fresh_ms
    node.loop.go_by(pace_of(config), limits_of(config))
    node.renew_anew()
