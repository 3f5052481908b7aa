"""What an idle node costs: processor time and memory of daemon and guard."""

import time
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import Plan

CPU_GOAL_PERCENT: Final = 2.0
PSS_GOAL_MB: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """The cost of one process of one node."""

    node: str
    process: str
    cpu_percent: float
    pss_mb: float


def measure_idle(settle_s: float, measure_s: float) -> list[Idle]:
    """Let three nodes idle for ``settle_s``, then measure over ``measure_s``.

    Raises:
        LabError: The cluster was not ready, or a process ended meanwhile.
    """
    with Lab(Plan()) as lab:
        lab.start()
        time.sleep(settle_s)
        watched = {
            (node.name, name): process
            for node in lab.nodes.values()
            for name, process in _processes(node).items()
        }
        before = {key: processes.cpu_seconds(each) for key, each in watched.items()}
        began = time.monotonic()
        time.sleep(measure_s)
        took_s = time.monotonic() - began
        return [
            Idle(
                node=key[0],
                process=key[1],
                cpu_percent=100 * (processes.cpu_seconds(each) - before[key]) / took_s,
                pss_mb=processes.pss_bytes(each) / 1e6,
            )
            for key, each in watched.items()
        ]


def print_idle(console: Console, found: list[Idle]) -> None:
    """Print the costs, and their sums for each node beside the goals."""
    table = Table(title="An idle node (PostgreSQL not counted)")
    for heading in ("node", "process", "CPU, % of a core", "PSS, MB"):
        table.add_column(heading)
    for each in found:
        table.add_row(
            each.node, each.process, f"{each.cpu_percent:.2f}", f"{each.pss_mb:.1f}"
        )
    for node in sorted({each.node for each in found}):
        own = [each for each in found if each.node == node]
        table.add_row(
            node,
            "together",
            f"{sum(e.cpu_percent for e in own):.2f} (goal {CPU_GOAL_PERCENT:g})",
            f"{sum(e.pss_mb for e in own):.1f} (goal {PSS_GOAL_MB:g})",
        )
    console.print(table)


def _processes(node: Node) -> dict[str, processes.Process]:
    daemon, guard = node.daemon(), node.guard()
    if daemon is None or guard is None:
        raise LabError(f"{node.name} has no daemon or no guard")
    return {"daemon": daemon, "guard": guard}
