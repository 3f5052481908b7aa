"""Other timings reach every part of a running node."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from pgbastion.config.timings import PROFILES
from pgbastion.model.profile import Profile
from pgbastion.node.timings import go_by
from support.configs import understood

WIDE = PROFILES[Profile.WIDE]


def test_raft_goes_by_them_too() -> None:
    """A short lease ends before the election of a slower profile is over."""
    node: Any = MagicMock(config=understood())
    paces: list[dict[str, int]] = []
    node.engine = SimpleNamespace(pace=lambda **pace: paces.append(pace))

    go_by(node, WIDE)

    assert paces == [
        {"heartbeat_ms": WIDE.heartbeat_ms, "election_ms": WIDE.election_ms}
    ]
    assert node.config.timings == WIDE
