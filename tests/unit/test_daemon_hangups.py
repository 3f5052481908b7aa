"""SIGHUP, however often it comes."""

import asyncio

import pytest

from pgbastion.daemon import Hangups
from pgbastion.errors import ConfigError

pytestmark = pytest.mark.anyio


class Reload:
    """Takes as long as it is held, and counts."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()
        self.ended = asyncio.Semaphore(0)
        self.error: ConfigError | None = None

    async def __call__(self) -> str:
        self.begun += 1
        await self.may_end.wait()
        self.ended.release()
        if self.error is not None:
            raise self.error
        return "applied: nothing"


async def test_a_storm_of_hangups_is_two_reloads() -> None:
    reload = Reload()
    hangups = Hangups(reload)
    hangups.note()
    await asyncio.sleep(0)
    assert reload.begun == 1
    for _ in range(300):
        hangups.note()
        await asyncio.sleep(0)
    assert reload.begun == 1

    reload.may_end.set()
    for _ in range(2):
        await reload.ended.acquire()
    for _ in range(10):
        await asyncio.sleep(0)
    assert reload.begun == 2


async def test_a_reload_that_fails_is_not_the_last() -> None:
    reload = Reload()
    reload.may_end.set()
    reload.error = ConfigError("nonsense")
    hangups = Hangups(reload)
    for _ in range(2):
        hangups.note()
        await reload.ended.acquire()
        for _ in range(10):
            await asyncio.sleep(0)
    assert reload.begun == 2
