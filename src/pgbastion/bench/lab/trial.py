"""One fault on one cluster under load, with everything that was seen."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.checker import (
    Gap,
    ServerCheck,
    full_throughput_ms,
    longest_gap,
)
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.faults import Fault, Outcome, Victim
from pgbastion.bench.lab.load import Load, idle_sessions
from pgbastion.bench.lab.processes import Process
from pgbastion.bench.lab.workload import SamplerReport, Writers
from pgbastion.clock import boottime_ns

_USUAL: Final = Load()
_SERVER_STARTED_AGAIN: Final = frozenset({Outcome.NEW_SERVER, Outcome.RESTARTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of a fault.

    ``rejoin_s`` is the time from the fault's end until the node that it hit streamed
    as a standby, or served as the same primary with all its standbys. ``same_server``
    tells that the primary's postmaster is the one that it was before.
    """

    fault: str
    profile: str
    gap: Gap
    full_ms: int | None
    """From the gap's begin until writes are as many as before; None: not seen."""
    fault_ns: int
    acknowledged: int
    old_primary: str
    new_primary: str
    epochs: tuple[int, int]
    same_server: bool
    rejoin_s: float
    checks: Mapping[str, ServerCheck]
    sampled: SamplerReport
    errors: Mapping[str, int]

    @property
    def lost(self) -> int:
        """How many acknowledged rows are missing somewhere."""
        return len({row for check in self.checks.values() for row in check.lost})

    @property
    def role_changed(self) -> bool:
        """Whether a new epoch was assigned."""
        return self.epochs[0] != self.epochs[1]

    def __str__(self) -> str:
        """Return what came of it in one line."""
        return (
            f"gap {self.gap.ms} ms, full throughput after {self.full_ms} ms,"
            f" {self.lost} lost of {self.acknowledged} acknowledged,"
            f" {self.old_primary} -> {self.new_primary},"
            f" epoch {self.epochs[0]} -> {self.epochs[1]},"
            f" whole after {self.rejoin_s:.1f} s, errors {dict(self.errors)}"
        )


def run_trial(lab: Lab, fault: Fault, load: Load = _USUAL) -> Trial:
    """Hit the cluster with ``fault`` under load, wait until it is whole, and check.

    Raises:
        LabError: The cluster missed a bound of `waits`.
        CannotRun: The fault needs what this machine or this laboratory lacks.
    """
    if fault.cuts and not lab.plan.namespaces:
        raise CannotRun(f"{fault.name}: needs network namespaces")
    lab.wait_steady()
    primary = lab.primary()
    victim = primary if fault.victim is Victim.PRIMARY else _synchronous(lab, primary)
    epoch = lab.epoch()
    before = lab.node(primary).postmaster()
    sampler = lab.sampler()
    via = [name for name in lab.nodes if name != victim]
    writers = lab.writers(via, count=load.writers)
    with sampler, idle_sessions(lab, load.idle_sessions, via), writers:
        writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
        time.sleep(load.lead_s)
        fault_ns = boottime_ns()
        with fault.inject(lab, victim):
            _wait_out(lab, fault, victim, before, writers)
        rejoin_s = _wait_whole(lab, fault, victim)
        writers.wait_for_write(boottime_ns(), waits.WRITES_AGAIN_S[lab.plan.profile])
        time.sleep(load.lead_s)
        end_ns = boottime_ns()
    now = lab.primary()
    return Trial(
        fault=fault.name,
        profile=lab.plan.profile,
        gap=longest_gap(writers.acknowledged(), fault_ns, end_ns),
        full_ms=full_throughput_ms(writers.acknowledged(), fault_ns, end_ns),
        fault_ns=fault_ns,
        acknowledged=len(writers.acknowledged()),
        old_primary=primary,
        new_primary=now,
        epochs=(epoch, lab.epoch()),
        same_server=lab.node(now).postmaster() == before,
        rejoin_s=rejoin_s,
        checks=lab.check(writers),
        sampled=sampler.report(),
        errors=writers.summary["errors"],
    )


def _wait_out(
    lab: Lab, fault: Fault, victim: str, before: Process | None, writers: Writers
) -> None:
    """Wait as long as the fault lasts, and until writes are accepted again."""
    began = time.monotonic()
    bound_s = waits.WRITES_AGAIN_S[lab.plan.profile] * fault.patience
    survivors = [node for node in lab.nodes.values() if node.name != victim]

    def succeeded() -> bool:
        primary = lab.reported_primary(survivors)
        if primary == victim and fault.outcome in _SERVER_STARTED_AGAIN:
            return lab.node(victim).postmaster() not in (None, before)
        return primary not in (None, victim)

    if fault.outcome is Outcome.ANY_PRIMARY:
        # There may be no majority meanwhile: what counts is what comes afterwards.
        time.sleep(fault.lasts_s(lab.plan.profile))
        return
    if fault.outcome is not Outcome.SAME_PRIMARY:
        waits.wait_for(f"a successor of {victim}", succeeded, bound_s)
    # Also where the role stays: writes have to go on before the fault is over.
    writers.wait_for_write(boottime_ns(), bound_s)
    left_s = fault.lasts_s(lab.plan.profile) - (time.monotonic() - began)
    time.sleep(max(left_s, 0.0))


def _wait_whole(lab: Lab, fault: Fault, victim: str) -> float:
    """Wait until the cluster is complete again; return how long that took, seconds."""
    began = time.monotonic()
    if fault.outcome is Outcome.ANY_PRIMARY:
        # A lease that was not renewed meanwhile may still end after the fault.
        time.sleep(waits.LEASE_S[lab.plan.profile])
        lab.wait_steady(waits.REJOINED_S + waits.STEADY_S)
        return time.monotonic() - began
    hit_standby = fault.victim is Victim.STANDBY
    # The victim itself may not know yet: its view is as old as the fault.
    others = [node for node in lab.nodes.values() if node.name != victim]
    if hit_standby or lab.reported_primary(others) != victim:
        lab.wait_standby(victim)
    lab.wait_steady()
    return time.monotonic() - began


def _synchronous(lab: Lab, primary: str) -> str:
    """Return a standby that commits wait for, once all standbys are such."""

    def first_of_all() -> str | None:
        standbys = lab.streaming(primary)
        complete = lab.synchronous_count(primary) == len(standbys)
        return standbys[0] if standbys and complete else None

    return waits.wait_for(
        "every standby to be synchronous", first_of_all, waits.STEADY_S
    )
