"""What the guard promises about epochs, by the words of the page alone."""

import pytest

from pgbastion.guard import page as words
from pgbastion.guard.latches import Latches, Refused

NOW = 1_000_000_000
LEASE = 5_000_000_000


class Words(dict[int, int]):
    """A page without a file."""

    def __missing__(self, _word: int) -> int:
        return 0


@pytest.fixture
def page() -> Words:
    return Words({words.EPOCH: 4, words.EXPIRY_NS: NOW + LEASE})


@pytest.fixture
def latches(page: Words) -> Latches:
    return Latches(page)  # type: ignore[arg-type]


def reason(refused: pytest.ExceptionInfo[Refused]) -> str:
    return refused.value.reason


def test_arming_takes_the_page_s_lease(latches: Latches) -> None:
    latches.arm(4, NOW)

    assert latches.armed == 4


def test_arming_for_an_epoch_without_lease_is_refused(latches: Latches) -> None:
    with pytest.raises(Refused) as refused:
        latches.arm(5, NOW)

    assert reason(refused) == "no_lease"
    assert latches.armed == 0


def test_arming_within_the_lead_is_refused(latches: Latches, page: Words) -> None:
    page[words.LEAD_NS] = 700

    with pytest.raises(Refused) as refused:
        latches.arm(4, NOW + LEASE - 700)

    assert reason(refused) == "no_lease"
    latches.arm(4, NOW + LEASE - 701)


def test_under_pause_a_lease_that_ran_out_arms(latches: Latches, page: Words) -> None:
    page[words.PAUSED] = 1

    latches.arm(4, NOW + LEASE + 1)

    assert latches.armed == 4


def test_arming_for_a_second_epoch_is_refused(latches: Latches, page: Words) -> None:
    latches.arm(4, NOW)
    page[words.EPOCH] = 5

    with pytest.raises(Refused) as refused:
        latches.arm(5, NOW)

    assert reason(refused) == "armed"


def test_an_ended_epoch_is_never_armed_again(latches: Latches) -> None:
    latches.end(4)

    for epoch in (4, 3, 0, -1):
        with pytest.raises(Refused) as refused:
            latches.arm(epoch, NOW)
        assert reason(refused) == "ended"


def test_the_latch_only_rises(latches: Latches) -> None:
    latches.end(4)
    latches.end(2)

    assert latches.ended == 4


def test_a_latched_release_forbids_its_epoch(latches: Latches, page: Words) -> None:
    page[words.RELEASED_EPOCH] = 4

    with pytest.raises(Refused) as refused:
        latches.arm(4, NOW)

    assert reason(refused) == "ended"


def test_a_primary_needs_the_arming_for_its_epoch(latches: Latches) -> None:
    with pytest.raises(Refused) as refused:
        latches.check_primary(4, NOW)
    assert reason(refused) == "not_armed"

    latches.arm(4, NOW)
    latches.check_primary(4, NOW)


def test_a_primary_needs_the_rest_of_a_lease(latches: Latches) -> None:
    latches.arm(4, NOW)

    with pytest.raises(Refused) as refused:
        latches.check_primary(4, NOW + LEASE)

    assert reason(refused) == "no_lease"


@pytest.mark.parametrize("lead_ns", [0, 700, -700])
def test_the_lease_ends_a_lead_before_its_expiry(
    latches: Latches, page: Words, lead_ns: int
) -> None:
    page[words.LEAD_NS] = lead_ns
    latches.arm(4, NOW)
    end = NOW + LEASE - max(lead_ns, 0)

    assert not latches.has_expired(end - 1)
    assert latches.has_expired(end)


def test_another_epoch_s_lease_is_no_lease(latches: Latches, page: Words) -> None:
    latches.arm(4, NOW)

    for epoch in (0, 3, 5):
        page[words.EPOCH] = epoch
        assert latches.has_expired(NOW)


def test_under_pause_nothing_expires(latches: Latches, page: Words) -> None:
    latches.arm(4, NOW)
    page[words.PAUSED] = 1

    assert not latches.has_expired(NOW + 2 * LEASE)


def test_nothing_expires_unarmed(latches: Latches) -> None:
    assert not latches.has_expired(NOW + 2 * LEASE)


def test_asking_twice_without_evidence_keeps_the_first_instant(
    latches: Latches, page: Words
) -> None:
    latches.arm(4, NOW)
    latches.ask(NOW)
    latches.answer()
    assert page[words.ASKED_NS] == 0

    latches.ask(NOW + 100)

    assert page[words.ASKED_NS] == NOW


def test_asking_after_evidence_counts_anew(latches: Latches, page: Words) -> None:
    latches.arm(4, NOW)
    latches.ask(NOW)
    page[words.EVIDENCE_NS] = NOW + 50

    latches.ask(NOW + 100)

    assert page[words.ASKED_NS] == NOW + 100


def test_asking_in_another_epoch_counts_anew(latches: Latches, page: Words) -> None:
    latches.ask(NOW)
    latches.arm(4, NOW)

    latches.ask(NOW + 100)

    assert page[words.ASKED_NS] == NOW + 100
