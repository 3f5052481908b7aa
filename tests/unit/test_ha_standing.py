"""Whether a node is still a member, and what it does when it is not."""

import asyncio

import pytest

from pgbastion.ha import standing
from pgbastion.ha.member_admission import MemberAdmission
from pgbastion.ha.messages import (
    Kind,
    Standing,
    StandingAnswer,
    decode_standing_answer,
    encode_standing,
    encode_standing_answer,
)
from pgbastion.ha.ports import RaftStatus
from pgbastion.ha.standing import StandingWatch
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.testing.views import cluster_state, member

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(10)]

LEFT = cluster_state(servers=2, next_member_id=MemberId(4))
STILL = cluster_state(next_member_id=MemberId(4))


class Node:
    """A node with the id 3, whose engine, log and peers a test sets."""

    def __init__(self, state: ClusterState) -> None:
        self.state = state
        self.leader = 1
        self.voters: tuple[int, ...] = (1, 2, 3)
        self.address = "127.0.0.3:8300"
        self.stopped = 0
        self.asked: list[str] = []
        self.peer: bytes | None = None
        self.watch = StandingWatch(
            host=self,
            engine=self,  # type: ignore[arg-type]
            cluster_id="c1",
            own_address="127.0.0.3:8300",
            peers=("127.0.0.3:8300", "127.0.0.9:8300"),
            ask=self._ask,
            stop_server=self._stop,
        )

    def status(self) -> RaftStatus:
        return RaftStatus(
            member_id=3,
            role="follower",
            term=1,
            leader=self.leader,
            committed=1,
            applied=1,
            last_index=1,
            voters=self.voters,
            learners=(),
            configurations=(),
            own_entry_applied=False,
            elected_ns=0,
            last_answer_ns=0,
            pending_change=False,
            peers={},
            address=self.address,
        )

    async def _ask(self, address: str, kind: Kind, payload: bytes) -> bytes | None:
        assert kind is Kind.STANDING
        assert payload == encode_standing(
            Standing(cluster_id="c1", member_id=MemberId(3))
        )
        self.asked.append(address)
        return self.peer

    async def _stop(self) -> None:
        self.stopped += 1

    async def ended(self, within_s: float = 5) -> bool:
        """Tell whether the watch returns; it looks again all the time."""
        try:
            async with asyncio.timeout(within_s):
                await self.watch.run()
        except TimeoutError:
            return False
        return True

    async def goes_on(self) -> bool:
        """Tell whether the watch does not return, as far as a short while shows."""
        return not await self.ended(within_s=0.2)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "LOOK_EVERY_S", 0.01)


def told(*, left: bool) -> bytes:
    return encode_standing_answer(StandingAnswer(node=NodeId("n1"), left=left))


async def test_a_member_with_a_leader_asks_nobody() -> None:
    node = Node(STILL)

    assert await node.goes_on()
    assert not node.asked
    assert not node.stopped


async def test_a_member_with_a_leader_asks_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its whole group may have been put out when the cluster was begun again."""
    monkeypatch.setattr(standing, "ASK_EVERY_S", 0.0)
    node = Node(STILL)
    node.peer = told(left=True)

    assert await node.ended()
    assert node.stopped == 1


@pytest.mark.parametrize(
    ("voters", "remedy"), [((1, 2, 3), "remove-node"), ((3,), "raft recover")]
)
async def test_an_address_that_the_others_do_not_know_is_told_of(
    caplog: pytest.LogCaptureFixture, voters: tuple[int, ...], remedy: str
) -> None:
    """They go on calling the former one, and the node finds no leader."""
    node = Node(STILL)
    node.voters, node.address = voters, "127.0.0.8:8300"

    with caplog.at_level("WARNING", logger="pgbastion"):
        assert await node.goes_on()

    [record] = [r for r in caplog.records if r.getMessage() == "address_differs"]
    assert remedy in str(vars(record))


async def test_who_is_out_of_log_and_group_ends_with_its_server() -> None:
    node = Node(LEFT)
    node.voters = (1, 2)

    assert await node.ended()
    assert node.stopped == 1


async def test_who_has_left_votes_until_the_group_has_let_it_go() -> None:
    """The vote of the second of two voters is needed to take it out."""
    node = Node(LEFT)

    assert await node.goes_on()
    assert node.stopped == 1

    node.voters = (1, 2)
    assert await node.ended()


async def test_who_finds_no_leader_takes_the_word_of_a_member() -> None:
    node = Node(STILL)
    node.leader, node.peer = 0, told(left=True)

    assert await node.ended()
    assert node.stopped == 1
    assert set(node.asked) == {"127.0.0.1:8300", "127.0.0.2:8300", "127.0.0.9:8300"}


@pytest.mark.parametrize("peer", [None, b"", b"senseless", told(left=False)])
async def test_without_such_a_word_it_goes_on(peer: bytes | None) -> None:
    node = Node(STILL)
    node.leader, node.peer = 0, peer

    assert await node.goes_on()
    assert node.asked
    assert not node.stopped


async def test_the_log_s_word_is_noticed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(standing, "LOOK_EVERY_S", 60)
    node = Node(STILL)
    running = asyncio.create_task(node.watch.run())
    await asyncio.sleep(0)
    node.state, node.voters = LEFT, (1, 2)

    node.watch.notice()

    async with asyncio.timeout(5):
        await running
    assert node.stopped == 1


async def answered(state: ClusterState, cluster_id: str, member_id: int) -> bool | None:
    admission = MemberAdmission(Node(state), member(1), timeout_s=1)  # type: ignore[arg-type]
    question = Standing(cluster_id=cluster_id, member_id=MemberId(member_id))
    answer = decode_standing_answer(
        await admission.answer(Kind.STANDING, encode_standing(question))
    )
    return None if answer is None else answer.left


async def test_a_member_says_who_has_left() -> None:
    assert await answered(LEFT, LEFT.cluster_id, 3) is True
    assert await answered(LEFT, LEFT.cluster_id, 2) is False
    # An id that is not known yet: this node may not have the newest entries.
    assert await answered(LEFT, LEFT.cluster_id, 4) is False


async def test_a_member_says_nothing_of_another_cluster() -> None:
    assert await answered(LEFT, "another", 3) is None


async def test_a_senseless_question_gets_no_answer() -> None:
    admission = MemberAdmission(Node(LEFT), member(1), timeout_s=1)  # type: ignore[arg-type]
    newer = encode_standing(Standing(cluster_id="c", member_id=MemberId(3), v=99))

    assert await admission.answer(Kind.STANDING, b"?") == b""
    assert await admission.answer(Kind.STANDING, newer) == b""
    assert decode_standing_answer(told(left=True).replace(b'"v":1', b'"v":2')) is None
