"""Rules of our own hold, whatever the optimiser does."""

import pytest

from pgbastion.errors import InvariantError, PgBastionError, invariant


def test_a_broken_rule_raises_with_its_name() -> None:
    with pytest.raises(InvariantError, match="one primary an epoch"):
        invariant([], "one primary an epoch")


def test_a_kept_rule_goes_on() -> None:
    invariant([0], "not empty")


def test_no_handler_of_the_worlds_failures_catches_a_broken_rule() -> None:
    assert not issubclass(InvariantError, PgBastionError)
