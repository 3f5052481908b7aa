"""The manager of virtual addresses on a host of its own, with a client beside it."""

import asyncio
import json
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pgbastion.bench.lab.network import CLIENT, Namespaces
from pgbastion.clock import boottime_ns
from pgbastion.errors import VipError
from pgbastion.guard.addresses import Removals
from pgbastion.model.addresses import AddressState, Holding, VirtualAddress
from pgbastion.model.ids import Epoch
from pgbastion.vip import hooks, manager, packets
from pgbastion.vip.hooks import Hook
from pgbastion.vip.manager import VipManager
from pgbastion.vip.netlink import Netlink
from support.guard_lab import until
from support.lab_namespaces import namespaces

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(60),
]

V4 = VirtualAddress(address="10.77.0.50", prefix=24, interface="eth0")
V6 = VirtualAddress(address="fd77::50", prefix=64, interface="eth0")
MINUTE_NS = 60_000_000_000
SEC_NS = 1_000_000_000


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for between two tries is shown once, not waited for here."""
    assert (manager.PROBE_AGAIN_MS, hooks.PAUSE_S) == (5_000, 1.0)
    monkeypatch.setattr(manager, "PROBE_AGAIN_MS", 500)
    monkeypatch.setattr(hooks, "PAUSE_S", 0.05)


@pytest.fixture(scope="module")
def network() -> Iterator[Namespaces]:
    with namespaces(["n1", "n2"]) as built:
        yield built


def run(network: Namespaces, host: str, *command: str) -> str:
    done = subprocess.run(
        [*network.command(host), *command], capture_output=True, text=True, check=True
    )
    return done.stdout


def addresses(network: Namespaces, host: str) -> dict[str, dict[str, Any]]:
    found = json.loads(run(network, host, "ip", "-j", "address", "show"))
    return {
        info["local"]: {**info, "link": link["ifname"]}
        for link in found
        for info in link["addr_info"]
    }


def hardware(network: Namespaces, host: str) -> bytes:
    (link,) = json.loads(run(network, host, "ip", "-j", "link", "show", "eth0"))
    return bytes.fromhex(link["address"].replace(":", ""))


class Node:
    """A manager on a host, and what it was told."""

    def __init__(
        self, network: Namespaces, *vips: VirtualAddress, hook: Hook | None = None
    ) -> None:
        self.told: list[tuple[str, ...]] = []
        self.left: list[frozenset[str]] = []
        self.permitted = True
        # Sockets belong to the namespace in which they are made, threads too.
        with network.inside("n1"):
            self.manager = VipManager(
                vips,
                netlink=Netlink(),
                renew_ms=60_000,
                hook=hook,
                tell_guard=self._tell,
                permit=lambda _: self.permitted,
                on_change=lambda: None,
            )
        self.manager.leave = self._leave

    async def _tell(self, names: tuple[str, ...]) -> None:
        self.told.append(names)

    async def _leave(self, names: frozenset[str]) -> None:
        self.left.append(names)

    def hold(self, epoch: int = 1, *, ns: int = MINUTE_NS) -> None:
        holding = Holding(epoch=Epoch(epoch), until_ns=boottime_ns() + ns)
        self.manager.want(holding)

    @property
    def state(self) -> AddressState:
        return self.manager.statuses()[0].state


@asynccontextmanager
async def node(
    network: Namespaces, *vips: VirtualAddress, hook: Hook | None = None
) -> AsyncIterator[Node]:
    # Everything runs inside the node's namespace; the thread is the test's own.
    made = Node(network, *vips, hook=hook)
    with network.inside("n1"):
        await made.manager.start()
        running = asyncio.create_task(made.manager.run())
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.wait([running])
            await made.manager.close()


@contextmanager
def capture(network: Namespaces, host: str) -> Iterator[socket.socket]:
    with network.inside(host):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.setblocking(False)
    try:
        yield sock
    finally:
        sock.close()


def frames(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(2_000))
        except BlockingIOError:
            return found


async def test_an_address_is_probed_taken_and_announced_as_the_documents_say(
    network: Namespaces,
) -> None:
    mac = hardware(network, "n1")
    with capture(network, CLIENT) as wire:
        async with node(network, V4, V6) as held:
            held.hold()
            await until(lambda: held.manager.counts().taken_total == 2)
            await until(lambda: held.manager.counts().announcements_total >= 10)
            # Again after one second.
            await until(lambda: held.manager.counts().announcements_total >= 20)
        seen = frames(wire)
    four, six = ip_address(V4.address), ip_address(V6.address)
    assert seen.count(packets.arp_probe(mac, four)) == 3  # type: ignore[arg-type]
    assert seen.count(packets.duplicate_solicitation(mac, six)) == 3  # type: ignore[arg-type]
    request = packets.gratuitous_request(mac, four)  # type: ignore[arg-type]
    assert seen.count(request) == 10
    assert seen.count(packets.gratuitous_reply(mac, four)) == 10  # type: ignore[arg-type]
    advertised = packets.unsolicited_advertisement(mac, six)  # type: ignore[arg-type]
    assert seen.count(advertised) == 10
    assert seen.index(packets.arp_probe(mac, four)) < seen.index(request)  # type: ignore[arg-type]
    assert held.told == [(V4.address, V6.address)]
    assert held.left[-1] == frozenset({V4.address, V6.address})
    assert V4.address not in addresses(network, "n1")


async def test_a_clients_neighbour_cache_follows_the_announcement(
    network: Namespaces,
) -> None:
    stale = "02:00:00:00:00:99"
    run(network, CLIENT, "ip", "neigh", "replace", V4.address, "lladdr", stale,
        "dev", "eth0", "nud", "stale")  # fmt: skip

    def cached() -> str:
        shown = run(network, CLIENT, "ip", "neigh", "show", V4.address)
        return shown.split("lladdr ")[1].split()[0] if "lladdr" in shown else ""

    assert cached() == stale
    async with node(network, V4) as held:
        held.hold()
        own = packets.hardware_text(hardware(network, "n1"))
        await until(lambda: cached() == own)


async def test_the_kernel_removes_what_nobody_prolongs(network: Namespaces) -> None:
    async with node(network, V4, V6) as held:
        begun_ns = boottime_ns()
        held.hold(ns=2 * SEC_NS)
        await until(lambda: held.state is AddressState.HELD)
        there = addresses(network, "n1")
        assert there[V4.address]["valid_life_time"] == 1
        # IPv6 addresses that are deprecated are nobody's choice of a source address.
        assert there[V6.address]["preferred_life_time"] == 0
        # A daemon that was stopped: nothing of it runs, and the lease ends.
        held.permitted = False
        await until(lambda: V4.address not in addresses(network, "n1"), 4)
        await until(lambda: V6.address not in addresses(network, "n1"), 4)
        assert boottime_ns() - begun_ns < 2 * SEC_NS + SEC_NS // 2


async def test_without_a_permit_nothing_is_set(network: Namespaces) -> None:
    async with node(network, V4) as held:
        held.permitted = False
        held.hold()
        await asyncio.sleep(0.2)
        assert V4.address not in addresses(network, "n1")


async def test_a_lease_that_is_nearly_over_sets_nothing(network: Namespaces) -> None:
    async with node(network, V4) as held:
        held.hold(ns=SEC_NS)
        await asyncio.sleep(0.2)
        assert V4.address not in addresses(network, "n1")


async def test_an_address_that_was_removed_by_hand_is_put_back(
    network: Namespaces,
) -> None:
    async with node(network, V4) as held:
        held.hold()
        await until(lambda: held.state is AddressState.HELD)
        run(network, "n1", "ip", "address", "del", str(V4), "dev", "eth0")
        await until(lambda: held.manager.counts().restored_total == 1, 2)
        assert V4.address in addresses(network, "n1")


async def test_dropped_in_an_epoch_it_comes_back_in_the_next_only(
    network: Namespaces,
) -> None:
    async with node(network, V4) as held:
        held.hold(3)
        await until(lambda: held.state is AddressState.HELD)
        await held.manager.drop()
        assert V4.address not in addresses(network, "n1")
        held.hold(3, ns=2 * MINUTE_NS)
        await asyncio.sleep(0.2)
        assert V4.address not in addresses(network, "n1")
        held.hold(4)
        await until(lambda: held.state is AddressState.HELD)


async def test_a_drop_before_anything_was_set_forbids_it_too(
    network: Namespaces,
) -> None:
    async with node(network, V4) as held:
        held.hold(3)
        # In the middle of the probe.
        await asyncio.sleep(0.03)
        await held.manager.drop()
        await asyncio.sleep(0.15)
        assert V4.address not in addresses(network, "n1")


async def test_left_overs_of_an_earlier_life_go_at_the_start(
    network: Namespaces,
) -> None:
    run(network, "n1", "ip", "address", "add", "10.77.0.50/32", "dev", "lo")
    async with node(network, V4):
        assert V4.address not in addresses(network, "n1")


async def test_lost_carrier_is_seen_and_the_return_announced(
    network: Namespaces,
) -> None:
    async with node(network, V4) as held:
        held.hold()
        await until(lambda: held.state is AddressState.HELD)
        network.set_link("n1", up=False)
        await until(lambda: held.state is AddressState.FAILED)
        assert "carrier" in held.manager.report().problem
        before = held.manager.counts().announcements_total
        network.set_link("n1", up=True)
        await until(lambda: held.state is AddressState.HELD)
        await until(lambda: held.manager.counts().announcements_total >= before + 5)
        assert held.manager.report().problem == ""


async def test_an_interface_that_went_down_and_up_has_its_addresses_again(
    network: Namespaces,
) -> None:
    async with node(network, V6) as held:
        held.hold()
        await until(lambda: held.state is AddressState.HELD)
        run(network, "n1", "ip", "link", "set", "eth0", "down")
        await until(lambda: held.state is AddressState.FAILED)
        run(network, "n1", "ip", "link", "set", "eth0", "up")
        await until(lambda: held.state is AddressState.HELD)
        assert V6.address in addresses(network, "n1")


async def test_a_renamed_interface_is_gone_and_found_again(
    network: Namespaces,
) -> None:
    def rename(old: str, new: str) -> None:
        run(network, "n1", "ip", "link", "set", old, "name", new)

    async with node(network, V4) as held:
        held.hold()
        await until(lambda: held.state is AddressState.HELD)
        rename("eth0", "eth9")
        try:
            await until(lambda: held.state is AddressState.FAILED)
            assert held.manager.report().problem == "there is no interface eth0"
        finally:
            rename("eth9", "eth0")
        await until(lambda: held.state is AddressState.HELD)


async def test_a_wrong_interface_is_a_problem_with_its_name(
    network: Namespaces,
) -> None:
    wrong = VirtualAddress(address="10.77.0.50", prefix=24, interface="eth7")
    async with node(network, wrong) as held:
        held.hold()
        await until(lambda: held.state is AddressState.FAILED)
        assert held.manager.report().problem == "there is no interface eth7"


@pytest.mark.parametrize("vip", [V4, V6], ids=["arp", "nd"])
async def test_a_stranger_keeps_the_address_and_is_named(
    network: Namespaces, vip: VirtualAddress
) -> None:
    own = packets.hardware_text(hardware(network, CLIENT))
    run(network, CLIENT, "ip", "address", "add", str(vip), "dev", "eth0", *_nodad(vip))
    async with node(network, vip) as held:
        try:
            held.hold()
            await until(lambda: held.state is AddressState.CONFLICT)
            report = held.manager.report()
            assert own in report.problem
            assert report.conflict
            assert vip.address not in addresses(network, "n1")
        finally:
            run(network, CLIENT, "ip", "address", "del", str(vip), "dev", "eth0")
        await until(lambda: held.state is AddressState.HELD, 8)
        assert not held.manager.report().conflict


async def test_a_standby_looks_whether_the_address_is_free_for_it(
    network: Namespaces,
) -> None:
    run(network, CLIENT, "ip", "address", "add", str(V4), "dev", "eth0")
    try:
        async with node(network, V4) as scout:
            scout.manager.want(Holding(epoch=Epoch(0), scouting=True))
            await until(lambda: scout.state is AddressState.CONFLICT)
            assert V4.address not in addresses(network, "n1")
            scout.manager.want(Holding(epoch=Epoch(0)))
            await until(lambda: scout.manager.report().problem == "")
    finally:
        run(network, CLIENT, "ip", "address", "del", str(V4), "dev", "eth0")


def _nodad(vip: VirtualAddress) -> tuple[str, ...]:
    return ("nodad",) if vip.version == 6 else ()


def test_the_guard_removes_addresses_wherever_they_are(network: Namespaces) -> None:
    said: list[str] = []
    for vip, place in ((V4, "lo"), (V6, "eth0")):
        run(network, "n1", "ip", "address", "add", str(vip), "dev", place, *_nodad(vip))
    removals = Removals(said.append)
    removals.set([V4.address, V6.address, "10.77.0.51"])

    with network.inside("n1"):
        assert removals.remove() == 2
        assert removals.remove() == 0

    there = addresses(network, "n1")
    assert V4.address not in there
    assert V6.address not in there
    # The node's own address is nobody's business.
    assert network.addresses["n1"] in there
    assert len(said) == 2


UNPRIVILEGED = """
import asyncio, sys
from pgbastion.model.addresses import Holding, VirtualAddress
from pgbastion.model.ids import Epoch
from pgbastion.vip.manager import VipManager
from pgbastion.vip.netlink import Netlink
from pgbastion.clock import boottime_ns
async def tell(_): pass
async def main():
    vip = VirtualAddress(address="10.77.0.50", prefix=24, interface="eth0")
    manager = VipManager((vip,), netlink=Netlink(), renew_ms=1000, hook=None,
        tell_guard=tell, permit=lambda _: True, on_change=lambda: None)
    await manager.start()
    manager.want(Holding(epoch=Epoch(1), until_ns=boottime_ns() + 10**10))
    task = asyncio.create_task(manager.run())
    await asyncio.sleep(0.4)
    print(manager.statuses()[0].state, manager.report().problem)
    task.cancel()
    await asyncio.wait([task])
    await manager.close()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("-all", "failed CAP_NET_ADMIN and CAP_NET_RAW missing"),
        ("-all,+net_admin", "failed CAP_NET_RAW missing"),
        ("-all,+net_raw", "failed CAP_NET_ADMIN missing"),
        ("-all,+net_admin,+net_raw", "held"),
    ],
)
def test_an_ordinary_user_needs_two_capabilities_and_hears_which_is_missing(
    network: Namespaces, kept: str, said: str
) -> None:
    caps = [f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"]
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *caps]

    out = run(network, "n1", *command, sys.executable, "-c",
              textwrap.dedent(UNPRIVILEGED))  # fmt: skip

    assert out.strip() == said


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
