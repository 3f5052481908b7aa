"""An API served on a port, for its tests."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from pgbastion.api.app import (
    build_api,
    build_metrics_api,
)
from pgbastion.api.bounds import Bounds
from pgbastion.api.ports import Done, Outcome, Refused, Tokens, When
from pgbastion.api.server import ApiServer
from pgbastion.api.tls import ApiTls
from pgbastion.model.ids import NodeId
from pgbastion.model.profile import Profile
from pgbastion.model.snapshot import NodeSnapshot
from pgbastion.observe.metrics import Metrics
from support.snapshots import primary_snapshot

HOST = "127.38.0.1"


WRITE = "write-token"


AUTHORISED = {"Authorization": f"Bearer {WRITE}"}


PEER = {"id": "n4", "address": "10.0.1.4:8300"}


QUESTION = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


HALF_A_BODY = (
    b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
    b"Authorization: Bearer write-token\r\n\r\n1"
)


class FakeCommands:
    """Notes what was asked, and answers what a test wants."""

    def __init__(self) -> None:
        self.outcome: Outcome = Done(facts={"member_id": 4})
        self.added: list[tuple[str, str, int]] = []
        self.reloads = 0
        self.removed: list[NodeId] = []
        self.transfers: list[NodeId] = []
        self.snapshots = 0
        self.settings: list[tuple[dict[str, str | None], bool, int | None]] = []
        self.undone = 0
        self.pauses: list[bool] = []
        self.drains: list[int | str | None] = []
        self.replications: list[dict[str, object]] = []
        self.profiles: list[Profile] = []
        self.failovers: list[tuple[str, bool]] = []
        self.switchovers: list[tuple[str | None, int | None]] = []
        self.primary = "n1"
        self.wishes: list[tuple[object, ...]] = []
        self.rehearsed: FakeCommands | None = None
        """What dry runs were asked for."""

    def rehearsal(self) -> "FakeCommands":
        self.rehearsed = self.rehearsed or FakeCommands()
        self.rehearsed.outcome = self.outcome
        return self.rehearsed

    async def set_pause(self, *, paused: bool) -> Outcome:
        self.pauses.append(paused)
        return self.outcome

    async def set_replication(self, **changes: object) -> Outcome:
        self.replications.append(changes)
        return self.outcome

    async def set_profile(self, profile: Profile) -> Outcome:
        self.profiles.append(profile)
        return self.outcome

    def not_primary(self, meant: NodeId | None) -> Refused | None:
        if meant in (None, self.primary):
            return None
        return Refused(code="other_primary", message="another", remedy="look")

    async def switch_over(self, to: NodeId | None, drain_ms: int | None) -> Outcome:
        self.switchovers.append((to, drain_ms))
        return self.outcome

    async def fail_over(
        self, to: NodeId, *, force: bool, drain_ms: int | None
    ) -> Outcome:
        if drain_ms is not None:
            self.wishes.append(("failover", to, force, drain_ms))
        else:
            self.failovers.append((to, force))
        return self.outcome

    async def schedule(
        self, to: NodeId | None, drain_ms: int | None, when: When
    ) -> Outcome:
        self.wishes.append(("schedule", to, drain_ms, when))
        return self.outcome

    async def cancel(self, order_id: str | None) -> Outcome:
        self.wishes.append(("cancel", order_id))
        return self.outcome

    async def fence(
        self, node: NodeId, *, force: bool, drain_ms: int | None
    ) -> Outcome:
        self.wishes.append(("fence", node, force, drain_ms))
        return self.outcome

    async def restart(
        self, node: NodeId, *, pending: bool, drain_ms: int | None
    ) -> Outcome:
        self.wishes.append(("restart", node, pending, drain_ms))
        return self.outcome

    async def reinit(self, node: NodeId) -> Outcome:
        self.wishes.append(("reinit", node))
        return self.outcome

    async def unfence(self, node: NodeId) -> Outcome:
        self.wishes.append(("unfence", node))
        return self.outcome

    async def move_address(self, address: str, to: NodeId | None) -> Outcome:
        self.wishes.append(("move_address", address, to))
        return self.outcome

    async def add_peer(self, name: NodeId, host: str, raft_port: int) -> Outcome:
        self.added.append((name, host, raft_port))
        return self.outcome

    async def remove_peer(self, name: NodeId) -> Outcome:
        self.removed.append(name)
        return self.outcome

    async def transfer(self, to: NodeId) -> Outcome:
        self.transfers.append(to)
        return self.outcome

    async def take_snapshot(self) -> Outcome:
        self.snapshots += 1
        return self.outcome

    async def set_parameters(
        self, parameters: Mapping[str, str | None], *, whole: bool, base: int | None
    ) -> Outcome:
        self.settings.append((dict(parameters), whole, base))
        return self.outcome

    async def undo_parameters(self) -> Outcome:
        self.undone += 1
        return self.outcome

    def drain(self, timeout_ms: int | None) -> Outcome:
        self.drains.append(timeout_ms)
        return self.outcome

    def undrain(self) -> Outcome:
        self.drains.append("undrain")
        return self.outcome

    async def reload(self) -> Outcome:
        self.reloads += 1
        return self.outcome


class Api:
    """A served API with what stands behind it."""

    def __init__(self) -> None:
        self.snapshot: NodeSnapshot = primary_snapshot()
        self.tokens = Tokens(write=WRITE)
        self.commands = FakeCommands()
        self.client = httpx.AsyncClient()
        self.port = 0

    def take(self) -> NodeSnapshot:
        return self.snapshot

    async def raw(self, request: bytes, *, answer_s: float = 5) -> bytes:
        """Send bytes and return all that comes until the server closes."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        writer.write(request)
        try:
            async with asyncio.timeout(answer_s):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def serve(
    *, metrics_only: bool = False, tls: ApiTls | None = None, **bounds: Any
) -> AsyncIterator[Api]:
    api = Api()
    render = Metrics().render
    if metrics_only:
        app = build_metrics_api(
            api.take, tokens=lambda: api.tokens, render_metrics=render
        )
    else:
        app = build_api(
            api.take, api.commands, tokens=lambda: api.tokens, render_metrics=render
        )
    server = ApiServer(app, host=HOST, port=0, bounds=Bounds(**bounds), tls=tls)
    await server.start()
    api.port = server.port
    try:
        async with httpx.AsyncClient(
            base_url=f"http://{HOST}:{server.port}", trust_env=False
        ) as api.client:
            yield api
    finally:
        await server.stop()


def error(response: httpx.Response) -> dict[str, str]:
    """Return the error of an answer; it has to be complete."""
    found: dict[str, str] = response.json()["error"]
    assert set(found) == {"code", "message", "remedy"}
    assert all(found.values())
    return found
