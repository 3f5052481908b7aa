"""Random faults, each with its end."""

from collections.abc import Callable
from random import Random
from typing import Final

from pgbastion.model.ids import MemberId
from pgbastion.testing.sim.cluster import Cluster
from pgbastion.testing.sim.links import STORM, LinkQuality
from pgbastion.testing.sim.machine import Machine
from pgbastion.testing.sim.world import ms

Undo = Callable[[], None]
Fault = Callable[[Cluster, Random], Undo]


def holder(cluster: Cluster) -> Machine | None:
    """Return the machine that holds the current epoch."""
    held = cluster.judge.state.assignment
    return cluster.machines[held.member_id] if held is not None else None


def leader(cluster: Cluster) -> Machine | None:
    """Return a machine that believes to lead the Raft group."""
    for machine in cluster.machines.values():
        daemon = machine.daemon
        if daemon is not None and daemon.host.raft().is_leader:
            return machine
    return None


def victim(cluster: Cluster, random: Random) -> Machine:
    """Choose a machine; the holder and the leader more often than others."""
    draw = random.random()
    chosen = holder(cluster) if draw < 0.55 else leader(cluster) if draw < 0.7 else None
    return chosen or random.choice(list(cluster.machines.values()))


def _nothing() -> None:
    """Nothing has to be undone."""


def postmaster_killed(cluster: Cluster, random: Random) -> Undo:
    """Kill PostgreSQL."""
    victim(cluster, random).crash_server()
    return _nothing


def postmaster_killed_again_and_again(cluster: Cluster, random: Random) -> Undo:
    """Kill PostgreSQL of one machine several times in a row."""
    machine = victim(cluster, random)
    for turn in range(random.randint(2, 6)):
        cluster.world.after(ms(turn * random.uniform(100, 1_500)), machine.crash_server)
    return _nothing


def daemon_killed(cluster: Cluster, random: Random) -> Undo:
    """Kill a daemon; it is started again at once, later, or at the end."""
    machine = victim(cluster, random)
    machine.kill_daemon()
    if random.random() < 0.6:
        cluster.world.after(ms(random.uniform(100, 4_000)), machine.start_daemon)
    return machine.start_daemon


def guard_killed(cluster: Cluster, random: Random) -> Undo:
    """Kill a guard."""
    victim(cluster, random).kill_guard()
    return _nothing


def both_killed(cluster: Cluster, random: Random) -> Undo:
    """Kill daemon and guard together."""
    machine = victim(cluster, random)
    machine.kill_daemon()
    machine.kill_guard()
    return machine.start_daemon


def power_lost(cluster: Cluster, random: Random) -> Undo:
    """Switch a machine off."""
    machine = victim(cluster, random)
    machine.power_off()
    return machine.power_on


def all_power_lost(cluster: Cluster, random: Random) -> Undo:
    """Switch every machine off at once."""
    del random
    for machine in cluster.machines.values():
        machine.power_off()

    def on() -> None:
        for machine in cluster.machines.values():
            machine.power_on()

    return on


def cut_off(cluster: Cluster, random: Random) -> Undo:
    """Cut a machine off from all others, or in one direction only."""
    machine = victim(cluster, random)
    ways = random.choice((1, 2, 3))
    for other in cluster.machines:
        if other == machine.number:
            continue
        if ways & 1:
            cluster.links.cut(machine.number, other)
        if ways & 2:
            cluster.links.cut(other, machine.number)
    return cluster.links.heal


def links_cut(cluster: Cluster, random: Random) -> Undo:
    """Cut some links, each in one direction."""
    numbers = list(cluster.machines)
    for _ in range(random.randint(1, len(numbers))):
        one, other = random.sample(numbers, 2)
        cluster.links.cut(one, other)
    return cluster.links.heal


def storm(cluster: Cluster, random: Random) -> Undo:
    """Lose, repeat, delay and reorder packets."""
    del random
    cluster.links.quality = STORM

    def calm() -> None:
        cluster.links.quality = LinkQuality()

    return calm


def server_frozen(cluster: Cluster, random: Random) -> Undo:
    """Stop all processes of a PostgreSQL."""
    machine = victim(cluster, random)
    if machine.server is not None:
        machine.server.freeze()

    def thaw() -> None:
        if machine.server is not None and not machine.stalled:
            machine.server.thaw()

    return thaw


def disk_frozen(cluster: Cluster, random: Random) -> Undo:
    """Let no write of a PostgreSQL end."""
    machine = victim(cluster, random)
    machine.freeze_disk()
    return machine.thaw_disks


def machine_stalled(cluster: Cluster, random: Random) -> Undo:
    """Stop a whole machine; its clock goes on."""
    machine = victim(cluster, random)
    machine.stall(clock_stands=False)
    return machine.thaw


def machine_paused(cluster: Cluster, random: Random) -> Undo:
    """Pause a whole machine together with its clock."""
    machine = victim(cluster, random)
    machine.stall(clock_stands=True)
    return machine.thaw


def daemon_stopped(cluster: Cluster, random: Random) -> Undo:
    """Stop a daemon, or only its Python loop."""
    machine = victim(cluster, random)
    if random.random() < 0.5:
        machine.stop_daemon()
    else:
        machine.stop_python()
    return machine.continue_parts


def guard_stopped(cluster: Cluster, random: Random) -> Undo:
    """Stop a guard."""
    machine = victim(cluster, random)
    machine.stop_guard()
    return machine.continue_parts


def leadership_moved(cluster: Cluster, random: Random) -> Undo:
    """Hand Raft leadership to any member."""
    machine = leader(cluster)
    if machine is not None and machine.daemon is not None:
        daemon = machine.daemon
        target = random.choice(list(cluster.machines))

        def move() -> None:
            daemon.loop.create_task(daemon.engine.transfer(MemberId(target), 1.0))

        daemon.loop.call_soon(move)
    return _nothing


def stray_history(cluster: Cluster, random: Random) -> Undo:
    """Leave history files about, so that a promotion takes another timeline id."""
    machine = random.choice([m for m in cluster.machines.values() if not m.witness])
    top = cluster.judge.state.highest_timeline
    machine.directory.history_files.add(top + 1)
    chosen = holder(cluster)
    if chosen is not None:
        chosen.crash_server()
    return _nothing


FAULTS: Final[tuple[tuple[Fault, int], ...]] = (
    (postmaster_killed, 10),
    (postmaster_killed_again_and_again, 6),
    (daemon_killed, 10),
    (guard_killed, 4),
    (both_killed, 4),
    (power_lost, 12),
    (all_power_lost, 2),
    (cut_off, 14),
    (links_cut, 6),
    (storm, 5),
    (server_frozen, 8),
    (disk_frozen, 4),
    (machine_stalled, 8),
    (machine_paused, 8),
    (daemon_stopped, 8),
    (guard_stopped, 4),
    (leadership_moved, 4),
    (stray_history, 2),
)


def plan_faults(cluster: Cluster, *, least: int, until_ms: float) -> None:
    """Put faults into the queue: where, when and how long is drawn from the seed."""
    random = cluster.world.stream("faults")
    kinds = [fault for fault, _ in FAULTS]
    weights = [weight for _, weight in FAULTS]
    lease_ms = cluster.timings.lease_ms
    count = least + random.randint(0, 3)
    for _ in range(count):
        at_ms = random.uniform(8_000, until_ms)
        lasts_ms = random.choice((0.3, 1.1, 2.5)) * lease_ms * random.uniform(0.3, 1.4)
        fault = random.choices(kinds, weights)[0]
        cluster.world.after(ms(at_ms), _strike, cluster, random, fault, lasts_ms)


def _strike(cluster: Cluster, random: Random, fault: Fault, lasts_ms: float) -> None:
    name = fault.__name__
    cluster.world.tally.faults[name] += 1
    cluster.world.say("fault", f"{name} for {lasts_ms:.0f} ms")
    undo = fault(cluster, random)

    def end() -> None:
        if not cluster.final_phase:
            cluster.world.say("fault", f"{name} ends")
            undo()

    cluster.world.after(ms(lasts_ms), end)
