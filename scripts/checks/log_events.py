"""The catalogue of log events, made from the source that logs them.

An event whose name cannot be read from the source is refused, so that none is missing.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from pgbastion.node.front import PROXY_STATES, PROXY_WARNINGS

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SOURCE: Final = ROOT / "src" / "pgbastion"
ENGINE: Final = ROOT / "native" / "engine" / "src"
# What serves tests, demonstrations and benches logs nothing that an operator sees.
LEFT_OUT: Final = ("testing", "bench", "demo")
LEVELS: Final = ("debug", "info", "warning", "error", "state")
# `state` logs a repeated event once; its first argument says what it is about.
STATE: Final = "state"
LOGGERS: Final = ("log", "_log")
# Functions that are given the name of an event, and the level at which they log it.
THROUGH: Final = {"say": "info or warning", "_say_certificate": "info"}
# The proxy tells its events to the node, which chooses the level by their names.
TOLD: Final = ("on_event", "_on_event")
CHOOSING: Final = "_log_of_proxy"
# What `state` takes besides fields.
NO_FIELDS: Final = ("level",)
EVENT: Final = re.compile(r"[a-z]+(_[a-z]+)+|[a-z]{4,}")
HEAD: Final = """\
# Log events

Generated from the program. Logs go to standard error: text for a terminal, JSON
otherwise (`log.format`). INFO is a change of state, WARNING wants attention, ERROR is
an action that failed. A repeated state is logged once, when it begins. Those of the
consensus engine are from `engine`.

| event | level | fields | from |
|---|---|---|---|
"""

# In the engine: an event stands behind its level, its fields in the same function or in
# the one of the same file that is given both.
_FUNCTION: Final = re.compile(r"^ *(?:pub(?:\(\w+\))? )?fn (\w+)", re.MULTILINE)
_LEVEL: Final = re.compile(r"\bLevel::(Info|Warning|Error)\b")
_NAMED: Final = re.compile(
    r"\bLevel::(Info|Warning|Error),\s*(?:event: )?\"([a-z_]+)\"", re.MULTILINE
)
_GIVEN_TO: Final = re.compile(r"self\.(\w+)\(\s*Level::")
_FIELD: Final = re.compile(r"\(\"([a-z_]+)\", ")


@dataclass(slots=True)
class Event:
    """What is known of an event: the places that log it may differ."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    parts: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Line:
    """One place that logs an event."""

    event: str
    level: str
    fields: Iterable[str]


class UnreadableError(Exception):
    """The source logs an event whose name it does not say."""


def render_log_events() -> str:
    """Return the catalogue in Markdown.

    Raises:
        UnreadableError: An event would be missing.
    """
    events: defaultdict[str, Event] = defaultdict(Event)
    for part, line in (*_of_the_program(), *_of_the_engine()):
        event = events[line.event]
        event.levels.add("once" if line.level == STATE else line.level)
        event.fields.update(line.fields)
        event.parts.add(part)
    return HEAD + "".join(
        f"| `{name}` | {', '.join(sorted(event.levels))} | "
        f"{', '.join(sorted(event.fields))} | {', '.join(sorted(event.parts))} |\n"
        for name, event in sorted(events.items())
    )


# Python


def _of_the_program() -> Iterator[tuple[str, Line]]:
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE)
        part = place.parts[0].removesuffix(".py")
        if part in LEFT_OUT:
            continue
        try:
            for line in lines_of_python(path.read_text(encoding="utf-8")):
                yield part, line
        except UnreadableError:
            raise UnreadableError(f"{place}: logs what has no name") from None


def lines_of_python(source: str) -> Iterator[Line]:
    """Yield every place of a module that logs an event, or tells of one.

    Raises:
        UnreadableError: The name of one is chosen elsewhere.
    """
    tree = ast.parse(source)
    through = {
        call
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and function.name in (*THROUGH, CHOOSING)
        for call in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node not in through:
            yield from _lines(node)


def _lines(call: ast.Call) -> Iterator[Line]:
    called, at = _name(call.func), 0
    own = isinstance(call.func, ast.Attribute) and called in LEVELS
    if own and _name(call.func.value) in LOGGERS:  # type: ignore[attr-defined]
        level, at = called, 1 if called == STATE else 0
    elif called in THROUGH:
        level = THROUGH[called]
    elif called in TOLD and len(call.args) > 1:
        level = ""
    else:
        return
    if len(call.args) <= at:
        return
    names = list(_constants(call.args[at]))
    if not names and called not in THROUGH:
        raise UnreadableError
    fields = [k.arg for k in call.keywords if k.arg and k.arg not in NO_FIELDS]
    for given in call.args[at + 1 :]:
        if isinstance(given, ast.Dict):
            fields += [str(k.value) for k in given.keys if isinstance(k, ast.Constant)]
    for name in names:
        yield Line(name, level or _level_of_proxy(name), fields)


def _level_of_proxy(event: str) -> str:
    if event in PROXY_WARNINGS:
        return "warning"
    return "info" if event in PROXY_STATES else "debug"


def _constants(value: ast.expr) -> Iterator[str]:
    """Yield the names that an argument may be."""
    if isinstance(value, ast.IfExp):
        yield from (*_constants(value.body), *_constants(value.orelse))
    elif isinstance(value, ast.Constant) and EVENT.fullmatch(str(value.value)):
        yield str(value.value)


def _name(value: ast.expr) -> str:
    if isinstance(value, ast.Attribute):
        return value.attr
    return value.id if isinstance(value, ast.Name) else ""


# Rust


def _of_the_engine() -> Iterator[tuple[str, Line]]:
    for path in sorted(ENGINE.rglob("*.rs")):
        # It defines what a level is.
        if path.name == "event.rs":
            continue
        try:
            for line in lines_of_rust(path.read_text(encoding="utf-8")):
                yield "engine", line
        except UnreadableError:
            place = path.relative_to(ROOT)
            raise UnreadableError(f"{place}: logs what has no name") from None


def lines_of_rust(source: str) -> list[Line]:
    """Return every place of a file that logs an event.

    Raises:
        UnreadableError: A level stands without the name of an event.
    """
    begins = [m.start() for m in _FUNCTION.finditer(source)]
    bodies = [source[b:e] for b, e in pairwise([*begins, len(source)])]
    named = {m[1]: body for body in bodies if (m := _FUNCTION.match(body))}
    lines = []
    for body in bodies:
        given_to = (named.get(name, "") for name in _GIVEN_TO.findall(body))
        fields = {f for text in (body, *given_to) for f in _FIELD.findall(text)}
        for level, event in _NAMED.findall(body):
            lines.append(Line(event, level.lower(), sorted(fields)))
    if len(lines) != len(_LEVEL.findall(source)):
        raise UnreadableError
    return lines
