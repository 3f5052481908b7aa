"""What the tests of opening sessions share."""

from pgbastion.proxy.routes import Limits
from support.proxy_lab import (
    PRIMARY_PORT,
    ProxyLab,
    startup,
)

SHORT = Limits(first_packet_s=0.3, connect_s=0.3, answer_s=0.3, hold_s=0.5)


async def refused(lab: ProxyLab, port: int = PRIMARY_PORT) -> dict[str, str]:
    client = await lab.connect(port)
    client.send(startup())
    return await client.error()
