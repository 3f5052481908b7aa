"""The hardware watchdog's keys: what fits into a lease, and what the machine lacks."""

from dataclasses import replace

import pytest

from pgbastion.config.checks import check_config
from pgbastion.config.machine_checks import check_machine
from pgbastion.config.problems import Severity
from pgbastion.config.timings import PROFILES
from pgbastion.config.watchdog import fits, least_unfed_s, unfed_s
from pgbastion.model.profile import Profile
from pgbastion.node.parts import watchdog_of
from pgbastion.postgres.guard_messages import WatchdogSetting
from support.configs import GOOD_FACTS, of_severity, refused, understood

FAULTY = replace(GOOD_FACTS, watchdog_fault="is not a device")


@pytest.mark.parametrize(
    ("profile", "unfed", "least"),
    [(Profile.FAST, 1, 2), (Profile.NORMAL, 4, 3), (Profile.WIDE, 25, 16)],
)
def test_the_watchdog_fires_before_the_lease_is_over_and_after_an_election(
    profile: Profile, unfed: int, least: int
) -> None:
    timings = PROFILES[profile]

    assert (unfed_s(timings), least_unfed_s(timings)) == (unfed, least)
    assert fits(timings) == (unfed >= least)
    # Fed at the end of a renewal's deadline, it fires before the guard would act.
    fires_ms = timings.deadline_ms // 2 + unfed * 1_000
    assert fires_ms <= timings.lease_ms - timings.margin_ms


@pytest.mark.parametrize(
    ("mode", "severity"),
    [("required", Severity.ERROR), ("automatic", Severity.WARNING)],
)
def test_a_lease_that_is_too_short_is_told(mode: str, severity: Severity) -> None:
    config = understood(watchdog={"mode": mode}, failover={"profile": "fast"})

    assert of_severity(check_config(config), severity) == ["watchdog.mode"]
    assert watchdog_of(config) is None


def test_off_is_the_default_and_needs_nothing() -> None:
    config = understood(failover={"profile": "fast"})

    assert not [p for p in check_config(config) if p.key.startswith("watchdog")]
    assert check_machine(config, FAULTY) == []
    assert watchdog_of(config) is None


@pytest.mark.parametrize(
    ("mode", "words"),
    [("required", "does not become the primary"), ("automatic", "without it")],
)
def test_a_device_that_is_missing_is_pointed_out(mode: str, words: str) -> None:
    problems = check_machine(understood(watchdog={"mode": mode}), FAULTY)

    assert of_severity(problems, Severity.WARNING) == ["watchdog.device"]
    assert "/dev/watchdog is not a device" in problems[0].problem
    assert words in problems[0].problem


def test_a_witness_needs_none() -> None:
    config = understood(
        watchdog={"mode": "required"}, failover={"profile": "fast"}, postgresql=None
    )

    assert of_severity(check_config(config), Severity.ERROR) == []
    assert "watchdog.device" not in [p.key for p in check_machine(config, FAULTY)]


def test_the_guard_is_told_what_follows() -> None:
    config = understood(watchdog={"mode": "required", "device": "/dev/watchdog1"})

    assert watchdog_of(config) == WatchdogSetting(
        device="/dev/watchdog1", timeout_s=4, least_s=3, required=True
    )


def test_another_mode_is_refused() -> None:
    assert set(refused(watchdog={"mode": "maybe"})) == {"watchdog.mode"}
    assert set(refused(watchdog={"device": "watchdog"})) == {"watchdog.device"}
