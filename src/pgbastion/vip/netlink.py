"""The kernel's addresses and links, by netlink.

Loaded only where a node has an address, and netlink is there (`has_addresses`).

pyroute2 needs an event loop of the standard library's; the daemon runs on another one.
So its socket lives in a thread with a loop of its own, and only there.
"""

import asyncio
import threading
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pgbastion.errors import VipError
from pgbastion.model.addresses import VirtualAddress
from pgbastion.vip.links import FoundAddress, LinkFacts

DEADLINE_S: Final = 2.0
_UP: Final = 0x1
# RFC 4862's detection would hold the address back for a second: it is asked for by
# frames of our own before it is added. linux/if_addr.h
_NO_DETECTION: Final = 0x02
_FAMILIES: Final = {4: 2, 6: 10}

T = TypeVar("T")


class Netlink:
    """Reads and sets addresses. Each call ends within `DEADLINE_S`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._route: AsyncIPRoute | None = None
        self._thread = threading.Thread(target=self._serve, name="netlink", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def link(self, name: str) -> LinkFacts | None:
        """Return the interface with this name, None: there is none.

        Raises:
            VipError: The kernel did not answer.
        """
        links = await self._ask("links", self._links())
        return next((link for link in links if link.name == name), None)

    async def links(self) -> list[LinkFacts]:
        """Return every interface.

        Raises:
            VipError: The kernel did not answer.
        """
        return await self._ask("links", self._links())

    async def addresses(self) -> list[FoundAddress]:
        """Return every address of every interface.

        Raises:
            VipError: The kernel did not answer.
        """
        return await self._ask("addresses", self._addresses())

    async def set_address(
        self, link: LinkFacts, address: VirtualAddress, lifetime_s: int
    ) -> None:
        """Add the address, or give the one that is there another lifetime.

        Args:
            link: Where.
            address: What.
            lifetime_s: After so many whole seconds the kernel removes it by itself;
                `FOREVER`: never.

        Raises:
            VipError: The kernel refused; the message says why.
        """
        fields: dict[str, Any] = {
            "index": link.index,
            "family": _FAMILIES[address.version],
            "address": address.address,
            "prefixlen": address.prefix,
            "valid_lft": lifetime_s,
            # Deprecated, so that no connection of this node's own begins from it
            # (RFC 6724, rule 3); who connects to it does not notice.
            "preferred_lft": 0,
        }
        if address.version == 6:
            fields["flags"] = _NO_DETECTION
        if address.label:
            fields["label"] = address.label
        await self._ask(f"set {address} on {link.name}", self._do("replace", fields))

    async def remove(self, found: FoundAddress) -> bool:
        """Remove an address; False: it was not there any more.

        Raises:
            VipError: The kernel refused.
        """
        fields = {
            "index": found.index,
            "family": _FAMILIES[ip_address(found.address).version],
            "address": found.address,
            "prefixlen": found.prefix,
        }
        return await self._ask(f"remove {found.address}", self._removed(fields))

    async def close(self) -> None:
        """Close the socket and end the thread."""
        try:
            await self._ask("close", self._closed())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(self._thread.join, DEADLINE_S)

    async def _ask(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await asyncio.wrap_future(asked)
        except NetlinkError as exc:
            raise VipError(f"cannot {what}: {exc.args[-1]}") from exc
        except TimeoutError as exc:
            raise VipError(f"cannot {what}: the kernel does not answer") from exc
        except (OSError, ValueError) as exc:
            raise VipError(f"cannot {what}: {exc}") from exc

    async def _opened(self) -> "AsyncIPRoute":
        if self._route is None:
            self._route = AsyncIPRoute()
            await self._route.setup_endpoint()
        return self._route

    async def _closed(self) -> None:
        if self._route is not None:
            self._route.close()

    async def _links(self) -> list[LinkFacts]:
        route = await self._opened()
        return [
            LinkFacts(
                index=link["index"],
                name=link.get("ifname", ""),
                hardware=bytes.fromhex((link.get("address") or "").replace(":", "")),
                up=bool(link["flags"] & _UP),
                carrier=bool(link.get("carrier")),
            )
            async for link in await route.link("dump")
        ]

    async def _addresses(self) -> list[FoundAddress]:
        route = await self._opened()
        return [
            FoundAddress(
                address=str(ip_address(text)),
                prefix=found["prefixlen"],
                index=found["index"],
            )
            async for found in await route.addr("dump")
            if (text := found.get("local") or found.get("address"))
        ]

    async def _do(self, verb: str, fields: dict[str, Any]) -> None:
        route = await self._opened()
        await route.addr(verb, **fields)

    async def _removed(self, fields: dict[str, Any]) -> bool:
        try:
            await self._do("del", fields)
        except NetlinkError as exc:
            if exc.code in _GONE:
                return False
            raise
        return True


# EADDRNOTAVAIL: the address is gone; ENODEV: the interface with it.
_GONE: Final = (99, 19)
