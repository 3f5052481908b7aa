"""Who confirms commits: told, and changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgbastion.cli.target import reader, writer


def ask(config: Path, url: str | None) -> Any:
    """Return who confirms commits, as a node tells it."""
    return reader(config, url).get("/cluster/state")["synchronous"]


def change(
    config: Path, url: str | None, body: dict[str, Any], *, dry_run: bool = False
) -> Any:
    """Order a change and return what is wanted from now on, or would be.

    Raises:
        CommandError: It was refused, or nobody can tell.
    """
    count = body.get("sync_count")
    if isinstance(count, str) and count.isdecimal():
        body = {**body, "sync_count": int(count)}
    return writer(config, url).order("/cluster/replication", body, dry_run=dry_run)


def render_change(said: Mapping[str, Any], *, dry_run: bool) -> str:
    """Return a change in a line."""
    would = "it would be " if dry_run else ""
    return (
        f"{would}{said['mode']}, {said['sync_count']} to confirm, "
        f"{'strict' if said['strict'] else 'may degrade'}"
    )


def render(sync: Mapping[str, Any]) -> str:
    """Return who confirms commits in a line."""
    names = ", ".join(sync["names"]) or "nobody"
    return (
        f"{sync['mode']}, {'strict' if sync['strict'] else 'may degrade'}; "
        f"in force: {sync['num_sync']} of {names}"
    )
