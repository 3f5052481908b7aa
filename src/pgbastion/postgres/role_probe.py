"""Asks servers of other nodes whether they run as a primary."""

from collections.abc import Collection
from dataclasses import replace

from pgbastion.errors import PostgresError
from pgbastion.model.ids import NodeId
from pgbastion.postgres.connection import Address, Connection


class RoleProbe:
    """Keeps one connection to each server that is asked.

    Args:
        address: How to log in; host and port are each server's own.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connections: dict[NodeId, tuple[str, int, Connection]] = {}

    async def keep(self, nodes: Collection[NodeId]) -> None:
        """Close the connections to servers that nobody asks any more."""
        for node in [node for node in self._connections if node not in nodes]:
            await self._connections.pop(node)[2].close()

    async def is_primary(
        self, node: NodeId, host: str, port: int, *, deadline_s: float
    ) -> bool:
        """Tell whether a server answers there that is not in recovery.

        No answer, or one that tells nothing, is no.
        """
        connection = await self._connection(node, host, port)
        try:
            await connection.open(deadline_s=deadline_s)
            rows = await connection.rows(
                "SELECT NOT pg_catalog.pg_is_in_recovery()", deadline_s=deadline_s
            )
        except PostgresError:
            return False
        return bool(rows[0][0])

    async def _connection(self, node: NodeId, host: str, port: int) -> Connection:
        known = self._connections.get(node)
        if known is not None and known[:2] == (host, port):
            return known[2]
        if known is not None:
            await known[2].close()
        made = Connection(replace(self._address, host=host, port=port))
        self._connections[node] = (host, port, made)
        return made

    async def close(self) -> None:
        """Close all connections."""
        await self.keep(())
