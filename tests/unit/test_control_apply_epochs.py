"""The state machine: what becomes of commands about an epoch."""

from dataclasses import replace

import pytest

from pgbastion.control.apply import (
    HISTORY_MAX,
    Outcome,
)
from pgbastion.model.cluster import (
    MEMBERS_MAX,
    NOBODY,
    SyncSet,
)
from pgbastion.model.commands import Command
from pgbastion.model.ids import (
    Epoch,
    Incarnation,
    MemberId,
    Revision,
    Timeline,
)
from pgbastion.testing.views import (
    INCARNATION,
    any_of,
    assignment,
    cluster_state,
    end,
    member,
    node_name,
    opened,
)
from support.applying import (
    OPEN,
    REVOKE,
    assign,
    refused,
    release,
    resume,
    revoked,
    run,
    set_sync,
)

# Epochs


def test_an_assignment_begins_the_next_epoch() -> None:
    state = run(revoked(), assign(revoked())).state

    assert state.assignment == assignment(
        2,
        epoch=4,
        timeline=Timeline(5),
        surveyed=end(100),
        incarnation=None,
        opened=False,
    )
    assert state.highest_timeline == 5
    assert state.later_timelines == (5,)
    assert state.opened == cluster_state().opened
    assert state.revision == revoked().revision + 1


def test_the_first_epoch_counts_as_opened_with_nobody_synchronous() -> None:
    state = cluster_state(assignment=None, opened=None, highest_timeline=Timeline(0))
    after = run(state, assign(state, 1, epoch=Epoch(1))).state

    assert after.assignment is not None
    assert after.assignment.opened
    assert after.opened == replace(
        opened(1, 1, NOBODY), timeline=after.assignment.timeline
    )
    assert after.later_timelines == ()


def test_an_assignment_on_an_older_state_is_refused() -> None:
    state = revoked()
    stale = assign(state, revision=Revision(state.revision - 1))

    assert refused(state, stale) is Outcome.STALE_REVISION


def test_epochs_rise_by_one() -> None:
    skipping = assign(revoked(), epoch=Epoch(5))
    assert refused(revoked(), skipping) is Outcome.WRONG_EPOCH


def test_nothing_is_assigned_while_the_former_epoch_is_live() -> None:
    assert refused(cluster_state(), assign(cluster_state())) is Outcome.HOLDS_EPOCH


@pytest.mark.parametrize(
    "changes",
    [{"member_id": MemberId(9)}, {"node": node_name(3)}],
    ids=["unknown", "name"],
)
def test_only_members_are_assigned(changes: dict[str, object]) -> None:
    command = replace(assign(revoked()), **changes)  # type: ignore[arg-type]

    assert refused(revoked(), command) is Outcome.UNKNOWN_MEMBER


def test_a_witness_is_not_assigned() -> None:
    state = revoked()
    state = replace(state, members=(*state.members[:1], member(2, witness=True)))

    assert refused(state, assign(state)) is Outcome.UNKNOWN_MEMBER


def test_timeline_ids_never_repeat() -> None:
    command = assign(revoked(), timeline=revoked().highest_timeline)

    assert refused(revoked(), command) is Outcome.SENSELESS


def test_several_epochs_may_be_assigned_and_never_opened() -> None:
    state = revoked()
    for _ in range(3):
        state = run(state, assign(state)).state
        state = run(state, replace(REVOKE, epoch=state.epoch)).state

    assert state.later_timelines == (5, 6, 7)
    assert state.opened == cluster_state().opened


def test_a_daemon_takes_its_epoch_up() -> None:
    state = run(cluster_state(), resume()).state

    assert state.assignment == assignment(incarnation=Incarnation(99))


def test_a_resume_does_not_raise_the_revision() -> None:
    """A daemon in a crash loop must not starve an assignment."""
    assert run(cluster_state(), resume()).state.revision == cluster_state().revision


def test_a_late_resume_of_a_former_daemon_is_refused() -> None:
    late = resume(incarnation=Incarnation(1), former=None)
    assert refused(cluster_state(), late) is Outcome.WRONG_INCARNATION


def test_a_repeated_resume_changes_nothing() -> None:
    again = resume(incarnation=INCARNATION, former=None)
    assert refused(cluster_state(), again) is Outcome.NO_CHANGE


def test_only_the_holder_resumes() -> None:
    other = resume(member_id=MemberId(2))
    assert refused(cluster_state(), other) is Outcome.NOT_HOLDER


NOT_OPEN = cluster_state(assignment=assignment(opened=False))


@pytest.mark.parametrize(
    "command", [resume(), OPEN, set_sync(revoked(), NOBODY)], ids=lambda c: c.kind
)
def test_a_revoked_epoch_takes_nothing_from_its_holder(command: Command) -> None:
    assert refused(revoked(), command) is Outcome.EPOCH_OVER


@pytest.mark.parametrize(
    "command",
    [
        resume(epoch=Epoch(2)),
        replace(OPEN, epoch=Epoch(2)),
        set_sync(cluster_state(), NOBODY, epoch=Epoch(2)),
        release(epoch=Epoch(2)),
        replace(REVOKE, epoch=Epoch(2)),
    ],
    ids=lambda c: c.kind,
)
def test_a_word_of_another_epoch_is_refused(command: Command) -> None:
    assert refused(cluster_state(), command) is Outcome.WRONG_EPOCH
    nobody = cluster_state(assignment=None)
    assert refused(nobody, command) is Outcome.WRONG_EPOCH


@pytest.mark.parametrize(
    "command",
    [
        replace(OPEN, incarnation=Incarnation(1)),
        set_sync(cluster_state(), NOBODY, incarnation=Incarnation(1)),
        release(incarnation=Incarnation(1)),
    ],
    ids=lambda c: c.kind,
)
def test_a_word_of_another_incarnation_is_refused(command: Command) -> None:
    assert refused(cluster_state(), command) is Outcome.WRONG_INCARNATION


def test_opened_records_holder_data_timeline_and_set() -> None:
    state = replace(
        NOT_OPEN, opened=opened(2, 2, any_of(1, 1)), later_timelines=(Timeline(4),)
    )
    after = run(state, OPEN).state

    assert after.assignment == assignment()
    assert after.opened == opened(1, 3, any_of(1, 2))
    assert after.later_timelines == ()
    assert after.revision == state.revision + 1


def test_an_epoch_opens_once() -> None:
    assert refused(cluster_state(), OPEN) is Outcome.NO_CHANGE


SENSELESS_SETS = {
    "twice": SyncSet(names=("a", "a"), num_sync=1),
    "negative": SyncSet(names=("a",), num_sync=-1),
    "more_than_names": SyncSet(names=("a",), num_sync=2),
    "too_many": SyncSet(names=tuple(map(str, range(MEMBERS_MAX + 1))), num_sync=1),
}


@pytest.mark.parametrize("sync", SENSELESS_SETS.values(), ids=SENSELESS_SETS.keys())
def test_a_senseless_set_is_refused(sync: SyncSet) -> None:
    assert refused(NOT_OPEN, replace(OPEN, sync=sync)) is Outcome.SENSELESS
    state = cluster_state()
    assert refused(state, set_sync(state, sync)) is Outcome.SENSELESS


def test_the_holder_changes_the_synchronous_set() -> None:
    state = cluster_state()
    after = run(state, set_sync(state, any_of(1, 3))).state

    assert after.opened == opened(1, 3, any_of(1, 3))
    assert after.revision == state.revision + 1


def test_the_set_of_an_epoch_that_is_not_open_cannot_change() -> None:
    older = replace(NOT_OPEN, opened=opened(2, 2, any_of(1, 3)))
    assert refused(older, set_sync(older, any_of(1, 2))) is Outcome.SENSELESS
    never = replace(NOT_OPEN, opened=None)
    assert refused(never, set_sync(never, any_of(1, 2))) is Outcome.SENSELESS


def test_a_promise_on_its_way_is_refused_once_the_set_was_settled() -> None:
    """Else it is strengthened behind a server that was weakened meanwhile."""
    state = cluster_state()
    late = set_sync(state, any_of(1, 2))
    settled = run(state, set_sync(state, any_of(1, 2, 3))).state

    assert refused(settled, late) is Outcome.STALE_REVISION


def test_the_holder_gives_its_epoch_back() -> None:
    state = run(cluster_state(), release()).state

    assert state.assignment == assignment(released=True)
    assert state.revision == cluster_state().revision + 1


def test_a_revoked_epoch_may_still_be_given_back() -> None:
    state = run(revoked(), release()).state

    assert state.assignment == assignment(released=True, revoked=True)


def test_an_epoch_is_given_back_once() -> None:
    state = run(cluster_state(), release()).state

    assert refused(state, release()) is Outcome.NO_CHANGE


def test_a_revocation_is_recorded() -> None:
    assert revoked().assignment == assignment(revoked=True)
    assert revoked().revision == cluster_state().revision + 1
    assert refused(revoked(), REVOKE) is Outcome.NO_CHANGE


def test_the_history_names_each_change_of_role() -> None:
    state = cluster_state(assignment=assignment(opened=False))
    for command in (OPEN, release(), REVOKE):
        state = run(state, command).state
    state = run(state, assign(state)).state

    assert [c.what for c in state.history] == [
        "opened", "released", "revoked", "assigned",
    ]  # fmt: skip
    assert state.history[-1].epoch == 4


def test_the_history_is_bounded() -> None:
    state = run(cluster_state(), REVOKE).state
    state = replace(state, history=state.history * HISTORY_MAX)

    assert len(run(state, assign(state)).state.history) == HISTORY_MAX
