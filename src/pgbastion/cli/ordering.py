"""Sends an operator's order to a node's API, and says what came of it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import typer

from pgbastion.cli.exits import Exit
from pgbastion.cli.status import Target, target_of
from pgbastion.config.load import examine
from pgbastion.config.secrets import TOKEN_FILE_NAME, TOKEN_VARIABLE, strip_line_end
from pgbastion.errors import ConfigError

ANSWER_S: Final = 15.0
ASK_EVERY_S: Final = 0.2


def writing_target(
    config: Path, url: str | None, environment: Mapping[str, str]
) -> Target:
    """Return where to send orders, with the token that they need.

    Raises:
        ConfigError: No ``url`` is given and the file is not understood, or the token
            cannot be read.
    """
    target = target_of(config, url, environment)
    token = environment.get(TOKEN_VARIABLE)
    if token is not None:
        return Target(url=target.url, token=token)
    report = examine(config, environment, world=False)
    if report.config is None:
        raise ConfigError(report.render(report.errors))
    file = report.config.api.auth_token_file
    path = file or report.config.raft.data_dir / TOKEN_FILE_NAME
    try:
        token = strip_line_end(path.read_bytes()).decode(errors="replace")
    except OSError as exc:
        raise ConfigError(
            f"cannot read the token in {path}: run this as the daemon's user, or set "
            f"{TOKEN_VARIABLE}"
        ) from exc
    return Target(url=target.url, token=token)


def order(target: Target, path: str, body: Mapping[str, object]) -> dict[str, Any]:
    """Send an order and return the answer.

    Raises:
        typer.Exit: Nobody answers, or it is refused; a message was printed.
    """
    headers = {"Authorization": f"Bearer {target.token}"}
    try:
        with httpx.Client(
            base_url=target.url, headers=headers, timeout=ANSWER_S, trust_env=False
        ) as client:
            answer = client.post(path, json=dict(body))
            found = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
        typer.echo(f"pgbastion: {target.url} does not answer: {exc}", err=True)
        raise typer.Exit(Exit.UNREACHABLE) from exc
    if answer.is_success and isinstance(found, dict):
        return found
    error = found.get("error", {}) if isinstance(found, dict) else {}
    message = error.get("message", f"answer {answer.status_code}")
    typer.echo(f"pgbastion: {message}; {error.get('remedy', '')}", err=True)
    raise typer.Exit(Exit.NO)


def wait_settled(target: Target, order_id: str, within_s: float) -> Mapping[str, Any]:
    """Wait until an order has an outcome and return it.

    Raises:
        typer.Exit: It has none within ``within_s`` seconds; a message was printed.
    """
    headers = {"Authorization": f"Bearer {target.token}"}
    until = time.monotonic() + within_s
    with httpx.Client(
        base_url=target.url, headers=headers, timeout=ANSWER_S, trust_env=False
    ) as client:
        while time.monotonic() < until:
            for found in _directives(client):
                if found.get("id") == order_id and found.get("outcome"):
                    return found
            time.sleep(ASK_EVERY_S)
    typer.echo(f"pgbastion: order {order_id} is still being carried out", err=True)
    raise typer.Exit(Exit.NO)


def _directives(client: httpx.Client) -> list[dict[str, Any]]:
    # A node that is busy for a moment is asked again.
    try:
        answer = client.get("/raft/directives")
        return list(answer.json()["directives"]) if answer.is_success else []
    except (httpx.HTTPError, ValueError, KeyError):
        return []
