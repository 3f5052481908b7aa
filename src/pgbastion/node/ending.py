"""What a node does for its clients before its daemon stops."""

from pgbastion.node.running import Node
from pgbastion.observe.logging import get_logger

log = get_logger("node")


async def end_sessions(node: Node) -> None:
    """Let nobody new in and give sessions time.

    A role that can be handed over goes first: its sessions end with it.
    """
    limit_ms = node.config.failover.stop_timeout
    drain_ms = min(node.config.proxy.drain_timeout, limit_ms // 2)
    node.front.maintenance.leave(drain_ms)
    await node.retiring.hand_role_on()
    await node.retiring.leave_sync_set()
    left = node.front.proxy.snapshot().connections
    if left:
        # Of those that are encrypted nobody knows when they are between transactions.
        log.info("stop_waits_for_sessions", sessions=left, at_most_ms=drain_ms)
    await node.front.proxy.until_empty()
