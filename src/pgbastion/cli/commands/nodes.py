"""Commands about one node: kept from the primary role, restarted, copied anew."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

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
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait_s: WaitOption = WAIT_S,
    url: UrlOption = None,
) -> None:
    """Keep a node from the primary role, the synchronous set and readers.

    A primary hands its role over first. It stays fenced, also over restarts, until
    unfence. Exit code 1 when it is refused, 4 when the role has not moved in time.
    """
    from pgbastion.cli.confirming import confirm
    from pgbastion.cli.ordering import wait_moved
    from pgbastion.cli.target import writer

    if force and not dry_run:
        confirm(f"If {node} is the primary, writes stop at once: go on?", yes=yes)
    client = writer(config, url)
    given = {"node": node, "force": force, "drain": drain}
    body = {k: v for k, v in given.items() if v is not None}
    if dry_run:
        answer = client.order("/cluster/fence", body, dry_run=True)
        would = "would be fenced" if answer.get("changed") else "is fenced already"
        print(json.dumps(answer) if as_json else f"{node} {would}")
        return
    answer = client.order("/cluster/fence", body)
    wait_moved(client, node, wait_s=wait_s)
    print(json.dumps(answer) if as_json else f"fenced {node}")


@commands.command()
def unfence(
    node: NodeArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Let a fenced node take part again. Exit code 1 when it is refused."""
    from pgbastion.cli.target import writer

    client = writer(config, url)
    answer = client.order("/cluster/unfence", {"node": node}, dry_run=dry_run)
    done = f"{node} would be unfenced" if dry_run else f"unfenced {node}"
    plain = done if answer.get("changed") else f"{node} was not fenced"
    print(json.dumps(answer) if as_json else plain)


@commands.command()
def restart(
    node: Annotated[
        str | None, typer.Argument(help="The node; default: every one, in turn.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    pending: Annotated[
        bool,
        typer.Option("--pending", help="Only where a setting waits for a restart."),
    ] = False,
    drain: DrainOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait_s: WaitOption = WAIT_S,
    url: UrlOption = None,
) -> None:
    """Restart PostgreSQL: standbys first, the primary in place while clients wait.

    With --json a line for each node. Exit code 1 when one is refused or fails, 4 when
    one is not finished in time.
    """
    from pgbastion.cli.confirming import confirm
    from pgbastion.cli.ordering import carry_out, to_restart
    from pgbastion.cli.target import writer

    client = writer(config, url)
    nodes = [node] if node is not None else to_restart(client, pending=pending)
    if not nodes:
        if not as_json:
            print("no setting waits for a restart" if pending else "nothing to restart")
        return
    if not dry_run:
        confirm(f"Restart PostgreSQL on {', '.join(nodes)}: go on?", yes=yes)
    for each in nodes:
        body: dict[str, object] = {"node": each, "pending": pending}
        if drain is not None:
            body["drain"] = drain
        if dry_run:
            answer = client.order("/cluster/restart", body, dry_run=True)
            print(json.dumps(answer) if as_json else f"{each} would be restarted")
            continue
        what = f"restart of {each}"
        done = carry_out(client, "/cluster/restart", body, what=what, wait_s=wait_s)
        _tell(done, as_json=as_json)


@commands.command()
def reinit(
    node: NodeArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait_s: Annotated[
        float, typer.Option("--wait", help="Seconds to wait for the copy.")
    ] = 3_600.0,
    url: UrlOption = None,
) -> None:
    """Replace a standby's data directory by a new copy of the primary's.

    Exit code 1 when it is refused or fails, 4 when it is not finished in time.
    """
    from pgbastion.cli.confirming import confirm
    from pgbastion.cli.ordering import carry_out
    from pgbastion.cli.target import writer

    client = writer(config, url)
    if dry_run:
        answer = client.order("/cluster/reinit", {"node": node}, dry_run=True)
        print(json.dumps(answer) if as_json else f"{node} would be copied anew")
        return
    confirm(f"The data of {node} will be replaced by a copy: go on?", yes=yes)
    what, body = f"copy to {node}", {"node": node}
    done = carry_out(client, "/cluster/reinit", body, what=what, wait_s=wait_s)
    _tell(done, as_json=as_json)


def _tell(found: Mapping[str, Any], *, as_json: bool) -> None:
    from pgbastion.cli.ordering import tell_outcome

    plain = f"{found['order']} {found['to']}: {found['outcome']}"
    tell_outcome(found, plain, as_json=as_json)
