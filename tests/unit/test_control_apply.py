"""The state machine: entries, foundation and membership."""

from dataclasses import replace

import pytest

from pgbastion.control.apply import (
    RECENT_MAX,
    Outcome,
    apply,
)
from pgbastion.model import commands as cmd
from pgbastion.model.cluster import (
    MEMBERS_MAX,
    NOBODY,
    ClusterState,
    Policy,
)
from pgbastion.model.commands import COMMAND_BYTES_MAX, encode_command
from pgbastion.model.ids import (
    Epoch,
    MemberId,
    NodeId,
)
from pgbastion.testing.views import (
    any_of,
    cluster_state,
    member,
    node_name,
)
from support.applying import (
    REVOKE,
    found,
    refused,
    release,
    revoked,
    run,
    set_sync,
)

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


def test_who_holds_an_epoch_cannot_leave() -> None:
    leave = cmd.Leave(member_id=MemberId(1))
    assert refused(cluster_state(), leave) is Outcome.HOLDS_EPOCH


def test_a_holder_whose_epoch_was_revoked_may_leave() -> None:
    """It comes back with another id, and its data may be the only one that counts."""
    left = run(revoked(), cmd.Leave(member_id=MemberId(1)))

    assert left.outcome is Outcome.OK
    assert left.state.assignment == revoked().assignment


def test_the_last_member_that_came_cannot_leave() -> None:
    """One that was announced and never came keeps no cluster."""
    state = cluster_state(servers=2, assignment=None)
    announced = replace(state.members[1], joined=False)
    state = replace(state, members=(state.members[0], announced))

    assert refused(state, cmd.Leave(member_id=MemberId(1))) is Outcome.LAST_MEMBER
    assert run(state, cmd.Leave(member_id=MemberId(2))).outcome is Outcome.OK


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
