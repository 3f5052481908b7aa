"""Histories of WAL: what was really written, whatever ids it goes by."""

from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True, eq=False)
class Branch:
    """WAL written by one server between its promotion and the next one.

    Two branches may go by one timeline id; PostgreSQL cannot tell them apart, this
    can.
    """

    timeline: int
    parent: Self | None
    begin: int
    """The LSN at which it left its parent."""

    def path(self) -> list[tuple["Branch", int | None]]:
        """Return this and all older branches, each with the LSN at which it was left.

        None: it was not left.
        """
        found: list[tuple[Branch, int | None]] = []
        branch, left = self, None
        while True:
            found.append((branch, left))
            if branch.parent is None:
                return found
            branch, left = branch.parent, branch.begin

    def holds(self, other: "Branch", lsn: int, upto: int) -> bool:
        """Tell whether WAL of this branch up to ``upto`` has ``lsn`` of the other."""
        for branch, left in self.path():
            end = upto if left is None else min(left, upto)
            if branch is other:
                return lsn <= end
        return False

    def forks(self) -> tuple[tuple[int, int], ...]:
        """Return the ids of its ancestors and where each was left, oldest first."""
        older = [(b.timeline, left) for b, left in self.path() if left is not None]
        return tuple(reversed(older))

    def at(self, lsn: int) -> "Branch":
        """Return the branch on its path on which ``lsn`` was written."""
        branch = self
        while branch.parent is not None and lsn <= branch.begin:
            branch = branch.parent
        return branch


@dataclass(slots=True)
class Ledger:
    """Every commit that some client was told of."""

    newest: dict[Branch, int] = field(default_factory=dict)
    """The highest LSN of each branch that was acknowledged."""
    count: int = 0

    def add(self, branch: Branch, lsn: int) -> None:
        """Note an acknowledged commit."""
        self.count += 1
        self.newest[branch] = max(self.newest.get(branch, 0), lsn)

    def missing(self, branch: Branch, upto: int) -> str | None:
        """Say which acknowledged commit WAL up to there lacks; None: none."""
        for other, lsn in self.newest.items():
            if not branch.holds(other, lsn, upto):
                return (
                    f"{lsn} of timeline {other.timeline} is not in {upto} of "
                    f"{branch.timeline}"
                )
        return None
