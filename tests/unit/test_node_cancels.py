"""A cancel request finds its session through any node."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pgbastion.ha.messages import Kind
from pgbastion.node.cancels import FarCancels, answer_cancel
from pgbastion.testing.views import cluster_state

pytestmark = pytest.mark.anyio

REQUEST = b"a cancel request"


class Channel:
    """The engine of member 1: each other member answers as it is told."""

    def __init__(self, answers: dict[int, bytes | None]) -> None:
        self._answers = answers
        self.asked: list[tuple[int, int, bytes]] = []

    def status(self) -> Any:
        return SimpleNamespace(member_id=1)

    async def request(
        self, member_id: int, kind: int, payload: bytes, timeout_s: float
    ) -> bytes | None:
        self.asked.append((member_id, kind, payload))
        if self._answers[member_id] is None:
            await asyncio.sleep(timeout_s)
        return self._answers[member_id]


def far(channel: Channel) -> FarCancels:
    host = SimpleNamespace(state=cluster_state())
    return FarCancels(channel, host)  # type: ignore[arg-type]


async def test_every_other_member_is_asked_and_one_that_knows_is_enough() -> None:
    channel = Channel({2: b"0", 3: b"1"})

    assert await far(channel).ask(REQUEST)

    assert sorted(channel.asked) == [
        (2, Kind.CANCEL, REQUEST),
        (3, Kind.CANCEL, REQUEST),
    ]


async def test_nobody_waits_for_the_silent_once_one_has_answered() -> None:
    async with asyncio.timeout(0.5):
        assert await far(Channel({2: None, 3: b"1"})).ask(REQUEST)


async def test_a_session_that_nobody_has_is_reported() -> None:
    assert not await far(Channel({2: b"0", 3: b"0"})).ask(REQUEST)


@pytest.mark.parametrize("known", [True, False])
async def test_what_a_node_answers_is_what_the_asking_one_reads(known: bool) -> None:
    async def deliver(request: bytes) -> bool:
        return known and request == REQUEST

    answer = await answer_cancel(deliver, REQUEST)

    assert await far(Channel({2: b"0", 3: answer})).ask(REQUEST) == known
