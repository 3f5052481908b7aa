"""Commands that show the state machine of a node, and check it."""

from enum import StrEnum
from typing import Annotated

import typer

from pgbastion.cli.exits import Exit

commands = typer.Typer()


class Shown(StrEnum):
    """What of it."""

    TABLE = "table"
    MERMAID = "mermaid"
    CHECK = "check"


@commands.command()
def fsm(
    what: Annotated[Shown, typer.Argument(help="table, mermaid, or check.")],
) -> None:
    """Print a node's state machine, or ask every state of it for its decision.

    Exit code 1 when a state has no exit.
    """
    from pgbastion.cli.progress import watched
    from pgbastion.control.document import mermaid, table
    from pgbastion.control.fsm_check import STATES, ask, sum_up

    if what is not Shown.CHECK:
        print(table() if what is Shown.TABLE else mermaid(), end="")
        return
    asked = watched(ask(), what="states asked", total=STATES, size=lambda a: a.states)
    found = sum_up(asked)
    for line in found.stuck[:20]:
        print(line)
    print(
        f"{found.decisions} decisions for {found.states} states,"
        f" {len(found.reasons)} rows of the table, {len(found.stuck)} without an exit"
    )
    if found.stuck:
        raise typer.Exit(Exit.NO)
