"""The simulator's event loops, of which one process's may end another's."""

import asyncio

from pgbastion.testing.sim.clocks import NodeClock
from pgbastion.testing.sim.loop import SimLoop
from pgbastion.testing.sim.world import World


def made(world: World, name: str) -> SimLoop:
    clock = NodeClock(world, start_ns=0, rate_ppm=0)
    return SimLoop(world, clock, name)  # type: ignore[abstract]


def test_who_ends_another_process_goes_on_with_its_own_step() -> None:
    world = World(1)
    killer, killed = made(world, "n1"), made(world, "n2")
    running: list[object] = []

    async def sleeps() -> None:
        await asyncio.sleep(60)

    async def ends_it() -> None:
        killed.kill()
        running.append(asyncio.get_running_loop())

    killed.create_task(sleeps())
    killer.call_soon(lambda: killer.create_task(ends_it()))
    killer.call_soon(lambda: running.append(asyncio.get_running_loop()))
    world.run(until_ns=1_000_000_000)

    assert running == [killer, killer]
    assert not killed.alive
