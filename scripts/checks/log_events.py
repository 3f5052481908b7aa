"""The catalogue of log events, made from the source that logs them."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).resolve().parent.parent.parent / "src" / "pgbastion"
# What serves tests, demonstrations and benches logs nothing that an operator sees.
LEFT_OUT: Final = ("testing", "bench", "demo")
LEVELS: Final = ("debug", "info", "warning", "error", "state")
# `state` logs a repeated event once; its first argument says what it is about.
STATE: Final = "state"
SAY: Final = "say"
"""A name for a level that is chosen at run time."""
EVENT: Final = re.compile(r"[a-z][a-z_]+")
HEAD: Final = """\
# Log events

Generated from the program. Logs go to standard error: text for a terminal, JSON
otherwise (`log.format`). INFO is a change of state, WARNING wants attention, ERROR is
an action that failed. A repeated state is logged once, when it begins. Events of the
consensus engine have the level that it gives them.

| event | level | fields | from |
|---|---|---|---|
"""


@dataclass(slots=True)
class Event:
    """What is known of an event: the places that log it may differ."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    parts: set[str] = field(default_factory=set)


def render_log_events() -> str:
    """Return the catalogue in Markdown."""
    events: defaultdict[str, Event] = defaultdict(Event)
    for path in sorted(SOURCE.rglob("*.py")):
        part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if part in LEFT_OUT:
            continue
        for level, name, call in _calls(ast.parse(path.read_text(encoding="utf-8"))):
            event = events[name]
            event.levels.add("once" if level == STATE else level)
            event.fields |= {k.arg for k in call.keywords if k.arg is not None}
            event.parts.add(part)
    return HEAD + "".join(
        f"| `{name}` | {', '.join(sorted(event.levels))} | "
        f"{', '.join(sorted(event.fields))} | {', '.join(sorted(event.parts))} |\n"
        for name, event in sorted(events.items())
    )


def _calls(tree: ast.AST) -> Iterator[tuple[str, str, ast.Call]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if _name(node.func) == SAY:
            level = "info or warning"
        elif isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            level = node.func.attr
            if _name(node.func.value) not in ("log", "_log"):
                continue
        else:
            continue
        at = 1 if level == STATE else 0
        if len(node.args) <= at:
            continue
        name = node.args[at]
        if isinstance(name, ast.Constant) and EVENT.fullmatch(str(name.value)):
            yield level, str(name.value), node


def _name(value: ast.expr) -> str:
    if isinstance(value, ast.Attribute):
        return value.attr
    return value.id if isinstance(value, ast.Name) else ""
