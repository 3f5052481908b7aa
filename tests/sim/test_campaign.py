"""Seeded simulation of whole clusters: no promise is broken, and much is reached."""

import os

import pytest

from pgbastion.testing.sim.campaign import run_campaign

SEEDS = 20_000 if os.environ.get("PGBASTION_TEST_FULL") else 400


@pytest.mark.slow
@pytest.mark.timeout(SEEDS * 2)
def test_no_seed_breaks_a_promise_and_everything_is_reached() -> None:
    campaign = run_campaign(1, SEEDS)

    for line in campaign.counts():
        print(line)  # noqa: T201 - a run's counts are shown with -rP
    assert not list(campaign.failures())
