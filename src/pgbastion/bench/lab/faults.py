"""The faults that a cluster has to survive; each one ends when its block is left.

A fault is given the laboratory and the name of the node that it hits. What was killed
is started again at the end, what was frozen is thawed, what was cut is healed; a thaw
wakes PostgreSQL first, which is the hardest order for whoever has to stop it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import psycopg

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.disks import LoopDisk
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.network import CLIENT
from pgbastion.bench.lab.waits import LEASE_S

Injection = Callable[[Lab, str], AbstractContextManager[None]]
_BEYOND_LEASE_S: Final = 1.5
# More than PostgreSQL keeps in advance by default (min_wal_size 80 MB).
_SWITCHES_MAX: Final = 40
_SWITCH_EVERY_S: Final = 0.1
_FLAPS: Final = 5
_FLAP_S: Final = 0.4


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
    ``hold_s`` the same in seconds.
    """

    name: str
    title: str
    inject: Injection
    victim: Victim = Victim.PRIMARY
    outcome: Outcome = Outcome.NEW_PRIMARY
    cuts: bool = False
    hold_leases: float = 0.0
    hold_s: float = 1.0

    def lasts_s(self, profile: str) -> float:
        """Return how long the fault lasts at least, in seconds."""
        if self.hold_leases:
            return LEASE_S[profile] * self.hold_leases + _BEYOND_LEASE_S
        return self.hold_s


@contextmanager
def postmaster_killed(lab: Lab, name: str) -> Iterator[None]:
    """Kill the postmaster alone; its backends live on until somebody ends them."""
    postmaster = lab.node(name).postmaster()
    if postmaster is None:
        raise LabError(f"{name} has no postmaster to kill")
    processes.kill([postmaster])
    yield


@contextmanager
def postgres_frozen(lab: Lab, name: str) -> Iterator[None]:
    """Stop every process of PostgreSQL, the postmaster first."""
    frozen = processes.freeze(lab.node(name).postgres)
    try:
        yield
    finally:
        processes.resume(frozen)


@contextmanager
def postmaster_frozen(lab: Lab, name: str) -> Iterator[None]:
    """Stop the postmaster alone: sessions go on, nobody new gets in."""
    postmaster = lab.node(name).postmaster()
    if postmaster is None:
        raise LabError(f"{name} has no postmaster to freeze")
    frozen = processes.freeze(lambda: [postmaster])
    try:
        yield
    finally:
        processes.resume(frozen)


@contextmanager
def backends_frozen(lab: Lab, name: str) -> Iterator[None]:
    """Stop every process of PostgreSQL but the postmaster."""
    node = lab.node(name)
    frozen = processes.freeze(lambda: node.postgres()[1:])
    try:
        yield
    finally:
        processes.resume(frozen)


@contextmanager
def backend_killed(lab: Lab, name: str) -> Iterator[None]:
    """Kill one session's process, as the kernel does when memory runs out."""
    with lab.node(name).connect() as session:
        backend = processes.find(session.info.backend_pid)
        if backend is None:
            raise LabError(f"{name} has no session to kill")
        processes.kill([backend])
    yield


@contextmanager
def link_flaps(lab: Lab, name: str) -> Iterator[None]:
    """Pull the node's cable and plug it in again, several times in a row."""
    try:
        for _ in range(_FLAPS):
            lab.network.set_link(name, up=False)
            time.sleep(_FLAP_S)
            lab.network.set_link(name, up=True)
            time.sleep(_FLAP_S)
        yield
    finally:
        lab.network.set_link(name, up=True)


@contextmanager
def majority_lost(lab: Lab, name: str) -> Iterator[None]:
    """Take the power from every node but this one."""
    with ExitStack() as lost:
        for other in _others(lab, name):
            lost.enter_context(node_lost(lab, other))
        yield


@contextmanager
def everything_lost(lab: Lab, name: str) -> Iterator[None]:
    """Take the power from all nodes; ``name`` is the first to come back."""
    with ExitStack() as lost:
        for each in [*_others(lab, name), name]:
            lost.enter_context(node_lost(lab, each))
        yield


@contextmanager
def daemon_killed(lab: Lab, name: str) -> Iterator[None]:
    """Kill the daemon; guard and PostgreSQL live, and nobody starts it again."""
    node = lab.node(name)
    daemon = node.daemon()
    if daemon is None:
        raise LabError(f"{name} has no daemon to kill")
    processes.kill([daemon])
    try:
        yield
    finally:
        node.start()


@contextmanager
def daemon_restarted(lab: Lab, name: str) -> Iterator[None]:
    """Kill the daemon and start it again at once, as a service manager would."""
    with daemon_killed(lab, name):
        pass
    yield


@contextmanager
def daemon_stopped(lab: Lab, name: str) -> Iterator[None]:
    """Freeze the daemon alone."""
    daemon = lab.node(name).daemon()
    if daemon is None:
        raise LabError(f"{name} has no daemon to freeze")
    frozen = processes.freeze(lambda: [daemon])
    try:
        yield
    finally:
        processes.resume(frozen)


@contextmanager
def guard_killed(lab: Lab, name: str) -> Iterator[None]:
    """Kill the guard; the daemon lives."""
    guard = lab.node(name).guard()
    if guard is None:
        raise LabError(f"{name} has no guard to kill")
    processes.kill([guard])
    yield


@contextmanager
def daemon_and_guard_killed(lab: Lab, name: str) -> Iterator[None]:
    """Kill daemon and guard at one time."""
    node = lab.node(name)
    doomed = [process for process in (node.guard(), node.daemon()) if process]
    if len(doomed) != 2:
        raise LabError(f"{name} has no daemon and guard to kill")
    processes.kill(doomed)
    try:
        yield
    finally:
        node.start()


@contextmanager
def node_frozen(lab: Lab, name: str) -> Iterator[None]:
    """Freeze every process of the node while its clock runs on."""
    node = lab.node(name)
    frozen = processes.freeze(node.processes)
    try:
        yield
    finally:
        server = node.postgres()
        rest = [process for process in frozen if process not in server]
        processes.resume([*server, *rest])


@contextmanager
def node_lost(lab: Lab, name: str) -> Iterator[None]:
    """Take the power from the node: link and every process at one time."""
    node = lab.node(name)
    lab.network.set_link(name, up=False)
    node.kill()
    try:
        yield
    finally:
        lab.network.set_link(name, up=True)
        node.start()


@contextmanager
def cut_off(lab: Lab, name: str) -> Iterator[None]:
    """Cut the node off from the others and from the clients, in both directions.

    The sampler still reaches it: who cannot be heard may still acknowledge.
    """
    others = [*_others(lab, name), CLIENT]
    with _cut(lab, [(name, o) for o in others] + [(o, name) for o in others]):
        yield


@contextmanager
def cut_from_nodes(lab: Lab, name: str) -> Iterator[None]:
    """Cut the node off from the other nodes; clients still reach it."""
    others = _others(lab, name)
    with _cut(lab, [(name, o) for o in others] + [(o, name) for o in others]):
        yield


@contextmanager
def deaf(lab: Lab, name: str) -> Iterator[None]:
    """Lose what the other nodes send to the node; they still hear it."""
    with _cut(lab, [(other, name) for other in _others(lab, name)]):
        yield


@contextmanager
def mute(lab: Lab, name: str) -> Iterator[None]:
    """Lose what the node sends to the other nodes; it still hears them."""
    with _cut(lab, [(name, other) for other in _others(lab, name)]):
        yield


@contextmanager
def connections_full(lab: Lab, name: str) -> Iterator[None]:
    """Use up every connection, also those reserved for superusers."""
    with ExitStack() as held:
        while _hold_one(lab, name, held):
            pass
        yield


@contextmanager
def disk_frozen(lab: Lab, name: str) -> Iterator[None]:
    """Let every write to the node's file system block."""
    disk = _disk(lab, name)
    disk.freeze()
    try:
        yield
    finally:
        disk.thaw()


@contextmanager
def disk_full(lab: Lab, name: str) -> Iterator[None]:
    """Fill the node's file system, and let the server ask for more."""
    disk = _disk(lab, name)
    disk.fill()
    try:
        # Segments that are there already are used first: switch until one is missing.
        for _ in range(_SWITCHES_MAX):
            if lab.node(name).query("SELECT pg_switch_wal()") is None:
                break
            time.sleep(_SWITCH_EVERY_S)
        yield
    finally:
        disk.empty()


FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault
    for fault in (
        Fault(
            name="postmaster",
            title="postmaster killed (kill -9)",
            inject=postmaster_killed,
        ),
        Fault(
            name="frozen",
            title="all PostgreSQL processes frozen (SIGSTOP)",
            inject=postgres_frozen,
            outcome=Outcome.NEW_SERVER,
        ),
        Fault(
            name="daemon",
            title="daemon killed, PostgreSQL alive, nobody restarts it",
            inject=daemon_killed,
        ),
        Fault(
            name="cut",
            title="primary's node cut off from the network",
            inject=cut_off,
            cuts=True,
        ),
        Fault(
            name="node",
            title="primary's node lost (all processes killed, link down)",
            inject=node_lost,
            cuts=True,
        ),
        Fault(
            name="standby",
            title="synchronous standby lost",
            inject=node_lost,
            victim=Victim.STANDBY,
            outcome=Outcome.SAME_PRIMARY,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="daemon-restart",
            title="daemon killed and restarted within the lease",
            inject=daemon_restarted,
            outcome=Outcome.SAME_PRIMARY,
            hold_leases=1,
        ),
        Fault(
            name="daemon-stopped",
            title="daemon frozen for longer than the lease",
            inject=daemon_stopped,
            hold_leases=1,
        ),
        Fault(
            name="guard",
            title="guard killed, daemon alive",
            inject=guard_killed,
            outcome=Outcome.NEW_SERVER,
        ),
        Fault(
            name="daemon-and-guard",
            title="daemon and guard killed together",
            inject=daemon_and_guard_killed,
        ),
        Fault(
            name="node-frozen",
            title="whole node frozen past the lease and thawed",
            inject=node_frozen,
            hold_leases=1,
        ),
        Fault(
            name="cut-nodes",
            title="primary cut off from the nodes, clients still reach it",
            inject=cut_from_nodes,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="deaf",
            title="primary no longer hears the other nodes",
            inject=deaf,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="mute",
            title="primary is no longer heard by the other nodes",
            inject=mute,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="connections",
            title="max_connections full",
            inject=connections_full,
            outcome=Outcome.SAME_PRIMARY,
            hold_s=60.0,
        ),
        Fault(
            name="postmaster-frozen",
            title="postmaster alone frozen, sessions go on",
            inject=postmaster_frozen,
            outcome=Outcome.NEW_SERVER,
            hold_s=20.0,
        ),
        Fault(
            name="backends-frozen",
            title="all sessions frozen, the postmaster answers",
            inject=backends_frozen,
            outcome=Outcome.NEW_SERVER,
        ),
        Fault(
            name="backend-killed",
            title="one session killed (as for lack of memory)",
            inject=backend_killed,
            outcome=Outcome.RESTARTED,
        ),
        Fault(
            name="link-flaps",
            title="primary's link goes up and down",
            inject=link_flaps,
            outcome=Outcome.ANY_PRIMARY,
            cuts=True,
        ),
        Fault(
            name="majority",
            title="two of three nodes lost and back",
            inject=majority_lost,
            outcome=Outcome.ANY_PRIMARY,
            cuts=True,
            hold_leases=1,
        ),
        Fault(
            name="cold-start",
            title="all nodes lost at once, started again",
            inject=everything_lost,
            outcome=Outcome.ANY_PRIMARY,
            cuts=True,
        ),
        Fault(
            name="disk-frozen",
            title="primary's disk frozen (fsfreeze)",
            inject=disk_frozen,
            hold_leases=1,
        ),
        Fault(
            name="disk-full",
            title="primary's disk full",
            inject=disk_full,
            hold_leases=1,
        ),
    )
}


def _disk(lab: Lab, name: str) -> LoopDisk:
    if name not in lab.disks:
        raise CannotRun(f"{name} has no file system of its own")
    return lab.disks[name]


def _others(lab: Lab, name: str) -> list[str]:
    return [other for other in lab.nodes if other != name]


@contextmanager
def _cut(lab: Lab, directions: list[tuple[str, str]]) -> Iterator[None]:
    with ExitStack() as healing:
        for sender, receiver in directions:
            lab.network.cut(sender, receiver)
            healing.callback(lab.network.heal, sender, receiver)
        yield


def _hold_one(lab: Lab, name: str, held: ExitStack) -> bool:
    """Open one more connection; return False once the server has none left."""
    try:
        held.enter_context(lab.node(name).connect())
    except psycopg.OperationalError as error:
        if "too many" in str(error) or "remaining connection slots" in str(error):
            return False
        raise CannotRun(f"{name} refused a connection: {error}") from error
    return True
