"""The faults that a cluster has to survive, by name, and what each has to lead to."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations
from typing import Final

from pgbastion.bench.lab import injections
from pgbastion.bench.lab.injections import Injection
from pgbastion.bench.lab.waits import LEASE_S

_BEYOND_LEASE_S: Final = 1.5


class Victim(StrEnum):
    """Which node a fault hits."""

    PRIMARY = "primary"
    STANDBY = "standby"


class Outcome(StrEnum):
    """What a fault has to lead to."""

    NEW_PRIMARY = "new primary"
    SAME_PRIMARY = "same primary"
    ANY_PRIMARY = "some primary, and nothing lost"
    RESTARTED = "same primary, whose server was started again"
    NEW_SERVER = "new primary, or the same with a server that was started again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault by name, with what it has to lead to.

    ``hold_leases`` is how long it lasts at least, in leases of the profile;
    ``hold_s`` the same in seconds. ``patience`` is how many times as long as usual
    writes may take to go on.
    """

    name: str
    title: str
    inject: Injection
    victim: Victim = Victim.PRIMARY
    outcome: Outcome = Outcome.NEW_PRIMARY
    cuts: bool = False
    hold_leases: float = 0.0
    hold_s: float = 1.0
    patience: int = 1

    def lasts_s(self, profile: str) -> float:
        """Return how long the fault lasts at least, in seconds."""
        if self.hold_leases:
            return LEASE_S[profile] * self.hold_leases + _BEYOND_LEASE_S
        return self.hold_s


def _cold_start(order: Sequence[int]) -> Fault:
    """Return the loss of three nodes; 0 is the primary, which comes where it stands."""
    places = {0: "primary", 1: "one", 2: "other"}
    coming = [places[place] for place in order]
    return Fault(
        name=f"cold-start-{'-'.join(coming)}",
        title=f"all nodes lost at once, back in turn: {', '.join(coming)}",
        inject=injections.lost_and_back(order),
        outcome=Outcome.ANY_PRIMARY,
        cuts=True,
    )


FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault
    for fault in (
        Fault(
            name="postmaster",
            title="postmaster killed (kill -9)",
            inject=injections.postmaster_killed,
        ),
        Fault(
            name="frozen",
            title="all PostgreSQL processes frozen (SIGSTOP)",
            inject=injections.postgres_frozen,
            outcome=Outcome.NEW_SERVER,
        ),
        Fault(
            name="daemon",
            title="daemon killed, PostgreSQL alive, nobody restarts it",
            inject=injections.daemon_killed,
        ),
        Fault(
            name="cut",
            title="primary's node cut off from the network",
            inject=injections.cut_off,
            cuts=True,
        ),
        Fault(
            name="node",
            title="primary's node lost (all processes killed, link down)",
            inject=injections.node_lost,
            cuts=True,
        ),
        Fault(
            name="standby",
            title="synchronous standby lost",
            inject=injections.node_lost,
            victim=Victim.STANDBY,
            outcome=Outcome.SAME_PRIMARY,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="daemon-restart",
            title="daemon killed and restarted within the lease",
            inject=injections.daemon_restarted,
            outcome=Outcome.SAME_PRIMARY,
            hold_leases=1,
        ),
        Fault(
            name="daemon-stopped",
            title="daemon frozen for longer than the lease",
            inject=injections.daemon_stopped,
            hold_leases=1,
        ),
        Fault(
            name="guard",
            title="guard killed, daemon alive",
            inject=injections.guard_killed,
            outcome=Outcome.NEW_SERVER,
        ),
        Fault(
            name="daemon-and-guard",
            title="daemon and guard killed together",
            inject=injections.daemon_and_guard_killed,
        ),
        Fault(
            name="node-frozen",
            title="whole node frozen past the lease and thawed",
            inject=injections.node_frozen,
            hold_leases=1,
        ),
        Fault(
            name="cut-nodes",
            title="primary cut off from the nodes, clients still reach it",
            inject=injections.cut_from_nodes,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="deaf",
            title="primary no longer hears the other nodes",
            inject=injections.deaf,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="mute",
            title="primary is no longer heard by the other nodes",
            inject=injections.mute,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="connections",
            title="max_connections full",
            inject=injections.connections_full,
            outcome=Outcome.SAME_PRIMARY,
            hold_s=60.0,
        ),
        Fault(
            name="postmaster-frozen",
            title="postmaster alone frozen, sessions go on",
            inject=injections.postmaster_frozen,
            outcome=Outcome.NEW_SERVER,
            hold_s=20.0,
        ),
        Fault(
            name="backends-frozen",
            title="all sessions frozen, the postmaster answers",
            inject=injections.backends_frozen,
            outcome=Outcome.NEW_SERVER,
        ),
        Fault(
            name="backend-killed",
            title="one session killed (as for lack of memory)",
            inject=injections.backend_killed,
            outcome=Outcome.RESTARTED,
        ),
        Fault(
            name="link-flaps",
            title="primary's link goes up and down",
            inject=injections.link_flaps,
            outcome=Outcome.ANY_PRIMARY,
            cuts=True,
        ),
        Fault(
            name="packet-loss",
            title="a fifth of the packets of the primary's link lost",
            inject=injections.packets_lost,
            outcome=Outcome.ANY_PRIMARY,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="clock-steps",
            title="wall clocks set by five minutes, on and back",
            inject=injections.clock_stepped,
            outcome=Outcome.SAME_PRIMARY,
        ),
        Fault(
            name="node-paused",
            title="whole node paused past the lease, its clocks too",
            inject=injections.node_paused,
            hold_leases=1,
        ),
        Fault(
            name="replay-paused",
            title="postmaster killed, replay paused on every standby",
            inject=injections.replay_paused,
        ),
        Fault(
            name="node-and-postmaster",
            title="a standby's node lost and the postmaster killed",
            inject=injections.node_and_postmaster,
            outcome=Outcome.NEW_SERVER,
            cuts=True,
        ),
        Fault(
            name="node-and-frozen",
            title="primary's node lost while a standby hangs",
            inject=injections.node_and_frozen,
            cuts=True,
            # Without an answer of the one that hangs commits may be missing: its server
            # is killed and started again first.
            patience=3,
        ),
        Fault(
            name="majority",
            title="two of three nodes lost and back",
            inject=injections.majority_lost,
            outcome=Outcome.ANY_PRIMARY,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="cold-start",
            title="all nodes lost at once, started again",
            inject=injections.everything_lost,
            outcome=Outcome.ANY_PRIMARY,
            cuts=True,
        ),
        *(_cold_start(order) for order in permutations(range(3))),
        Fault(
            name="disk-frozen",
            title="primary's disk frozen (fsfreeze)",
            inject=injections.disk_frozen,
            hold_leases=1,
        ),
        Fault(
            name="disk-full",
            title="primary's disk full",
            inject=injections.disk_full,
            hold_leases=1,
        ),
    )
}
