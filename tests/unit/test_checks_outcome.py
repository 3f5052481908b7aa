"""What the summary says of a layer that was looked at twice."""

from dataclasses import replace

from checks.outcome import UNSTEADY_MAX, Outcome


def test_a_failure_that_passes_the_second_time_is_named_as_unsteady() -> None:
    first = Outcome(name="component", passed=9, failed=1, details=("FAILED x",))
    again = Outcome(name="component-again", passed=1)

    outcome = first.looked_at_again(again)

    assert (outcome.passed, outcome.failed) == (10, 0)
    assert outcome.details == ("UNSTEADY (failed, then passed) x",)


def test_a_failure_that_fails_again_stays_one() -> None:
    first = Outcome(name="component", passed=9, failed=1, details=("FAILED x",))

    assert first.looked_at_again(Outcome(name="a", failed=1)) == first


def test_a_second_look_that_ran_too_little_proves_nothing() -> None:
    first = Outcome(name="component", passed=9, failed=2, details=("FAILED x",))

    assert first.looked_at_again(Outcome(name="a", passed=1)) == first
    assert first.looked_at_again(Outcome(name="a", not_run="no tests")) == first


def test_few_failures_may_be_unsteady_but_no_broken_promise() -> None:
    few = Outcome(name="netns", passed=9, failed=1)

    assert few.may_be_unsteady()
    assert not Outcome(name="netns", passed=9).may_be_unsteady()
    assert not Outcome(name="netns", failed=UNSTEADY_MAX + 1).may_be_unsteady()
    assert not replace(few, broke_promise=True).may_be_unsteady()
