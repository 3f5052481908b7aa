"""What a daemon does for its clients before it stops."""

from types import SimpleNamespace
from typing import Any

import pytest

from pgbastion.node import ending

pytestmark = pytest.mark.anyio


class Fake:
    """A node with so many sessions; notes what is done to it."""

    def __init__(self, sessions: int) -> None:
        self.done: list[object] = []
        self.config = SimpleNamespace(
            failover=SimpleNamespace(stop_timeout=60_000),
            proxy=SimpleNamespace(drain_timeout=40_000),
        )
        proxy = SimpleNamespace(
            snapshot=lambda: SimpleNamespace(connections=sessions),
            until_empty=self._noting("empty"),
        )
        self.front = SimpleNamespace(
            proxy=proxy, maintenance=SimpleNamespace(leave=self.done.append)
        )
        self.retiring = SimpleNamespace(
            hand_role_on=self._noting("role"), leave_sync_set=self._noting("set")
        )

    def _noting(self, what: str) -> Any:
        async def note() -> None:
            self.done.append(what)

        return note


@pytest.mark.parametrize("sessions", [0, 3])
async def test_a_stop_that_waits_for_sessions_says_how_long(
    monkeypatch: pytest.MonkeyPatch, sessions: int
) -> None:
    said: list[dict[str, object]] = []
    monkeypatch.setattr(ending.log, "info", lambda _, **told: said.append(told))
    node: Any = Fake(sessions)

    await ending.end_sessions(node)

    assert node.done == [30_000, "role", "set", "empty"]
    told = {"sessions": sessions, "at_most_ms": 30_000}
    assert said == ([told] if sessions else [])
