"""What the proxy has to reach beside HAProxy, and whether it did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MET: Final = "met"
MISSED: Final = "missed"
NOT_RUN: Final = "not run"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on the ratio of two ways' medians.

    Args:
        way: Whose value it is about.
        beside: Whose value it is divided by.
        factor: The bound; with ``at_most`` an upper one, otherwise a lower one.
        added: Compare what each adds to the direct way.
    """

    way: str
    beside: str
    factor: float
    at_most: bool = False
    added: bool = False

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        adds = "adds " if self.added else ""
        return f"{self.way} {adds}{sign} {self.factor:.2f} x {self.beside}"

    def judge(self, medians: Mapping[str, float]) -> str:
        """Say whether ``medians``, by way, reach it."""
        needed = {self.way, self.beside, *(("direct",) if self.added else ())}
        if not needed <= medians.keys():
            return NOT_RUN
        base = medians["direct"] if self.added else 0.0
        own, bound = medians[self.way] - base, medians[self.beside] - base
        if self.at_most:
            return MET if own <= self.factor * bound else MISSED
        return MET if own >= self.factor * bound else MISSED
