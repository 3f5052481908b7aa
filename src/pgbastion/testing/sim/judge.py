"""Watches the promises: S1 to S6 after every event that could break them, L1 at the end.

It knows true time and every disk, which no node does. Its rules are the words of
docs/explanation/lease.md, with the exceptions that are stated there.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pgbastion.model.cluster import Assignment, ClusterState, ReplicationMode
from pgbastion.testing.sim.server import Waiter
from pgbastion.testing.sim.wal import Branch, Ledger
from pgbastion.testing.sim.world import NS_PER_MS, NS_PER_S, Violation, World

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine

MILLION: Final = 1_000_000


@dataclass(slots=True)
class Grant:
    """The last lease of an epoch that reached its holder."""

    machine: "Machine"
    expiry_ns: int
    """On the holder's clock."""
    at_ns: int
    """True time at which it arrived."""


@dataclass(slots=True)
class Judge:
    """Compares what happens with what is promised."""

    world: World
    machines: dict[int, "Machine"]
    mode: ReplicationMode
    state: ClusterState = field(default_factory=ClusterState)
    ledger: Ledger = field(default_factory=Ledger)
    grants: dict[int, Grant] = field(default_factory=dict)
    first_ack_ns: dict[int, int] = field(default_factory=dict)
    newest_primary: tuple[Branch, "Machine"] | None = None
    assigned_ns: dict[int, int] = field(default_factory=dict)
    entries: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    leaders: dict[int, int] = field(default_factory=dict)
    last_ack_ns: int = 0
    acked_since: dict[int, int] = field(default_factory=dict)
    """Writes through each node's proxy that were acknowledged in the last phase."""

    @property
    def in_async(self) -> bool:
        """Whether commits are acknowledged without any standby."""
        return self.mode is ReplicationMode.ASYNC

    # S6: what is visible of Raft's own properties

    def engine_said(self, machine: "Machine", event: tuple[Any, ...]) -> None:
        """Look at an event of some node's engine."""
        match event:
            case ("committed", index, term, _, data):
                known = self.entries.setdefault(index, (term, data))
                if known != (term, data):
                    raise Violation(
                        "S6", f"{machine.name} has another entry {index} than others"
                    )
            case ("leader", term, leader) if leader:
                if self.leaders.setdefault(term, leader) != leader:
                    raise Violation("S6", f"term {term} has two leaders")

    # S4: nobody is assigned while another may hold

    def applied(self, machine: "Machine", state: ClusterState) -> None:
        """Look at the state of the node that has come furthest."""
        if state.index <= self.state.index:
            return
        before, self.state = self.state, state
        held = before.assignment
        if state.epoch == before.epoch or state.assignment is None:
            return
        new = state.assignment
        self.assigned_ns[new.epoch] = self.world.now_ns
        self.world.say(
            machine.name, f"epoch {new.epoch} to {new.node}, timeline {new.timeline}"
        )
        if held is None:
            return
        self.world.tally.failovers += 1
        if held.released or held.node == new.node:
            return
        self._check_lease_over(held)

    def _check_lease_over(self, held: Assignment) -> None:
        grant = self.grants.get(held.epoch)
        if grant is None or self._clock_stood(grant):
            return
        left_ns = grant.expiry_ns - grant.machine.clock.now_ns()
        if left_ns > 0:
            raise Violation(
                "S4",
                f"epoch {held.epoch + 1} is assigned while {held.node} has a lease of "
                f"{held.epoch} for {left_ns / NS_PER_MS:.3f} ms more",
            )

    def _clock_stood(self, grant: Grant) -> bool:
        clock = grant.machine.clock
        return clock.stands or clock.stood_until_ns >= grant.at_ns

    def granted(self, machine: "Machine", epoch: int, expiry_ns: int) -> None:
        """Look at a lease that has reached its holder."""
        old = self.grants.get(epoch)
        if expiry_ns and (old is None or expiry_ns > old.expiry_ns):
            self.grants[epoch] = Grant(machine, expiry_ns, self.world.now_ns)
        new = self.state.assignment
        if new is None or new.epoch <= epoch or new.node == machine.name:
            return
        left_ns = expiry_ns - machine.clock.now_ns()
        stood = machine.clock.stood_until_ns >= self.assigned_ns.get(epoch, 0)
        if left_ns > 0 and not stood:
            raise Violation(
                "S4",
                f"{machine.name} gets a lease of epoch {epoch} for "
                f"{left_ns / NS_PER_MS:.3f} ms more, {new.epoch} is assigned",
            )

    # S1, S2, S3: acknowledged commits

    def acknowledged(self, machine: "Machine", epoch: int, waiter: Waiter) -> None:
        """Look at a commit in the instant in which its client is told."""
        now_ns = self.world.now_ns
        later = [e for e in self.first_ack_ns if e > epoch]
        if later:
            self._check_late(machine, epoch, waiter, max(later))
        self._check_in_lease(machine, epoch)
        self.first_ack_ns.setdefault(epoch, now_ns)
        self.ledger.add(waiter.branch, waiter.lsn)
        self.world.tally.commits += 1
        self.last_ack_ns = now_ns
        if not later:
            self.newest_primary = (waiter.branch, machine)

    def _check_late(
        self, machine: "Machine", epoch: int, waiter: Waiter, newer: int
    ) -> None:
        slept = machine.woke_ns >= self.first_ack_ns[newer] - NS_PER_S
        if slept and self.newest_primary is not None:
            branch = self.newest_primary[0]
            # Confirmed before the cut, reported by a frozen node when it wakes.
            if branch.holds(waiter.branch, waiter.lsn, waiter.lsn):
                return
        if self.in_async and (slept or self._impaired(machine, epoch)):
            return
        raise Violation(
            "S1",
            f"{machine.name} acknowledges a commit in epoch {epoch} after epoch "
            f"{newer} acknowledged one",
        )

    def _impaired(self, machine: "Machine", epoch: int) -> bool:
        """Whether machine or guard did not run all the time since the last grant."""
        grant = self.grants.get(epoch)
        since_ns = grant.at_ns if grant is not None else 0
        return machine.woke_ns >= since_ns or machine.guard_lame_ns >= since_ns

    def _check_in_lease(self, machine: "Machine", epoch: int) -> None:
        grant = self.grants.get(epoch)
        if grant is None or grant.machine is not machine:
            raise Violation("S3", f"{machine.name} acknowledges in {epoch} without a lease")
        over_ns = machine.clock.now_ns() - grant.expiry_ns
        if over_ns > 0 and not self._impaired(machine, epoch):
            raise Violation(
                "S3",
                f"{machine.name} acknowledges {over_ns / NS_PER_MS:.3f} ms after the end "
                f"of its lease of epoch {epoch}",
            )

    def promoted(self, machine: "Machine") -> None:
        """Look at what a server has that was promoted in this instant."""
        directory = machine.directory
        missing = self.ledger.missing(directory.branch, directory.flushed)
        if missing is not None and not self.in_async:
            raise Violation("S2", f"{machine.name} is promoted: {missing}")
        if missing is not None:
            self.ledger.newest.clear()

    # S5: where the proxies lead

    def routed(self, machine: "Machine", epoch: int, lease_ms: int, drift_ppm: int) -> None:
        """Look at the epoch to which a node's proxy sends a writer now."""
        superseded_ns = self.assigned_ns.get(epoch + 1)
        if superseded_ns is None or machine.woke_ns >= superseded_ns:
            return
        longest_ns = lease_ms * (MILLION + drift_ppm) * NS_PER_MS // MILLION
        if self.world.now_ns - superseded_ns > longest_ns:
            raise Violation(
                "S5", f"{machine.name} sends writers to epoch {epoch} for too long"
            )

    # L1: in the end

    def ended(self) -> None:
        """Look at the cluster some time after the last fault was mended."""
        self._check_writes()
        for machine in self.machines.values():
            self._check_member(machine)

    def _check_writes(self) -> None:
        silent = [
            m.name for n, m in self.machines.items() if not self.acked_since.get(n)
        ]
        if silent:
            reasons = {
                m.name: m.daemon.main.node_decision.reason.value
                for m in self.machines.values()
                if m.daemon is not None
            }
            leading = [
                m.daemon.main.cluster_decision
                for m in self.machines.values()
                if m.daemon is not None and m.daemon.host.raft().is_leader
            ]
            raise Violation(
                "L1", f"no writes through {silent}: {reasons}, leader {leading}"
            )

    def _check_member(self, machine: "Machine") -> None:
        held = self.state.assignment
        if held is None or machine.witness:
            return
        server, directory = machine.server, machine.directory
        if server is None or (machine.name != held.node and server.link is None):
            reason = machine.daemon.main.node_decision if machine.daemon else None
            raise Violation("L1", f"{machine.name} did not come back: {reason}")
        if machine.name == held.node and not self.in_async:
            missing = self.ledger.missing(directory.branch, directory.flushed)
            if missing is not None:
                raise Violation("S2", f"in the end {missing}")
