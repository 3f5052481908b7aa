"""What `check_patroni` makes of our answers; its makers know nothing of us."""

import asyncio
import sys
from pathlib import Path
from typing import Final

import pytest

from pgbastion.model.snapshot import NodeSnapshot
from pgbastion.testing.views import cluster_state, primary_report, received
from support.api_server import HOST, serve
from support.snapshots import primary_snapshot, standby_snapshot

PROGRAM: Final = Path(sys.executable).with_name("check_patroni")
OK, CRITICAL = 0, 2
DUE = received(primary_report(pending_restart=("shared_buffers",)))

pytestmark = pytest.mark.anyio


async def checked(snapshot: NodeSnapshot, *check: str) -> tuple[int | None, str]:
    """Return the exit code of a check of a node that knows this, and what it says."""
    async with serve() as api:
        api.snapshot = snapshot
        where = f"http://{HOST}:{api.port}"
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "-e", where, *check, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
    return process.returncode, said.decode()


@pytest.mark.parametrize(
    ("snapshot", "check", "wanted"),
    [
        (primary_snapshot(), "cluster_node_count --healthy-critical 3:", OK),
        (primary_snapshot(), "cluster_has_replica --critical 2:", OK),
        (primary_snapshot(), "cluster_is_in_maintenance", OK),
        (
            primary_snapshot(state=cluster_state(paused=True)),
            "cluster_is_in_maintenance",
            CRITICAL,
        ),
        (standby_snapshot(), "node_is_replica --is-sync", OK),
        (standby_snapshot(), "node_is_replica --is-async", CRITICAL),
        (primary_snapshot(), "node_is_pending_restart", OK),
        (primary_snapshot(reports=DUE), "node_is_pending_restart", CRITICAL),
    ],
)
async def test_a_check_finds_what_is_so(
    snapshot: NodeSnapshot, check: str, wanted: int
) -> None:
    code, said = await checked(snapshot, *check.split())

    assert code == wanted, said
