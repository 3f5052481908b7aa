"""An address for replicas is sent to another standby, and looked for there."""

from collections.abc import Mapping
from typing import Any

import pytest

from pgbastion.cli.addresses import is_of_primary, move_replica
from pgbastion.cli.problems import UnfinishedError

A = "10.0.0.101"


class FakeClient:
    """Tells of an address that comes to a node after some looks."""

    def __init__(self, *states: str, node: str = "n3") -> None:
        self.ordered: list[tuple[str, Mapping[str, Any]]] = []
        self._states = list(states)
        self._node = node

    def get(self, path: str) -> Any:
        assert path == "/vip"
        state = self._states.pop(0) if self._states else "leaving"
        told = {"address": A, "state": state, "node": self._node, "cause": "why"}
        own = {"address": "fd00::5/64", "role": "primary"}
        return {"addresses": [own, {**told, "role": "replica"}], "replicas": [told]}

    def order(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.ordered.append((path, body))
        return {"ok": True, "address": A, "to": "n3"}


def client(*states: str, node: str = "n3") -> Any:
    return FakeClient(*states, node=node)


def test_a_move_waits_until_a_node_has_the_address() -> None:
    asked = client("leaving", "placed", "held")

    place = move_replica(asked, {"address": f"{A}/24"}, wait_s=5)

    assert asked.ordered == [("/vip/move", {"address": f"{A}/24"})]
    assert place.is_wanted
    assert place.text == f"{A} for replicas: held at n3 (why)"


def test_that_it_went_elsewhere_is_told() -> None:
    asked = client("held", node="n2")

    place = move_replica(asked, {"address": A, "to": "n3"}, wait_s=5)

    assert asked.ordered == [("/vip/move", {"address": A, "to": "n3"})]
    assert not place.is_wanted
    assert "held at n2" in place.text


def test_one_that_comes_nowhere_in_time_is_unfinished() -> None:
    with pytest.raises(UnfinishedError, match=f"{A} to be at n3"):
        move_replica(client(), {"address": A}, wait_s=0)


@pytest.mark.parametrize(
    ("address", "answer"),
    [("fd00:0::5", True), ("fd00::5/64", True), (A, False), ("nonsense", False)],
)
def test_the_primarys_addresses_are_known_in_any_spelling(
    address: str, *, answer: bool
) -> None:
    assert is_of_primary(client(), address) is answer
