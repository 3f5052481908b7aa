"""A long step runs until what it has made was looked at."""

import asyncio

import pytest

from pgbastion.errors import PostgresError
from pgbastion.ha.job import Job


@pytest.mark.parametrize("fails", [False, True])
def test_a_step_goes_on_until_its_outcome_was_looked_at(fails: bool) -> None:
    """Else a pass in between decides on what was there before: another copy."""
    job = Job()
    seen: list[str | None] = []

    async def work() -> None:
        if fails:
            raise PostgresError("the disk is full")

    looked = asyncio.Event()

    async def look() -> None:
        await asyncio.sleep(0)
        seen.append(job.name)
        looked.set()

    async def run() -> None:
        job.start("copy", work(), look)
        await looked.wait()
        seen.append(job.name)

    asyncio.run(run())

    assert seen == ["copy", None]
    assert job.failed == ("the disk is full" if fails else None)


def test_a_step_that_failed_tells_how_long_it_took() -> None:
    job = Job()
    least_ms = 50

    async def work() -> None:
        await asyncio.sleep(least_ms / 1_000)
        raise PostgresError("the disk is full")

    async def run() -> None:
        looked = asyncio.Event()

        async def look() -> None:
            looked.set()

        job.start("copy", work(), look)
        await looked.wait()

    asyncio.run(run())

    assert job.took_ms >= least_ms - 1


def test_a_step_that_is_interrupted_is_over() -> None:
    job = Job()

    async def look() -> None:
        raise AssertionError("nobody looks any more")

    async def run() -> None:
        job.start("copy", asyncio.sleep(60), look)
        await asyncio.sleep(0)
        await job.stop()

    asyncio.run(run())

    assert job.name is None
