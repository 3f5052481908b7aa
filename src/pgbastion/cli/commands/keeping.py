"""Commands that keep a node from the primary role, and let it back."""

from typing import Annotated

import typer

from pgbastion.cli.options import (
    DEFAULT_CONFIG,
    WAIT_S,
    ConfigOption,
    UrlOption,
    WaitOption,
    YesOption,
)

commands = typer.Typer()

NodeArgument = Annotated[str, typer.Argument(help="The node.")]
DrainOption = Annotated[
    str | None,
    typer.Option("--drain", help="How long transactions that are open may go on."),
]


@commands.command()
def fence(
    node: NodeArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="A primary stops at once, whether a standby is ready or not.",
        ),
    ] = False,
    drain: DrainOption = None,
    yes: YesOption = False,
    wait_s: WaitOption = WAIT_S,
    url: UrlOption = None,
) -> None:
    """Keep a node from the primary role, the synchronous set and readers.

    A primary hands its role over first. It stays fenced, also over restarts, until
    unfence. Exit code 1 when it is refused, 4 when the role has not moved in time.
    """
    from pgbastion.cli.asking import confirm
    from pgbastion.cli.ordering import wait_moved
    from pgbastion.cli.target import writer

    if force:
        confirm(f"If {node} is the primary, writes stop at once: go on?", yes=yes)
    client = writer(config, url)
    body = {"node": node, "force": force, "drain": drain}
    client.order("/cluster/fence", {k: v for k, v in body.items() if v is not None})
    wait_moved(client, node, wait_s=wait_s)
    print(f"fenced {node}")


@commands.command()
def unfence(
    node: NodeArgument, config: ConfigOption = DEFAULT_CONFIG, url: UrlOption = None
) -> None:
    """Let a fenced node take part again. Exit code 1 when it is refused."""
    from pgbastion.cli.target import writer

    client = writer(config, url)
    told = client.order("/cluster/unfence", {"node": node})
    print(f"unfenced {node}" if told.get("changed") else f"{node} was not fenced")
