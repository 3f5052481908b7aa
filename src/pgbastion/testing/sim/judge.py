"""Watches the promises: S1 to S6 after each event that may break them, L1 at the end.

It knows true time and every disk, which no node does. Its rules are the words of
docs/explanation/lease.md, with the exceptions that are stated there.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pgbastion.config.timings import Timings
from pgbastion.control.lease import granted_ms
from pgbastion.control.placing import LEASE_MIN_MS
from pgbastion.control.survey import needs_survey
from pgbastion.guard.page import ENDED_EPOCH
from pgbastion.model.cluster import Assignment, ClusterState, OrderKind
from pgbastion.testing.sim.clocks import NodeClock
from pgbastion.testing.sim.server import Waiter
from pgbastion.testing.sim.wal import Branch, Ledger
from pgbastion.testing.sim.world import NS_PER_MS, NS_PER_S, World

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine

MILLION: Final = 1_000_000
WRITES_WITHIN_NS: Final = 4 * NS_PER_S
RESUMED_NS: Final = NS_PER_S
"""So long after a pause a guard may take to end what its lease does not cover."""


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
    longest_ms: int
    """The longest lease by which anybody ever went."""
    addresses: tuple[str, ...] = ()
    state: ClusterState = field(default_factory=ClusterState)
    ledger: Ledger = field(default_factory=Ledger)
    grants: dict[int, Grant] = field(default_factory=dict)
    first_ack_ns: dict[int, int] = field(default_factory=dict)
    newest_primary: tuple[Branch, "Machine"] | None = None
    holders: set[int] = field(default_factory=set)
    """Members that were ever assigned an epoch."""
    assigned_ns: dict[int, int] = field(default_factory=dict)
    may_lose: set[int] = field(default_factory=set)
    """Epochs that were assigned in ``async``, or by force: no survey is promised."""
    entries: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    leaders: dict[int, int] = field(default_factory=dict)
    last_ack_ns: int = 0
    proxied_ns: dict[int, int] = field(default_factory=dict)
    """When a write through each node's proxy was last acknowledged."""

    # S6: what is visible of Raft's own properties

    def engine_said(self, machine: "Machine", event: tuple[Any, ...]) -> None:
        """Look at an event of some node's engine."""
        match event:
            case ("committed", index, term, _, data):
                known = self.entries.setdefault(index, (term, data))
                if known != (term, data):
                    raise self.world.broken(
                        "S6", f"{machine.name} has another entry {index} than others"
                    )
            case ("leader", term, leader) if leader:
                if self.leaders.setdefault(term, leader) != leader:
                    raise self.world.broken("S6", f"term {term} has two leaders")

    def paced(self, timings: Timings) -> None:
        """Note by which timings a node goes from now on."""
        self.longest_ms = max(self.longest_ms, timings.lease_ms)

    # S4: nobody is assigned while another may hold

    def applied(self, machine: "Machine", state: ClusterState) -> None:
        """Look at the state of the node that has come furthest."""
        if state.index <= self.state.index:
            return
        before, self.state = self.state, state
        self.longest_ms = max(self.longest_ms, granted_ms(state))
        held = before.assignment
        if state.epoch == before.epoch or state.assignment is None:
            return
        new = state.assignment
        self.assigned_ns[new.epoch] = self.world.now_ns
        self.holders.add(new.member_id)
        self.world.say(
            machine.name, f"epoch {new.epoch} to {new.node}, timeline {new.timeline}"
        )
        if held is None:
            return
        if not needs_survey(before) or _is_forced(before):
            self.may_lose.add(new.epoch)
        self.world.tally.failovers += 1
        if held.released or held.node == new.node:
            return
        self._check_lease_over(held)

    def _check_lease_over(self, held: Assignment) -> None:
        grant = self.grants.get(held.epoch)
        if grant is None or self._slept_through(grant):
            return
        if held.vouched and grant.machine.off_ns > grant.at_ns:
            # It was off since its newest lease reached it, as somebody vouched.
            return
        left_ns = grant.expiry_ns - grant.machine.clock.now_ns()
        if left_ns > 0:
            raise self.world.broken(
                "S4",
                f"epoch {held.epoch + 1} is assigned while {held.node} has a lease of "
                f"{held.epoch} for {left_ns / NS_PER_MS:.3f} ms more",
            )

    def _slept_through(self, grant: Grant) -> bool:
        """Whether the holder's clock has stood still since it sent the renewal.

        No wait bounds such a lease; revocation does.
        """
        sent_ns = grant.expiry_ns - self.longest_ms * NS_PER_MS
        return _stood_since(grant.machine.clock, sent_ns)

    def surveyed(self, machine: "Machine", epoch: int) -> None:
        """Look at a node that has answered a survey of this epoch."""
        held_before = machine.number in self.holders
        if held_before and machine.page[ENDED_EPOCH] < epoch:
            raise self.world.broken(
                "S4",
                f"{machine.name} answers a survey of epoch {epoch}, and its guard may "
                "still start a primary of it",
            )

    def granted(self, machine: "Machine", epoch: int, expiry_ns: int) -> None:
        """Look at a lease that has reached its holder."""
        old = self.grants.get(epoch)
        if expiry_ns and (old is None or expiry_ns > old.expiry_ns):
            self.grants[epoch] = Grant(machine, expiry_ns, self.world.now_ns)
        new = self.state.assignment
        if new is None or new.epoch <= epoch or new.node == machine.name:
            return
        left_ns = expiry_ns - machine.clock.now_ns()
        late = Grant(machine, expiry_ns, self.world.now_ns)
        if left_ns > 0 and not self._slept_through(late):
            raise self.world.broken(
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
        lax = any(epoch < e <= newer for e in self.may_lose)
        if lax and (slept or self._impaired(machine, epoch)):
            return
        raise self.world.broken(
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
            raise self.world.broken(
                "S3", f"{machine.name} acknowledges in {epoch} without a lease"
            )
        if machine.paused or self.world.now_ns - machine.resumed_ns < RESUMED_NS:
            return
        over_ns = machine.clock.now_ns() - grant.expiry_ns
        if over_ns > 0 and not self._impaired(machine, epoch):
            raise self.world.broken(
                "S3",
                f"{machine.name} acknowledges {over_ns / NS_PER_MS:.3f} ms after its "
                f"lease of epoch {epoch}",
            )

    def promoted(self, machine: "Machine") -> None:
        """Look at what a server has that was promoted in this instant.

        One whose epoch is over by then may finish late; what it acknowledges is S1's.
        """
        directory = machine.directory
        if directory.promoted_epoch < self.state.epoch:
            return
        missing = self.ledger.missing(directory.branch, directory.flushed)
        lax = directory.promoted_epoch in self.may_lose
        if missing is not None and not lax:
            raise self.world.broken("S2", f"{machine.name} is promoted: {missing}")
        if missing is not None:
            self.ledger.newest.clear()

    # S5: where the proxies lead

    def routed(self, machine: "Machine", epoch: int, drift_ppm: int) -> None:
        """Look at the epoch to which a node's proxy sends a writer now."""
        superseded_ns = self.assigned_ns.get(epoch + 1)
        if superseded_ns is None or machine.woke_ns >= superseded_ns:
            return
        longest_ns = self.longest_ms * (MILLION + drift_ppm) * NS_PER_MS // MILLION
        if self.world.now_ns - superseded_ns > longest_ns:
            raise self.world.broken(
                "S5", f"{machine.name} sends writers to epoch {epoch} for too long"
            )

    # E: an address for replicas is at one node

    def addressed(self, machine: "Machine", name: str, *, fresh: bool) -> None:
        """Look at a machine that sets an address, or prolongs it."""
        self.world.tally.addressings += fresh
        have = [
            other
            for other in self.machines.values()
            if other.has_address(name) and not self._had_while_paused(other, name)
        ]
        if machine in have and len(have) > 1:
            names = ", ".join(other.name for other in have)
            raise self.world.broken("E", f"{name} is at {names}")

    def _had_while_paused(self, machine: "Machine", name: str) -> bool:
        """Whether the machine's clock has stood still since it asked for its lease.

        Its kernel stood still as well, so that nothing there could end the address.
        """
        lease_ms = max(self.longest_ms, LEASE_MIN_MS)
        asked_ns = machine.addresses[name] - lease_ms * NS_PER_MS
        return _stood_since(machine.clock, asked_ns)

    # L1: in the end

    def unwell(self) -> str | None:
        """Say what is not as it should be once no fault is left; None: all is well.

        Writes are accepted through every node's proxy, and every server is back as
        the primary or as a standby that streams.
        """
        since_ns = self.world.now_ns - WRITES_WITHIN_NS
        silent = [
            m.name
            for n, m in self.machines.items()
            if self.proxied_ns.get(n, 0) < since_ns
        ]
        if silent:
            return f"no writes through {', '.join(silent)}: {self._reasons()}"
        held = self.state.assignment
        for machine in self.machines.values():
            if machine.witness or held is None or machine.name == held.node:
                continue
            if machine.server is None or machine.server.link is None:
                return f"{machine.name} does not stream: {self._reasons()}"
        for name in self.addresses:
            if not any(m.has_address(name) for m in self.machines.values()):
                return f"{name} is at no node: {self.state.placement(name)}"
        return None

    def _reasons(self) -> str:
        said = []
        for machine in self.machines.values():
            if machine.daemon is None:
                continue
            main = machine.daemon.main
            said.append(f"{machine.name} {main.node_decision.reason}")
            if machine.daemon.host.raft().is_leader:
                said.append(f"leader {main.cluster_decision}")
        return ", ".join(said)

    def ended(self) -> None:
        """Look at what the primary has in the end."""
        held = self.state.assignment
        if held is None or self.may_lose:
            return
        directory = self.machines[held.member_id].directory
        missing = self.ledger.missing(directory.branch, directory.flushed)
        if missing is not None:
            raise self.world.broken("S2", f"in the end {missing}")


def _stood_since(clock: NodeClock, local_ns: int) -> bool:
    """Tell whether a clock stands still, or has since it showed ``local_ns``."""
    return clock.stands or (clock.stood_until_ns > 0 and local_ns <= clock.stood_at_ns)


def _is_forced(state: ClusterState) -> bool:
    """Whether an operator accepts that the next primary lacks commits."""
    order = state.order
    return order is not None and order.force and order.order is OrderKind.FAILOVER
