"""When a held address is announced, and for how long the kernel is to keep it."""

import pytest

from pgbastion.model.addresses import AddressState, VirtualAddress
from pgbastion.vip import slot as slots
from pgbastion.vip.links import FOREVER, LinkFacts
from pgbastion.vip.slot import KERNEL_LATE_NS, NEVER_NS, Slot, lifetime

LINK = LinkFacts(index=2, name="eth0", hardware=b"\x02" * 6, up=True, carrier=True)
RENEW_MS = 60_000
SEC_NS = 1_000_000_000


class Clock:
    """CLOCK_BOOTTIME, as the test has it."""

    def __init__(self) -> None:
        self.ms = 500_000

    def read_ms(self) -> int:
        return self.ms

    def read_ns(self) -> int:
        return self.ms * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(slots, "boottime_ms", made.read_ms)
    monkeypatch.setattr(slots, "boottime_ns", made.read_ns)
    return made


@pytest.fixture
def held(clock: Clock) -> Slot:
    del clock
    address = VirtualAddress(address="10.0.0.5", prefix=24, interface="eth0")
    made = Slot(address)
    made.plan_announcements(LINK, anew=True)
    made.become(AddressState.HELD)
    return made


def announced(held: Slot, clock: Clock, *, for_ms: int) -> list[tuple[int, int]]:
    """Return when it is announced and how often, in milliseconds from now."""
    begun_ms, found = clock.ms, []
    while clock.ms <= begun_ms + for_ms:
        times = held.due_announcements(RENEW_MS)
        if times:
            found.append((clock.ms - begun_ms, times))
        clock.ms += 250
    return found


def test_five_at_once_five_after_one_and_five_seconds_then_one_an_interval(
    held: Slot, clock: Clock
) -> None:
    found = announced(held, clock, for_ms=130_000)

    assert found == [(0, 5), (1_000, 5), (5_000, 5), (65_000, 1), (125_000, 1)]


def test_a_daemon_that_was_late_makes_up_for_it_at_once(
    held: Slot, clock: Clock
) -> None:
    clock.ms += 5_500

    assert held.due_announcements(RENEW_MS) == 15


def test_another_interface_or_hardware_address_is_announced_like_new(
    held: Slot, clock: Clock
) -> None:
    announced(held, clock, for_ms=10_000)

    held.plan_announcements(LINK, anew=False)
    assert held.due_announcements(RENEW_MS) == 0
    for link in (
        LinkFacts(index=9, name="eth0", hardware=b"\x02" * 6, up=True, carrier=True),
        LinkFacts(index=9, name="eth0", hardware=b"\x03" * 6, up=True, carrier=True),
    ):
        held.plan_announcements(link, anew=False)
        assert held.due_announcements(RENEW_MS) == 5


def test_a_strangers_claim_is_answered_once_in_ten_seconds_and_probed_after(
    held: Slot, clock: Clock
) -> None:
    announced(held, clock, for_ms=10_000)

    assert held.hear("02:00")
    assert not held.hear("02:00")
    assert held.due_announcements(RENEW_MS) == 1
    assert held.probe_at_ms == clock.ms + 5_000
    clock.ms += 9_999
    assert held.hear("04:00")
    assert held.due_announcements(RENEW_MS) == 0
    clock.ms += 1
    held.hear("04:00")
    assert held.due_announcements(RENEW_MS) == 1


def test_who_does_not_hold_it_does_not_answer_for_it(held: Slot, clock: Clock) -> None:
    announced(held, clock, for_ms=10_000)
    held.become(AddressState.PROBING)

    assert held.hear("02:00")

    assert held.due_announcements(RENEW_MS) == 0
    assert held.watches
    held.become(AddressState.ABSENT)
    assert not held.watches


def test_the_kernel_keeps_it_for_whole_seconds_that_end_before_the_lease(
    clock: Clock,
) -> None:
    now_ns = clock.read_ns()

    assert lifetime(now_ns + 3 * SEC_NS) == (2, now_ns + 2 * SEC_NS)
    assert lifetime(now_ns + 3 * SEC_NS + KERNEL_LATE_NS)[0] == 3
    assert lifetime(now_ns + SEC_NS)[0] == 0
    assert lifetime(now_ns - SEC_NS)[0] == 0
    assert lifetime(0) == (FOREVER, NEVER_NS)


def test_a_lifetime_is_changed_for_a_longer_one_and_at_a_pauses_ends(
    held: Slot,
) -> None:
    held.lives_until_ns = 10 * SEC_NS

    assert held.lives_long_enough(10 * SEC_NS)
    assert not held.lives_long_enough(11 * SEC_NS)
    assert not held.lives_long_enough(NEVER_NS)
    held.lives_until_ns = NEVER_NS
    assert held.lives_long_enough(NEVER_NS)
    assert not held.lives_long_enough(11 * SEC_NS)
