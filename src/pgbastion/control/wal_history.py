"""Whether a standby's WAL lies on a primary's history."""

from pgbastion.model.report import NodeReport
from pgbastion.model.wal import WalEnd


def diverged_from(primary: NodeReport, end: WalEnd) -> bool:
    """Tell whether WAL up to ``end`` has something that the primary's history lacks.

    The primary's report names its newest ancestors and where each was left. A
    timeline that is not among them is not on its history; one that is may be
    followed only up to the point where the primary left it.
    """
    if primary.wal_end is None or end.timeline == primary.wal_end.timeline:
        return False
    left = dict(primary.history).get(end.timeline)
    return left is None or end.lsn > left


def surest_end(reported: WalEnd | None, replayed: WalEnd | None) -> WalEnd | None:
    """Return which of two ends of a standby's WAL says more of its history.

    One that receives nothing tells its end with the timeline of its checkpoint; its
    recovery may have chosen a later one since, by a history file that was left behind.
    What it has replayed on an older one says nothing new.
    """
    if reported is None or replayed is None or replayed.timeline <= reported.timeline:
        return reported
    return replayed
