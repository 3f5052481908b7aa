"""A standby, and only a standby, archives what it owes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest

from pgbastion.errors import PostgresError
from pgbastion.ha.observer import Observer
from pgbastion.node.late_archiving import LateArchiving
from pgbastion.postgres.archive import ArchiveBacklog

STANDBY = SimpleNamespace(in_recovery=True)


@dataclass
class Backlog:
    refuse: bool = False
    told: list[bool] = field(default_factory=list)

    async def catch_up(self, goes_on: Callable[[], bool]) -> int:
        self.told.append(goes_on())
        if self.refuse:
            raise PostgresError("the disk did not answer")
        return 1


@pytest.mark.parametrize("refuse", [False, True])
@pytest.mark.parametrize(
    ("server", "told"),
    [(STANDBY, [True]), (SimpleNamespace(in_recovery=False), []), (None, [])],
    ids=["standby", "primary", "stopped"],
)
def test_only_a_standby_archives_what_it_owes(
    server: object, told: list[bool], *, refuse: bool
) -> None:
    backlog = Backlog(refuse)
    late = LateArchiving(
        cast("Observer", SimpleNamespace(server=server)),
        cast("ArchiveBacklog", backlog),
    )

    asyncio.run(late.archive())

    assert backlog.told == told
