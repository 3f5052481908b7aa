"""The synchronous set: each step against brute force over all ways to confirm."""

from itertools import chain, combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from pgbastion.control.sync_standbys import (
    Confirming,
    InForce,
    SetReplicated,
    SetServer,
    automatic_count,
    desired_set,
    next_sync_step,
    satisfies,
)
from pgbastion.model.cluster import NOBODY, ReplicationMode, SyncSet
from pgbastion.testing.views import any_of, cluster_state, name, opened

LETTERS = "abcde"


def some(num_sync: int, names: str) -> SyncSet:
    return SyncSet(names=tuple(sorted(names)), num_sync=num_sync)


def keeps(server: SyncSet | None, promise: SyncSet) -> bool:
    """Slow twin of `satisfies`: look at each smallest set that confirms a commit."""
    if server is None:
        return True
    return all(
        len(set(flushed) & set(promise.names)) >= promise.num_sync
        for flushed in combinations(server.names, server.num_sync)
    )


@st.composite
def sets(draw: st.DrawFn) -> SyncSet:
    names = draw(st.sets(st.sampled_from(LETTERS)))
    return some(draw(st.integers(0, len(names))), "".join(names))


def normal(sync: SyncSet) -> SyncSet:
    """Return the set as it is written down: degraded has no names."""
    return sync if sync.num_sync else NOBODY


def test_half_of_the_servers_confirm_by_themselves() -> None:
    assert [automatic_count(n) for n in (1, 2, 3, 5, 7)] == [0, 1, 1, 2, 3]


def test_all_that_stream_are_in_the_set() -> None:
    state = cluster_state(sync_count=None)
    assert desired_set(state, ["b", "a"], ["c"]) == some(1, "abc")


def test_asynchronous_mode_has_nobody() -> None:
    state = cluster_state(mode=ReplicationMode.ASYNC)
    assert desired_set(state, ["a"], []) == NOBODY


def test_a_count_of_nought_has_nobody() -> None:
    assert desired_set(cluster_state(sync_count=0), ["a"], []) == NOBODY


def test_too_few_standbys_all_confirm() -> None:
    assert desired_set(cluster_state(sync_count=3), ["a", "b"], []) == some(2, "ab")
    assert desired_set(cluster_state(sync_count=3), [], []) == NOBODY


def test_strict_waits_for_the_old_names_when_nobody_can_replace_them() -> None:
    state = cluster_state(
        strict=True, sync_count=2, opened=opened(1, 3, any_of(2, 2, 3))
    )
    assert desired_set(state, [name(2)], []) == any_of(2, 2, 3)


def test_strict_replaces_who_is_missing() -> None:
    state = cluster_state(strict=True, opened=opened(1, 3, any_of(1, 2)))
    assert desired_set(state, [name(3)], []) == any_of(1, 3)


def test_strict_takes_whom_it_has_while_nobody_was_promised() -> None:
    state = cluster_state(strict=True, sync_count=2, opened=opened(1, 3, NOBODY))
    assert desired_set(state, [name(3)], []) == any_of(1, 3)
    assert desired_set(cluster_state(strict=True, opened=None), [], []) == NOBODY


def test_a_server_that_confirms_nothing_keeps_every_promise() -> None:
    assert satisfies(None, some(2, "ab"))


@given(sets(), sets())
def test_satisfies_is_what_every_confirming_set_says(
    server: SyncSet, promise: SyncSet
) -> None:
    assert satisfies(server, promise) == keeps(server, promise)


def test_a_setting_changed_by_hand_weakens_the_promise_and_is_mended_then() -> None:
    """What was confirmed meanwhile may be on the primary's disk alone."""
    wanted = some(1, "ab")
    assert next_sync_step(wanted, NOBODY, wanted, confirmed=True) == SetReplicated(
        sync=NOBODY
    )
    assert next_sync_step(NOBODY, NOBODY, wanted, confirmed=True) == SetServer(
        sync=wanted
    )


def test_a_name_is_added_to_the_promise_before_the_setting() -> None:
    step = next_sync_step(some(1, "a"), some(1, "a"), some(1, "ab"), confirmed=True)
    assert step == SetReplicated(sync=some(1, "ab"))


def test_a_name_leaves_the_setting_before_the_promise() -> None:
    step = next_sync_step(some(1, "ab"), some(1, "ab"), some(1, "a"), confirmed=True)
    assert step == SetServer(sync=some(1, "a"))


def test_the_promise_is_strengthened_only_when_the_setting_is_effective() -> None:
    steps = [
        next_sync_step(some(1, "ab"), some(1, "a"), some(1, "a"), confirmed=confirmed)
        for confirmed in (False, True)
    ]
    assert steps == [Confirming(), SetReplicated(sync=some(1, "a"))]


def test_nothing_is_done_when_both_agree() -> None:
    step = next_sync_step(some(1, "a"), some(1, "a"), some(1, "a"), confirmed=False)
    assert step == InForce()


@settings(max_examples=1_000)
@given(
    replicated=sets().map(normal),
    server=st.none() | sets().map(normal),
    targets=st.lists(sets().map(normal), min_size=1, max_size=3),
    turns=st.lists(st.integers(1, 6), min_size=3, max_size=3),
)
def test_at_every_instant_each_confirmed_commit_keeps_the_promise(
    replicated: SyncSet,
    server: SyncSet | None,
    targets: list[SyncSet],
    turns: list[int],
) -> None:
    """The wish changes on the way; old and new setting count while it is reloaded."""
    confirmed, mended = False, keeps(server, replicated)
    plan = list(
        chain.from_iterable([t] * n for t, n in zip(targets, turns, strict=False))
    )
    plan += [targets[-1]] * 8
    for desired in plan:
        step = next_sync_step(replicated, server, desired, confirmed=confirmed)
        match step:
            case SetServer(sync=sync):
                assert not mended or keeps(server, replicated)
                assert keeps(sync, replicated)
                server, confirmed, mended = sync, False, True
            case SetReplicated(sync=sync):
                # Stronger than before only once the setting is effective.
                assert confirmed or keeps(replicated, sync)
                replicated = sync
                assert keeps(server, replicated)
            case Confirming():
                confirmed = True
            case InForce():
                assert server == replicated == desired
        assert not mended or keeps(server, replicated)
    assert replicated == server == plan[-1]
