"""What the Raft leader decides about a living holder, and after an election."""

from dataclasses import replace

import pytest

from pgbastion.control.cluster import (
    AGES_AGAIN_MS,
    decide_cluster,
)
from pgbastion.control.membership import has_left, voting_note
from pgbastion.model.actions import (
    AskAges,
    ChangeMember,
    CloseLease,
    Decision,
    MemberChange,
    MoveLeadership,
)
from pgbastion.model.cluster import VOTERS_MAX, ClusterState
from pgbastion.model.ids import Epoch, MemberId, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState
from pgbastion.model.views import ClusterView
from pgbastion.testing.views import (
    NOW_MS,
    assignment,
    cluster_state,
    cluster_view,
    data_id,
    end,
    primary_report,
    raft_view,
    received,
    report,
)
from support.deciding import (
    ELECTED,
    LENGTH,
    ages,
    assigned,
    reason,
    revoke,
)

# Who decides


def test_only_the_leader_decides() -> None:
    view = cluster_view(raft=raft_view(is_leader=False))
    assert decide_cluster(view) == Decision(Reason.NOT_LEADER)


def test_a_leader_decides_after_its_own_first_entry() -> None:
    """Until then its state may lack what an earlier leader committed."""
    view = cluster_view(raft=raft_view(own_entry_applied=False))
    assert decide_cluster(view) == Decision(Reason.TERM_NOT_STARTED)


def test_nothing_is_decided_before_the_foundation() -> None:
    assert reason(cluster_view(state=ClusterState())) is Reason.NOT_FOUNDED


def test_nothing_is_decided_while_paused() -> None:
    assert reason(cluster_view(state=cluster_state(paused=True))) is Reason.PAUSED


# The first primary

FRESH = cluster_state(
    assignment=None, opened=None, highest_timeline=Timeline(0), sync_count=None
)
READY = report(1, state=PostgresState.STOPPED, wal_end=end(5, 1), streaming=False)


def test_the_founder_gets_the_first_epoch() -> None:
    command = assigned(
        decide_cluster(cluster_view(state=FRESH, reports=received(READY)))
    )

    assert (command.epoch, command.node, command.data_id) == (1, "n1", "a1")
    assert (command.timeline, command.surveyed) == (2, None)
    assert command.revision == FRESH.revision


def test_the_first_timeline_is_above_the_one_found() -> None:
    ready = replace(READY, wal_end=end(5, 7))
    view = cluster_view(state=FRESH, reports=received(ready))
    assert assigned(decide_cluster(view)).timeline == 8
    unknown = cluster_view(state=FRESH, reports=received(replace(READY, wal_end=None)))
    assert assigned(decide_cluster(unknown)).timeline == 2


@pytest.mark.parametrize(
    "view",
    [
        cluster_view(state=FRESH, reports={}),
        cluster_view(
            state=replace(FRESH, founder=MemberId(9)), reports=received(READY)
        ),
        cluster_view(
            state=FRESH, reports=received(replace(READY, state=PostgresState.COPYING))
        ),
        cluster_view(state=FRESH, reports=received(replace(READY, data_id=data_id(2)))),
        cluster_view(state=FRESH, reports=received(replace(READY, data_id=None))),
    ],
    ids=["silent", "gone", "busy", "undeclared", "empty"],
)
def test_the_first_epoch_waits_for_the_founders_data(view: ClusterView) -> None:
    assert decide_cluster(view) == Decision(Reason.FIRST_PRIMARY_NOT_READY)


# A live holder


def test_a_holder_that_renews_is_left_alone() -> None:
    decision = decide_cluster(cluster_view())

    assert decision == Decision(Reason.PRIMARY_HAS_LEASE, (), NOW_MS - 200 + 2_500)


def test_a_silent_holder_keeps_its_role_until_its_lease_has_surely_run_out() -> None:
    last = NOW_MS - LENGTH + 1
    view = cluster_view(raft=raft_view(last_answer_ms=last))

    assert decide_cluster(view) == Decision(
        Reason.LEASE_MAY_RUN, (), last + LENGTH, detail="n1"
    )


def test_a_holder_silent_for_a_lease_is_revoked_with_the_lease_closed_before() -> None:
    view = cluster_view(raft=raft_view(last_answer_ms=NOW_MS - LENGTH))

    assert decide_cluster(view) == Decision(
        Reason.LEASE_RAN_OUT,
        (CloseLease(epoch=Epoch(3)), revoke(Reason.LEASE_RAN_OUT)),
        detail="n1",
    )


def test_a_fresh_holder_has_a_lease_to_come_forward_in() -> None:
    view = cluster_view(
        raft=raft_view(last_answer_ms=0), assigned_seen_ms=NOW_MS - 4_999
    )

    assert decide_cluster(view).wake_at_ms == NOW_MS + 1
    assert reason(replace(view, assigned_seen_ms=NOW_MS - 5_000)) is (
        Reason.LEASE_RAN_OUT
    )


# After an election


def test_a_new_leader_asks_for_ages() -> None:
    view = cluster_view(raft=ELECTED)

    assert decide_cluster(view) == Decision(
        Reason.AGES_UNKNOWN, (AskAges(),), NOW_MS + AGES_AGAIN_MS
    )


def test_ages_are_asked_for_again_after_a_while() -> None:
    view = cluster_view(raft=ELECTED, ages_asked_ms=NOW_MS - AGES_AGAIN_MS + 1)
    assert decide_cluster(view) == Decision(Reason.AGES_UNKNOWN, (), NOW_MS + 1)

    view = replace(view, ages_asked_ms=NOW_MS - AGES_AGAIN_MS)
    assert decide_cluster(view).actions == (AskAges(),)


def test_ages_of_a_majority_are_enough_to_wait_with() -> None:
    view = cluster_view(raft=ELECTED, ages=ages(1, 2))

    assert decide_cluster(view) == Decision(
        Reason.LEASE_MAY_RUN, (), NOW_MS - 600 + LENGTH, detail="n1"
    )


def test_ages_of_an_older_term_are_asked_for_again() -> None:
    view = cluster_view(raft=ELECTED, ages=ages(1, 2, term=4))
    assert reason(view) is Reason.AGES_UNKNOWN


def test_ages_that_are_old_enough_end_the_wait() -> None:
    view = cluster_view(raft=ELECTED, ages=ages(1, 2, age_ms=LENGTH))
    assert reason(view) is Reason.LEASE_RAN_OUT


# Membership


def change(view: ClusterView) -> ChangeMember | MoveLeadership | None:
    actions = decide_cluster(view).actions
    assert len(actions) < 2
    action = actions[0] if actions else None
    assert action is None or isinstance(action, ChangeMember | MoveLeadership)
    return action


def test_a_member_without_a_vote_becomes_a_learner() -> None:
    view = cluster_view(raft=raft_view(voters=(1, 2)))

    assert change(view) == ChangeMember(
        change=MemberChange.ADD_LEARNER,
        member_id=MemberId(3),
        address="127.0.0.3:8300",
    )


LEARNING = raft_view(voters=(1, 2), learners=(MemberId(3),), caught_up=(MemberId(3),))


def test_a_learner_that_caught_up_becomes_a_voter() -> None:
    assert change(cluster_view(raft=LEARNING)) == ChangeMember(
        change=MemberChange.PROMOTE, member_id=MemberId(3)
    )


def test_a_learner_that_lags_waits() -> None:
    assert change(cluster_view(raft=replace(LEARNING, caught_up=()))) is None


def test_there_are_at_most_five_voters() -> None:
    voters = tuple(range(1, VOTERS_MAX + 1))
    learner = MemberId(VOTERS_MAX + 1)
    raft = raft_view(voters=voters, learners=(learner,), caught_up=(learner,))
    view = cluster_view(state=cluster_state(servers=VOTERS_MAX + 1), raft=raft)
    assert change(view) is None


@pytest.mark.parametrize("kind", ["voters", "learners"])
def test_who_left_the_state_leaves_the_group(kind: str) -> None:
    raft = raft_view()
    more = {kind: (*getattr(raft, kind), MemberId(9))}
    raft = replace(raft, **more)  # type: ignore[arg-type]

    assert change(cluster_view(raft=raft)) == ChangeMember(
        change=MemberChange.REMOVE, member_id=MemberId(9)
    )


def test_a_leader_that_left_hands_leadership_on() -> None:
    """To the holder first: leader and primary sit on one node."""
    raft = raft_view(member_id=MemberId(9), voters=(1, 2, 3, 9))
    view = cluster_view(raft=raft)

    assert change(view) == MoveLeadership(member_id=MemberId(1))
    assert reason(view) is Reason.LEAVING_LEADERSHIP


def test_a_leader_that_left_goes_on_while_nobody_can_lead() -> None:
    raft = raft_view(member_id=MemberId(9), voters=(1, 2, 3, 9), caught_up=())
    view = cluster_view(raft=raft)

    assert change(view) is None
    assert reason(view) is Reason.REMOVAL_WAITS


def test_nobody_leaves_while_most_of_those_that_stay_are_silent() -> None:
    raft = raft_view(voters=(1, 2, 3, 9))
    view = cluster_view(raft=raft, reports=received(primary_report()))

    assert change(view) is None
    assert reason(view) is Reason.REMOVAL_WAITS

    view = replace(view, reports=received(primary_report(), report(2)))
    assert reason(view) is Reason.REMOVING_MEMBER


def test_who_has_no_vote_leaves_whoever_is_silent() -> None:
    raft = raft_view(learners=(MemberId(9),))
    view = cluster_view(raft=raft, reports=received(primary_report()))

    assert reason(view) is Reason.REMOVING_MEMBER


@pytest.mark.parametrize(
    ("voters", "learners", "says"),
    [
        (1, 0, "does not survive"),
        (2, 0, "2 voters stand the loss of none, as 1 do"),
        (3, 0, ""),
        (3, 1, "1 without a vote"),
        (4, 0, "4 voters stand the loss of 1, as 3 do"),
        (5, 2, "2 without a vote: no more than 5 vote"),
        (0, 0, ""),
    ],
)
def test_a_person_is_told_of_an_unusual_number_of_votes(
    voters: int, learners: int, says: str
) -> None:
    said = voting_note(voters, learners)
    assert (said == "") if not says else (says in said)


def test_who_was_a_member_once_and_is_none_has_left_for_ever() -> None:
    state = cluster_state(next_member_id=MemberId(5))

    assert has_left(state, MemberId(4))
    assert not has_left(state, MemberId(3))
    # Not given yet, as far as this state knows.
    assert not has_left(state, MemberId(5))
    assert not has_left(state, MemberId(0))
    assert not has_left(replace(state, cluster_id=""), MemberId(4))


def test_one_change_at_a_time() -> None:
    assert change(cluster_view(raft=replace(LEARNING, change_pending=True))) is None


def test_no_change_before_the_wait_for_older_grants_is_over() -> None:
    """The ages speak of the configurations that the leader has had."""
    young = replace(LEARNING, elected_ms=NOW_MS - 100)
    view = cluster_view(raft=young)
    assert reason(view) is Reason.PRIMARY_HAS_LEASE

    view = replace(view, ages=ages(1, 2, age_ms=LENGTH))
    assert reason(view) is Reason.PROMOTING_LEARNER


def test_members_change_at_once_before_the_first_epoch() -> None:
    view = cluster_view(
        state=FRESH, reports={}, raft=replace(LEARNING, elected_ms=NOW_MS)
    )
    assert reason(view) is Reason.PROMOTING_LEARNER


def elsewhere(**changes: object) -> ClusterView:
    made = cluster_view(raft=raft_view(member_id=MemberId(2)))
    return replace(made, **changes)  # type: ignore[arg-type]


def test_leadership_moves_to_the_accepting_primary() -> None:
    assert change(elsewhere()) == MoveLeadership(member_id=MemberId(1))


@pytest.mark.parametrize(
    "view",
    [
        cluster_view(),
        elsewhere(reports={}),
        elsewhere(reports=received(primary_report(accepting=False))),
        elsewhere(state=cluster_state(assignment=assignment(opened=False))),
        elsewhere(
            raft=raft_view(
                member_id=MemberId(2), voters=(2, 3), learners=(1,), caught_up=()
            )
        ),
        elsewhere(raft=raft_view(member_id=MemberId(2), caught_up=(2, 3))),
    ],
    ids=["already", "silent", "closed", "opening", "no_voter", "lagging"],
)
def test_leadership_stays_unless_an_accepting_primary_can_take_it(
    view: ClusterView,
) -> None:
    assert change(view) is None
    assert reason(view) is Reason.PRIMARY_HAS_LEASE


def test_leadership_stays_before_the_first_epoch() -> None:
    assert change(elsewhere(state=FRESH, reports={})) is None
