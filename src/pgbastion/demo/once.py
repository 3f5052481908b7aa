"""One fault under a write load: what it cost, and whether anything was lost."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.checker import ServerCheck, compare, describe, longest_gap
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.workload import Writers
from pgbastion.clock import boottime_ns
from pgbastion.demo.faults import FAULTS, Fault
from pgbastion.demo.stage import READY_S, Picture, Stage

# Load before the fault and after the last event, so that neither end hides a gap.
LEAD_IN_S: Final = 3.0
LEAD_OUT_S: Final = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is printed as the last line; the names are the contract's."""

    gap_ms: int
    lost_rows: int
    acknowledged: int
    old_primary: str
    new_primary: str
    profile: str
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A result, and what is wrong beyond it; nothing wrong is an empty text."""

    result: Result
    wrong: str

    @property
    def sound(self) -> bool:
        """Whether each acknowledged row is on every server, once."""
        return self.result.lost_rows == 0 and not self.wrong

    def as_line(self) -> dict[str, object]:
        """Return the members of the JSON line."""
        return asdict(self.result)


def run_once(stage: Stage, fault_name: str, say: Say) -> Outcome:
    """Start the cluster, write, apply the fault, wait until it is whole, and count.

    Raises:
        LabError: The cluster missed a bound.
    """
    fault = FAULTS[fault_name]
    began = time.monotonic()
    stage.start()
    before = stage.wait_complete(READY_S)
    old = str(before.primary)
    say(f"{old} is primary, both standbys confirm commits, "
        f"{time.monotonic() - began:.1f} s after the start")  # fmt: skip
    stage.make_tables(old)
    place, proxies = stage.write_load
    with Writers(place, proxies) as writers:
        writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
        time.sleep(LEAD_IN_S)
        victim = old if fault.hits_primary else before.synchronous[0]
        fault_ns = boottime_ns()
        say(f"{fault_name}: {victim}")
        with fault.inject(stage, victim):
            _wait_for_writes(stage, fault, before, writers)
            say("writes go on")
        after = _wait_whole(stage)
        writers.wait_for_write(boottime_ns(), waits.WRITES_AGAIN_S[stage.profile])
        time.sleep(LEAD_OUT_S)
        end_ns = boottime_ns()
    new = str(after.primary)
    say(f"{new} is primary, both standbys stream and confirm again")
    checks = _check(stage, new, writers)
    acknowledged = writers.acknowledged()
    result = Result(
        gap_ms=longest_gap(acknowledged, fault_ns, end_ns).ms,
        lost_rows=len({row for check in checks.values() for row in check.lost}),
        acknowledged=len(acknowledged),
        old_primary=old,
        new_primary=new,
        profile=stage.profile,
        fault=fault_name,
    )
    return Outcome(result=result, wrong=describe(checks))


def _wait_for_writes(
    stage: Stage, fault: Fault, before: Picture, writers: Writers
) -> None:
    bound_s = waits.WRITES_AGAIN_S[stage.profile]
    if fault.hits_primary:

        def replaced() -> bool:
            seen = stage.look()
            return seen.primary is not None and seen.epoch > before.epoch

        waits.wait_for("a primary in a new epoch", replaced, bound_s)
    else:
        # Until the set was changed, commits may wait for the one that is lost.
        time.sleep(waits.LEASE_S[stage.profile])
    waits.wait_for(
        "an acknowledged write",
        _writes_after(writers, boottime_ns()),
        bound_s,
    )


def _writes_after(writers: Writers, instant_ns: int) -> Callable[[], bool]:
    return lambda: writers.written_after(instant_ns)


def _wait_whole(stage: Stage) -> Picture:
    """Wait until there is a primary that both others confirm commits of."""

    def whole() -> Picture | None:
        seen = stage.look()
        return seen if seen.complete else None

    bound_s = waits.REJOINED_S + waits.LEASE_S[stage.profile]
    return waits.wait_for("both standbys to stream again", whole, bound_s)


def _check(stage: Stage, primary: str, writers: Writers) -> dict[str, ServerCheck]:
    """Compare what was acknowledged with the rows of every server."""
    rows = stage.nodes[primary].query("SELECT pg_current_wal_lsn()::text")
    if not rows:
        raise LabError("the primary does not answer")
    acknowledged = [row.id for row in writers.acknowledged()]
    checks = {}
    for node in stage.nodes.values():
        _wait_replayed(stage, node.name, str(rows[0][0]))
        stored = node.query("SELECT id FROM lab_writes")
        if stored is None:
            raise LabError(f"{node.name} does not answer")
        ids = [int(number) for (number,) in stored]
        checks[node.name] = compare(node.name, ids, acknowledged, writers.attempted())
    return checks


def _wait_replayed(stage: Stage, name: str, lsn: str) -> None:
    def replayed() -> bool:
        rows = stage.nodes[name].query(
            "SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= %s::pg_lsn",
            lsn,
        )
        return bool(rows and rows[0][0])

    waits.wait_for(f"{name} to replay {lsn}", replayed, waits.REPLAYED_S)
