"""The way back behind the primary, by histories."""

from dataclasses import replace

import pytest

from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline
from pgbastion.model.wal import Lsn, WalEnd
from pgbastion.postgres.mark import Mark
from pgbastion.postgres.parse import ControlState, Fork, History
from pgbastion.postgres.primary import WalSender, judge_effect
from pgbastion.postgres.rejoin import (
    Copy,
    CrashRecover,
    Follow,
    LocalState,
    Refuse,
    Rewind,
    SourceState,
    Step,
    Wait,
    decide_rejoin,
    has_strayed,
)
from pgbastion.postgres.standby import Position, judge_end
from support.pg_files import CONTROL


def history(timeline: int, *forks: tuple[int, int]) -> History:
    return History(
        timeline=Timeline(timeline),
        forks=tuple(Fork(parent=Timeline(t), lsn=Lsn(n)) for t, n in forks),
    )


def wal(timeline: int, lsn: int) -> WalEnd:
    return WalEnd(timeline=Timeline(timeline), lsn=Lsn(lsn))


LOCAL = LocalState(
    control=CONTROL,
    major=15,
    programs_major=15,
    wal_end=wal(2, 1000),
    history=history(2, (1, 500)),
)
SOURCE = SourceState(
    system_identifier="1",
    major=15,
    in_recovery=False,
    history=history(5, (1, 500), (2, 1000)),
    written=Lsn(2000),
    checkpoint_timeline=Timeline(5),
)


@pytest.mark.parametrize(
    ("end", "step"),
    [
        (wal(2, 1000), Follow),
        (wal(2, 900), Follow),
        (wal(1, 500), Follow),
        (wal(5, 2000), Follow),
        (wal(5, 1500), Follow),
        (wal(2, 1001), Rewind),
        (wal(1, 501), Rewind),
    ],
)
def test_what_the_primary_left_behind_is_rewound_and_the_rest_followed(
    end: WalEnd, step: type[Step]
) -> None:
    local = replace(LOCAL, wal_end=end, history=SOURCE.history.up_to(end.timeline))
    assert type(decide_rejoin(local, SOURCE)) is step


# Somebody promoted the standby by hand, its node cut off. It took timeline 5, and later
# the cluster gave that to another one.


@pytest.mark.parametrize("end", [wal(5, 1500), wal(2, 900)])
def test_a_timeline_of_the_primarys_id_that_began_elsewhere_is_copied_over(
    end: WalEnd,
) -> None:
    """Else it would stream on over records of its own, which nobody tells apart."""
    forks = {5: ((1, 500), (2, 900)), 2: ((1, 400),)}[end.timeline]
    local = replace(LOCAL, wal_end=end, history=history(end.timeline, *forks))
    assert isinstance(decide_rejoin(local, SOURCE), Copy)


@pytest.mark.parametrize("end", [wal(5, 1500), wal(2, 900)])
def test_a_timeline_that_no_epoch_gave_is_copied_over_wherever_it_began(
    end: WalEnd,
) -> None:
    same = replace(
        LOCAL,
        wal_end=end,
        history=SOURCE.history.up_to(end.timeline),
        has_strayed=True,
    )
    assert isinstance(decide_rejoin(same, SOURCE), Copy)


def test_a_timeline_that_no_epoch_gave_and_the_primary_lacks_is_rewound() -> None:
    lone = replace(LOCAL, wal_end=wal(3, 950), history=history(3, (1, 500), (2, 900)))
    assert isinstance(decide_rejoin(replace(lone, has_strayed=True), SOURCE), Rewind)


MARK = Mark(
    cluster_id="c",
    data_id=DataId("a"),
    node=NodeId("n1"),
    epoch=Epoch(4),
    promoted_epoch=Epoch(4),
    promoted_timeline=Timeline(2),
)


def strays(mark: Mark, state: ControlState, *, label: bool = False) -> bool:
    control = replace(CONTROL, state=state)
    return has_strayed(mark, control, wal(5, 1500), has_backup_label=label)


@pytest.mark.parametrize("state", [ControlState.IN_PRODUCTION, ControlState.SHUT_DOWN])
def test_a_primary_has_strayed_that_is_on_another_timeline_than_it_was_given(
    state: ControlState,
) -> None:
    never = replace(MARK, promoted_epoch=Epoch(0), promoted_timeline=Timeline(0))

    assert strays(MARK, state)
    assert strays(never, state)


def test_a_primary_on_its_assigned_timeline_has_not_strayed() -> None:
    production = ControlState.IN_PRODUCTION
    # Of a server that was taken over, or promoted by an earlier release.
    unknown = replace(MARK, promoted_timeline=Timeline(0))
    # Made for the first epoch, which has not begun.
    first = replace(unknown, epoch=Epoch(0), promoted_epoch=Epoch(0))

    assert not strays(replace(MARK, promoted_timeline=Timeline(5)), production)
    assert not strays(unknown, production)
    assert not strays(first, production)
    assert not strays(MARK, production, label=True)
    assert not strays(MARK, ControlState.IN_ARCHIVE_RECOVERY)
    assert not strays(MARK, ControlState.SHUT_DOWN_IN_RECOVERY)


def test_an_orphans_timeline_is_rewound_to_the_common_one() -> None:
    orphan = replace(LOCAL, wal_end=wal(3, 950), history=history(3, (1, 500), (2, 900)))
    step = decide_rejoin(orphan, SOURCE)
    assert isinstance(step, Rewind)
    assert "leads not to timeline 5" in step.reason


def test_a_crashed_server_recovers_before_its_rewind_only() -> None:
    crashed = replace(CONTROL, state=ControlState.IN_PRODUCTION)
    ahead = replace(LOCAL, control=crashed, wal_end=wal(2, 1001))
    assert isinstance(decide_rejoin(ahead, SOURCE), CrashRecover)
    behind = replace(LOCAL, control=crashed)
    assert isinstance(decide_rejoin(behind, SOURCE), Follow)


@pytest.mark.parametrize(
    "local",
    [
        replace(LOCAL, unfinished=True),
        replace(LOCAL, wal_end=None),
        replace(LOCAL, wal_end=wal(5, 2001)),
        replace(LOCAL, wal_end=wal(3, 950), history=None),
        replace(LOCAL, wal_end=wal(9, 950), history=history(9, (8, 900))),
        replace(
            LOCAL,
            wal_end=wal(2, 1001),
            control=replace(CONTROL, wal_log_hints=False),
        ),
        replace(
            LOCAL,
            wal_end=wal(2, 1001),
            control=replace(CONTROL, backup_in_progress=True),
        ),
        replace(
            LOCAL,
            wal_end=wal(2, 1001),
            lacks_wal=True,
            control=replace(CONTROL, state=ControlState.IN_ARCHIVE_RECOVERY),
        ),
    ],
)
def test_where_a_rewind_cannot_help_there_is_a_copy(local: LocalState) -> None:
    assert isinstance(decide_rejoin(local, SOURCE), Copy)


def test_a_base_backup_begins_at_its_label() -> None:
    fresh = replace(LOCAL, has_backup_label=True)
    assert isinstance(decide_rejoin(fresh, SOURCE), Follow)
    assert isinstance(decide_rejoin(replace(fresh, wal_end=None), SOURCE), Follow)
    diverged = replace(fresh, wal_end=wal(2, 1001))
    assert isinstance(decide_rejoin(diverged, SOURCE), Copy)


def test_a_primary_in_recovery_is_waited_for() -> None:
    source = replace(SOURCE, in_recovery=True)
    assert isinstance(decide_rejoin(LOCAL, source), Wait)


def test_a_rewind_waits_for_a_checkpoint_on_the_new_timeline() -> None:
    source = replace(SOURCE, checkpoint_timeline=Timeline(2))
    ahead = replace(LOCAL, wal_end=wal(2, 1001))
    assert isinstance(decide_rejoin(ahead, source), Wait)
    assert isinstance(decide_rejoin(LOCAL, source), Follow)


@pytest.mark.parametrize(
    ("local", "source", "word"),
    [
        (LOCAL, replace(SOURCE, system_identifier="2"), "another cluster"),
        (replace(LOCAL, major=14), SOURCE, "PostgreSQL 14"),
        (LOCAL, replace(SOURCE, major=16), "PostgreSQL 16"),
        (replace(LOCAL, unfinished=True), replace(SOURCE, system_identifier="2"), "1"),
    ],
)
def test_what_is_not_ours_is_refused_before_anything_else(
    local: LocalState, source: SourceState, word: str
) -> None:
    step = decide_rejoin(local, source)
    assert isinstance(step, Refuse)
    assert word in step.reason


def position(lsn: int, received: int | None, *, waits: bool) -> Position:
    return Position(
        timeline=Timeline(2),
        lsn=Lsn(lsn),
        received=None if received is None else Lsn(received),
        waits_for_wal=waits,
    )


@pytest.mark.parametrize(
    ("where", "known"),
    [
        # Restarted, still replaying what is on the disk.
        (position(100, None, waits=False), False),
        (position(100, None, waits=True), True),
        # Streaming since the start: what was flushed is part of the answer.
        (position(200, 200, waits=False), True),
        (position(200, 150, waits=False), True),
        # Received on a timeline that replay has not reached.
        (position(200, 250, waits=False), False),
        (position(300, 250, waits=True), True),
    ],
)
def test_the_end_of_wal_is_told_only_when_it_is_known(
    where: Position, known: bool
) -> None:
    assert judge_end(where) == (wal(2, where.lsn) if known else None)


def sender(name: str, priority: int, state: str = "streaming") -> WalSender:
    return WalSender(
        name=name,
        state=state,
        sync_state="quorum" if priority else "async",
        sync_priority=priority,
        pid=1,
        write_lsn=Lsn(0),
        flush_lsn=Lsn(0),
        replay_lsn=Lsn(0),
        host="",
        reply_age_ms=None,
    )


@pytest.mark.parametrize(
    ("current", "senders", "effective"),
    [
        ("ANY 1 (a)", [sender("a", 1), sender("b", 0)], True),
        ("ANY 1 (a)", [], True),
        ("ANY 1 (b)", [sender("a", 1)], False),
        ("ANY 1 (a)", [sender("a", 1), sender("b", 1)], False),
        ("ANY 1 (a)", [sender("a", 0)], False),
        ("ANY 1 (a)", [sender("a", 1), sender("b", 1), sender("b", 0)], False),
        ("ANY 1 (a)", [sender("a", 1), sender("copy", 0, "backup")], True),
    ],
)
def test_a_set_is_in_force_when_no_walsender_contradicts_it(
    current: str, senders: list[WalSender], effective: bool
) -> None:
    effect = judge_effect("ANY 1 (a)", current, ("a",), senders)
    assert effect.effective is effective
    assert bool(effect.reason) is not effective
