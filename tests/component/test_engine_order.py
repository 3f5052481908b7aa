"""What an engine promises to the others is on its disk before it leaves."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pgbastion.bench._engine_lab import Lab, lab, until
from support.system_calls import Sent, answers, durable_before_speaking, traced

ENTRY = b"an entry that is traced"
OTHER, TRACED = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lives:
    """What an engine did until it was killed, and after it was started again."""

    first: Path
    at_the_end: dict[str, Any]
    second: Path


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """What a follower did that was killed and came back."""
    folder = tmp_path_factory.mktemp("engines")
    first, second = folder / "first", folder / "second"
    prefix = traced(first)
    with lab(folder, "127.31.71") as cluster:
        follow(cluster, prefix)
        engine = cluster.engines[TRACED]
        until(partial(has_all, cluster), "the follower has everything")
        at_the_end = engine.status()
        engine.kill()
        engine.prefix = tuple(traced(second))
        engine.start()
        until(partial(has_all, cluster), "the follower is back")
        engine.kill()
    return Lives(first=first, at_the_end=at_the_end, second=second)


@pytest.fixture(scope="module")
def sent(lives: Lives) -> list[Sent]:
    """What the follower answered to appends and to a candidate."""
    return list(answers(lives.first))


def follow(cluster: Lab, prefix: object) -> None:
    """Let the traced engine follow the other one, and vote for it.

    With two members nothing is committed, and nobody elected, without either of them.
    """
    # What goes over TLS cannot be read in a trace.
    cluster.add(OTHER, plain=True)
    cluster.add(TRACED, plain=True, prefix=prefix)
    cluster.engines[OTHER].ask("form", member_id=OTHER)
    until(partial(leads, cluster, OTHER), "the first member leads")
    cluster.admit(TRACED)
    assert cluster.engines[OTHER].ask("propose", data=ENTRY.decode())[0] == "ok"
    for member_id, other in ((TRACED, OTHER), (OTHER, TRACED)):
        assert cluster.engines[other].ask("transfer", member_id=member_id)[0] == "ok"
        until(partial(leads, cluster, member_id), "leadership is handed on")


def leads(cluster: Lab, member_id: int) -> bool:
    return cluster.leader() == member_id


def has_all(cluster: Lab) -> bool:
    statuses = [engine.status() for engine in cluster.engines.values()]
    return cluster.leader() != 0 and len({s["last_index"] for s in statuses}) == 1


@pytest.mark.slow
def test_an_entry_is_on_disk_before_it_is_acknowledged(sent: list[Sent]) -> None:
    appends = [one for one in sent if not one.answer.vote]

    assert [one.answer for one in appends if not one.backed] == []
    assert ENTRY in {one.newest for one in appends}


@pytest.mark.slow
def test_a_vote_is_on_disk_before_it_is_given(sent: list[Sent]) -> None:
    votes = [one for one in sent if one.answer.vote]

    assert [one.answer for one in votes if not one.backed] == []
    assert OTHER in {one.answer.to for one in votes}


@pytest.mark.slow
def test_what_a_killed_process_wrote_is_on_disk_before_its_successor_speaks(
    lives: Lives,
) -> None:
    """It may be in memory alone, and is read from there like anything else."""
    durable = durable_before_speaking(lives.second)

    assert durable.last_index == lives.at_the_end["last_index"]
    assert durable.term == lives.at_the_end["term"]
