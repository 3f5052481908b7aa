"""When the guard acts by itself: armed, and the lease ran out."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from pgbastion.guard import page as words
from pgbastion.platform import processes
from pgbastion.platform.clock import boottime_ns
from pgbastion.postgres.guard_client import GuardClient
from pgbastion.postgres.guard_messages import Exited, Gone, Killed, Stopped
from support.guard_lab import (
    MS,
    STUBBORN,
    GuardLab,
    alive,
    guard_lab,
    of_linux,
    refused,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

# On a machine with nothing to do it is 2-5 ms.
PROMPT_NS = 150 * MS
TRIES = 20


@pytest.fixture
async def lab() -> AsyncIterator[GuardLab]:
    async with guard_lab() as made:
        yield made


@of_linux
async def test_a_primary_is_killed_a_lead_before_its_lease_ends(lab: GuardLab) -> None:
    pid = await lab.start_primary(4)
    below = processes.descendants(pid)
    acts_ns = lab.lease(4, left_ms=600, lead_ms=300)
    await asyncio.sleep(0.2)
    assert alive(pid)

    await until(lambda: not alive(pid))
    stopped_ns = boottime_ns()

    assert 0 <= stopped_ns - acts_ns < PROMPT_NS
    assert (await lab.event(Killed)).epoch == 4
    assert (await lab.event(Exited)).stopped
    await lab.event(Stopped)
    assert not any(map(alive, below))
    assert lab.page[words.ENDED_EPOCH] == 4
    assert lab.page[words.ARMED_EPOCH] == 0


async def test_no_primary_starts_in_an_epoch_that_expired(lab: GuardLab) -> None:
    await lab.start_primary(4)
    lab.lease(4, left_ms=100)
    await lab.event(Stopped)
    lab.lease(4)

    with refused("ended"):
        await lab.client.arm(4)
    with refused("ended"):
        await lab.start(epoch=4)

    await lab.start_primary(5)


async def renewed_in_time(lab: GuardLab, epoch: int) -> bool:
    """Renew for three leases; tell whether each renewal came before its end."""
    ends_ns = lab.lease(epoch, left_ms=300)
    for _ in range(9):
        await asyncio.sleep(0.1)
        was_ns, ends_ns = ends_ns, lab.lease(epoch, left_ms=300)
        if boottime_ns() >= was_ns:
            return False
    return True


async def test_a_renewed_primary_goes_on(lab: GuardLab) -> None:
    for epoch in range(4, 4 + TRIES):
        pid = await lab.start_primary(epoch)
        if await renewed_in_time(lab, epoch):
            assert alive(pid)
            return
        # The machine kept this process from renewing: nothing was seen.
        await lab.client.kill()
    pytest.fail(f"no lease was renewed in time in {TRIES} tries")


async def test_an_expiry_that_moves_back_is_seen(lab: GuardLab) -> None:
    pid = await lab.start_primary(4)
    began_ns = boottime_ns()
    lab.page[words.EXPIRY_NS] = 0

    await until(lambda: not alive(pid))

    assert boottime_ns() - began_ns < 50 * MS + PROMPT_NS


async def test_a_lease_of_another_epoch_is_none(lab: GuardLab) -> None:
    pid = await lab.start_primary(4)
    lab.page[words.EPOCH] = 5

    await until(lambda: not alive(pid))

    assert (await lab.event(Killed)).epoch == 4


async def test_a_standby_goes_on_at_the_end_of_a_lease(lab: GuardLab) -> None:
    lab.lease(4)
    await lab.client.arm(4)
    pid = await lab.start()
    lab.lease(4, left_ms=100)

    await until(lambda: lab.page[words.ENDED_EPOCH] == 4)

    assert lab.page[words.ARMED_EPOCH] == 0
    assert alive(pid)
    assert not lab.events


async def test_a_standby_to_be_promoted_is_killed_at_the_end(lab: GuardLab) -> None:
    pid = await lab.start()
    lab.lease(4)
    await lab.client.arm(4)
    await lab.client.asked(on=True, promote_epoch=4)
    # The evidence that it answers ends the asking, not the guard's memory.
    await lab.client.asked(on=False)
    lab.lease(4, left_ms=100)

    await lab.event(Killed)
    await until(lambda: not alive(pid))


async def test_under_pause_nothing_is_killed(lab: GuardLab) -> None:
    pid = await lab.start_primary(4)
    lab.page[words.PAUSED] = 1
    lab.lease(4, left_ms=200)
    await asyncio.sleep(0.4)
    assert alive(pid)

    lab.page[words.PAUSED] = 0
    await until(lambda: not alive(pid))


async def test_a_frozen_guard_acts_before_it_answers(lab: GuardLab) -> None:
    pid = await lab.start_primary(4)
    guard = lab.client.guard_pid
    os.kill(guard, signal.SIGSTOP)
    lab.lease(4, left_ms=100)
    asked = asyncio.create_task(lab.client.asked(on=True, promote_epoch=4))
    await asyncio.sleep(0.3)
    assert alive(pid)

    thawed_ns = boottime_ns()
    os.kill(guard, signal.SIGCONT)
    with refused("not_running"):
        await asked
    await until(lambda: not alive(pid))

    assert boottime_ns() - thawed_ns < PROMPT_NS


async def test_only_the_end_of_a_primary_disarms(lab: GuardLab) -> None:
    await lab.start_primary(4)
    with refused("tainted"):
        await lab.client.disarm()

    await lab.client.kill()
    await lab.client.disarm()

    assert lab.page[words.ARMED_EPOCH] == 0


async def test_a_later_standby_disarms(lab: GuardLab) -> None:
    await lab.start_primary(4)
    await lab.client.kill()
    await lab.start()

    await lab.client.disarm()

    assert lab.page[words.ARMED_EPOCH] == 0


async def test_arming_taints_what_runs(lab: GuardLab) -> None:
    await lab.start()
    assert not (await lab.client.status()).tainted
    lab.lease(4)
    await lab.client.arm(4)

    assert (await lab.client.status()).tainted
    with refused("tainted"):
        await lab.client.disarm()


async def test_a_promotion_taints_what_started_after_the_arming(
    lab: GuardLab,
) -> None:
    lab.lease(4)
    await lab.client.arm(4)
    await lab.start()
    assert not (await lab.client.status()).tainted
    await lab.client.asked(on=True, promote_epoch=4)

    with refused("tainted"):
        await lab.client.disarm()


async def test_a_primary_needs_arming_for_its_epoch(lab: GuardLab) -> None:
    lab.lease(4)
    with refused("not_armed"):
        await lab.start(epoch=4)
    await lab.client.arm(4)
    with refused("not_armed"):
        await lab.start(epoch=5)
    with refused("not_armed"):
        await lab.client.arm(4)
        await lab.start()
        await lab.client.asked(on=True, promote_epoch=5)


async def test_a_primary_that_died_starts_again_in_its_epoch(lab: GuardLab) -> None:
    first = await lab.start_primary(4)
    os.kill(first, signal.SIGKILL)
    await lab.event(Stopped)

    assert await lab.start(epoch=4) != first


async def test_the_next_epoch_takes_the_end_of_the_primary(lab: GuardLab) -> None:
    await lab.start_primary(4)
    with refused("armed"):
        await lab.client.arm(5)
    await lab.client.kill()
    lab.lease(5)

    await lab.client.arm(5)

    assert lab.page[words.ARMED_EPOCH] == 5


async def test_an_epoch_does_not_end_while_its_primary_runs(lab: GuardLab) -> None:
    pid = await lab.start_primary(4)
    with refused("running"):
        await lab.client.end_epoch(4)
    # Latched all the same: nothing of it starts again.
    assert lab.page[words.ENDED_EPOCH] == 4
    assert alive(pid)

    await lab.client.kill()
    await lab.client.end_epoch(4)

    assert lab.page[words.ARMED_EPOCH] == 0
    lab.lease(4)
    with refused("ended"):
        await lab.client.arm(4)


async def test_an_earlier_epoch_ends_beside_a_later_primary(lab: GuardLab) -> None:
    pid = await lab.start_primary(4)

    await lab.client.end_epoch(3)

    assert alive(pid)
    assert lab.page[words.ARMED_EPOCH] == 4


async def test_a_start_says_so_before_it_begins(lab: GuardLab) -> None:
    before_ns = boottime_ns()
    await lab.start_primary(4)
    assert before_ns <= lab.page[words.ASKED_NS] <= boottime_ns()

    await lab.client.asked(on=False)
    assert lab.page[words.ASKED_NS] == 0


async def test_a_server_that_dies_in_each_start_asks_since_the_first(
    lab: GuardLab,
) -> None:
    await lab.start_primary(4)
    first_ns = lab.page[words.ASKED_NS]
    await lab.client.kill()
    assert lab.page[words.ASKED_NS] == 0

    await lab.start(epoch=4)
    assert lab.page[words.ASKED_NS] == first_ns

    lab.page[words.EVIDENCE_NS] = boottime_ns()
    await lab.client.kill()
    await lab.start(epoch=4)
    assert lab.page[words.ASKED_NS] > first_ns


# The guard's own death


async def successor(lab: GuardLab) -> GuardClient:
    """Kill the guard and connect to a new one."""
    os.kill(lab.client.guard_pid, signal.SIGKILL)
    assert await lab.event(Gone) == Gone(is_dead=True)
    await lab.client.close()
    lab.client = await GuardClient.connect_or_spawn(
        lab.run_dir, on_event=lab.events.append
    )
    await lab.client.hello(write=True)
    return lab.client


async def test_without_its_guard_a_server_gets_sigquit(lab: GuardLab) -> None:
    pid = await lab.start()

    os.kill(lab.client.guard_pid, signal.SIGKILL)

    await until(lambda: not alive(pid), 2)


@of_linux
async def test_what_a_dead_guard_left_is_proven_dead_before_anything_starts(
    lab: GuardLab,
) -> None:
    pid = await lab.start_primary(4)
    left = processes.descendants(pid)
    client = await successor(lab)

    assert (await client.status()).state == "unproven"
    assert any(map(alive, left))
    for call in (lab.start(), lab.start(epoch=4)):
        with refused("unproven"):
            await call
    with refused("tainted"):
        await client.disarm()
    with refused("running"):
        await client.end_epoch(4)

    killed = await client.kill(directory=(str(lab.pgdata), lab.account.pw_uid))

    assert killed.stopped
    assert not any(map(alive, left))
    await client.end_epoch(4)
    assert (await client.status()).state == "idle"


async def test_what_a_guard_latched_its_successor_keeps(lab: GuardLab) -> None:
    await lab.client.end_epoch(4)
    client = await successor(lab)
    lab.lease(4)

    assert (await client.status()).ended == 4
    with refused("ended"):
        await client.arm(4)


async def test_a_guard_that_ended_unarmed_leaves_nothing_to_prove(
    lab: GuardLab,
) -> None:
    pid = await lab.start()
    await successor(lab)
    await until(lambda: processes.stat(pid) is None)

    await lab.start()


async def test_a_stubborn_program_does_not_outlive_the_lease(lab: GuardLab) -> None:
    lab.lease(4)
    await lab.client.arm(4)
    pid = await lab.start(STUBBORN, epoch=4)
    below = processes.descendants(pid)
    lab.page[words.EXPIRY_NS] = 0

    await lab.event(Stopped)

    assert below
    assert not any(map(alive, below))
