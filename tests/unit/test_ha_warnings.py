"""A disk that fills up, and a slot that keeps too much, are said once."""

import logging

import pytest

from pgbastion.ha.warnings import Warnings
from pgbastion.model.report import Disk, SlotRow, Vitals


def vitals(free: int, retained: int | None = None, size: int = 1_000) -> Vitals:
    slot = SlotRow(
        name="s",
        kind="physical",
        active=False,
        restart_lsn=None,
        wal_status="extended",
        retained_bytes=retained,
    )
    return Vitals(
        probe_ms=1,
        disks=(Disk(holds="data", free_bytes=free, size_bytes=size),),
        slots=(slot,),
    )


def said(caplog: pytest.LogCaptureFixture, *looks: Vitals) -> list[str]:
    warnings = Warnings()
    with caplog.at_level(logging.INFO, logger="pgbastion"):
        for each in looks:
            warnings.look(each)
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("pgbastion"), "propagate", True)


def test_each_limit_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    looks = [vitals(free) for free in (500, 199, 190, 99, 90, 195, 500)]

    assert said(caplog, *looks) == [
        "disk_filling",
        "disk_filling",
        "disk_filling",
        "disk_has_room",
    ]


def test_a_disk_at_a_limit_does_not_say_it_again_and_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks = [vitals(free) for free in (195, 205, 195, 205)]

    assert said(caplog, *looks) == ["disk_filling"]


def test_a_disk_of_unknown_size_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, vitals(1, size=0)) == []


def test_a_slot_that_keeps_half_of_the_room_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks = [vitals(900, retained) for retained in (None, 449, 450, 460)]

    assert said(caplog, *looks) == ["slot_retains_much"]
