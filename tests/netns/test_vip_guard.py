"""The guard removes the virtual address at the lease's end, whoever lives then."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from pgbastion.bench.lab.network import Namespaces
from pgbastion.guard import page as words
from pgbastion.platform.clock import boottime_ns
from pgbastion.postgres.guard_client import GuardRefused
from pgbastion.postgres.guard_messages import Stopped
from support.guard_lab import MS, GuardLab, guard_lab, until
from support.lab_namespaces import namespaces

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(60),
]

ADDRESSES = ("10.77.0.50", "fd77::50")
LATE_NS = 150 * MS


@pytest.fixture(scope="module")
def network() -> Iterator[Namespaces]:
    with namespaces(["n1"]) as built:
        yield built


@pytest.fixture
async def lab(network: Namespaces) -> AsyncIterator[GuardLab]:
    # The guard lives where the daemon that starts it does.
    with network.inside("n1"):
        async with guard_lab() as made:
            for address in ADDRESSES:
                extra = ("nodad",) if ":" in address else ()
                ip(network, "add", address, *extra)
            try:
                yield made
            finally:
                for address in present(network):
                    ip(network, "del", address)


def ip(network: Namespaces, verb: str, address: str, *extra: str) -> None:
    prefix = 64 if ":" in address else 24
    command = ["ip", "address", verb, f"{address}/{prefix}", "dev", "eth0", *extra]
    subprocess.run([*network.command("n1"), *command], check=True)


def present(network: Namespaces) -> list[str]:
    command = [*network.command("n1"), "ip", "-o", "address", "show"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [address for address in ADDRESSES if f" {address}/" in shown]


async def test_at_the_leases_end_they_go_with_the_primary(
    network: Namespaces, lab: GuardLab
) -> None:
    await lab.start_primary(4)
    await lab.client.removals(ADDRESSES)
    await asyncio.sleep(0.1)
    assert present(network) == list(ADDRESSES)

    # Nothing of the daemon's is asked from here on.
    ends_ns = lab.lease(4, left_ms=200)
    await until(lambda: not present(network))

    assert ends_ns <= boottime_ns() < ends_ns + LATE_NS
    await lab.event(Stopped)


async def test_a_lease_that_is_renewed_keeps_them(
    network: Namespaces, lab: GuardLab
) -> None:
    await lab.start_primary(4, left_ms=1_000)
    await lab.client.removals(ADDRESSES)
    for _ in range(6):
        lab.lease(4, left_ms=1_000)
        await asyncio.sleep(0.25)

    assert present(network) == list(ADDRESSES)


async def test_under_a_pause_they_stay(network: Namespaces, lab: GuardLab) -> None:
    await lab.start_primary(4)
    await lab.client.removals(ADDRESSES)
    lab.page[words.PAUSED] = 1
    lab.lease(4, left_ms=50)
    await asyncio.sleep(0.3)
    assert present(network) == list(ADDRESSES)

    lab.page[words.PAUSED] = 0
    await until(lambda: not present(network))


async def test_what_a_stopped_daemon_adds_when_it_goes_on_is_removed_again(
    network: Namespaces, lab: GuardLab
) -> None:
    await lab.start_primary(4, left_ms=100)
    await lab.client.removals(ADDRESSES)
    await lab.event(Stopped)
    await until(lambda: not present(network))

    ip(network, "add", ADDRESSES[0])

    await until(lambda: not present(network), 3)


async def test_another_epochs_lease_keeps_nothing(
    network: Namespaces, lab: GuardLab
) -> None:
    await lab.start_primary(4)
    await lab.client.removals(ADDRESSES)
    lab.lease(5)

    await until(lambda: not present(network))


async def test_what_is_not_in_the_list_is_left_alone(
    network: Namespaces, lab: GuardLab
) -> None:
    await lab.start_primary(4)
    await lab.client.removals(ADDRESSES[:1])
    lab.lease(4, left_ms=0)

    await until(lambda: present(network) == [ADDRESSES[1]])
    await lab.event(Stopped)
    assert present(network) == [ADDRESSES[1]]


async def test_an_address_with_an_end_of_its_own_goes_then_also_from_a_standby(
    network: Namespaces, lab: GuardLab
) -> None:
    ends_ns = boottime_ns() + 2_000 * MS
    await lab.client.keep(ADDRESSES[0], ends_ns)
    await lab.client.keep(ADDRESSES[1], ends_ns + 60_000 * MS)
    assert present(network) == list(ADDRESSES)

    # Nothing of the daemon's is asked from here on.
    await until(lambda: present(network) == [ADDRESSES[1]], 8)
    assert ends_ns <= boottime_ns()

    # A daemon that was stopped in the middle of adding it goes on.
    ip(network, "add", ADDRESSES[0])
    await until(lambda: present(network) == [ADDRESSES[1]], 8)

    await lab.client.keep(ADDRESSES[0], 0)
    ip(network, "add", ADDRESSES[0])
    await asyncio.sleep(1.2)
    assert present(network) == list(ADDRESSES)


async def test_the_end_is_put_off_by_whoever_keeps_it(
    network: Namespaces, lab: GuardLab
) -> None:
    for _ in range(6):
        await lab.client.keep(ADDRESSES[0], boottime_ns() + 1_000 * MS)
        await asyncio.sleep(0.25)

    assert present(network) == list(ADDRESSES)


async def test_what_is_no_address_is_not_kept(lab: GuardLab) -> None:
    with pytest.raises(GuardRefused, match="is not an address"):
        await lab.client.keep("n1", 1)
