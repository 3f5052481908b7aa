"""What a test says when the product broke what it promises of data."""

from collections.abc import Mapping

from pgbastion.bench.lab.checker import ServerCheck, describe
from pgbastion.bench.lab.workload import SamplerReport


class BrokenPromise(AssertionError):  # noqa: N818 - it is no error of the test
    """A commit was lost, or two nodes were the primary at one time.

    The runner of the checks knows it by its name: a test that failed with it is not
    run a second time.
    """


def nothing_lost(checks: Mapping[str, ServerCheck]) -> None:
    """Fail unless every server holds what was acknowledged, once, and nothing else."""
    if found := describe(checks):
        raise BrokenPromise(found)


def one_writer(sampled: SamplerReport) -> None:
    """Fail if the sampler saw one node acknowledge in the time of another."""
    if found := [str(violation) for violation in sampled.violations]:
        raise BrokenPromise("\n".join(found))
