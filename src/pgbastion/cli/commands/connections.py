"""Commands about the clients of a node's proxy."""

import json
from typing import Annotated

import typer

from pgbastion.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    DryRunOption,
    JsonOption,
    UrlOption,
)

commands = typer.Typer()
connections = typer.Typer(
    invoke_without_command=True,
    help="Show the clients of a node's proxy, or take the node out of service for "
    "them.",
)
commands.add_typer(connections, name="connections")


@connections.callback()
def show(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who is connected through this node's proxy, and to which server."""
    if context.invoked_subcommand is not None:
        return
    from pgbastion.cli.connections import render_connections
    from pgbastion.cli.target import reader

    answer = reader(config, url).get("/connections")
    print(json.dumps(answer) if as_json else render_connections(answer))


@connections.command()
def drain(
    config: ConfigOption = DEFAULT_CONFIG,
    timeout: Annotated[
        str | None,
        typer.Option(help="How long sessions may go on. Default: drain_timeout."),
    ] = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Let no new clients in, here and at this node's standby, and end those there are.

    The role of a primary stays: move it away first, with switchover.
    """
    from pgbastion.cli.target import writer

    body = {} if timeout is None else {"timeout": timeout}
    answer = writer(config, url).order("/connections/drain", body, dry_run=dry_run)
    if as_json:
        print(json.dumps(answer))
        return
    word = "would drain" if dry_run else "draining"
    print(
        f"{word}: {answer['sessions']} connections, {answer['timeout_ms']} ms at most"
    )


@connections.command()
def undrain(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Let clients in again."""
    from pgbastion.cli.target import writer

    answer = writer(config, url).order("/connections/undrain", {}, dry_run=dry_run)
    plain = f"clients {'would be' if dry_run else 'are'} let in again"
    print(json.dumps(answer) if as_json else plain)
