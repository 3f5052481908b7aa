"""The state machine of the log, one rule a test."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pgbastion.control.apply import (
    HISTORY_MAX,
    MEMBERS_MAX,
    RECENT_MAX,
    Applied,
    Outcome,
    apply,
)
from pgbastion.model import commands as cmd
from pgbastion.model.cluster import (
    NOBODY,
    ClusterState,
    Policy,
    ReplicationMode,
    SyncSet,
)
from pgbastion.model.commands import COMMAND_BYTES_MAX, Command, encode_command
from pgbastion.model.ids import (
    DataId,
    Epoch,
    Incarnation,
    MemberId,
    NodeId,
    Revision,
    Timeline,
)
from pgbastion.testing.views import (
    INCARNATION,
    POLICY,
    any_of,
    assignment,
    cluster_state,
    data_id,
    end,
    member,
    node_name,
    opened,
)


def run(state: ClusterState, command: Command, proposal: str = "") -> Applied:
    return apply(state, state.index + 1, proposal, encode_command(command))


def found(**changes: object) -> cmd.Found:
    made = cmd.Found(
        cluster_name="main",
        cluster_id="c1",
        member=member(1, data_id=None),
        policy=POLICY,
        mode=ReplicationMode.QUORUM,
        sync_count=None,
        strict=False,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def assign(state: ClusterState, number: int = 2, **changes: object) -> cmd.Assign:
    made = cmd.Assign(
        revision=state.revision,
        epoch=Epoch(state.epoch + 1),
        member_id=MemberId(number),
        node=node_name(number),
        data_id=data_id(number),
        timeline=Timeline(state.highest_timeline + 1),
        surveyed=end(100),
        cause="test",
        at="now",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def set_sync(state: ClusterState, sync: SyncSet, **changes: object) -> cmd.SetSync:
    made = cmd.SetSync(
        revision=state.revision, epoch=Epoch(3), incarnation=INCARNATION, sync=sync
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def release(**changes: object) -> cmd.Release:
    made = cmd.Release(
        epoch=Epoch(3), incarnation=INCARNATION, lsn=None, cause="c", at="now"
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def resume(**changes: object) -> cmd.Resume:
    made = cmd.Resume(
        epoch=Epoch(3),
        member_id=MemberId(1),
        incarnation=Incarnation(99),
        former=INCARNATION,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


REVOKE = cmd.Revoke(epoch=Epoch(3), cause="c", at="now")


def revoked() -> ClusterState:
    return run(cluster_state(), REVOKE).state


def refused(state: ClusterState, command: Command) -> Outcome:
    """Return the outcome of a command that changes nothing but the index."""
    applied = run(state, command)
    assert applied.state == replace(state, index=state.index + 1)
    return applied.outcome


# Entries


def test_an_entry_that_is_not_newer_than_the_state_changes_nothing() -> None:
    state = cluster_state()
    data = encode_command(REVOKE)

    applied = apply(state, state.index, "", data)

    assert (applied.state, applied.outcome) == (state, Outcome.DUPLICATE)


def test_a_repeated_proposal_changes_nothing() -> None:
    first = run(cluster_state(), set_sync(cluster_state(), NOBODY), "p1")
    again = run(first.state, set_sync(first.state, any_of(1, 2)), "p1")

    assert first.outcome is Outcome.OK
    assert again.outcome is Outcome.DUPLICATE
    assert again.state.opened == first.state.opened


def test_ids_of_old_proposals_are_forgotten() -> None:
    state = replace(cluster_state(), recent=tuple(map(str, range(RECENT_MAX))))

    assert len(run(state, REVOKE, "new").state.recent) == RECENT_MAX


def test_a_refused_command_counts_as_seen() -> None:
    state = cluster_state()

    assert run(state, release(epoch=Epoch(9)), "p1").state.recent == ("p1",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"v":2,"c":{"kind":"revoke","epoch":3,"cause":"","at":""}}',
        b'{"v":1,"c":{"kind":"unheard"}}',
        b" " * (COMMAND_BYTES_MAX + 1),
    ],
    ids=["empty", "torn", "version", "kind", "long"],
)
def test_bytes_that_are_no_command_give_a_reason(data: bytes) -> None:
    state = cluster_state()

    applied = apply(state, state.index + 1, "p", data)

    assert applied.outcome is Outcome.MALFORMED
    assert applied.detail
    assert applied.state == replace(state, index=state.index + 1)


# Foundation and membership


def test_nothing_but_a_foundation_comes_first() -> None:
    assert refused(ClusterState(), REVOKE) is Outcome.NOT_FOUNDED


def test_a_foundation_makes_the_first_member() -> None:
    state = run(ClusterState(), found()).state

    assert state.members == (member(1, data_id=None),)
    assert (state.founder, state.next_member_id) == (1, 2)


def test_a_cluster_is_founded_once() -> None:
    assert refused(cluster_state(), found()) is Outcome.ALREADY_FOUNDED


@pytest.mark.parametrize(
    "command",
    [
        found(cluster_id=""),
        found(member=member(1, member_id=MemberId(0))),
        found(policy=Policy(lease_ms=0, drift_ppm=1, margin_ms=1)),
        found(policy=Policy(lease_ms=1, drift_ppm=-1, margin_ms=1)),
        found(policy=Policy(lease_ms=1, drift_ppm=1, margin_ms=-1)),
    ],
    ids=["id", "member", "lease", "drift", "margin"],
)
def test_a_senseless_foundation_is_refused(command: cmd.Found) -> None:
    assert refused(ClusterState(), command) is Outcome.SENSELESS


def test_a_joining_node_gets_the_next_id_and_no_data() -> None:
    state = run(cluster_state(), cmd.Join(member=member(9))).state

    assert state.members[-1] == member(9, member_id=MemberId(4), data_id=None)
    assert state.next_member_id == 5
    assert state.revision == cluster_state().revision + 1


def test_a_member_id_is_never_given_again() -> None:
    state = run(cluster_state(), cmd.Leave(member_id=MemberId(3))).state

    assert run(state, cmd.Join(member=member(3))).state.members[-1].member_id == 4


def test_names_and_addresses_are_taken_once() -> None:
    state = cluster_state()

    assert refused(state, cmd.Join(member=member(2))) is Outcome.NAME_TAKEN
    twin = member(2, name=NodeId("other"))
    assert refused(state, cmd.Join(member=twin)) is Outcome.ADDRESS_TAKEN


def test_the_number_of_members_is_bounded() -> None:
    state = cluster_state(servers=MEMBERS_MAX)

    joins = cmd.Join(member=member(99))
    assert refused(state, joins) is Outcome.TOO_MANY_MEMBERS


def test_a_member_leaves() -> None:
    state = run(cluster_state(), cmd.Leave(member_id=MemberId(3))).state

    assert [m.member_id for m in state.members] == [1, 2]


def test_an_unknown_member_cannot_leave() -> None:
    gone = cmd.Leave(member_id=MemberId(9))
    assert refused(cluster_state(), gone) is Outcome.UNKNOWN_MEMBER


@pytest.mark.parametrize("state", [cluster_state(), revoked()], ids=["live", "revoked"])
def test_who_holds_an_epoch_cannot_leave(state: ClusterState) -> None:
    assert refused(state, cmd.Leave(member_id=MemberId(1))) is Outcome.HOLDS_EPOCH


def test_a_former_holder_may_leave() -> None:
    state = run(cluster_state(), release()).state

    assert run(state, cmd.Leave(member_id=MemberId(1))).outcome is Outcome.OK


def test_members_leave_before_the_first_epoch_too() -> None:
    state = cluster_state(assignment=None, opened=None)

    assert run(state, cmd.Leave(member_id=MemberId(3))).outcome is Outcome.OK


def declare(number: int, system: str | None = None, **changes: object) -> cmd.Declare:
    made = replace(member(number), **changes)  # type: ignore[arg-type]
    return cmd.Declare(member=made, system_identifier=system)


def test_a_member_declares_where_it_listens() -> None:
    state = run(cluster_state(), declare(2, api_port=1)).state

    assert state.member(MemberId(2)) == member(2, api_port=1)
    assert state.revision == cluster_state().revision + 1


def test_only_members_declare() -> None:
    assert refused(cluster_state(), declare(9)) is Outcome.UNKNOWN_MEMBER


def test_a_member_does_not_take_anothers_name() -> None:
    stolen = declare(2, name=node_name(3))
    assert refused(cluster_state(), stolen) is Outcome.NAME_TAKEN


def test_a_member_may_take_a_free_name() -> None:
    renamed = declare(2, name=NodeId("fresh"))
    assert run(cluster_state(), renamed).outcome is Outcome.OK


def test_a_foreign_system_identifier_is_refused() -> None:
    assert refused(cluster_state(), declare(2, "43")) is Outcome.SENSELESS


def test_a_declaration_that_says_nothing_new_changes_nothing() -> None:
    assert refused(cluster_state(), declare(2, "42")) is Outcome.NO_CHANGE
    assert refused(cluster_state(), declare(2)) is Outcome.NO_CHANGE


def test_only_the_founder_names_the_system_identifier() -> None:
    state = cluster_state(system_identifier=None)

    assert run(state, declare(1, "77")).state.system_identifier == "77"
    assert refused(state, declare(2, "77")) is Outcome.NO_CHANGE


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
OPEN = cmd.Opened(epoch=Epoch(3), incarnation=INCARNATION, sync=any_of(1, 2), at="now")


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


def test_the_set_changes() -> None:
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


# Total


SMALL = st.integers(-1, 6)
NAMES = st.sampled_from(["n1", "n2", "n3", "x", ""])
SYNCS = st.builds(SyncSet, names=st.lists(NAMES, max_size=3).map(tuple), num_sync=SMALL)
MEMBERS = st.builds(
    member, st.integers(1, 6), witness=st.booleans(), raft_port=st.integers(1, 3)
)
ENDS = st.none() | st.builds(end, SMALL, SMALL)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        cmd.Found,
        cluster_name=NAMES,
        cluster_id=NAMES,
        member=MEMBERS,
        policy=st.builds(Policy, lease_ms=SMALL, drift_ppm=SMALL, margin_ms=SMALL),
        mode=st.sampled_from(ReplicationMode),
        sync_count=st.none() | SMALL,
        strict=st.booleans(),
    ),
    st.builds(cmd.Join, member=MEMBERS),
    st.builds(cmd.Leave, member_id=SMALL.map(MemberId)),
    st.builds(cmd.Declare, member=MEMBERS, system_identifier=st.none() | NAMES),
    st.builds(
        cmd.Assign,
        revision=st.integers(0, 30).map(Revision),
        epoch=SMALL.map(Epoch),
        member_id=SMALL.map(MemberId),
        node=NAMES.map(NodeId),
        data_id=NAMES.map(DataId),
        timeline=SMALL.map(Timeline),
        surveyed=ENDS,
        cause=st.text(max_size=5),
        at=st.text(max_size=5),
    ),
    st.builds(
        cmd.Resume,
        epoch=SMALL.map(Epoch),
        member_id=SMALL.map(MemberId),
        incarnation=SMALL.map(Incarnation),
        former=st.none() | SMALL.map(Incarnation),
    ),
    st.builds(
        cmd.Opened,
        epoch=SMALL.map(Epoch),
        incarnation=SMALL.map(Incarnation),
        sync=SYNCS,
        at=st.just(""),
    ),
    st.builds(
        cmd.SetSync,
        revision=st.integers(0, 30).map(Revision),
        epoch=SMALL.map(Epoch),
        incarnation=SMALL.map(Incarnation),
        sync=SYNCS,
    ),
    st.builds(
        cmd.Release,
        epoch=SMALL.map(Epoch),
        incarnation=SMALL.map(Incarnation),
        lsn=st.none(),
        cause=st.just(""),
        at=st.just(""),
    ),
    st.builds(cmd.Revoke, epoch=SMALL.map(Epoch), cause=st.just(""), at=st.just("")),
)


def check_state(before: ClusterState, after: ClusterState) -> None:
    """State what no entry may break."""
    assert after.epoch >= before.epoch
    assert after.revision >= before.revision
    assert after.highest_timeline >= before.highest_timeline
    assert after.next_member_id >= before.next_member_id
    names = [m.name for m in after.members]
    assert len(set(names)) == len(names)
    if before.assignment is not None and after.epoch > before.epoch:
        assert not before.assignment.live
    if after.assignment is not None:
        assert after.opened is not None
        assert after.assignment.opened == (after.opened.epoch == after.epoch)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(-5, 30), st.text(max_size=3))
def test_any_bytes_end_in_a_state_and_an_outcome(
    data: bytes, index: int, proposal: str
) -> None:
    applied = apply(cluster_state(), index, proposal, data)

    check_state(cluster_state(), applied.state)
    assert applied.state.members == cluster_state().members


class AnyCommands(RuleBasedStateMachine):
    """Any commands in any order, with those that fit mixed in, so that it gets far."""

    def __init__(self) -> None:
        super().__init__()
        self.state = run(ClusterState(), found()).state
        self.before = self.state

    def apply(self, command: Command, proposal: str = "") -> None:
        self.before = self.state
        self.state = run(self.state, command, proposal).state

    @rule(command=COMMANDS, proposal=st.sampled_from(["", "p", "q"]))
    def any_command(self, command: Command, proposal: str) -> None:
        self.apply(command, proposal)

    @rule(number=st.integers(1, 4), witness=st.booleans())
    def fitting_join(self, number: int, *, witness: bool) -> None:
        self.apply(cmd.Join(member=member(number, witness=witness)))

    @rule(number=st.integers(1, 4))
    def fitting_assignment(self, number: int) -> None:
        self.apply(assign(self.state, number))

    @rule(revoke=st.booleans())
    def fitting_end(self, *, revoke: bool) -> None:
        held = self.state.assignment
        if revoke:
            self.apply(replace(REVOKE, epoch=self.state.epoch))
        elif held is not None and held.incarnation is not None:
            self.apply(release(epoch=self.state.epoch, incarnation=held.incarnation))

    @rule(sync=SYNCS, opens=st.booleans())
    def fitting_word_of_the_holder(self, sync: SyncSet, *, opens: bool) -> None:
        held = self.state.assignment
        if held is None:
            return
        if held.incarnation is None:
            self.apply(resume(epoch=held.epoch, member_id=held.member_id, former=None))
        elif opens:
            self.apply(replace(OPEN, epoch=held.epoch, incarnation=held.incarnation))
        else:
            self.apply(
                set_sync(
                    self.state, sync, epoch=held.epoch, incarnation=held.incarnation
                )
            )

    @invariant()
    def no_entry_breaks_a_rule(self) -> None:
        check_state(self.before, self.state)


TestAnyCommands = AnyCommands.TestCase
TestAnyCommands.settings = settings(max_examples=60, stateful_step_count=40)
