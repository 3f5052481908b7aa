"""What came of a layer."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

UNSTEADY_MAX: Final = 3
"""More failures than this are no accident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one layer."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    not_run: str | None = None
    """Why it did not run at all."""
    broke_promise: bool = False
    """A test found a lost commit or a second writer (tests/support/promises.py)."""
    details: tuple[str, ...] = ()
    """What failed, and what was skipped and why."""
    seconds: float = 0.0

    def with_failure(self, detail: str) -> "Outcome":
        """Return the outcome with one more failure."""
        return replace(
            self, failed=self.failed + 1, details=(*self.details, f"FAILED {detail}")
        )

    def may_be_unsteady(self) -> bool:
        """Whether to run once more what failed: few tests, and no broken promise."""
        return 0 < self.failed <= UNSTEADY_MAX and not self.broke_promise

    def looked_at_again(self, again: "Outcome") -> "Outcome":
        """Return the outcome after its failures were run once more.

        What passed then is reported as unsteady, with its name: it is for somebody to
        look at, but no reason to refuse a change.
        """
        if again.failed or again.not_run is not None or again.passed < self.failed:
            return self
        details = tuple(
            detail.replace("FAILED", "UNSTEADY (failed, then passed)", 1)
            for detail in self.details
        )
        return replace(
            self, passed=self.passed + self.failed, failed=0, details=details
        )

    def lasting(self, seconds: float) -> "Outcome":
        """Return the outcome with the time that the layer took."""
        return replace(self, seconds=seconds)

    def line(self) -> str:
        """Return the layer's line of the summary."""
        if self.not_run is not None:
            return f"{self.name:<12} not run: {self.not_run}"
        return (
            f"{self.name:<12} {self.seconds:6.1f} s  {self.passed} passed, "
            f"{self.failed} failed, {self.skipped} skipped"
        )


class Totals(NamedTuple):
    """Sums over layers; a layer that did not run counts as one skipped."""

    passed: int
    failed: int
    skipped: int

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> "Totals":
        """Return the sums over ``outcomes``."""
        everything = list(outcomes)
        return cls(
            passed=sum(o.passed for o in everything),
            failed=sum(o.failed for o in everything),
            skipped=sum(o.skipped + (o.not_run is not None) for o in everything),
        )

    def line(self) -> str:
        """Return the last line of the summary."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
