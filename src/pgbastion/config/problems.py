"""What is wrong with a configuration, where, and what to do about it. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

# Finds the line of a key such as "raft.data_dir" (or of the nearest key above it).
LineOf = Callable[[str], int | None]


class Severity(StrEnum):
    """How much it matters."""

    ERROR = "error"
    """The daemon does not start with it."""
    WARNING = "warning"
    """It works, but not as one would wish."""
    NOTE = "note"
    """What was understood, where the file leaves something open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that somebody should know about a configuration."""

    key: str
    """Dotted path of the key, such as ``raft.data_dir``; empty for the whole file."""
    problem: str
    """What is wrong, naming the thing."""
    remedy: str
    """What to do about it."""
    severity: Severity = Severity.ERROR


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Return those with which the daemon does not start."""
    return [p for p in problems if p.severity is Severity.ERROR]


def render_problems(problems: Sequence[Problem], source: Path, line_of: LineOf) -> str:
    """Return the problems as text, errors first, each with its place and remedy."""
    order = list(Severity)
    ranked = sorted(problems, key=lambda p: order.index(p.severity))
    return "\n".join(
        _render(problem, source, line_of(problem.key)) for problem in ranked
    )


def _render(problem: Problem, source: Path, line: int | None) -> str:
    place = f"{source}:{line}" if line else f"{source}"
    key = f"{problem.key}: " if problem.key else ""
    return (
        f"{place}: {problem.severity}: {key}{problem.problem}\n"
        f"    remedy: {problem.remedy}"
    )
