"""Who flushes what the primary writes, and who has stopped doing so."""

from pgbastion.ha.flushing import Flushing
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import name, row

APART_MS = 500
STALL_MS = 1_000


def noted(*looks: tuple[int, int, int]) -> Flushing:
    """Return what came of looks: (instant, end of the primary's WAL, flushed)."""
    flushing = Flushing(apart_ms=APART_MS)
    for now_ms, end, flushed in looks:
        flushing.note([row(2, flushed)], Lsn(end), now_ms)
    return flushing


def stalled(flushing: Flushing) -> int | None:
    return flushing.stalled_since_ms(name(2), least_ms=STALL_MS)


def test_who_has_flushed_all_does_not_stall_however_long_nothing_is_written() -> None:
    assert stalled(noted((0, 100, 100), (9_000, 100, 100))) is None


def test_who_flushes_too_little_but_goes_on_does_not_stall() -> None:
    going = noted((0, 100, 50), (500, 200, 150), (1_500, 300, 250))
    assert stalled(going) is None


def test_who_owes_and_flushes_nothing_stalls_since_it_last_did() -> None:
    stuck = noted((0, 100, 100), (500, 200, 100), (1_001, 300, 100))
    assert stalled(stuck) == 0


def test_while_the_primary_does_not_answer_nobody_stalls() -> None:
    """The looks end; the standbys have had no time that anybody saw."""
    last = noted((0, 100, 100), (500, 200, 100))
    assert stalled(last) is None


def test_who_is_gone_from_the_rows_does_not_stall() -> None:
    gone = noted((0, 100, 50))
    gone.note([], Lsn(200), 500)
    gone.note([], Lsn(200), 5_000)
    assert stalled(gone) is None


def test_the_earlier_end_is_old_enough_and_as_new_as_can_be() -> None:
    flushing = noted((0, 100, 50), (300, 200, 50))
    assert flushing.earlier_end() is None
    flushing.note([], Lsn(300), 500)
    assert flushing.earlier_end() == 100
    flushing.note([], Lsn(400), 850)
    assert flushing.earlier_end() == 200


def test_another_server_begins_anew() -> None:
    flushing = noted((0, 100, 50), (900, 200, 50))
    flushing.forget()
    assert stalled(flushing) is None
    assert flushing.earlier_end() is None
