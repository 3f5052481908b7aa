"""The reference of the commands, generated from the commands themselves."""

import inspect
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

import typer.main
from typer.core import TyperArgument, TyperGroup, TyperOption

from pgbastion.cli.app import app
from pgbastion.cli.exits import Exit

EXIT_MEANINGS: Final = {
    Exit.OK: "done, and the answer is yes",
    Exit.NO: "the answer is no (no primary, rows lost), or an action failed",
    Exit.USAGE: "the command line is wrong, or a question was not answered with yes",
    Exit.UNREACHABLE: "no node answers",
    Exit.UNFINISHED: "begun, and the outcome is not known yet: look before repeating",
    Exit.UNAVAILABLE: "this user or machine lacks what is needed (demo, lab)",
    Exit.REMOVED: "this node was removed from its cluster (start)",
    Exit.CONFIG: "the configuration cannot be used",
}


def render_commands() -> str:
    """Return the reference of all commands and exit codes, in Markdown."""
    lines = [
        "# Commands",
        "",
        "Generated from the program. `--help` says the same.",
        "",
    ]
    group = typer.main.get_group(app)
    proving = [_row(o) for o in group.params if isinstance(o, TyperOption)]
    lines += [
        "## Before every command",
        "",
        "`pgbastion --cert FILE --key FILE status`, for instance.",
        "",
        *["| option | default | meaning |", "|---|---|---|", *proving, ""],
    ]
    for name, command in _flat(group.commands):
        arguments = [p for p in command.params if isinstance(p, TyperArgument)]
        taken = "".join(f" {(a.name or '').upper()}" for a in arguments)
        lines += [
            f"## pgbastion {name}{taken}",
            "",
            inspect.cleandoc(command.help or ""),
            "",
        ]
        rows = [_row(o) for o in command.params if isinstance(o, TyperOption)]
        if rows:
            lines += ["| option | default | meaning |", "|---|---|---|", *rows, ""]
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code.value} | {EXIT_MEANINGS[code]} |" for code in Exit]
    return "\n".join([*lines, ""])


def _flat(commands: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with its whole name, those of a group after it."""
    for name, command in sorted(commands.items()):
        yield above + name, command
        if isinstance(command, TyperGroup):
            yield from _flat(command.commands, f"{above}{name} ")


def _row(option: TyperOption) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if isinstance(option.default, Enum):
        names += " " + " \\| ".join(_plain(choice) for choice in type(option.default))
    default = "" if option.default in (None, False) else f"`{_plain(option.default)}`"
    variable = f" Environment: {option.envvar}." if option.envvar else ""
    return f"| {names} | {default} | {option.help or ''}{variable} |"


def _plain(value: object) -> str:
    return str(getattr(value, "value", value))
