"""What a node says of a cluster, where the simulated one cannot be brought to."""

from dataclasses import replace
from typing import Any

import pytest

from pgbastion.control.explain import explain
from pgbastion.control.explain_text import LINES_MAX, render_explanation
from pgbastion.control.explain_what_if import foresee
from pgbastion.model.claims import Claim, ClaimKind
from pgbastion.model.cluster import Fence, Order, OrderKind, ReplicationMode
from pgbastion.model.explanation import Explanation, Prospect, Situation
from pgbastion.model.ids import Epoch, MemberId, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.report import Disk, NodeReport, PostgresState, Vitals
from pgbastion.model.snapshot import (
    CertificateSnapshot,
    DecisionSnapshot,
    LeaseSnapshot,
    NodeSnapshot,
)
from pgbastion.model.trouble import Trouble
from pgbastion.testing.views import (
    NOW_MS,
    any_of,
    assignment,
    cluster_state,
    end,
    member,
    opened,
    primary_report,
    received,
    report,
    row,
)
from support.snapshots import primary_snapshot

SIZE = 100_000


def joined(*, servers: int = 3, **changes: Any) -> Any:
    members = tuple(member(n, joined=True) for n in range(1, servers + 1))
    return cluster_state(members=members, **changes)


def snapshot(*reports: NodeReport, **changes: Any) -> NodeSnapshot:
    """Return what n1 knows: three joined members, n1 the primary, reports replaced."""
    told = {
        "n1": primary_report(replication=(row(2), row(3))),
        "n2": report(2, replay_lsn=end(100).lsn),
        "n3": report(3, replay_lsn=end(100).lsn),
    }
    told |= {r.node: r for r in reports}
    usual: dict[str, Any] = {"state": joined(), "reports": received(*told.values())}
    return primary_snapshot(**{**usual, **changes})


def first(told: Explanation) -> str:
    return render_explanation(told)[0]


def disk(percent: int) -> Vitals:
    free = SIZE * percent // 100
    return Vitals(
        probe_ms=1, disks=(Disk(holds="data", free_bytes=free, size_bytes=SIZE),)
    )


def test_all_being_well_nothing_is_to_do() -> None:
    told = explain(snapshot())

    assert told.situation is Situation.HEALTHY
    assert told.serving
    assert (told.blocking, told.warnings) == ((), ())
    assert [s.ready for s in told.others] == [True, True]


def test_a_standby_that_streams_confirms_before_the_primary_says_so() -> None:
    """Just after its start the primary's report has no rows yet."""
    told = explain(snapshot(primary_report(replication=())))
    away = explain(
        snapshot(
            primary_report(replication=()),
            report(2, streaming=False),
            report(3, streaming=False),
        )
    )

    assert told.situation is Situation.HEALTHY
    assert away.situation is Situation.COMMITS_WAIT


def test_a_disk_that_fills_is_a_warning_and_then_the_first_line() -> None:
    warned = explain(snapshot(report(2, vitals=disk(15))))
    low = explain(snapshot(report(2, vitals=disk(9))))

    assert warned.situation is Situation.HEALTHY
    assert warned.warnings == ("n2: 15% of the data disk is free",)
    assert low.situation is Situation.DISK_FILLING
    assert first(low).startswith("a disk is filling: n2: 9% of the data disk is free")


def test_a_disk_of_unknown_size_is_no_warning() -> None:
    nothing = Disk(holds="data", free_bytes=0, size_bytes=0)
    told = explain(snapshot(report(2, vitals=Vitals(probe_ms=1, disks=(nothing,)))))

    assert told.warnings == ()


def test_a_server_that_was_found_running_is_told_until_its_restart() -> None:
    told = explain(
        snapshot(
            primary_report(
                adopted=True, pending_restart=("wal_log_hints",), replication=(row(2),)
            )
        )
    )

    assert told.situation is Situation.TAKEN_OVER
    assert "n1 was found running and is only watched" in first(told)
    assert "n1 has settings that wait for a restart: wal_log_hints" in told.warnings


def test_settings_that_wait_for_a_restart_are_named() -> None:
    told = explain(snapshot(report(3, pending_restart=("max_connections",))))

    assert told.situation is Situation.RESTART_PENDING
    assert "n3: max_connections" in first(told)


def test_a_primary_without_its_lease_is_fenced() -> None:
    told = explain(
        snapshot(
            primary_report(epoch=Epoch(2), promoted=False),
            report(2, state=PostgresState.STANDBY),
            state=joined(assignment=assignment(2)),
            lease=LeaseSnapshot(),
            node_decision=DecisionSnapshot(reason=Reason.FENCING),
        )
    )

    assert told.situation is Situation.FENCED
    assert first(told).startswith("n1 is fenced: PostgreSQL runs as a primary and this")


def test_a_node_that_is_fenced_by_hand_is_told_with_its_time() -> None:
    fence = Fence(node=NodeId("n3"), force=False, drain_ms=0, cause="a disk", at="9:30")
    told = explain(snapshot(state=joined(fences=(fence,))))

    assert told.situation is Situation.FENCED
    assert first(told).startswith("fenced by hand: n3 since 9:30; n1 is the primary")
    assert "n3 is fenced by hand: a disk" in told.warnings


def test_a_claim_of_another_server_comes_first() -> None:
    claim = Claim(node=NodeId("n2"), kind=ClaimKind.UNWATCHED)
    told = explain(snapshot(claims=(claim,)))

    assert told.situation is Situation.SPLIT_BRAIN
    assert "n2 answers as a primary, and no daemon speaks for it" in first(told)
    assert "docs/howto/split-brain.md" in told.next_step


@pytest.mark.parametrize(
    ("own", "left_s", "words"),
    [
        (True, 3 * 86_400, "expires in 3 days; n1 is the primary"),
        (False, -1, "has expired; n1 is the primary"),
    ],
)
def test_a_certificate_that_expires_is_told(own: bool, left_s: int, words: str) -> None:
    certificate = CertificateSnapshot(
        subject="n1",
        places=(),
        own=own,
        expires_s=0,
        authority_expires_s=0,
        left_s=left_s,
        expires_soon=True,
    )
    told = explain(snapshot(certificate=certificate))

    assert told.situation is Situation.CERTIFICATE_EXPIRING
    assert words in first(told)
    assert ("certs renew" in told.next_step) is not own


def test_a_holder_that_gave_its_role_back_is_no_fenced_node() -> None:
    told = explain(
        snapshot(
            report(1, state=PostgresState.STOPPED),
            state=joined(assignment=assignment(released=True)),
        )
    )

    assert told.situation is Situation.FAILOVER


def test_before_there_is_a_cluster_the_founder_is_to_be_started() -> None:
    told = explain(
        snapshot(
            state=joined(assignment=None, opened=None, founder=MemberId(9)),
        )
    )

    assert told.situation is Situation.NO_PRIMARY_YET
    assert told.state == "n1 is in no cluster yet"
    assert "raft.bootstrap: true" in told.next_step
    assert "the log of n1" in told.next_step
    assert told.primary_lines == ("none yet",)


def test_a_founder_that_fails_is_to_be_looked_at() -> None:
    failed = report(1, state=PostgresState.FAILED, reason="foreign_data")
    told = explain(snapshot(failed, state=joined(assignment=None, opened=None)))

    assert told.next_step == "look at the log of n1"
    assert "n1 needs attention: the data directory belongs to something else" in (
        told.warnings
    )


def test_a_node_that_waits_for_a_person_says_what_failed() -> None:
    failed = report(
        3,
        state=PostgresState.STOPPED,
        reason=Reason.REJOIN_FAILED,
        detail="PostgreSQL runs in /data as process 7",
    )
    told = explain(snapshot(primary_report(), report(2), failed))

    assert told.situation is Situation.NODE_FAILED
    assert "PostgreSQL runs in /data as process 7" in told.state


def test_two_votes_are_a_warning() -> None:
    usual = snapshot()
    two = replace(usual.raft, voters=usual.raft.voters[:2], learners=(MemberId(3),))
    told = explain(replace(usual, raft=two))

    assert "with two votes the loss of either node stops writes: add a witness" in (
        told.warnings
    )
    assert "n3 has no vote yet" in told.warnings


def test_several_releases_are_a_warning() -> None:
    told = explain(snapshot(report(2, version="2")))

    assert told.warnings == ("several releases run: 1, 2",)


def test_a_node_that_was_announced_and_has_not_come_is_no_silent_one() -> None:
    state = joined()
    told = explain(
        snapshot(
            state=replace(state, members=(*state.members, member(4, joined=False)))
        )
    )

    assert told.situation is Situation.HEALTHY
    assert told.others[-1].sentence == "was announced, has not joined yet"


def test_a_reason_of_another_release_is_told_by_its_name() -> None:
    told = explain(snapshot(report(3, streaming=False, reason="a_new_one")))

    assert (
        told.others[-1].sentence
        == "cannot take over: n3 does not stream from n1 (a_new_one)"
    )


def test_an_explanation_of_many_nodes_fits_a_screen() -> None:
    many = joined(servers=32)
    told = render_explanation(explain(snapshot(state=many)))

    assert len(told) <= LINES_MAX
    assert any("more: --json has them" in line for line in told)


# What would be


def test_without_a_primary_nobodys_death_changes_that() -> None:
    told = foresee(snapshot(state=joined(assignment=None)), NodeId("n2"))

    assert told.prospect is Prospect.NOTHING_CHANGES


def test_in_async_a_standby_that_lags_too_far_is_not_promoted() -> None:
    far = primary_report(wal_end=end(3 << 20))
    state = joined(mode=ReplicationMode.ASYNC, opened=opened(1, 3, any_of(0)))
    told = foresee(snapshot(far, state=state), NodeId("n1"))
    near = foresee(snapshot(state=state), NodeId("n1"))

    assert (told.prospect, told.reason) == (Prospect.NO_PRIMARY, Reason.LAG_TOO_LARGE)
    assert near.prospect is Prospect.OTHER_PRIMARY
    assert near.sentence.endswith("commits wait for nobody")


def test_in_async_the_operators_lag_limit_counts() -> None:
    far = primary_report(wal_end=end(3 << 20))
    state = joined(mode=ReplicationMode.ASYNC, opened=opened(1, 3, any_of(0)))
    told = foresee(snapshot(far, state=state, lag_max_bytes=4 << 20), NodeId("n1"))

    assert told.prospect is Prospect.OTHER_PRIMARY


def test_nodes_that_must_not_become_primaries_leave_nobody() -> None:
    members = (
        member(1, joined=True),
        member(2, joined=True, nofailover=True),
        member(3, joined=True, nofailover=True),
    )
    told = explain(snapshot(state=cluster_state(members=members)))

    assert told.foreseen[0].reason is Reason.NO_CANDIDATE
    assert told.blocking == (told.foreseen[0].sentence,)


def test_who_lags_behind_one_that_may_not_is_foreseen_to_catch_up() -> None:
    members = (
        member(1, joined=True),
        member(2, joined=True, nofailover=True),
        member(3, joined=True),
    )
    told = explain(
        snapshot(
            report(2, replay_lsn=end(900).lsn, wal_end=end(900)),
            state=cluster_state(members=members),
        )
    )

    assert told.foreseen[0].primary == "n3"


def test_strict_commits_wait_when_the_last_standby_dies() -> None:
    state = joined(strict=True)
    alone = snapshot(report(3, streaming=False), state=state)

    told = foresee(alone, NodeId("n2"))

    assert told.prospect is Prospect.COMMITS_WAIT


def test_a_silent_majority_is_told_whoever_dies() -> None:
    usual = snapshot()
    old = received(report(2), report(3), at_ms=NOW_MS - 60_000)
    lonely = replace(usual, reports={**usual.reports, **old})

    told = explain(lonely)

    assert told.situation is Situation.MAJORITY_LOST
    assert {f.prospect for f in told.foreseen} == {Prospect.MAJORITY_LOST}
    assert told.blocking == ("no majority: 1 of 3 votes answer, 2 are needed",)


def test_a_node_that_hears_nothing_of_a_majority_says_so() -> None:
    told = explain(snapshot(view_left_ms=0))

    assert told.situation is Situation.MAJORITY_LOST
    assert not told.serving


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_nothing_that_is_foreseen_changes_what_is(node: str) -> None:
    now = snapshot()
    before = replace(now)

    foresee(now, NodeId(node))

    assert now == before


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"tagged": True}, "let one have the role again (n2 is tagged nofailover); "),
        ({"unable": "no watchdog"}, "let one have the role again (n2: no watchdog); "),
        ({}, ""),
    ],
    ids=["tagged", "unable", "nobody"],
)
def test_who_is_kept_from_the_role_is_named_where_nobody_else_has_everything(
    kept: dict[str, Any], said: str
) -> None:
    members = tuple(
        member(n, joined=True, nofailover=n == 2 and "tagged" in kept)
        for n in (1, 2, 3)
    )
    state = cluster_state(members=members, assignment=assignment(revoked=True))
    told = explain(
        snapshot(
            report(2, unable=kept.get("unable", "")),
            state=state,
            cluster_decision=DecisionSnapshot(reason=Reason.NO_CANDIDATE),
        )
    )

    assert told.situation is Situation.NO_CANDIDATE
    assert told.next_step == (
        f"{said}where a loss is accepted: pgbastion failover --to NODE --force"
    )


def coming_back(n: int) -> NodeReport:
    """Return what a standby says that runs, and follows nobody yet."""
    return replace(report(n, replay_lsn=end(100).lsn), streaming=False)


def test_who_answers_and_does_not_stream_yet_is_waited_for_and_never_removed() -> None:
    told = explain(snapshot(coming_back(2)))

    assert told.situation is Situation.NOT_STREAMING
    assert first(told).startswith("not ready yet: n2 (the standby follows the primary)")
    assert "remove-node" not in first(told)


def test_a_silent_standby_comes_before_one_that_is_on_its_way() -> None:
    silent = snapshot(coming_back(3))
    silent = replace(
        silent, reports={n: r for n, r in silent.reports.items() if n != "n2"}
    )

    assert first(explain(silent)).startswith("n2 missing: ")


@pytest.mark.parametrize(
    ("standbys", "step"),
    [
        ((coming_back(2), coming_back(3)), "wait for n2 (the standby follows the"),
        ((report(2, data_id=None), report(3, data_id=None)), "wait for a standby"),
    ],
    ids=["on_their_way", "of_other_data"],
)
def test_strict_commits_wait_for_whoever_is_on_its_way(
    standbys: tuple[NodeReport, ...], step: str
) -> None:
    alone = primary_report(replication=())

    told = explain(snapshot(alone, *standbys, state=joined(strict=True)))

    assert told.situation is Situation.COMMITS_WAIT
    assert told.next_step.startswith(step)


def test_a_standby_whose_files_are_gone_can_be_copied_anew() -> None:
    told = explain(snapshot(report(3, trouble=Trouble.DISK_FAILED)))

    assert told.state.startswith("n3: its files are gone, or none can be written")
    assert told.next_step.endswith("pgbastion reinit n3")
    assert any(w.startswith("n3 needs attention: its files") for w in told.warnings)
    [without] = [f for f in told.foreseen if f.node == "n2"]
    assert "confirmed by" not in without.sentence


def test_a_copy_in_the_place_of_lost_files_is_told_as_such() -> None:
    copying = report(
        3,
        trouble=Trouble.DISK_FAILED,
        state=PostgresState.COPYING,
        streaming=False,
        progress="10%",
    )

    assert explain(snapshot(copying)).situation is Situation.COPYING


def test_a_copy_that_was_ordered_changes_no_roles() -> None:
    order = Order(
        order_id="o1",
        order=OrderKind.REINIT,
        target=NodeId("n3"),
        epoch=Epoch(3),
        drain_ms=0,
        force=False,
        cause="an operator",
        at="",
        expires_at="9999",
        begun=True,
    )
    told = explain(snapshot(state=joined(orders=(order,))))

    assert told.state == "reinit of n3 under way"


def test_a_standby_that_does_not_come_back_can_be_copied_anew() -> None:
    told = first(explain(snapshot(report(3, reason=Reason.REJOIN_FAILED))))

    assert told.endswith(
        "the log of n3 says what is in the way; where its files are at "
        "fault: pgbastion reinit n3."
    )
