"""Settings of PostgreSQL as people write and read them."""

import io
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgbastion.cli.problems import CommandError
from pgbastion.cli.tables import render_table


def parse_settings(words: Sequence[str]) -> dict[str, str | None]:
    """Return the settings of ``NAME=VALUE`` words; an empty value is None.

    Raises:
        CommandError: One of them is none.
    """
    parsed: dict[str, str | None] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise CommandError(f"{word!r} is no NAME=VALUE")
        parsed[name.strip()] = value.strip() or None
    return parsed


def tell_version(answer: Mapping[str, Any]) -> str:
    """Return what came of a change, in words."""
    if not answer.get("changed"):
        return f"nothing has changed, it is version {answer.get('version')}"
    if answer.get("dry_run"):
        return f"it would be version {answer.get('version')}: every check is passed"
    return (
        f"version {answer.get('version')} is agreed on; pgbastion config show tells "
        "what waits for a restart"
    )


def render_settings(agreed: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """Return the settings, then each node that has something else, and why."""
    parameters = agreed["postgresql"]["parameters"]
    lines = [
        f"version {agreed['version']} {agreed['at']} by {agreed['by'] or 'nobody'}"
    ]
    if parameters:
        lines += ["", render_table(["setting", "value"], sorted(parameters.items()))]
    rows = [
        (node["node"], name, why)
        for node in status["nodes"]
        for name, why in _differences(node, agreed["version"])
    ]
    if rows:
        lines += ["", render_table(["node", "setting", "why it differs"], rows)]
    return "\n".join(lines)


def _differences(node: Mapping[str, Any], version: int) -> list[tuple[str, str]]:
    if node["version"] is None:
        return [("", "its server does not run, or the node is silent")]
    found = [
        (name, f"its own file says {value}")
        for name, value in node["overrides"].items()
    ]
    found += [(w["name"], w["reason"]) for w in node["held_back"]]
    found += [(w["name"], f"restart: {w['reason']}") for w in node["pending_restart"]]
    if node["version"] != version:
        found.append(("", f"it is at version {node['version']} yet"))
    return found


def render_versions(versions: Sequence[Mapping[str, Any]]) -> str:
    """Return the versions with what each changed, the newest last."""
    rows = []
    before: Mapping[str, str] = {}
    for version in versions:
        now = version["parameters"]
        changes = [f"{n}={v}" for n, v in now.items() if before.get(n) != v]
        changes += [f"{n}=" for n in before if n not in now]
        rows.append(
            (version["version"], version["at"], version["by"], " ".join(changes))
        )
        before = now
    return render_table(["version", "at", "by", "changes"], rows, right=["version"])


def edit_settings(parameters: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the person's editor made of the settings; None: nothing else.

    Raises:
        CommandError: There is no editor, it failed, or what it left is no mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump(dict(parameters), text)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "settings.yaml")
        path.write_text(text.getvalue(), encoding="utf-8")
        editor = os.environ.get("EDITOR") or "vi"
        try:
            done = subprocess.run([*shlex.split(editor), str(path)], check=False)
            left = yaml.load(path.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, YAMLError) as exc:
            raise CommandError(f"nothing was changed: {exc}") from exc
    if done.returncode != 0:
        raise CommandError(f"nothing was changed: {editor} ended with an error")
    if not isinstance(left, dict) or not all(isinstance(n, str) for n in left):
        raise CommandError("nothing was changed: these are no names and values")
    return None if left == dict(parameters) else left
