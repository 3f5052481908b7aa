"""Commands for settings of PostgreSQL that hold on all nodes."""

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
config_commands = typer.Typer(
    no_args_is_help=True,
    help="Settings of PostgreSQL that the cluster has agreed on.",
)
commands.add_typer(config_commands, name="config")


@config_commands.command()
def show(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the settings, and which node lacks one and why."""
    from pgbastion.cli.settings import render_settings
    from pgbastion.cli.target import reader

    client = reader(config, url)
    agreed, status = client.get("/config"), client.get("/config/status")
    if as_json:
        print(json.dumps({"config": agreed, "status": status}))
        return
    print(render_settings(agreed, status))


@config_commands.command("set")
def set_settings(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE...",
            help="Settings; NAME= alone takes one out. A list setting takes commas.",
        ),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Change settings on all nodes.

    Refused, with nothing changed, when a running server would not take one.
    """
    from pgbastion.cli.settings import parse_settings, tell_version
    from pgbastion.cli.target import writer

    body = {"parameters": parse_settings(settings)}
    answer = writer(config, url).order("/config", body, method="PATCH", dry_run=dry_run)
    print(json.dumps(answer) if as_json else tell_version(answer))


@config_commands.command()
def edit(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Change the settings in your editor (EDITOR, else vi), as YAML.

    Refused when somebody else has changed them meanwhile.
    """
    from pgbastion.cli.settings import edit_settings, tell_version
    from pgbastion.cli.target import writer

    client = writer(config, url)
    agreed = client.get("/config")
    chosen = edit_settings(agreed["postgresql"]["parameters"])
    if chosen is None:
        same = {"changed": False, "version": agreed["version"]}
        print(json.dumps(same) if as_json else "nothing was changed")
        return
    body = {"parameters": chosen, "version": agreed["version"]}
    answer = client.order("/config", body, method="PUT", dry_run=dry_run)
    print(json.dumps(answer) if as_json else tell_version(answer))


@config_commands.command()
def history(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the newest versions of the settings and what each changed."""
    from pgbastion.cli.settings import render_versions
    from pgbastion.cli.target import reader

    found = reader(config, url).get("/config/history")
    print(json.dumps(found) if as_json else render_versions(found["versions"]))


@config_commands.command()
def undo(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Go back to the settings of the version before, as a new version."""
    from pgbastion.cli.settings import tell_version
    from pgbastion.cli.target import writer

    answer = writer(config, url).order("/config/undo", {}, dry_run=dry_run)
    print(json.dumps(answer) if as_json else tell_version(answer))
