"""What makes a node a poor primary is known beforehand, and only breaks ties."""

import pytest

from pgbastion.control.candidates import handicaps
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.loss import why_ineligible
from pgbastion.control.orders import best_target
from pgbastion.model.actions import Propose
from pgbastion.model.commands import Assign
from pgbastion.model.ids import Epoch
from pgbastion.model.reasons import Reason
from pgbastion.model.report import Disk, NodeReport, Vitals
from pgbastion.model.trouble import Trouble
from pgbastion.model.views import SurveyView
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    NOW_MS,
    answer,
    any_of,
    assignment,
    cluster_state,
    cluster_view,
    in_async,
    known_reports,
    member,
    node_name,
    opened,
    primary_report,
    received,
    report,
)

PAUSED = {"replay_paused": True}
FULL = {
    "vitals": Vitals(
        probe_ms=1, disks=(Disk(holds="data", free_bytes=4, size_bytes=100),)
    )
}
HURT = {"trouble": Trouble.DISK_SILENT}
FLAWED = {"flaws": ("it lacks the library x",)}
UNABLE = {"unable": "its watchdog is required: gone"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ()),
        (PAUSED, ("its replay is paused",)),
        (HURT, ("an fsync of a small file does not return",)),
        (FULL, ("4% of the data disk is free",)),
        (FLAWED, ("it lacks the library x",)),
        (UNABLE, ("its watchdog is required: gone",)),
    ],
)
def test_each_handicap_is_told(
    changes: dict[str, object], words: tuple[str, ...]
) -> None:
    assert handicaps(report(2, **changes)) == words


def chosen(*reports: NodeReport, priority: int = 1) -> str:
    """Return who gets the role when both standbys are equally far."""
    members = (member(1), member(2), member(3, failover_priority=priority))
    state = in_async(
        cluster_state(
            members=members, assignment=assignment(revoked=True, released=True)
        )
    )
    decision = decide_cluster(
        cluster_view(state=state, reports=received(primary_report(), *reports))
    )
    command = next(a.command for a in decision.actions if isinstance(a, Propose))
    assert isinstance(command, Assign)
    return command.node


@pytest.mark.parametrize("changes", [PAUSED, FULL, HURT, FLAWED])
def test_among_equals_the_sound_one_is_chosen(changes: dict[str, object]) -> None:
    assert chosen(report(2), report(3, **changes), priority=9) == "n2"


def test_priority_comes_before_what_was_replayed() -> None:
    ahead, behind = report(2, replay_lsn=Lsn(99)), report(3, replay_lsn=Lsn(10))

    assert chosen(ahead, behind) == "n2"
    assert chosen(ahead, behind, priority=2) == "n3"


def test_one_that_is_alone_is_chosen_with_its_handicap() -> None:
    assert chosen(report(2, **PAUSED)) == "n2"


def test_nobody_is_ordered_to_take_the_role_with_a_handicap() -> None:
    fit = {"replay_lsn": Lsn(100)}
    handicapped = report(2, **fit, **PAUSED)
    both = known_reports(primary_report(), handicapped, report(3, **fit))
    alone = known_reports(primary_report(), handicapped)

    assert best_target(cluster_state(), both) == "n3"
    assert best_target(cluster_state(), alone) is None


def test_one_that_lacks_what_it_requires_is_never_chosen() -> None:
    """It would only release the epoch, again and again."""
    assert chosen(report(2), report(3, **UNABLE), priority=9) == "n2"
    state = in_async(cluster_state(assignment=assignment(revoked=True, released=True)))
    reports = received(report(2, **UNABLE), report(3, **UNABLE))
    decision = decide_cluster(cluster_view(state=state, reports=reports))
    assert decision.reason is Reason.NO_CANDIDATE


def test_surveyed_or_ordered_it_is_not_chosen_either() -> None:
    told = opened(1, 3, any_of(1, 2, 3))
    state = cluster_state(
        opened=told, assignment=assignment(revoked=True, released=True)
    )
    survey = SurveyView(
        epoch=Epoch(3),
        started_ms=NOW_MS - 5_000,
        answers=(answer(2, 200), answer(3, 200)),
        asked_ms=NOW_MS,
    )
    known = report(2, **UNABLE), report(3)
    view = cluster_view(state=state, reports=received(*known), survey=survey)

    [_, propose] = decide_cluster(view).actions
    assert isinstance(propose, Propose)
    assert isinstance(propose.command, Assign)
    assert propose.command.node == "n3"
    why = why_ineligible(state, known_reports(*known), node_name(2))
    assert why == "n2: its watchdog is required: gone"
