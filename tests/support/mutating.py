"""Copies of the source with rules taken out, for daemons that have to be caught.

A mutation is a few exact replacements in a copy of the package. A text that is not
there exactly once fails loudly: a mutation that changes nothing would prove nothing.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """One text of one file of the package, and what stands there in the copy."""

    file: str
    old: str
    new: str

    def make_in(self, package: Path) -> None:
        """Replace the text.

        Raises:
            LookupError: It is not in the file, or more than once.
        """
        path = package / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise LookupError(f"{text.count(self.old)} times in {path}: {self.old!r}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


NO_WAIT: Final = (
    Replacement(
        file="control/lease.py",
        old="    return last_answer_ms + stretched_ms(policy)"
        " if last_answer_ms else 0\n",
        new="    return 0\n",
    ),
    Replacement(
        file="control/lease.py",
        old="    length = stretched_ms(policy)\n",
        new="    return 0\n    length = stretched_ms(policy)\n",
    ),
)
"""Nobody waits for the end of a lease."""

GUARD_OFF: Final = (
    Replacement(
        file="guard/latches.py",
        old="        return self.armed != 0 and not self.is_paused and"
        " self.acts_at_ns() <= now_ns\n",
        new="        return False\n",
    ),
)
"""The guard never acts at the lease's end."""


def ages_skipped(since: Path) -> tuple[Replacement, ...]:
    """A new leader takes its election for the end of all older leases.

    It does so from the moment at which the file ``since`` exists: the stage is set by
    leaders that are sound.
    """
    return (
        Replacement(
            file="control/lease.py",
            old="    length = stretched_ms(policy)\n",
            new=f"    if __import__('os').path.exists({str(since)!r}):\n"
            "        return raft.elected_ms\n"
            "    length = stretched_ms(policy)\n",
        ),
    )


def led_by(order: Path) -> tuple[Replacement, ...]:
    """No mutation: the leader hands over to the node that the file ``order`` names.

    It no longer does so by itself, and removes the order when it carries it out.
    """
    return (
        Replacement(
            file="control/cluster.py",
            old="    policy = longest_lease_policy(view.state)\n"
            "    if policy is None:\n"
            "        return Decision(Reason.NOT_FOUNDED)\n",
            new="    policy = longest_lease_policy(view.state)\n"
            "    if policy is None:\n"
            "        return Decision(Reason.NOT_FOUNDED)\n"
            f"    order = __import__('pathlib').Path({str(order)!r})\n"
            "    for member in view.state.members:\n"
            "        if order.exists() and member.name == order.read_text():\n"
            "            order.unlink()\n"
            "            from pgbastion.model.actions import MoveLeadership\n"
            "            move = MoveLeadership(member_id=member.member_id)\n"
            "            return Decision(Reason.MOVING_LEADERSHIP, (move,))\n",
        ),
        Replacement(
            file="control/membership.py",
            old='    """Primary and Raft leader sit on one node, as soon as the primary'
            ' accepts."""\n',
            new="    return None\n",
        ),
    )


def mutated_source(directory: Path, replacements: tuple[Replacement, ...]) -> Path:
    """Copy the package below ``directory`` with the replacements made.

    Returns:
        What PYTHONPATH has to name for a daemon to run from the copy.

    Raises:
        LookupError: A text to replace is not there exactly once.
    """
    copy = directory / "src"
    shutil.copytree(
        SOURCE / "pgbastion",
        copy / "pgbastion",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for replacement in replacements:
        replacement.make_in(copy / "pgbastion")
    return copy
