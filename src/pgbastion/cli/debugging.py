"""Recorded decisions: fetched from a node, replayed on today's rules, looked at."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pgbastion.cli.client import Client
from pgbastion.cli.problems import CommandError, UnreachableError
from pgbastion.cli.progress import Progress
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.node import decide_node, duty, find
from pgbastion.control.transitions import TRANSITIONS
from pgbastion.model.reasons import SENTENCES
from pgbastion.model.recording import (
    Decide,
    NodeRecord,
    Record,
    decode_record,
    differences,
)

PATH: Final = "/debug/decisions"
EVERY_S: Final = 1.0
RULES: Final[Mapping[str, Decide]] = {"node": decide_node, "cluster": decide_cluster}


def fetch_lines(client: Client, seconds: float) -> list[str]:
    """Return the decisions that a node keeps, and those of the next seconds, as lines.

    Raises:
        CommandError: It does not answer.
    """
    until_s = time.monotonic() + seconds
    found: dict[int, str] = {}
    with Progress("recording") as progress:
        while True:
            for plain in _decisions(client):
                found.setdefault(plain["r"]["number"], json.dumps(plain))
            progress.say(f"{len(found)} decisions")
            if time.monotonic() >= until_s:
                return [found[number] for number in sorted(found)]
            time.sleep(min(EVERY_S, max(until_s - time.monotonic(), 0)))


def _decisions(client: Client) -> list[dict[str, Any]]:
    records = client.fetch(PATH)
    if not isinstance(records, list):
        raise UnreachableError(f"{client.url} does not answer as pgbastion does")
    return records


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file.

    Raises:
        CommandError: It cannot be read, or a line is none of a version that we know.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise CommandError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise CommandError(f"{path} has no records: it is not UTF-8") from exc
    for number, line in enumerate(lines, start=1):
        read = decode_record(line)
        if read is None:
            raise CommandError(f"{path}:{number}: no record of a version that is known")
        yield read


def replay(kept: Record) -> tuple[str, ...]:
    """Return in what today's decision differs from that of then."""
    return differences(kept, RULES)


def title(kept: Record) -> str:
    """Return which decision it was, in one line."""
    return f"{kept.number} {kept.kind} {kept.reason}"


def describe(kept: Record) -> str:
    """Return what was there, what was due, and what is decided on it today."""
    now = RULES[kept.kind](kept.view)
    lines = [title(kept)]
    if isinstance(kept, NodeRecord) and not kept.view.witness:
        row = duty(kept.view), find(kept.view)
        lines += [
            f"  due: {row[0]}, found: {row[1]}",
            f"  steps: {' > '.join(TRANSITIONS[row].steps)}",
        ]
    detail = f" ({now.detail})" if now.detail else ""
    lines.append(f"  decision: {SENTENCES[now.reason]}{detail}")
    lines += [f"  action: {action!r}" for action in now.actions]
    if now.wake_at_ms is not None:
        lines.append(f"  looks again in {now.wake_at_ms - kept.view.now_ms} ms")
    return "\n".join(lines)


def newest(lines: list[str]) -> list[Record]:
    """Return the latest decision of each kind."""
    latest: dict[str, Any] = {}
    for line in lines:
        read = decode_record(line)
        if read is not None:
            latest[read.kind] = read
    return list(latest.values())
