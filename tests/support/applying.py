"""Commands for the tests of the state machine."""

from dataclasses import replace

from pgbastion.control.apply import (
    Applied,
    Outcome,
    apply,
)
from pgbastion.model import commands as cmd
from pgbastion.model.cluster import (
    ClusterState,
    ReplicationMode,
    SyncSet,
)
from pgbastion.model.commands import Command, encode_command
from pgbastion.model.ids import (
    Epoch,
    Incarnation,
    MemberId,
    Timeline,
)
from pgbastion.testing.views import (
    INCARNATION,
    POLICY,
    any_of,
    cluster_state,
    data_id,
    end,
    member,
    node_name,
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


OPEN = cmd.Opened(epoch=Epoch(3), incarnation=INCARNATION, sync=any_of(1, 2), at="now")
