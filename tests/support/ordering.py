"""What the tests of orders share."""

from dataclasses import replace

from pgbastion.model.cluster import (
    ClusterState,
    Order,
    OrderKind,
)
from pgbastion.model.ids import Epoch
from pgbastion.testing.views import (
    cluster_state,
    node_name,
)

N1, N2, N3 = node_name(1), node_name(2), node_name(3)

AT = "2026-01-01T00:00:00.000+00:00"


LATER = "2026-01-01T00:05:00.000+00:00"


def order(number: int = 2, **changes: object) -> Order:
    made = Order(
        order_id="o1",
        order=OrderKind.SWITCHOVER,
        target=node_name(number),
        epoch=Epoch(3),
        drain_ms=500,
        force=False,
        cause="a test",
        at=AT,
        expires_at=LATER,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def ordered(**changes: object) -> ClusterState:
    return cluster_state(orders=(order(**changes),))  # type: ignore[arg-type]


BEGUN = ordered(begun=True)
