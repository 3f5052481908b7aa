"""The section of the virtual addresses: its keys and what a value has to look like.

Pure.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from pgbastion.config.section import Section
from pgbastion.config.types import AbsolutePath, Form, PositiveMs
from pgbastion.model.addresses import AddressRole, VirtualAddress

# linux/if.h: IFNAMSIZ is 16, with the end.
NAME_BYTES_MAX: Final = 15
ADDRESSES_MAX: Final = 32
REPLICA_ADDRESSES_MAX: Final = 8
_NAME: Final = re.compile(r"[^\s/:]+")
_LABEL: Final = re.compile(r"[^\s/]+")
_ENTRY: Final = frozenset({"address", "interface", "label", "role"})


def _virtual_address(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("has to be text: 10.0.1.100/24")
    try:
        found = ipaddress.ip_interface(value.strip())
    except ValueError as exc:
        raise ValueError(f'"{value}" is no IP address with a prefix length') from exc
    address = found.ip
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError(f"{address} is not an address that others can connect to")
    if address.version == 6 and address.is_link_local:
        raise ValueError(f"{address} is link-local: clients would have to name a link")
    if isinstance(found, ipaddress.IPv4Interface) and found.network.prefixlen < 31:
        ends = found.network.network_address, found.network.broadcast_address
        if address in ends:
            raise ValueError(f"{address} is not a host's address in {found.network}")
    return str(found)


def _name(value: object, form: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{value!r} is no {what}")
    if len(value.encode()) > NAME_BYTES_MAX:
        raise ValueError(f'"{value}" has more than {NAME_BYTES_MAX} bytes')
    return value


def _interface(value: object) -> str:
    return _name(value, _NAME, "name of an interface")


def _label(value: object) -> str:
    return _name(value, _LABEL, "label")


def _entries(value: object) -> tuple[VirtualAddress, ...]:
    if not isinstance(value, list):
        raise ValueError(  # noqa: TRY004 - a problem of the file, not of the program
            "has to be a list: [{address: 10.0.1.100/24, interface: eth0}]"
        )
    if len(value) > ADDRESSES_MAX:
        raise ValueError(f"has more than {ADDRESSES_MAX} entries")
    entries = []
    for number, item in enumerate(value, start=1):
        try:
            entries.append(_entry(item))
        except ValueError as exc:
            raise ValueError(f"entry {number}: {exc}") from exc
    return tuple(entries)


def _entry(item: object) -> VirtualAddress:
    if not isinstance(item, Mapping) or "address" not in item:
        raise ValueError("has to be {address: 10.0.1.100/24, interface: eth0}")
    unknown = sorted(set(item) - _ENTRY)
    if unknown:
        known = ", ".join(sorted(_ENTRY))
        raise ValueError(f"unknown key {unknown[0]}; an address knows: {known}")
    interface, label = item.get("interface"), item.get("label")
    return virtual_address(
        _virtual_address(item["address"]),
        interface=_interface(interface) if interface is not None else "",
        label=_label(label) if label is not None else "",
        role=_role(item.get("role", AddressRole.PRIMARY)),
    )


def _role(value: object) -> AddressRole:
    try:
        return AddressRole(str(value))
    except ValueError as exc:
        known = ", ".join(AddressRole)
        raise ValueError(f"{value!r} is not a role of an address: {known}") from exc


def virtual_address(
    text: str, *, interface: str, label: str, role: AddressRole = AddressRole.PRIMARY
) -> VirtualAddress:
    """Return the address that ``text``, checked before, stands for.

    Without a prefix length it stands alone: /32 or /128.
    """
    found = ipaddress.ip_interface(text)
    return VirtualAddress(
        address=str(found.ip),
        prefix=found.network.prefixlen,
        interface=interface,
        label=label,
        role=role,
    )


AddressText = Annotated[str, BeforeValidator(_virtual_address), Form("address")]
InterfaceName = Annotated[str, BeforeValidator(_interface), Form("interface")]
Label = Annotated[str, BeforeValidator(_label), Form("label")]
AddressList = Annotated[
    tuple[VirtualAddress, ...], BeforeValidator(_entries), Form("addresses")
]


class VipSection(Section):
    """The virtual addresses: at the primary's node, or for replicas at a standby's.

    Also written as a list of addresses.
    """

    address: AddressText | None = Field(
        None,
        examples=["10.0.1.100/24"],
        description="The address with its prefix length; without one it stands alone, "
        "as /32 or /128.",
    )
    interface: InterfaceName | None = Field(
        None,
        examples=["eth0"],
        description="Where the address is set. Left out, only the hook is called.",
    )
    label: Label | None = Field(
        None,
        examples=["eth0:vip"],
        description="IPv4 only: under which name older tools show it; begins with the "
        "interface's name.",
    )
    addresses: AddressList = Field(
        (),
        examples=[[{"address": "2001:db8::100/64", "interface": "eth0"}]],
        description="More addresses, each with its interface; with role: replica it "
        "leads to one healthy standby instead of the primary.",
    )
    replica_fallback: bool = Field(
        default=False,
        description="While no standby can have them, the primary has the addresses "
        "for replicas too.",
    )
    renew_interval: PositiveMs = Field(
        60_000, description="How often a held address is announced to the segment."
    )
    hook: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/vip-hook"],
        description="A program that is called with take or drop, the address and the "
        "interface: for cloud routes and load balancers.",
    )
    hook_timeout: PositiveMs = Field(
        10_000, description="How long one call of the hook may take."
    )

    @property
    def all(self) -> tuple[VirtualAddress, ...]:
        """Every address of the section."""
        if self.address is None:
            return self.addresses
        first = virtual_address(
            self.address, interface=self.interface or "", label=self.label or ""
        )
        return (first, *self.addresses)

    @property
    def primary(self) -> tuple[VirtualAddress, ...]:
        """Those that follow the primary role."""
        return tuple(a for a in self.all if a.role is AddressRole.PRIMARY)

    @property
    def replicas(self) -> tuple[VirtualAddress, ...]:
        """Those that lead to a standby, each at one node."""
        return tuple(a for a in self.all if a.role is AddressRole.REPLICA)


def as_section(value: Any) -> Any:
    """Return the section that a list of addresses stands for; else the value."""
    return {"addresses": value} if isinstance(value, list) else value
