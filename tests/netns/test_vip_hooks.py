"""The operator's program for addresses, and what the kernel refuses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.bench.lab.network import Namespaces
from pgbastion.errors import VipError
from pgbastion.model.addresses import AddressState, VirtualAddress
from pgbastion.vip import hooks
from pgbastion.vip.hooks import Hook
from pgbastion.vip.netlink import Netlink
from support.guard_lab import until
from support.lab_namespaces import namespaces
from support.vip_lab import V4, node

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(60),
]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "PAUSE_S", 0.05)


@pytest.fixture(scope="module")
def network() -> Iterator[Namespaces]:
    with namespaces(["n1"]) as built:
        yield built


async def test_a_hook_is_called_in_order_tried_again_and_ended_in_time(
    network: Namespaces, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    program = tmp_path / "hook"
    program.write_text(
        f'#!/bin/sh\necho "$1 $2 $3 $PGBASTION_NODE $PGBASTION_EPOCH" >> {log}\n'
        f'[ "$(wc -l < {log})" -ge 2 ] || exit 7\n[ "$1" = take ] || sleep 30\n'
    )
    program.chmod(0o755)
    hook = Hook(program, timeout_s=0.5, environment={"PGBASTION_NODE": "n1"})
    cloud = VirtualAddress(address="10.99.0.5", prefix=32, interface="")
    async with node(network, cloud, hook=hook) as held:
        held.hold(7)
        await until(lambda: held.state is AddressState.HELD)
        assert log.read_text().splitlines() == ["take 10.99.0.5/32  n1 7"] * 2
        assert hook.failures_total == 1
        await held.manager.drop()
        await until(lambda: hook.failures_total >= 2)
        assert log.read_text().splitlines()[2] == "drop 10.99.0.5/32  n1 7"


async def test_a_hook_that_cannot_be_started_is_a_failure_of_the_address(
    network: Namespaces, tmp_path: Path
) -> None:
    hook = Hook(tmp_path / "absent", timeout_s=0.5, environment={})
    cloud = VirtualAddress(address="10.99.0.5", prefix=32, interface="")
    async with node(network, cloud, hook=hook) as held:
        held.hold()
        await until(lambda: held.state is AddressState.FAILED)
        assert held.manager.report().problem == "the hook failed"


async def test_what_the_kernel_refuses_is_told_with_its_reason(
    network: Namespaces,
) -> None:
    with network.inside("n1"):
        netlink = Netlink()
        link = await netlink.link("lo")
        assert link is not None
        gone = type(link)(index=9_999, name="x", hardware=b"", up=True, carrier=True)
        with pytest.raises(VipError, match=r"cannot set 10\.77\.0\.50/24 on x"):
            await netlink.set_address(gone, V4, 10)
        assert await netlink.link("eth7") is None
        await netlink.close()
