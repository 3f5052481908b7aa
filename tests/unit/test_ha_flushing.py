"""Who flushes what the primary writes, and who has stopped doing so."""

from pgbastion.ha.flushing import Flushing
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import name, row

APART_MS = 500


def noted(*looks: tuple[int, int, int]) -> Flushing:
    """Return what came of looks: (instant, end of the primary's WAL, flushed)."""
    flushing = Flushing(apart_ms=APART_MS)
    for now_ms, end, flushed in looks:
        flushing.note([row(2, flushed)], Lsn(end), now_ms)
    return flushing


def test_who_has_flushed_all_does_not_stall_however_long_nothing_is_written() -> None:
    assert noted((0, 100, 100), (9_000, 100, 100)).stalled_since_ms(name(2)) is None


def test_who_flushes_too_little_but_goes_on_stalls_since_its_last_step() -> None:
    going = noted((0, 100, 50), (500, 200, 150), (1_000, 300, 250))
    assert going.stalled_since_ms(name(2)) == 1_000


def test_who_owes_and_flushes_nothing_stalls_since_it_last_did() -> None:
    stuck = noted((0, 100, 100), (500, 200, 100), (1_000, 300, 100))
    assert stuck.stalled_since_ms(name(2)) == 0


def test_who_is_gone_from_the_rows_does_not_stall() -> None:
    gone = noted((0, 100, 50))
    gone.note([], Lsn(200), 500)
    assert gone.stalled_since_ms(name(2)) is None


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
    assert flushing.stalled_since_ms(name(2)) is None
    assert flushing.earlier_end() is None
