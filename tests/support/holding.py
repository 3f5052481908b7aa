"""Views of a holder for the tests of its decisions."""

from dataclasses import replace

from pgbastion.model.actions import (
    EndEpoch,
    LatchRelease,
    Propose,
    StopMode,
    StopPostgres,
)
from pgbastion.model.commands import Release, Resume
from pgbastion.model.ids import Epoch, Incarnation
from pgbastion.model.reasons import Reason
from pgbastion.model.views import NodeView
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    INCARNATION,
    NOW_MS,
    assignment,
    cluster_state,
    holder_view,
    lease_view,
    standby_server,
)

E3 = Epoch(3)
WATCH_MS = NOW_MS + 1_900
OTHER = Incarnation(5)


def kill(reason: Reason) -> tuple[StopPostgres, ...]:
    return (StopPostgres(mode=StopMode.KILL, reason=reason),)


def release(cause: Reason, lsn: int | None = None) -> Propose:
    command = Release(
        epoch=E3,
        incarnation=INCARNATION,
        lsn=None if lsn is None else Lsn(lsn),
        cause=cause,
        at="",
    )
    return Propose(command=command)


GIVING_BACK = (EndEpoch(epoch=E3), LatchRelease(epoch=E3))
TAKING_UP = Propose(
    command=Resume(
        epoch=E3,
        member_id=assignment().member_id,
        incarnation=INCARNATION,
        former=OTHER,
    )
)
UNPROMOTED = cluster_state(assignment=assignment(opened=False))
STANDBY_DATA = replace(holder_view().data, promoted_epoch=Epoch(0), was_standby=True)


def candidate(**changes: object) -> NodeView:
    """Return the view of a holder that still runs as a standby."""
    made = holder_view(
        state=UNPROMOTED,
        data=STANDBY_DATA,
        postgres=standby_server(following=None),
        lease=lease_view(armed_epoch=Epoch(0)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]
