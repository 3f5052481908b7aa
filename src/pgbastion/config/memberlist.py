"""The configuration of the gossip. Pure."""

from typing import Annotated, Final

from pydantic import Field

from pgbastion.config.section import Section
from pgbastion.config.types import Address, Port

GOSSIP_PORT: Final = 7_946


class MemberlistSection(Section):
    """Gossip: finds clusters for joiners, names nodes that clash, decides nothing."""

    bind_address: Annotated[Address, Field(examples=["10.0.1.1"])] = Field(
        description="Address to listen on. Default: node.address."
    )
    bind_port: Port = Field(
        GOSSIP_PORT,
        description="UDP port, the same on every node. With the port blocked the "
        "cluster works the same.",
    )
