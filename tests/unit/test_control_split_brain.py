"""Who claims the primary role without having it closes the primary port."""

from dataclasses import replace

import pytest

from pgbastion.control.routing import RoutingView, decide_routing
from pgbastion.control.split_brain import (
    CONFIRM_MS,
    QUIET_MS,
    Split,
    SplitView,
    watch_claims,
)
from pgbastion.model.claims import Claim, ClaimKind
from pgbastion.model.cluster import Change
from pgbastion.model.ids import Epoch, NodeId, Timeline
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.testing.views import (
    NOW_MS,
    cluster_state,
    end,
    primary_report,
    received,
    report,
)

N2, N3 = NodeId("n2"), NodeId("n3")
ROGUE = report(2, state=PostgresState.PRIMARY, wal_end=end(100, 5), answers=True)
HISTORY = tuple(
    Change(
        index=epoch,
        epoch=Epoch(epoch),
        what="assigned",
        node=NodeId(node),
        timeline=Timeline(epoch + 1),
        cause="",
        at="",
    )
    for epoch, node in ((1, "n1"), (2, "n2"), (3, "n1"))
)


def split_view(*reports: NodeReport, **changes: object) -> SplitView:
    made = SplitView(
        now_ms=NOW_MS,
        state=cluster_state(history=HISTORY),
        reports=received(primary_report(), *reports, at_ms=NOW_MS),
        report_max_ms=1_500,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def look(*reports: NodeReport, **changes: object) -> tuple[Claim, ...]:
    return watch_claims(Split(), split_view(*reports, **changes)).claims


def test_a_promotion_out_of_band_counts_at_once() -> None:
    assert look(ROGUE) == (Claim(node=N2, kind=ClaimKind.NEVER_ASSIGNED),)


def test_the_holder_and_its_standbys_claim_nothing() -> None:
    assert look(report(2), report(3)) == ()


def test_before_the_first_assignment_nobody_claims() -> None:
    assert look(ROGUE, state=cluster_state(assignment=None)) == ()


def test_an_old_report_claims_nothing() -> None:
    old = received(ROGUE, at_ms=NOW_MS - 1_501)

    assert look(reports=old) == ()


def test_who_knows_a_later_epoch_is_right() -> None:
    """This node has not applied the assignment yet."""
    assert look(replace(ROGUE, epoch=Epoch(4))) == ()


def test_a_primary_without_a_daemon_is_claimed_by_who_can_reach_it() -> None:
    """A server without a daemon: whoever can reach it tells."""
    seen = report(3, unwatched_primaries=(N2, NodeId("gone"), NodeId("n1")))

    assert look(seen) == (Claim(node=N2, kind=ClaimKind.UNWATCHED),)


FORMER = replace(ROGUE, epoch=Epoch(2), wal_end=end(90, 3))


def test_a_server_that_does_not_answer_claims_nothing() -> None:
    """One that hangs after its lease was waited out must not block its successor."""
    assert look(replace(ROGUE, answers=False)) == ()


def test_a_former_holder_that_wakes_up_does_not_count_at_once() -> None:
    first = watch_claims(Split(), split_view(FORMER))
    later = split_view(
        now_ms=NOW_MS + CONFIRM_MS,
        reports=received(FORMER, at_ms=NOW_MS + CONFIRM_MS),
    )

    assert first.claims == ()
    assert watch_claims(first, later).claims == (
        Claim(node=N2, kind=ClaimKind.FORMER_HOLDER, epoch=Epoch(2)),
    )


def test_a_former_holder_that_was_killed_at_once_never_counts() -> None:
    first = watch_claims(Split(), split_view(FORMER))
    later = split_view(
        report(2, state=PostgresState.STOPPED), now_ms=NOW_MS + CONFIRM_MS
    )

    assert watch_claims(first, later).claims == ()


@pytest.mark.parametrize(
    "changed",
    [replace(FORMER, wal_end=end(90, 5)), replace(FORMER, wal_end=None)],
    ids=["other_timeline", "unknown"],
)
def test_a_former_holder_promoted_out_of_band_counts_at_once(
    changed: NodeReport,
) -> None:
    assert [c.kind for c in look(changed)] == [ClaimKind.NEVER_ASSIGNED]


def test_a_claim_counts_until_nobody_made_it_for_a_while() -> None:
    """A service manager may start the server again and again."""
    split = watch_claims(Split(), split_view(ROGUE))
    for late_ms, counts in ((QUIET_MS - 1, True), (QUIET_MS, False)):
        view = split_view(report(2), now_ms=NOW_MS + late_ms)
        split = watch_claims(split, view)
        assert bool(split.claims) is counts


def test_all_claims_are_named() -> None:
    split = watch_claims(
        Split(), split_view(ROGUE, report(3, unwatched_primaries=(N3,)))
    )

    assert split.sentence == (
        "split brain: n2 runs as a primary that nobody assigned; "
        "n3 answers as a primary, and no daemon speaks for it"
    )
    assert Split().sentence == ""
    former = Claim(node=N2, kind=ClaimKind.FORMER_HOLDER, epoch=Epoch(2))
    assert former.sentence == "n2 still runs as the primary of epoch 2"


def test_a_split_brain_closes_the_primary_port_and_nobody_waits() -> None:
    routing = decide_routing(
        RoutingView(
            now_ms=NOW_MS,
            state=cluster_state(),
            reports=received(primary_report(), report(2)),
            report_max_ms=1_000,
            lag_max_bytes=10,
            accepting_epoch=Epoch(3),
            split="split brain: n2",
        )
    )

    assert (routing.primary, routing.changing) == (None, False)
    assert routing.primary_reason == "split brain: n2"
