"""Commands that change who is the primary, or whether that may change by itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pgbastion.cli.exits import Exit
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
from pgbastion.model.profile import Profile

commands = typer.Typer()


@commands.command()
def pause(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Switch automatic actions off: whatever runs goes on, whatever fails stays so.

    A daemon that is stopped meanwhile leaves its PostgreSQL running.
    """
    from pgbastion.cli.target import writer

    if dry_run and not as_json:
        _foretell(config, url, off=True)
        return
    answer = writer(config, url).order("/cluster/pause", {}, dry_run=dry_run)
    print(json.dumps(answer) if as_json else "paused")


@commands.command()
def resume(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Switch automatic actions on again."""
    from pgbastion.cli.target import writer

    if dry_run and not as_json:
        _foretell(config, url, off=False)
        return
    answer = writer(config, url).order("/cluster/resume", {}, dry_run=dry_run)
    print(json.dumps(answer) if as_json else "resumed")


@commands.command()
def replication(
    config: ConfigOption = DEFAULT_CONFIG,
    mode: Annotated[
        str | None, typer.Option(help="async, sync (the first by order) or quorum.")
    ] = None,
    sync_count: Annotated[
        str | None, typer.Option(help="How many standbys confirm a commit, or auto.")
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option(help="Whether commits rather wait than go on alone."),
    ] = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Change who confirms a commit before the client hears of it, or tell who does.

    The set in force follows in safe steps, while clients go on writing.
    """
    from pgbastion.cli.replication import ask, change, render, render_change

    wanted = {"mode": mode, "sync_count": sync_count, "strict": strict}
    body = {k: v for k, v in wanted.items() if v is not None}
    if not body:
        answer = ask(config, url)
        print(json.dumps(answer) if as_json else render(answer))
        return
    answer = change(config, url, body, dry_run=dry_run)
    print(json.dumps(answer) if as_json else render_change(answer, dry_run=dry_run))


@commands.command()
def profile(
    to: Annotated[
        Profile | None, typer.Argument(help="fast, normal or wide; none: tell which.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Change how long leases are, and with them how soon a failover comes.

    The cluster's own word counts, whatever the files say. The primary stays, and
    clients go on; a shorter lease counts when all nodes go by it.
    """
    from pgbastion.cli.profile import ask, change, render, render_change

    if to is None:
        answer = ask(config, url)
        print(json.dumps(answer) if as_json else render(answer))
        return
    answer = change(config, url, to, dry_run=dry_run)
    print(json.dumps(answer) if as_json else render_change(answer, dry_run=dry_run))


@commands.command()
def switchover(
    config: ConfigOption = DEFAULT_CONFIG,
    to: Annotated[
        str | None, typer.Option("--to", help="The new primary; default: the best.")
    ] = None,
    drain: Annotated[
        str | None,
        typer.Option(help="How long transactions that are open may go on."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help='When: "2030-01-31T03:00:00Z", or "+10m" from now; default: at once.'
        ),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(help="How long after that time it may still begin [30s]."),
    ] = None,
    cancel: Annotated[
        bool,
        typer.Option("--cancel", help="Drop what is scheduled or has not begun."),
    ] = False,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    wait_s: WaitOption = WAIT_S,
    url: UrlOption = None,
) -> None:
    """Move the primary role to a standby, with nothing lost and nobody refused.

    Exit code 1 when it is refused, or when another node became the primary; 4 when it
    is not finished in time. With --at it is scheduled, and nothing is waited for.
    """
    from pgbastion.cli.ordering import carry_out
    from pgbastion.cli.target import writer

    if cancel:
        _cancel(config, url, as_json=as_json, dry_run=dry_run)
        return
    asked = (("to", to), ("drain", drain), ("at", at), ("within", within))
    body = {k: v for k, v in asked if v is not None}
    if dry_run and not as_json:
        _rehearse(config, url, to)
        if body.keys() - {"to"}:
            answer = writer(config, url).order(
                "/cluster/switchover", body, dry_run=True
            )
            print(
                f"it would begin at {answer['due_at']}" if at else "it would be taken"
            )
        return
    client = writer(config, url)
    if at is not None or dry_run:
        answer = client.order("/cluster/switchover", body, dry_run=dry_run)
        print(json.dumps(answer) if as_json else _scheduled(answer))
        return
    what = f"switchover to {to or 'the best standby'}"
    found = carry_out(client, "/cluster/switchover", body, what=what, wait_s=wait_s)
    _tell(found, as_json=as_json)


@commands.command()
def failover(
    to: Annotated[str, typer.Option("--to", help="The new primary.")],
    config: ConfigOption = DEFAULT_CONFIG,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also where commits could be lost. You vouch that a primary which is "
            "silent is off.",
        ),
    ] = False,
    drain: Annotated[
        str | None,
        typer.Option(help="How long a living primary's open transactions may go on."),
    ] = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait_s: WaitOption = WAIT_S,
    url: UrlOption = None,
) -> None:
    """Make a node the primary, also where the old one is gone.

    A living primary hands its role over as in a switchover. Exit code 1 when it is
    refused, or when another node became the primary; 4 when it is not finished in time.
    """
    from pgbastion.cli.confirming import confirm
    from pgbastion.cli.ordering import carry_out
    from pgbastion.cli.target import writer

    body: dict[str, object] = {"to": to, "force": force}
    if drain is not None:
        body["drain"] = drain
    client, what = writer(config, url), f"failover to {to}"
    answer = client.order("/cluster/failover", body, dry_run=True)
    loss = answer.get("possible_loss")
    if dry_run:
        plain = f"{to} could become the primary" + (f"; {loss}" if loss else "")
        print(json.dumps(answer) if as_json else plain)
        return
    if force and not answer.get("primary_lives"):
        lost = loss or "nothing is known to be lost"
        confirm(f"The old primary has to be off, and {lost}: go on?", yes=yes)
    found = carry_out(client, "/cluster/failover", body, what=what, wait_s=wait_s)
    _tell(found, as_json=as_json)


def _scheduled(answer: Mapping[str, Any]) -> str:
    return f"scheduled {answer['id']} for {answer['due_at']}"


def _cancel(config: Path, url: str | None, *, as_json: bool, dry_run: bool) -> None:
    """Drop what is scheduled or has not begun."""
    from pgbastion.cli.target import writer

    answer = writer(config, url).order(
        "/cluster/switchover", {}, method="DELETE", dry_run=dry_run
    )
    word = "would be cancelled:" if dry_run else "cancelled"
    plain = f"{word} {', '.join(answer['cancelled'])}"
    print(json.dumps(answer) if as_json else plain)


def _foretell(config: Path, url: str | None, *, off: bool) -> None:
    """Say what a pause or its end would change now."""
    from pgbastion.cli.target import writer

    switched = "off" if off else "on"
    paused = bool(writer(config, url).get("/health")["paused"])
    if paused == off:
        print(f"automatic actions are {switched} already: nothing would change")
        return
    first = "" if off else "; what failed meanwhile is dealt with at once"
    print(f"automatic actions would be switched {switched}{first}")


def _rehearse(config: Path, url: str | None, to: str | None) -> None:
    """Say whether a switchover would be taken now, by what the leader knows."""
    from pgbastion.cli.explaining import ask_cluster

    others = ask_cluster(config, url)["others"]
    asked = [other for other in others if to in (None, other["node"])]
    for other in asked or [{"node": to, "sentence": "is no other member"}]:
        print(f"{other['node']} {other['sentence']}")
    if not any(other["ready"] for other in asked):
        raise typer.Exit(Exit.NO)


def _tell(found: Mapping[str, Any], *, as_json: bool) -> None:
    from pgbastion.cli.ordering import tell_outcome

    tell_outcome(found, f"{found['outcome']}: {found['to']}", as_json=as_json)
