"""A real guard with a device that stands in for the watchdog: armed, fed, disarmed.

The device is a file whose ioctl is answered by a library of ours, compiled against the
kernel's own header. No machine was ever reset by this.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pgbastion.guard import page as words
from pgbastion.postgres import guard_spawn
from pgbastion.postgres.guard_client import GuardClient
from pgbastion.postgres.guard_messages import Gone, Stopped, WatchdogSetting
from support.guard_lab import GuardLab, guard_lab, refused, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(60)]

SHIM = Path(__file__).parents[1] / "support" / "fake_watchdog.c"
LEASE_MS = 30_000
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("not run: there is no C compiler")
    library = tmp_path_factory.mktemp("shim") / "fake_watchdog.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(SHIM), "-ldl"]
    subprocess.run(command, check=True)
    return library


class Device:
    """The file that stands in for the device."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.make()

    def make(self) -> None:
        self.path.touch()

    def remove(self) -> None:
        self.path.unlink()

    @property
    def said(self) -> str:
        """What it was told: time-outs, food, and the word that disarms it."""
        return self.path.read_text()


@pytest.fixture
def device(shim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device(tmp_path / "watchdog")
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv("FAKE_WATCHDOG", str(made.path))
    kept = (*guard_spawn.ENVIRONMENT_KEPT, "LD_PRELOAD", "FAKE_WATCHDOG")
    monkeypatch.setattr(guard_spawn, "ENVIRONMENT_KEPT", kept)
    return made


@pytest.fixture
async def lab(device: Device) -> AsyncIterator[GuardLab]:
    del device
    async with guard_lab() as made:
        yield made


def setting(device: Device, *, required: bool = True) -> WatchdogSetting:
    return WatchdogSetting(
        device=str(device.path), timeout_s=TIMEOUT_S, least_s=2, required=required
    )


def state(client: GuardClient) -> str:
    assert client.latest is not None
    return client.latest.watchdog


async def promoted(lab: GuardLab) -> None:
    """Have a standby run that may become a primary from now on."""
    await lab.start()
    lab.lease(3, left_ms=LEASE_MS)
    await lab.client.arm(3)


async def test_the_watchdog_lives_with_the_primary(
    lab: GuardLab, device: Device
) -> None:
    await lab.client.watch(setting(device))
    assert (state(lab.client), device.said) == ("idle", "")

    await promoted(lab)
    assert (state(lab.client), device.said) == ("armed", "T20;")

    # The page of before a renewal, again and again, feeds nothing.
    await lab.client.status()
    assert device.said == "T20;"
    lab.lease(3, left_ms=LEASE_MS + 5_000)
    await until(lambda: device.said == "T20;\1")

    await lab.client.kill(deadline_s=5)
    await lab.event(Stopped)
    await until(lambda: device.said == "T20;\1V")


async def test_a_standby_that_runs_arms_nothing(lab: GuardLab, device: Device) -> None:
    await lab.client.watch(setting(device))

    await lab.start()
    await lab.client.status()

    assert (state(lab.client), device.said) == ("idle", "")


async def test_an_expired_lease_kills_first_and_disarms_then(
    lab: GuardLab, device: Device
) -> None:
    await lab.client.watch(setting(device))
    await promoted(lab)

    lab.lease(3, left_ms=0)
    await lab.event(Stopped)

    await until(lambda: device.said == "T20;V")


async def test_without_it_nothing_is_armed_where_it_is_required(
    lab: GuardLab, device: Device
) -> None:
    device.remove()
    await lab.client.watch(setting(device))
    lab.lease(3, left_ms=LEASE_MS)

    with refused("watchdog"):
        await lab.client.arm(3)

    assert state(lab.client) == "unusable"
    assert lab.page[words.ARMED_EPOCH] == 0
    assert str(device.path) in (await lab.client.status()).watchdog_problem


async def test_a_device_that_comes_back_is_noticed(
    lab: GuardLab, device: Device
) -> None:
    device.remove()
    await lab.client.watch(setting(device))
    assert state(lab.client) == "unusable"

    device.make()

    await until(lambda: state(lab.client) == "idle")
    # A primary that is started again arms it again.
    await lab.start_primary(3, left_ms=LEASE_MS)
    assert state(lab.client) == "armed"


async def test_where_it_is_not_required_a_primary_runs_without(
    lab: GuardLab, device: Device
) -> None:
    device.remove()
    await lab.client.watch(setting(device, required=False))

    await lab.start_primary(3, left_ms=LEASE_MS)

    assert state(lab.client) == "unusable"


async def test_a_killed_guard_leaves_it_armed(lab: GuardLab, device: Device) -> None:
    """Nobody says the magic word for it: unless a successor comes, it fires."""
    await lab.client.watch(setting(device))
    await promoted(lab)

    os.kill(lab.client.guard_pid, signal.SIGKILL)
    await lab.event(Gone)

    assert device.said == "T20;"


async def test_a_guard_that_ends_in_order_leaves_nothing_that_fires(
    lab: GuardLab, device: Device
) -> None:
    await lab.client.watch(setting(device))
    lab.lease(3, left_ms=LEASE_MS)
    await lab.client.arm(3)

    await lab.client.quit()
    await lab.event(Gone)

    assert device.said == "T20;V"
