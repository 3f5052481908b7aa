"""What switches nodes off: its keys, and what does not fit on this machine."""

from dataclasses import replace

from pgbastion.config.machine_checks import check_machine
from pgbastion.config.problems import Severity
from support.configs import GOOD_FACTS, of_severity, refused, understood

PROGRAM = {"fence_command": "/etc/pgbastion/fence"}
KEY = "failover.fence_command"


def test_a_good_program_is_no_problem() -> None:
    config = understood(failover=PROGRAM)

    assert config.failover.fence_timeout == 10_000
    assert check_machine(config, GOOD_FACTS) == []


def test_a_program_that_cannot_be_run_is_refused() -> None:
    problems = check_machine(
        understood(failover=PROGRAM), replace(GOOD_FACTS, fence_runs=False)
    )

    assert of_severity(problems, Severity.ERROR) == [KEY]


def test_a_program_that_others_can_change_is_pointed_out() -> None:
    problems = check_machine(
        understood(failover=PROGRAM), replace(GOOD_FACTS, fence_mode=0o775)
    )

    assert of_severity(problems, Severity.WARNING) == [KEY]
    assert "0775" in problems[0].problem


def test_without_a_program_its_facts_do_not_matter() -> None:
    facts = replace(GOOD_FACTS, fence_runs=False, fence_mode=0o777)

    assert check_machine(understood(), facts) == []


def test_a_relative_path_and_no_time_at_all_are_refused() -> None:
    assert set(refused(failover={"fence_command": "fence"})) == {KEY}
    told = refused(failover={**PROGRAM, "fence_timeout": "0s"})
    assert set(told) == {"failover.fence_timeout"}
