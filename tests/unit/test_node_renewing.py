"""A lease is renewed by the timings that this node goes by."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgbastion.config.timings import PROFILES
from pgbastion.guard import page as words
from pgbastion.guard.page import Page, create
from pgbastion.model.ids import Epoch, Incarnation
from pgbastion.model.profile import Profile
from pgbastion.node.page import SharedPage
from pgbastion.node.renewing import hold_lease

FILE, CLUSTER = PROFILES[Profile.WIDE], PROFILES[Profile.FAST]


class FakeEngine:
    """Notes what it is to renew."""

    def __init__(self) -> None:
        self.held: list[tuple[int, int, int]] = []

    def hold(
        self, epoch: int, incarnation: int, *, renew_ms: int, **_others: int
    ) -> None:
        self.held.append((epoch, incarnation, renew_ms))


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = create(str(tmp_path / "page"))
    yield made
    made.close()


def test_the_guard_goes_by_the_clusters_margin_and_never_by_a_later_files(
    page: Page,
) -> None:
    sight: Any = SimpleNamespace(policy_revision=-1, renewing=Epoch(0))
    engine = FakeEngine()
    margins = []

    # What the file says, then what the cluster says, then a daemon that starts later
    # and has not read the cluster's profile yet.
    for revision, timings in ((-1, FILE), (0, CLUSTER), (-1, FILE)):
        sight.policy_revision = revision
        hold_lease(
            Epoch(7),
            timings,
            incarnation=Incarnation(5),
            sight=sight,
            page=SharedPage(page, 0),
            engine=cast("Any", engine),
        )
        margins.append(page[words.LEAD_NS] // 1_000_000)

    assert margins == [FILE.margin_ms, CLUSTER.margin_ms, CLUSTER.margin_ms]
    assert engine.held == [
        (7, 5, timings.renew_ms) for timings in (FILE, CLUSTER, FILE)
    ]
    assert sight.renewing == 7
