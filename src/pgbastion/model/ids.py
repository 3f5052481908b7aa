"""Identities and counters, as types of their own so that they cannot be mixed up."""

from typing import Final, NewType

NodeId = NewType("NodeId", str)
"""A node's configured name; unique in the cluster."""

MemberId = NewType("MemberId", int)
"""A Raft member id; never used again after its disk was lost. 0 means none."""

DataId = NewType("DataId", str)
"""The random id of one data directory; a rewound or copied one gets a new id."""

Epoch = NewType("Epoch", int)
"""Rises by one with each assignment of the primary role."""

Timeline = NewType("Timeline", int)
"""A PostgreSQL timeline id; never repeats in a cluster."""

Incarnation = NewType("Incarnation", int)
"""One life of a daemon; drawn at its start."""

Revision = NewType("Revision", int)
"""What compare-and-set commands compare: see :mod:`pgbastion.control.apply`."""

NO_MEMBER: Final = MemberId(0)


def standby_name(node: NodeId, data_id: DataId) -> str:
    """Return the ``application_name`` of a standby.

    It contains the data id, since a node that was rewound or copied is another
    member of a synchronous set than it was before.
    """
    return f"{node}_{data_id[:8]}"


def node_of(standby: str) -> NodeId:
    """Return the node that a `standby_name` belongs to."""
    return NodeId(standby.rpartition("_")[0])
