"""Commands that show what the cluster is and does."""

import json
from typing import Annotated

import typer

from pgbastion.cli.exits import Exit
from pgbastion.cli.options import (
    DEFAULT_CONFIG,
    WAIT_S,
    ConfigOption,
    JsonOption,
    UrlOption,
    WaitOption,
)

commands = typer.Typer()


@commands.command()
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who is what.

    Exit codes: 0 when there is a primary, 1 when there is none, 3 when no node
    answers, 78 when the configuration cannot be used.
    """
    from pgbastion.cli.status import ask, render_status
    from pgbastion.cli.target import reader

    answer = ask(reader(config, url))
    if as_json:
        print(json.dumps({"health": answer.health, "cluster": answer.cluster}))
    else:
        print(render_status(answer))
    if not answer.has_primary:
        raise typer.Exit(Exit.NO)


@commands.command("list")
def list_members(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the members: role, state, address, timeline and lag of each."""
    from pgbastion.cli.status import render_members
    from pgbastion.cli.target import reader

    cluster = reader(config, url).get("/cluster")
    print(json.dumps(cluster["members"]) if as_json else render_members(cluster))


@commands.command()
def top(config: ConfigOption = DEFAULT_CONFIG, url: UrlOption = None) -> None:
    """Show the cluster on a live screen; e: explanation, r: look now, q: quit."""
    import sys

    from pgbastion.cli.problems import CommandError
    from pgbastion.cli.target import reader

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError("top needs a terminal; pgbastion explain says it once")
    from pgbastion.cli.top import Top

    Top(reader(config, url)).run()


@commands.command()
def explain(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is going on, why, what would happen if a node died, and what to do.

    The first line has the state and the next step. Works on what one node knows when
    there is no majority, and on this machine alone when no node answers.

    Exit codes: 0 when there is a primary that takes clients, 1 when there is none, 3
    when no node answers, 78 when the configuration cannot be used.
    """
    from pgbastion.cli.explaining import ask_cluster, look_here
    from pgbastion.cli.problems import UnreachableError

    try:
        answer = ask_cluster(config, url)
    except UnreachableError as exc:
        lines = look_here(config, url, str(exc))
        print(json.dumps({"lines": lines}) if as_json else "\n".join(lines))
        raise typer.Exit(Exit.UNREACHABLE) from exc
    print(json.dumps(answer) if as_json else "\n".join(answer["lines"]))
    if not answer["serving"]:
        raise typer.Exit(Exit.NO)


@commands.command()
def history(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every change of the primary: when, why, for how long writes stopped.

    Exit code 3 when no node answers.
    """
    from pgbastion.cli.history import render_history
    from pgbastion.cli.target import reader

    changes = reader(config, url).get("/cluster/history")["changes"]
    print(json.dumps(changes) if as_json else render_history(changes))


@commands.command()
def operations(
    operation_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Follow this one to its outcome.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    wait_s: WaitOption = WAIT_S,
    as_json: JsonOption = False,
) -> None:
    """List what was ordered and how far it has come, or follow one to its outcome.

    With an ID, exit code 0 when it was done, 1 when something else came of it, 4 when
    it is not finished in time.
    """
    from pgbastion.cli.operations import render_operations
    from pgbastion.cli.ordering import DONE, wait_settled
    from pgbastion.cli.target import reader

    client = reader(config, url)
    if operation_id is None:
        found = client.get("/operations")["operations"]
        print(json.dumps(found) if as_json else render_operations(found))
        return
    client.get(f"/operations/{operation_id}")
    answer = wait_settled(client, operation_id, what="operation", wait_s=wait_s)
    print(json.dumps(answer) if as_json else render_operations([answer]))
    if answer["outcome"] != DONE:
        raise typer.Exit(Exit.NO)
