"""What the leader makes of a node's word on how far it has caught up."""

import asyncio
from typing import Any, cast

import pytest

from pgbastion.ha.cutter import WitnessCutter
from pgbastion.ha.host import Host
from pgbastion.ha.messages import (
    CatchUpQuestion,
    Kind,
    decode_catch_up,
    decode_cut,
    encode_answer,
)
from pgbastion.ha.ports import RaftEngine
from pgbastion.ha.survey import Surveyor
from pgbastion.model.actions import CatchUp
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.views import SurveyAnswer, SurveyView
from pgbastion.testing.views import answer, cluster_state, end, node_name

pytestmark = pytest.mark.timeout(10)

ASKED = CatchUp(epoch=Epoch(3), node=node_name(3), source=node_name(2), upto=end(9))


class Peers:
    """The other nodes: what they answer to a survey, and then to the other question."""

    def __init__(self, *caught_up: SurveyAnswer | None) -> None:
        self.caught_up = list(caught_up)
        self.questions: list[CatchUpQuestion | None] = []

    async def request(
        self, member_id: int, kind: int, payload: bytes, timeout_s: float
    ) -> bytes | None:
        assert timeout_s > 0
        if kind == Kind.CUT:
            assert decode_cut(payload) == Epoch(3)
            return encode_answer(answer(member_id, 9 if member_id == 2 else 5))
        assert (kind, member_id) == (Kind.CATCH_UP, 3)
        self.questions.append(decode_catch_up(payload))
        said = self.caught_up.pop(0)
        return b"" if said is None else encode_answer(said)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the host must not call {name} here")


def survey_after(peers: Peers, *, turns: int = 1) -> SurveyView:
    """Survey n2 and n3, have n3 catch up so often, and return what is known then."""

    async def play() -> SurveyView:
        host = Host(
            cast("RaftEngine", peers),
            node=NodeId("n4"),
            cutter=WitnessCutter(),
            on_change=lambda: None,
            cut_timeout_ms=100,
        )
        host.state = cluster_state()
        host.survey.start(Epoch(3), (node_name(2), node_name(3)))
        await settle(host.survey)
        for _ in range(turns):
            host.survey.start_catch_up(ASKED)
            host.survey.start_catch_up(ASKED)
            await settle(host.survey)
        survey = host.survey.view()
        assert survey is not None
        return survey

    return asyncio.run(play())


async def settle(survey: Surveyor) -> None:
    while survey._tasks:
        await asyncio.gather(*survey._tasks)


def test_the_new_word_takes_the_place_of_the_old_one() -> None:
    peers = Peers(answer(3, 9))

    survey = survey_after(peers)

    assert set(survey.answers) == {answer(2, 9), answer(3, 9)}
    assert (survey.catching_up, survey.stuck) == (None, {})
    assert peers.questions == [
        CatchUpQuestion(epoch=Epoch(3), source=node_name(2), upto=end(9))
    ]


def test_who_comes_closer_is_not_stuck() -> None:
    survey = survey_after(Peers(answer(3, 7), answer(3, 8)), turns=2)

    assert answer(3, 8) in survey.answers
    assert survey.stuck == {}


@pytest.mark.parametrize("said", [None, answer(3, 5), answer(3, None), answer(2, 9)])
def test_who_comes_no_closer_is_stuck_and_its_source_is_asked_again(
    said: SurveyAnswer | None,
) -> None:
    """A restart of the source may have taken the torn end of its WAL."""
    survey = survey_after(Peers(said))

    assert survey.stuck == {"n3": 1}
    assert survey.catching_up is None
    assert "n2" not in {a.node for a in survey.answers}


def test_a_witness_streams_from_nobody() -> None:
    async def play() -> bytes:
        host = Host(
            cast("RaftEngine", Peers()),
            node=NodeId("n4"),
            cutter=WitnessCutter(),
            on_change=lambda: None,
            cut_timeout_ms=100,
        )
        host.state = cluster_state()
        question = b'{"epoch":3,"source":"n2","upto":{"timeline":4,"lsn":9},"v":1}'
        return await host.survey.answer_catch_up(question)

    assert asyncio.run(play()) == b""
