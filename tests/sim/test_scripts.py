"""Scripted runs: rare sequences of faults, none of which may break a promise."""

import pytest

from pgbastion.testing.sim.scripts import SCRIPTS, run_script


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_breaks_a_promise(name: str) -> None:
    run_script(name)
