"""A manager of virtual addresses on a host of the laboratory."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from pgbastion.bench.lab.network import Namespaces, Network
from pgbastion.clock import boottime_ns
from pgbastion.model.addresses import AddressState, Holding, VirtualAddress
from pgbastion.model.ids import Epoch
from pgbastion.vip.hooks import Hook
from pgbastion.vip.manager import VipManager
from pgbastion.vip.netlink import Netlink

V4: Final = VirtualAddress(address="10.77.0.50", prefix=24, interface="eth0")
V6: Final = VirtualAddress(address="fd77::50", prefix=64, interface="eth0")
SEC_NS: Final = 1_000_000_000
MINUTE_NS: Final = 60 * SEC_NS


def run(network: Network, host: str, *command: str) -> str:
    done = subprocess.run(
        [*network.command(host), *command], capture_output=True, text=True, check=True
    )
    return done.stdout


def addresses(network: Network, host: str) -> dict[str, dict[str, Any]]:
    found = json.loads(run(network, host, "ip", "-j", "address", "show"))
    return {
        info["local"]: {**info, "link": link["ifname"]}
        for link in found
        for info in link["addr_info"]
    }


def hardware(network: Network, host: str) -> bytes:
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

    async def _tell(self, names: tuple[str, ...], _: Holding) -> None:
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
