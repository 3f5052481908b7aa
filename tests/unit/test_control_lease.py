"""When former leases have run out, against the definition in words."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from pgbastion.control.lease import (
    FOUNDING_TERM,
    older_grants_end_ms,
    own_grants_end_ms,
    stretched_ms,
    why_too_short,
)
from pgbastion.model.cluster import ClusterState, Policy
from pgbastion.model.ids import MemberId
from pgbastion.model.views import AgeAnswer, Limits
from pgbastion.testing.views import NOW_MS, POLICY, cluster_state, raft_view

LENGTH = 5_005


def age(
    voter: int, age_ms: int, *, term: int = 5, receipt_ms: int = NOW_MS
) -> AgeAnswer:
    return AgeAnswer(
        member_id=MemberId(voter), term=term, age_ms=age_ms, receipt_ms=receipt_ms
    )


def test_a_lease_is_waited_out_on_the_slowest_clock() -> None:
    assert stretched_ms(POLICY) == LENGTH
    odd = Policy(lease_ms=1_001, drift_ppm=1_000, margin_ms=0)
    assert stretched_ms(odd) == 1_003


def test_own_grants_count_from_the_last_answer() -> None:
    assert own_grants_end_ms(POLICY, NOW_MS) == NOW_MS + LENGTH


def test_a_leader_that_never_answered_has_no_grants_of_its_own() -> None:
    assert own_grants_end_ms(POLICY, 0) == 0


def test_a_majority_of_ages_ends_the_wait() -> None:
    raft = raft_view(elected_ms=NOW_MS - 10)

    found = older_grants_end_ms(POLICY, raft, [age(1, 900), age(3, 400)])

    assert found == NOW_MS + LENGTH - 400


def test_without_a_majority_of_ages_the_whole_lease_counts_from_the_election() -> None:
    raft = raft_view(elected_ms=NOW_MS - 10)

    assert older_grants_end_ms(POLICY, raft, [age(1, 900)]) == NOW_MS - 10 + LENGTH


def test_the_first_leader_of_all_waits_for_nobody() -> None:
    """Nobody led before it, so nobody granted: its learners may vote at once."""
    raft = raft_view(elected_ms=NOW_MS, term=FOUNDING_TERM)
    assert older_grants_end_ms(POLICY, raft, []) == 0

    second = raft_view(elected_ms=NOW_MS, term=FOUNDING_TERM + 1)
    assert older_grants_end_ms(POLICY, second, []) == NOW_MS + LENGTH


def test_an_age_of_a_lower_term_does_not_count() -> None:
    raft = raft_view(elected_ms=NOW_MS - 10)
    ages = [age(1, 900), age(3, 400, term=4)]

    assert older_grants_end_ms(POLICY, raft, ages) == NOW_MS - 10 + LENGTH


def test_every_configuration_since_the_election_needs_its_majority() -> None:
    old, new = (MemberId(1), MemberId(2), MemberId(3)), (MemberId(4),)
    raft = raft_view(elected_ms=NOW_MS - 10, configurations=(old, new))
    ages = [age(1, 900), age(2, 800)]

    assert older_grants_end_ms(POLICY, raft, ages) == NOW_MS - 10 + LENGTH
    ages.append(age(4, 100))
    assert older_grants_end_ms(POLICY, raft, ages) == NOW_MS + LENGTH - 100


def test_no_known_configuration_is_no_majority() -> None:
    raft = raft_view(configurations=())
    assert older_grants_end_ms(POLICY, raft, []) == raft.elected_ms + LENGTH


def test_ages_never_wait_longer_than_the_whole_lease() -> None:
    """A voter that started a moment ago must not hold the cluster up."""
    raft = raft_view(elected_ms=NOW_MS - 3_000)
    ages = [age(1, 0), age(2, 0), age(3, 0)]

    assert older_grants_end_ms(POLICY, raft, ages) == NOW_MS - 3_000 + LENGTH


VOTERS = st.integers(1, 5)


@given(
    ages=st.lists(
        st.tuples(
            VOTERS, st.integers(0, 9_000), st.integers(4, 6), st.integers(0, 9_000)
        ),
        unique_by=lambda a: a[0],
    ),
    configurations=st.lists(
        st.sets(VOTERS, min_size=1).map(lambda c: tuple(map(MemberId, sorted(c)))),
        min_size=1,
        max_size=3,
    ),
    elected_ms=st.integers(0, 9_000),
)
def test_the_wait_ends_when_a_majority_of_each_configuration_is_past_its_deadline(
    ages: list[tuple[int, int, int, int]],
    configurations: list[tuple[MemberId, ...]],
    elected_ms: int,
) -> None:
    raft = raft_view(elected_ms=elected_ms, configurations=tuple(configurations))
    answers = [
        age(voter, aged, term=term, receipt_ms=receipt)
        for voter, aged, term, receipt in ages
    ]
    deadline = {
        a.member_id: a.receipt_ms + LENGTH - a.age_ms for a in answers if a.term >= 5
    }

    def over(now_ms: int) -> bool:
        """Every grant of an older leader has run out at ``now_ms``, in words."""
        if now_ms >= elected_ms + LENGTH:
            return True
        return all(
            any(
                all(v in deadline and deadline[v] <= now_ms for v in majority)
                for majority in combinations(voters, len(voters) // 2 + 1)
            )
            for voters in configurations
        )

    end_ms = older_grants_end_ms(POLICY, raft, answers)

    assert over(end_ms)
    assert not over(end_ms - 1)


def bounds(least_ms: int) -> Limits:
    return Limits(
        lease_ms=least_ms,
        stop_ms=100,
        margin_ms=10,
        evidence_max_ms=100,
        sync_silent_ms=100,
        lease_least_ms=least_ms,
    )


def test_a_node_says_that_its_bounds_do_not_fit_into_the_clusters_lease() -> None:
    state = cluster_state(policy=POLICY)
    assert why_too_short(state, bounds(POLICY.lease_ms)) == ""
    assert why_too_short(ClusterState(), bounds(1)) == ""
    assert why_too_short(state, bounds(POLICY.lease_ms + 1)) == (
        f"its timings need a lease of {POLICY.lease_ms + 1} ms, "
        f"the cluster's is {POLICY.lease_ms} ms"
    )
