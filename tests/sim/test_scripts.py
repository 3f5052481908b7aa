"""Scripted runs: rare sequences of faults, none of which may break a promise."""

import pytest

from pgbastion.testing.sim.scripts import SCRIPTS, run_script

# Rows of the table that no seed need reach.
REACHES = {
    "gives_up_as_a_standby": {"give_up <- standby"},
    "gives_up_while_its_server_starts": {"give_up <- starting"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_breaks_a_promise(name: str) -> None:
    tally = run_script(name)

    assert REACHES.get(name, set()) <= tally.transitions.keys()
