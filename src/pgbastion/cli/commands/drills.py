"""Commands that rehearse what will be needed one day."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from pgbastion.cli.options import (
    DEFAULT_CONFIG,
    WAIT_S,
    ConfigOption,
    DryRunOption,
    JsonOption,
    UrlOption,
    WaitOption,
    YesOption,
)

commands = typer.Typer()


class Rehearsal(StrEnum):
    """What is rehearsed."""

    SWITCHOVER = "switchover"
    FAILOVER = "failover"


@commands.command()
def drill(
    what: Annotated[
        Rehearsal,
        typer.Argument(
            help="switchover: planned; failover: the primary stops unannounced."
        ),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait_s: WaitOption = WAIT_S,
    url: UrlOption = None,
) -> None:
    """Change the primary for practice, and tell for how long writes stopped.

    The gap is what the nodes' proxies measured. The role stays where it went. Exit
    code 1 when it is refused or fails, 4 when it is not finished in time.
    """
    from pgbastion.cli import drilling
    from pgbastion.cli.confirming import confirm
    from pgbastion.cli.target import writer

    client = writer(config, url)
    if dry_run:
        told = drilling.foretell(client, what)
        print(json.dumps(told) if as_json else drilling.render_prospect(told))
        return
    confirm(f"Writes stop for a moment in this {what}: go on?", yes=yes)
    if what is Rehearsal.SWITCHOVER:
        change = drilling.rehearse_switchover(client, wait_s=wait_s)
    else:
        change = drilling.rehearse_failover(client, wait_s=wait_s)
    print(json.dumps(change) if as_json else drilling.render_drill(change))
