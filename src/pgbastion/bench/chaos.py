"""Hit a cluster with random faults for a while, and judge every append that was told.

Four clients append to lists through all proxies meanwhile. At the end every server has
to hold the same lists, and the history has to fit them: nothing lost, nothing doubled,
nothing reordered, no answer of another past. The seed repeats the order of the faults.
"""

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.appenders import Appenders, final_lists
from pgbastion.bench.lab.appends import Anomaly, judge
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.faults import FAULTS
from pgbastion.bench.lab.settings import Plan

CALM_S: Final = 1.0
WHOLE_S: Final = 120.0
MOST_S: Final = 12.0
"""How long a fault lasts at most."""
# These use up what the clients themselves need, or last a minute.
LEFT_OUT: Final = frozenset({"connections"})
# These hit other nodes as well: nothing else is done beside them.
ALONE: Final = frozenset(
    {
        "majority",
        "node-and-frozen",
        "node-and-postmaster",
        "replay-paused",
        *(name for name in FAULTS if name.startswith("cold-start")),
    }
)
COLD_STARTS: Final = frozenset(n for n in FAULTS if n.startswith("cold-start-"))
"""One order of coming back is drawn for all of them, or they would be most faults."""
TWO_AT_ONCE: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of a run."""

    seed: int
    faults: tuple[str, ...]
    acknowledged: int
    operations: int
    anomalies: tuple[Anomaly, ...]
    differing: tuple[str, ...]
    """Servers that do not hold what the primary holds."""

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not self.anomalies and not self.differing

    def __str__(self) -> str:
        """Return it in a few lines."""
        lines = [
            f"seed {self.seed}: {len(self.faults)} faults",
            f"{self.acknowledged} of {self.operations} appends acknowledged",
            f"{len(self.anomalies)} anomalies, {len(self.differing)} servers differ",
            f"faults: {', '.join(self.faults)}",
            *(str(anomaly) for anomaly in self.anomalies[:20]),
            *(f"{name} differs from the primary" for name in self.differing),
        ]
        return "\n".join(lines)


def run_chaos(lab: Lab, *, seed: int, seconds: float) -> Finding:
    """Hit a running cluster until the time is up, wait until it is whole, and judge.

    Raises:
        LabError: It did not become whole again in time.
    """
    random = Random(seed)  # noqa: S311 - the seed repeats it
    happened: list[str] = []
    ends = time.monotonic() + seconds
    lab.wait_steady()
    appenders = Appenders(lab, seed)
    with appenders:
        while time.monotonic() < ends:
            happened += _hit(lab, random)
            lab.wait_steady(WHOLE_S)
            _wait_for_progress(appenders)
            time.sleep(random.uniform(0, CALM_S))
    final, differing = _final(lab)
    return Finding(
        seed=seed,
        faults=tuple(happened),
        acknowledged=appenders.done(),
        operations=len(appenders.history),
        anomalies=tuple(judge(appenders.history, final)),
        differing=differing,
    )


def _hit(lab: Lab, random: Random) -> list[str]:
    """Inject one fault, now and then a second one beside it; return what happened."""
    happened = []
    with ExitStack() as stack:
        lasts_s = 0.0
        for name, victim in _draw(lab, random):
            lasts_s = max(lasts_s, FAULTS[name].lasts_s(lab.plan.profile) + 1)
            try:
                stack.enter_context(FAULTS[name].inject(lab, victim))
            except (CannotRun, LabError) as why:
                # What it needs is missing, or was just taken away by the other one.
                happened.append(f"{name}@{victim} (not run: {why})")
                continue
            happened.append(f"{name}@{victim}")
        time.sleep(random.uniform(0.2, min(lasts_s, MOST_S)))
    for node in lab.nodes.values():
        if node.daemon() is None:
            node.start()
    return happened


def _draw(lab: Lab, random: Random) -> list[tuple[str, str]]:
    """Return one fault and its victim, or two that go together."""
    names = sorted(set(FAULTS) - LEFT_OUT - COLD_STARTS)
    count = 2 if random.random() < TWO_AT_ONCE else 1
    victims = random.sample([node.name for node in lab.servers()], count)
    drawn = [random.choice(names) for _ in victims]
    if ALONE & set(drawn):
        del drawn[1:]
    if drawn[0] == "cold-start":
        drawn[0] = random.choice(sorted({"cold-start"} | COLD_STARTS))
    return list(zip(drawn, victims, strict=False))


def _wait_for_progress(appenders: Appenders) -> None:
    before = appenders.done()
    waits.wait_for(
        "another append", lambda: appenders.done() > before, waits.FIRST_ACKNOWLEDGED_S
    )


def _final(lab: Lab) -> tuple[dict[int, list[int]], tuple[str, ...]]:
    """Return the lists of the primary, and which servers come to hold others."""
    lab.wait_steady(WHOLE_S)
    final = final_lists(lab.node(lab.primary()))
    if final is None:
        raise LabError("the primary does not answer")
    differing = []
    for node in lab.servers():
        try:
            waits.wait_for(
                f"{node.name} to hold the same lists",
                lambda node=node: final_lists(node) == final,  # type: ignore[misc]
                waits.REPLAYED_S,
            )
        except LabError:
            differing.append(node.name)
    return final, tuple(differing)


def main(arguments: Sequence[str]) -> None:
    """Run as long as the arguments say; exit code 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="bench chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--profile", default="normal")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/chaos"))
    options = parser.parse_args(arguments)
    names = [f"n{n}" for n in range(1, options.nodes + 1)]
    plan = Plan(
        profile=options.profile,
        postgres_nodes=options.nodes,
        own_disk=frozenset(names),
        clock_off_s=dict.fromkeys(names, 0),
    )
    print(f"seed {options.seed}", flush=True)
    try:
        with Lab(plan, keep_logs_in=options.keep_logs) as lab:
            lab.start()
            finding = run_chaos(lab, seed=options.seed, seconds=options.minutes * 60)
            if not finding.clean:
                print(f"logs: {lab.keep_logs()}")
    except CannotRun as why:
        sys.exit(f"not run: {why}")
    print(finding)
    if not finding.clean:
        sys.exit(1)
