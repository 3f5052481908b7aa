"""The state machine is total: any command in any order."""

import json
from dataclasses import replace
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pgbastion.control.apply import Outcome, apply
from pgbastion.model import commands as cmd
from pgbastion.model.cluster import (
    ClusterState,
    OrderOutcome,
    Policy,
    ReplicationMode,
    Schedule,
    SyncSet,
)
from pgbastion.model.commands import Command
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
    cluster_state,
    end,
    member,
)
from support.applying import (
    OPEN,
    REVOKE,
    assign,
    found,
    release,
    resume,
    run,
    set_sync,
)

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
    st.builds(
        cmd.ScheduleOrder,
        schedule=st.builds(
            Schedule,
            order_id=NAMES,
            target=st.none() | NAMES.map(NodeId),
            drain_ms=SMALL,
            cause=st.text(max_size=5),
            at=st.text(max_size=5),
            due_at=st.text(max_size=5),
            expires_at=st.text(max_size=5),
        ),
    ),
    st.builds(
        cmd.Unschedule,
        order_id=NAMES,
        outcome=st.sampled_from(OrderOutcome),
        detail=st.text(max_size=5),
        at=st.text(max_size=5),
    ),
    st.builds(
        cmd.SetFence,
        node=NAMES.map(NodeId),
        fenced=st.booleans(),
        force=st.booleans(),
        drain_ms=SMALL,
        cause=st.text(max_size=5),
        at=st.text(max_size=5),
    ),
    st.builds(
        cmd.SetParameters,
        base=SMALL,
        parameters=st.lists(st.tuples(NAMES, NAMES), max_size=3).map(tuple),
        by=st.just(""),
        at=st.just(""),
    ),
)


ODD_FIELDS: st.SearchStrategy[Command] = st.sampled_from(get_args(cmd.Command)).flatmap(
    st.from_type
)
"""Every kind of command there is, also those of later releases, with any fields."""


def check_state(before: ClusterState, after: ClusterState) -> None:
    """State what no entry may break."""
    assert after.epoch >= before.epoch
    assert after.revision >= before.revision
    assert after.highest_timeline >= before.highest_timeline
    assert after.next_member_id >= before.next_member_id
    versions = [v.version for v in after.settings_versions]
    assert versions == sorted(set(versions))
    names = [m.name for m in after.members]
    assert len(set(names)) == len(names)
    if before.assignment is not None and after.epoch > before.epoch:
        assert not before.assignment.live
    if after.assignment is not None:
        assert after.opened is not None
        assert after.assignment.opened == (after.opened.epoch == after.epoch)


KINDS = {command.__dataclass_fields__["kind"].default for command in get_args(Command)}


@settings(max_examples=200)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    version=st.integers(-1, 3),
    fields=st.dictionaries(
        st.sampled_from(["epoch", "order", "member", "sync", "revision", "later"]),
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers()),
    ),
)
def test_every_kind_of_any_version_ends_in_a_state_and_an_outcome(
    kind: str, version: int, fields: dict[str, object]
) -> None:
    """What a later release writes, an earlier one refuses with a reason."""
    data = json.dumps({"v": version, "c": {**fields, "kind": kind}}).encode()
    applied = apply(cluster_state(), 11, "", data)

    check_state(cluster_state(), applied.state)
    assert version == cmd.COMMAND_VERSION or applied.outcome is Outcome.MALFORMED


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

    @rule(command=ODD_FIELDS)
    def any_kind_with_any_fields(self, command: Command) -> None:
        self.apply(command)

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
