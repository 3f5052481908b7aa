"""The manager of virtual addresses on a host of its own, with a client beside it."""

import asyncio
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pgbastion.bench.lab.network import CLIENT, Namespaces
from pgbastion.clock import boottime_ns
from pgbastion.guard.addresses import Removals
from pgbastion.model.addresses import AddressState, Holding, VirtualAddress
from pgbastion.model.ids import Epoch
from pgbastion.vip import packets, slot
from pgbastion.vip.links import FOREVER
from support.guard_lab import until
from support.lab_namespaces import namespaces
from support.vip_lab import MINUTE_NS, SEC_NS, V4, V6, addresses, hardware, node, run

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(60),
]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for between two tries is shown once, not waited for here."""
    assert slot.PROBE_AGAIN_MS == 5_000
    monkeypatch.setattr(slot, "PROBE_AGAIN_MS", 500)


@pytest.fixture(autouse=True)
def _nothing_stays(network: Namespaces) -> Iterator[None]:
    """Leave no address to the next test, whichever it is: the kernel's time runs on."""
    yield
    for local, found in addresses(network, "n1").items():
        if local in {V4.address, V6.address}:
            place = f"{local}/{found['prefixlen']}"
            # The kernel may be just before us.
            with suppress(subprocess.CalledProcessError):
                run(network, "n1", "ip", "address", "del", place, "dev", found["link"])


@pytest.fixture(scope="module")
def network() -> Iterator[Namespaces]:
    with namespaces(["n1", "n2"]) as built:
        yield built


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


async def test_after_a_pause_an_address_has_a_lifetime_again(
    network: Namespaces,
) -> None:
    def lifetime() -> int:
        there = addresses(network, "n1")
        return int(there.get(V4.address, {}).get("valid_life_time", 0))

    async with node(network, V4) as held:
        held.manager.want(Holding(epoch=Epoch(1), until_ns=0))
        await until(lambda: lifetime() == FOREVER)
        held.hold(ns=10 * SEC_NS)
        await until(lambda: 0 < lifetime() <= 10)
        held.hold(ns=60 * SEC_NS)
        await until(lambda: 50 < lifetime() <= 60)
        held.manager.want(Holding(epoch=Epoch(1), until_ns=0))
        await until(lambda: lifetime() == FOREVER)


async def test_a_stranger_beside_a_held_address_is_an_alarm_and_answered(
    network: Namespaces,
) -> None:
    theirs = hardware(network, CLIENT)
    frame = packets.gratuitous_reply(theirs, ip_address(V4.address))  # type: ignore[arg-type]
    async with node(network, V4) as held:
        held.hold()
        await until(lambda: held.manager.counts().announcements_total == 5)
        with network.inside(CLIENT):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sock.bind(("eth0", 0))
        with sock:
            sock.send(frame)
            await until(lambda: held.manager.report().conflict)
            # The lease is ours: it stays, and is said once more; not once a frame.
            await until(lambda: held.manager.counts().announcements_total == 6)
            sock.send(frame)
        assert held.state is AddressState.HELD
        assert packets.hardware_text(theirs) in held.manager.report().problem
        assert held.manager.counts().conflicts_total == 1
        # Nobody answers the probes: the alarm is over.
        await until(lambda: not held.manager.report().conflict)
        await until(lambda: held.manager.report().problem == "")
        assert V4.address in addresses(network, "n1")


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


def plug(network: Namespaces) -> None:
    """Give n1 a second interface."""
    ends = ("spare0", "type", "veth", "peer", "name", "spare1")
    run(network, "n1", "ip", "link", "add", *ends)
    for end in ("spare0", "spare1"):
        run(network, "n1", "ip", "link", "set", end, "up")


@pytest.fixture
def spare(network: Namespaces) -> Iterator[VirtualAddress]:
    """Return an address of a second interface."""
    plug(network)
    yield VirtualAddress(address="10.78.0.50", prefix=24, interface="spare0")
    run(network, "n1", "ip", "link", "del", "spare0")


async def test_an_interface_that_was_replaced_gets_the_address_again(
    network: Namespaces, spare: VirtualAddress
) -> None:
    async with node(network, spare) as held:
        held.hold()
        await until(lambda: held.state is AddressState.HELD)
        run(network, "n1", "ip", "link", "del", "spare0")
        missing = "there is no interface spare0"
        await until(lambda: held.manager.report().problem == missing)
        before = held.manager.counts().announcements_total
        plug(network)
        await until(lambda: held.state is AddressState.HELD)
        assert addresses(network, "n1")[spare.address]["link"] == "spare0"
        # As if it were new: whoever knows the old hardware address is told.
        await until(lambda: held.manager.counts().announcements_total >= before + 5)


async def test_addresses_of_two_interfaces_come_together_and_fail_alone(
    network: Namespaces, spare: VirtualAddress
) -> None:
    labelled = replace(V4, label="eth0:vip")
    async with node(network, labelled, spare) as held:
        held.hold()
        await until(lambda: held.manager.report().held == (str(V4), str(spare)))
        there = addresses(network, "n1")
        assert there[V4.address]["label"] == "eth0:vip"
        assert there[spare.address]["link"] == "spare0"
        run(network, "n1", "ip", "link", "set", "spare0", "down")
        down = "the interface spare0 is down"
        await until(lambda: held.manager.report().problem == down)
        assert held.manager.report().held == (str(V4),)
        await held.manager.drop()
        assert not {V4.address, spare.address} & set(addresses(network, "n1"))


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
async def tell(_, __): pass
async def main():
    vip = VirtualAddress(address="10.77.0.50", prefix=24, interface="eth0")
    manager = VipManager((vip,), netlink=Netlink(), renew_ms=1000, hook=None,
        tell_guard=tell, permit=lambda _: True, on_change=lambda: None)
    await manager.start()
    manager.want(Holding(epoch=Epoch(1), until_ns=boottime_ns() + 10**10))
    task = asyncio.create_task(manager.run())
    async with asyncio.timeout(20):
        while manager.statuses()[0].state not in ("held", "failed"):
            await asyncio.sleep(0.02)
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
