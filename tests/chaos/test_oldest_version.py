"""Each fault on the oldest version of PostgreSQL that the machine has."""

from collections.abc import Iterator

import pytest

from pgbastion.bench.lab.faults import FAULTS
from pgbastion.bench.lab.settings import Plan
from support.lab_faults import Clusters, survive

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

NAMES = ("n1", "n2", "n3")
OLDEST = Plan(
    version="oldest",
    own_disk=frozenset(NAMES),
    clock_off_s=dict.fromkeys(NAMES, 0),
)


@pytest.fixture(scope="module")
def oldest() -> Iterator[Clusters]:
    clusters = Clusters(OLDEST)
    yield clusters
    clusters.close()


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_the_oldest_version_survives(oldest: Clusters, fault: str) -> None:
    survive(oldest, fault)
