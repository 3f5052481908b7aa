"""Measure where the virtual addresses are under each fault, every 10 ms.

The address table of every node's kernel is sampled through each fault, with writers at
work; a client on the segment connects to the IPv4 and to the IPv6 address at every
turn. The table counts the samples with an address at two nodes, and says how long one
was nowhere and when the client reached the new primary through each, counted from the
first answer "not in recovery" of the new primary.

A node that is frozen whole cannot remove anything by itself; its kernel goes on and
does, by the lifetime that the address was given. So its samples count like all others:
the measure is stricter than "while somebody lives there". Of a paused virtual machine
the kernel stands still as well, and that is not in this table.
"""

import argparse
import fcntl
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from pgbastion.bench.lab.address_sampler import Record, read_addresses
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.faults import FAULTS, Outcome
from pgbastion.bench.lab.network import CLIENT, NAME_PREFIX, WATCH
from pgbastion.bench.lab.settings import POSTGRES_PORT, PRIMARY_PORT, Plan
from pgbastion.bench.lab.trial import Trial, run_trial
from pgbastion.bench.lab.workload import SAMPLER_USER, Client, Place

ADDRESSES: Final = ("10.77.0.50", "fd77::50")
SECTION: Final = {
    "address": f"{ADDRESSES[0]}/24",
    "interface": "eth0",
    "addresses": [{"address": f"{ADDRESSES[1]}/64", "interface": "eth0"}],
}
DISK_FAULTS: Final = ("disk-frozen", "disk-full")
FAULT_NAMES: Final = (
    "postmaster",
    "frozen",
    "daemon",
    "cut",
    "node",
    "standby",
    "daemon-restart",
    "daemon-stopped",
    "guard",
    "daemon-and-guard",
    "node-frozen",
    "cut-nodes",
    "deaf",
    "mute",
    "connections",
    "postmaster-frozen",
    "backends-frozen",
    "backend-killed",
    "link-flaps",
    "majority",
    "cold-start",
    *DISK_FAULTS,
)
REACH_GOAL_MS: Final = 100
_SIOCGIFHWADDR: Final = 0x8927
_MS: Final = 1_000_000
_WIDTH: Final = 160
_HEADINGS: Final = (
    *("samples", "every", "at two", "astray", "nowhere", "moved"),
    *("reached IPv4", "reached IPv6", "lost"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What became of the address through one fault; times in milliseconds."""

    trial: Trial
    samples: int
    every_ms: float
    """The median pause between two samples."""
    longest_ms: float
    """The longest pause between two samples."""
    at_two: int
    astray: int
    """Samples with an address at a node that was no primary in all that time."""
    moved: bool
    """The role, and the addresses with it, went to another node."""
    overlap: bool
    """The new node had one before the old one was rid of it."""
    nowhere_ms: float
    reach_ms: Mapping[str, float | None]
    """For each address, from the first claim of the new primary to the first client
    there; None: it stayed, or no client came."""

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        times = self.reach_ms.values()
        late = any(ms is not None and ms > REACH_GOAL_MS for ms in times)
        unreached = self.moved and any(ms is None for ms in times)
        astray = self.at_two or self.astray or self.overlap
        return not (astray or late or unreached or self.trial.lost)


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments ask for; exit code 1 if a promise was broken."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    failed: list[str] = []
    passages: list[Passage] = []
    try:
        for profile in options.profiles.split(","):
            for result in _measure(profile, options):
                if isinstance(result, str):
                    failed.append(f"{profile}: {result}")
                else:
                    passages.append(result)
                console.print(_line(result), highlight=False, soft_wrap=True)
    except CannotRun as why:
        sys.exit(f"not run: {why}")
    _print_table(console, passages)
    for text in failed:
        console.print(f"failed: {text.splitlines()[0]}", highlight=False)
    if failed or not all(passage.clean for passage in passages):
        sys.exit("a promise was broken: see the table")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench vip", description=__doc__)
    parser.add_argument("--faults", default=",".join(FAULT_NAMES))
    parser.add_argument("--profiles", default="fast,normal")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/bench"))
    options = parser.parse_args(arguments)
    unknown = set(options.faults.split(",")) - set(FAULT_NAMES)
    if unknown:
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")
    return options


def _measure(profile: str, options: argparse.Namespace) -> Iterator[Passage | str]:
    """Run the faults in turn; a cluster that missed a bound is replaced."""
    asked = [f for f in options.faults.split(",") for _ in range(options.runs)]
    for own_disks in (False, True):
        waiting = [f for f in asked if (f in DISK_FAULTS) == own_disks]
        yield from _measure_on(profile, waiting, options.keep_logs, own_disks=own_disks)


def _measure_on(
    profile: str, waiting: list[str], keep_logs: Path, *, own_disks: bool
) -> Iterator[Passage | str]:
    while waiting:
        plan = Plan(profile=profile, vip=SECTION, families=(4, 6), proxy_bind="::")
        if own_disks:
            plan = replace(plan, own_disk=frozenset(plan.names))
        with Lab(plan, keep_logs) as lab:
            lab.start()
            while waiting:
                fault = waiting.pop(0)
                try:
                    yield measure(lab, fault)
                except LabError as error:
                    yield f"{fault}: {error}\nlogs: {lab.keep_logs()}"
                    break


def measure(lab: Lab, fault: str) -> Passage:
    """Hit the cluster with a fault while the address is watched.

    Raises:
        LabError: The cluster missed a bound.
        CannotRun: The fault needs what this machine lacks.
    """
    hardware = {name: _hardware(lab, name) for name in lab.nodes}
    sampler = _sampler(lab)
    with sampler:
        trial = run_trial(lab, FAULTS[fault])
    return judge(trial, read_addresses(sampler.record), hardware[trial.new_primary])


def judge(trial: Trial, record: Record, hardware: str) -> Passage:
    """Say what became of the addresses."""
    # After some faults the role may go to and fro: then only the end is told.
    once = FAULTS[trial.fault].outcome is not Outcome.ANY_PRIMARY
    moved = once and trial.new_primary != trial.old_primary
    primaries = {trial.old_primary, trial.new_primary, *(n for _, n in record.claims)}
    begun = sorted({sample.from_ns for sample in record.samples})
    pauses = [(later - one) / _MS for one, later in pairwise(begun)]
    return Passage(
        trial=trial,
        samples=len(record.samples),
        every_ms=median(pauses),
        longest_ms=max(pauses),
        at_two=sum(len(s.at) > 1 for s in record.samples),
        astray=sum(not primaries.issuperset(s.at) for s in record.samples),
        moved=moved,
        overlap=moved and any(_overlaps(trial, record, each) for each in ADDRESSES),
        nowhere_ms=max(_longest_nowhere_ms(record, each) for each in ADDRESSES),
        reach_ms={
            each: _reach_ms(trial, record, hardware, each) if moved else None
            for each in ADDRESSES
        },
    )


def _overlaps(trial: Trial, record: Record, address: str) -> bool:
    """Tell whether the new node had the address before the old one was rid of it."""
    samples = [
        sample
        for sample in record.samples
        if sample.from_ns >= trial.fault_ns and sample.address == address
    ]
    lost_ns = max((s.from_ns for s in samples if trial.old_primary in s.at), default=0)
    taken_ns = min((s.from_ns for s in samples if trial.new_primary in s.at), default=0)
    return taken_ns < lost_ns


def _longest_nowhere_ms(record: Record, address: str) -> float:
    longest, since = 0, None
    for sample in record.samples:
        if sample.address != address:
            continue
        if sample.at:
            since = None
        else:
            since = sample.from_ns if since is None else since
            longest = max(longest, sample.to_ns - since)
    return longest / _MS


def _reach_ms(
    trial: Trial, record: Record, hardware: str, address: str
) -> float | None:
    promoted = [
        at for at, node in record.claims
        if node == trial.new_primary and at > trial.fault_ns
    ]  # fmt: skip
    reached = [
        r.at_ns
        for r in record.reached
        if r.at_ns > trial.fault_ns and (r.hardware, r.address) == (hardware, address)
    ]
    if not promoted or not reached:
        return None
    return (min(reached) - min(promoted)) / _MS


def _sampler(lab: Lab) -> Client:
    tag = lab.tag
    nodes = ",".join(f"{name}={NAME_PREFIX}{tag}-{name}" for name in lab.nodes)
    servers = ",".join(f"{n.name}={n.address}:{POSTGRES_PORT}" for n in lab.servers())
    place = Place(
        prefix=tuple(lab.network.command(WATCH)),
        password=lab.password,
        directory=lab.directory,
    )
    arguments = ["--nodes", nodes, "--servers", servers]
    arguments += ["--client", f"{NAME_PREFIX}{tag}-{CLIENT}"]
    arguments += ["--addresses", ",".join(ADDRESSES)]
    arguments += ["--port", str(PRIMARY_PORT), "--user", SAMPLER_USER]
    return Client(place, "address_sampler", arguments)


def _hardware(lab: Lab, name: str) -> str:
    """Return the hardware address of a node's interface."""
    with lab.network.inside(name), socket.socket() as any_socket:
        asked = struct.pack("256s", b"eth0")
        told = fcntl.ioctl(any_socket.fileno(), _SIOCGIFHWADDR, asked)
    return told[18:24].hex(":")


def _line(result: Passage | str) -> str:
    if isinstance(result, str):
        return f"failed: {result}"
    trial = result.trial
    return (
        f"{trial.fault} ({trial.profile}): {result.samples} samples, at two nodes in "
        f"{result.at_two}, nowhere for {result.nowhere_ms:.0f} ms, reached after "
        f"{', '.join(map(_ms, result.reach_ms.values()))}; {trial}"
    )


def _print_table(console: Console, passages: list[Passage]) -> None:
    table = Table(
        title="The virtual addresses, IPv4 and IPv6, sampled at all nodes every 10 ms",
        caption="reached: from the new primary's first answer to a client's first "
        f"connection through the address, goal {REACH_GOAL_MS} ms; below 0: the proxy "
        "took it while the promotion went on. Keepalived's own: 3 x 1 s + skew. every: "
        "median and longest pause between two samples",
    )
    for heading in ("fault", "profile"):
        table.add_column(heading, no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    groups: dict[tuple[str, str], list[Passage]] = {}
    for passage in passages:
        key = passage.trial.fault, passage.trial.profile
        groups.setdefault(key, []).append(passage)
    for (fault, profile), group in groups.items():
        every = max(p.every_ms for p in group), max(p.longest_ms for p in group)
        table.add_row(
            FAULTS[fault].title,
            profile,
            str(sum(p.samples for p in group)),
            f"{every[0]:.0f}, {every[1]:.0f} ms",
            str(sum(p.at_two for p in group)),
            str(sum(p.astray for p in group)),
            f"{max(p.nowhere_ms for p in group):.0f} ms",
            f"{sum(p.moved for p in group)} of {len(group)}",
            *(_worst(group, each) for each in ADDRESSES),
            str(sum(p.trial.lost for p in group)),
        )
    console.print(table)
    times = [ms for p in passages for ms in p.reach_ms.values() if ms is not None]
    if times:
        console.print(f"reached: median {median(times):.0f} ms, worst {max(times):.0f}")


def _worst(group: list[Passage], address: str) -> str:
    times = [ms for p in group if (ms := p.reach_ms[address]) is not None]
    return _ms(max(times)) if times else "-"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
