"""What an engine promises to the others is on its disk before it leaves."""

from functools import partial

import pytest

from pgbastion.bench._engine_lab import Lab, lab, until
from support.system_calls import Sent, answers, traced

ENTRY = b"an entry that is traced"
OTHER, TRACED = 1, 2


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> list[Sent]:
    """What a follower answered to appends and to a candidate."""
    folder = tmp_path_factory.mktemp("engines")
    trace = folder / "trace"
    prefix = traced(trace)
    with lab(folder, "127.31.71") as cluster:
        follow(cluster, prefix)
        cluster.engines[TRACED].kill()
    return list(answers(trace))


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
