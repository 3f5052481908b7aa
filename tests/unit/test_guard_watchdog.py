"""The watchdog's rules, on a file that stands in for the device."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pgbastion.guard import page as words
from pgbastion.guard.latches import Latches, Refused
from pgbastion.guard.page import Page, create
from pgbastion.guard.watchdog import WDIOC_SETTIMEOUT, Watchdog

S = 1_000_000_000
NOW = 1_000 * S
LEAD = S // 2
"""The guard acts so long before the lease's end."""


class Stage:
    """A page with a lease, a device that writes down what it is told, a watchdog."""

    def __init__(self, folder: Path) -> None:
        self.page: Page = create(str(folder / "page"))
        self.device = folder / "watchdog"
        self.device.touch()
        self.said: list[str] = []
        self.timeouts: list[int] = []
        self.answers: Callable[[int], int] = lambda asked: asked
        self.latches = Latches(self.page)
        self.watchdog = Watchdog(self.latches, self.said.append, self.ioctl)
        self.configure()

    def configure(self, *, required: bool = True) -> None:
        self.watchdog.configure(
            str(self.device), timeout_s=4, least_s=3, required=required
        )

    def ioctl(self, fd: int, request: int, argument: bytearray) -> int:
        assert fd >= 0
        assert request == WDIOC_SETTIMEOUT == 0xC0045706
        asked = int.from_bytes(argument, "little")
        self.timeouts.append(asked)
        answer = self.answers(asked)
        if answer < 0:
            raise OSError(25, "Inappropriate ioctl for device")
        argument[:] = answer.to_bytes(4, "little")
        return 0

    def lease(self, left_ns: int, *, epoch: int = 3, now_ns: int = NOW) -> None:
        """Give the page a lease that the guard heeds for so long."""
        self.page[words.LEAD_NS] = LEAD
        self.page[words.EPOCH] = epoch
        self.page[words.EXPIRY_NS] = now_ns + left_ns + LEAD

    def armed(self, left_ns: int = 5 * S) -> "Stage":
        self.lease(left_ns)
        self.watchdog.start(NOW)
        self.latches.arm(3, NOW)
        return self

    def look(self, now_ns: int = NOW, *, holds: bool = True) -> None:
        self.watchdog.look(now_ns, holds_primary=holds)

    @property
    def written(self) -> bytes:
        return self.device.read_bytes()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_the_watchdog_is_off_until_a_primary_may_run(stage: Stage) -> None:
    stage.look()

    assert (stage.watchdog.state, stage.written, stage.timeouts) == ("idle", b"", [])


def test_arming_sets_the_time_out_once(stage: Stage) -> None:
    stage.armed()
    stage.watchdog.start(NOW)

    assert (stage.watchdog.state, stage.timeouts) == ("armed", [4])


def test_late_in_a_lease_the_first_time_out_is_what_is_left(stage: Stage) -> None:
    stage.armed(left_ns=2 * S + 1)
    assert stage.timeouts == [2]

    stage.lease(5 * S, now_ns=NOW + S)
    stage.look(NOW + S)

    assert stage.timeouts == [2, 4]


def test_without_a_second_left_it_is_refused(stage: Stage) -> None:
    stage.lease(S - 1)

    with pytest.raises(Refused) as caught:
        stage.watchdog.start(NOW)

    assert (caught.value.reason, stage.watchdog.problem) == ("no_lease", "")
    assert stage.timeouts == []


def test_only_a_renewal_feeds_it(stage: Stage) -> None:
    stage.armed()
    for passed in range(10):
        stage.look(NOW + passed)
    assert stage.written == b""

    stage.lease(5 * S, now_ns=NOW + S)
    stage.look(NOW + S)
    stage.look(NOW + S + 1)

    assert stage.written == b"\1"


def test_a_renewal_that_came_late_does_not_feed_it(stage: Stage) -> None:
    """Fed then, it would fire after the lease is over elsewhere."""
    stage.armed()
    stage.lease(5 * S, now_ns=NOW + S)

    stage.look(NOW + 2 * S + 1)
    assert stage.written == b""
    stage.look(NOW + 2 * S)

    assert stage.written == b"\1"


def test_the_renewal_of_another_epoch_does_not_feed_it(stage: Stage) -> None:
    stage.armed()
    stage.lease(9 * S, epoch=4)

    stage.look()

    assert stage.written == b""


def test_an_epoch_that_has_ended_feeds_it_no_more(stage: Stage) -> None:
    stage.armed()
    stage.latches.end(3)
    stage.lease(9 * S)

    stage.look()

    assert stage.written == b""


def test_the_watchdog_is_disarmed_when_nothing_is_left(stage: Stage) -> None:
    stage.armed()

    stage.look(holds=False)
    stage.look(holds=False)

    assert (stage.watchdog.state, stage.written) == ("idle", b"V")


def test_the_watchdog_stays_armed_while_anything_is_left(stage: Stage) -> None:
    """Also after the lease's end: what does not die is ended by the reset."""
    stage.armed()
    stage.latches.end(3)
    stage.look(NOW + 60 * S)

    assert (stage.watchdog.state, stage.written) == ("armed", b"")


def test_a_pause_disarms_it_and_its_end_arms_it_again(stage: Stage) -> None:
    stage.armed()
    stage.page[words.PAUSED] = 1
    stage.look()
    assert (stage.watchdog.state, stage.written) == ("idle", b"V")
    stage.watchdog.start(NOW)
    assert stage.watchdog.state == "idle"

    stage.page[words.PAUSED] = 0
    stage.look(NOW + S)

    assert stage.watchdog.state == "armed"


def test_a_guard_that_takes_over_arms_it_again(stage: Stage) -> None:
    stage.lease(5 * S)
    stage.latches.arm(3, NOW)

    stage.look()

    assert (stage.watchdog.state, stage.timeouts) == ("armed", [4])


@pytest.mark.parametrize(
    ("answer", "words_of_it"),
    [
        (5, "fires after 5 s, not 4 s: too late"),
        (2, "fires after 2 s: an election alone"),
        (-1, "takes no time-out"),
    ],
)
def test_a_device_with_another_time_out_is_not_used(
    stage: Stage, answer: int, words_of_it: str
) -> None:
    stage.answers = lambda _: answer
    stage.lease(5 * S)

    with pytest.raises(Refused) as caught:
        stage.watchdog.start(NOW)

    assert words_of_it in str(caught.value)
    assert (stage.watchdog.state, stage.written) == ("unusable", b"V")


def test_where_it_is_not_required_a_primary_goes_without(stage: Stage) -> None:
    stage.configure(required=False)
    stage.answers = lambda _: 60
    stage.armed()

    assert stage.watchdog.state == "unusable"
    assert len(stage.said) == 2
    stage.answers = lambda asked: asked
    stage.look(NOW + S)
    assert (stage.watchdog.state, stage.watchdog.problem) == ("armed", "")


def test_a_missing_device_is_told_before_it_is_needed(
    stage: Stage, tmp_path: Path
) -> None:
    missing = str(tmp_path / "none")
    stage.watchdog.configure(missing, timeout_s=4, least_s=3, required=True)

    assert stage.watchdog.state == "unusable"
    assert missing in stage.watchdog.problem
    with pytest.raises(Refused):
        stage.armed()


def test_another_device_takes_the_place_of_the_first(
    stage: Stage, tmp_path: Path
) -> None:
    stage.armed()
    other = tmp_path / "other"
    other.touch()

    stage.watchdog.configure(str(other), timeout_s=4, least_s=3, required=True)

    assert stage.written == b"V"
    stage.look(NOW + S)
    assert (stage.watchdog.state, other.read_bytes()) == ("armed", b"")


def test_another_time_out_counts_before_the_next_renewal(stage: Stage) -> None:
    """Leases become shorter: what it was fed for may fire after the next one's end."""
    stage.armed()

    stage.watchdog.configure(str(stage.device), timeout_s=2, least_s=1, required=True)
    stage.look(NOW + 1)

    assert stage.timeouts == [4, 2]


def test_without_a_device_there_is_none(stage: Stage) -> None:
    stage.watchdog.configure("", timeout_s=0, least_s=0, required=False)

    stage.armed()
    stage.look()

    assert (stage.watchdog.state, stage.written) == ("off", b"")
