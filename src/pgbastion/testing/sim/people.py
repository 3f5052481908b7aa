"""People who give orders while faults happen: anything, at any time, by any node.

What they ask for goes through the same checks as at the API. Only what nobody may do
falsely is done truly: whoever vouches that a holder is off has switched it off.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pgbastion.api.ports import Outcome, Refused, When
from pgbastion.clock import wall_text, wall_time
from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.commands import Pause
from pgbastion.model.ids import NodeId
from pgbastion.model.profile import Profile
from pgbastion.node.ordering import Ordering
from pgbastion.node.profile import change_profile
from pgbastion.node.replication import change_replication
from pgbastion.testing.sim.world import ms

if TYPE_CHECKING:
    from random import Random

    from pgbastion.testing.sim.cluster import Cluster
    from pgbastion.testing.sim.daemon import Daemon
    from pgbastion.testing.sim.machine import Machine

TIDY_MS: Final = 500
"""How often, in the end, they look whether something of theirs still stands."""

Deed = Callable[["Daemon"], Awaitable[Outcome | None]]


class People:
    """Gives orders at random, and takes back in the end what still stands."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._random = cluster.world.stream("people")

    def plan(self, *, until_ms: float) -> None:
        """Put deeds into the queue: what and when is drawn from the seed."""
        for _ in range(self._random.choice((0, 0, 1, 1, 2, 4))):
            at_ms = self._random.uniform(8_000, until_ms)
            self._world.after(ms(at_ms), self._act)

        # Drawn apart, so that the other deeds are what they would be without.
        drawn = self._world.stream("profiles")
        for _ in range(drawn.choice((0, 0, 0, 1, 2))):
            at_ms = drawn.uniform(8_000, until_ms)
            profile = drawn.choice(list(Profile))
            self._world.after(ms(at_ms), self._change_profile, profile)

        drawn = self._world.stream("hands")
        for _ in range(drawn.choice((0, 0, 0, 0, 1))):
            at_ms = drawn.uniform(8_000, until_ms)
            self._world.after(ms(at_ms), self._promote_by_hand, drawn)

    def _promote_by_hand(self, drawn: "Random") -> None:
        """Have somebody promote a standby who knows nothing of the cluster."""
        machine = drawn.choice(list(self._cluster.machines.values()))
        if machine.server is not None and machine.server.takes_orders:
            self._world.tally.faults["promoted_by_hand"] += 1
            machine.server.promote(drawn.uniform(30, 150))

    def _change_profile(self, profile: Profile) -> None:
        self._world.tally.faults["changed_profile"] += 1
        self.change_profile(profile)

    def change_profile(self, profile: Profile) -> None:
        """Have the whole cluster go by another profile."""
        self.have(
            f"profile {profile}",
            lambda d: change_profile(d.host, profile, at=wall_text()),
        )

    def _act(self) -> None:
        kinds = [kind for kind, _ in DEEDS]
        weights = [weight for _, weight in DEEDS]
        kind = self._random.choices(kinds, weights)[0]
        self._world.tally.faults[kind.__name__] += 1
        kind(self)

    def have(self, what: str, deed: Deed) -> None:
        """Have some node that works do it."""
        machines = self._cluster.machines.values()
        able = [m for m in machines if m.daemon is not None and not m.stalled]
        if able:
            self._have_by(self._random.choice(able), what, deed)

    def _have_by(self, machine: "Machine", what: str, deed: Deed) -> None:
        daemon = machine.daemon
        if daemon is None:
            return

        async def work() -> None:
            outcome = await deed(daemon)
            said = outcome.message if isinstance(outcome, Refused) else outcome
            self._world.say("people", f"{what} at {machine.name}: {said}")

        daemon.loop.call_soon(daemon.start, f"people: {what}", work)

    def ordering(self, daemon: "Daemon") -> Ordering:
        """Return what gives orders at a node."""
        return Ordering(
            daemon.host,
            fresh_ms=self._cluster.timings.sync_silent_ms,
            drain_ms=lambda: 200,
        )

    def somebody(self) -> NodeId:
        """Return the name of any server."""
        servers = [m for m in self._cluster.machines.values() if not m.witness]
        return NodeId(self._random.choice(servers).name)

    def after(self, least_ms: float, most_ms: float, do: Callable[[], None]) -> None:
        """Do something else later."""
        self._world.after(ms(self._random.uniform(least_ms, most_ms)), do)

    def chance(self, share: float) -> bool:
        """Draw whether something is so."""
        return self._random.random() < share

    # What is taken back

    def tidy(self) -> None:
        """Take back what would keep the cluster from being well, until nothing does."""
        for machine in self._cluster.machines.values():
            self.tag(machine, nofailover=False)
        state = self._cluster.judge.state
        if state.paused:
            self.have("resume", lambda d: set_pause(d, paused=False))
        for fence in state.fences:
            self._unfence(fence.node)
        if state.strict != self._cluster.shape.strict:
            strict = self._cluster.shape.strict
            self.have("strict as before", lambda d: _set_strict(d, strict=strict))
        policy, profile = state.policy, self._cluster.shape.profile
        if policy is not None and policy.profile is not profile:
            self.change_profile(profile)
        self._world.after(ms(TIDY_MS), self.tidy)

    def _unfence(self, node: NodeId) -> None:
        self.have(
            f"unfence {node}",
            lambda d: self.ordering(d).schedules_and_fences.unfence(node),
        )

    def tag(self, machine: "Machine", *, nofailover: bool) -> None:
        """Change a tag in a node's file; its daemon reads it at once."""
        daemon = machine.daemon
        if machine.nofailover is nofailover:
            return
        machine.nofailover = nofailover
        if daemon is not None:
            own = replace(daemon.main.sight.own, nofailover=nofailover)
            daemon.main.set_own(own)
            daemon.loop.call_soon(daemon.main.wake)

    def machine_called(self, node: NodeId) -> "Machine":
        """Return the machine with this name."""
        return next(m for m in self._cluster.machines.values() if m.name == node)

    def machine_of_holder(self, daemon: "Daemon") -> "Machine | None":
        """Return the machine that holds the epoch which a node knows as the newest."""
        held = daemon.host.state.assignment
        return self._cluster.machines[held.member_id] if held is not None else None


async def set_pause(daemon: "Daemon", *, paused: bool) -> None:
    """Switch automatic actions off, or on again."""
    revision = daemon.host.state.pause_revision + 1
    command = Pause(pause_revision=revision, paused=paused, at=wall_text())
    await daemon.host.propose(command, timeout_s=2.0)


async def _set_strict(daemon: "Daemon", *, strict: bool) -> Outcome:
    return await change_replication(
        daemon.host, mode=None, sync_count="auto", strict=strict, at=wall_text()
    )


# What people do


def ordered_switchover(people: People) -> None:
    """Order a planned change of the primary, to anybody or to the best."""
    to = people.somebody() if people.chance(0.7) else None

    def order(daemon: "Daemon") -> Awaitable[Outcome]:
        return people.ordering(daemon).switch_over(to, None, cause="people")

    people.have(f"switchover to {to}", order)


def ordered_failover(people: People) -> None:
    """Order a failover, whether the primary lives or not."""
    to = people.somebody()

    def order(daemon: "Daemon") -> Awaitable[Outcome]:
        return people.ordering(daemon).fail_over(to, force=False, cause="people")

    people.have(f"failover to {to}", order)


def forced_failover(people: People) -> None:
    """Switch the holder off, then order a failover by force."""
    to = people.somebody()

    async def order(daemon: "Daemon") -> Outcome | None:
        holder = people.machine_of_holder(daemon)
        if holder is None or holder.powered:
            return None
        return await people.ordering(daemon).fail_over(to, force=True, cause="people")

    async def switch_off(daemon: "Daemon") -> None:
        holder = people.machine_of_holder(daemon)
        if holder is None or holder.daemon is daemon:
            return
        holder.power_off()
        people.after(8_000, 30_000, holder.power_on)
        people.after(500, 7_000, lambda: people.have(f"forced failover to {to}", order))

    people.have("switch the holder off", switch_off)


def scheduled_switchover(people: People) -> None:
    """Schedule a switchover, and now and then cancel what is scheduled."""
    to = people.somebody() if people.chance(0.5) else None

    def schedule(daemon: "Daemon") -> Awaitable[Outcome]:
        due = wall_time() + timedelta(seconds=5)
        when = When(due=due, valid_ms=8_000)
        return people.ordering(daemon).schedules_and_fences.schedule(to, None, when)

    people.have(f"schedule a switchover to {to}", schedule)
    if people.chance(0.3):
        people.after(
            100,
            6_000,
            lambda: people.have(
                "cancel", lambda d: people.ordering(d).schedules_and_fences.cancel(None)
            ),
        )


def paused(people: People) -> None:
    """Pause the cluster, and resume it some time later."""
    people.have("pause", lambda d: set_pause(d, paused=True))
    people.after(
        500,
        30_000,
        lambda: people.have("resume", lambda d: set_pause(d, paused=False)),
    )


def fenced(people: People) -> None:
    """Fence a node, the primary or another one, and unfence it some time later."""
    node, force = people.somebody(), people.chance(0.5)

    def fence(daemon: "Daemon") -> Awaitable[Outcome]:
        return people.ordering(daemon).schedules_and_fences.fence(
            node, force=force, drain_ms=None
        )

    def unfence(daemon: "Daemon") -> Awaitable[Outcome]:
        return people.ordering(daemon).schedules_and_fences.unfence(node)

    people.have(f"fence {node}, {force=}", fence)
    people.after(2_000, 30_000, lambda: people.have(f"unfence {node}", unfence))


def ordered_restart(people: People) -> None:
    """Order a restart of a node's PostgreSQL."""
    node = people.somebody()

    def order(daemon: "Daemon") -> Awaitable[Outcome]:
        return people.ordering(daemon).restart_and_copy.restart(
            node, pending=False, drain_ms=None
        )

    people.have(f"restart {node}", order)


def ordered_reinit(people: People) -> None:
    """Order that a standby is copied anew."""
    node = people.somebody()

    def order(daemon: "Daemon") -> Awaitable[Outcome]:
        return people.ordering(daemon).restart_and_copy.reinit(node)

    people.have(f"reinit {node}", order)


def changed_replication(people: People) -> None:
    """Change who confirms commits."""
    draw = people.chance
    mode = (
        ReplicationMode.ASYNC
        if draw(0.3)
        else ReplicationMode.SYNC
        if draw(0.4)
        else ReplicationMode.QUORUM
    )
    count = 1 if draw(0.4) else 2 if draw(0.3) else None
    strict = draw(0.2)

    def change(daemon: "Daemon") -> Awaitable[Outcome]:
        return change_replication(
            daemon.host,
            mode=mode,
            sync_count="auto" if count is None else count,
            strict=strict,
            at=wall_text(),
        )

    people.have(f"{mode}, {count} to confirm, {strict=}", change)


def tagged(people: People) -> None:
    """Tag a node as one that is not to be promoted, or take that back."""
    machine = people.machine_called(people.somebody())
    people.tag(machine, nofailover=not machine.nofailover)


DEEDS: Final[tuple[tuple[Callable[[People], None], int], ...]] = (
    (ordered_switchover, 10),
    (ordered_failover, 4),
    (forced_failover, 5),
    (scheduled_switchover, 4),
    (paused, 7),
    (fenced, 7),
    (ordered_restart, 6),
    (ordered_reinit, 3),
    (changed_replication, 6),
    (tagged, 5),
)
