"""What is done to a node of the laboratory; each injection ends with its block.

What was killed is started again at the end, what was frozen is thawed, what was cut is
healed; a thaw wakes PostgreSQL first, which is the hardest order for whoever has to
stop it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

import psycopg

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.clocks import SteeredClocks
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.disks import LoopDisk
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.network import CLIENT
from pgbastion.clock import boottime_ns

Injection = Callable[[Lab, str], AbstractContextManager[None]]
"""Is given the laboratory and the name of the node that it hits."""
# More than PostgreSQL keeps in advance by default (min_wal_size 80 MB).
_SWITCHES_MAX: Final = 40
_SWITCH_EVERY_S: Final = 0.1
_FLAPS: Final = 5
_FLAP_S: Final = 0.4
_LOST_PERCENT: Final = 20
_STEP_S: Final = 300
_STEP_EVERY_S: Final = 0.5
_BOOT_APART_S: Final = 2.0


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
def packets_lost(lab: Lab, name: str) -> Iterator[None]:
    """Lose a fifth of the packets from and to the node."""
    lab.network.lose(name, _LOST_PERCENT)
    try:
        yield
    finally:
        lab.network.lose(name, 0)


@contextmanager
def clock_stepped(lab: Lab, name: str) -> Iterator[None]:
    """Set the wall clocks of all nodes five minutes on and back, one after another."""
    try:
        for by_s in (_STEP_S, -_STEP_S, 0, _STEP_S):
            for each in [name, *_others(lab, name)]:
                _clocks(lab, each).set_wall(by_s)
                time.sleep(_STEP_EVERY_S)
        yield
    finally:
        for clocks in lab.clocks.values():
            clocks.set_wall(0)


@contextmanager
def node_paused(lab: Lab, name: str) -> Iterator[None]:
    """Freeze every process of the node, and let its clocks stand meanwhile.

    So a machine wakes up that its hypervisor had paused: it believes in the rest of a
    lease that ended long ago.
    """
    clocks, node = _clocks(lab, name), lab.node(name)
    frozen = processes.freeze(node.processes)
    since_ns = boottime_ns()
    try:
        yield
    finally:
        server = node.postgres()
        rest = [process for process in frozen if process not in server]
        clocks.skip(boottime_ns() - since_ns)
        processes.resume([*server, *rest])


@contextmanager
def replay_paused(lab: Lab, name: str) -> Iterator[None]:
    """Pause replay on every standby, then kill the postmaster of ``name``."""
    standbys = [node for node in lab.servers() if node.name != name]
    try:
        for node in standbys:
            node.query("SELECT pg_wal_replay_pause()")
        with postmaster_killed(lab, name):
            yield
    finally:
        for node in standbys:
            node.query("SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery()")


@contextmanager
def node_and_postmaster(lab: Lab, name: str) -> Iterator[None]:
    """Take the power from another server's node, and kill this one's postmaster."""
    other = next(n.name for n in lab.servers() if n.name != name)
    with node_lost(lab, other), postmaster_killed(lab, name):
        yield


@contextmanager
def node_and_frozen(lab: Lab, name: str) -> Iterator[None]:
    """Take the power from the node while PostgreSQL of another one hangs."""
    other = next(n.name for n in lab.servers() if n.name != name)
    with postgres_frozen(lab, other), node_lost(lab, name):
        yield


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


def lost_and_back(order: Sequence[int]) -> Injection:
    """Return how all nodes lose their power and come back in ``order``, 0 the victim.

    Each has some time on its own before the next one comes.
    """

    @contextmanager
    def inject(lab: Lab, name: str) -> Iterator[None]:
        nodes = [name, *_others(lab, name)]
        with ExitStack() as all_back:
            lost = [all_back.enter_context(ExitStack()) for _ in nodes]
            for each, back in zip(nodes, lost, strict=True):
                back.enter_context(node_lost(lab, each))
            yield
            for place in order:
                lost[place].close()
                time.sleep(_BOOT_APART_S)

    return inject


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


def _disk(lab: Lab, name: str) -> LoopDisk:
    if name not in lab.disks:
        raise CannotRun(f"{name} has no file system of its own")
    return lab.disks[name]


def _clocks(lab: Lab, name: str) -> SteeredClocks:
    if name not in lab.clocks:
        raise CannotRun(f"{name} has no clocks of its own")
    return lab.clocks[name]


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
