"""The verdict on restarts: what is missing, doubled, or not compared is no success."""

from typing import Any

import pytest

from pgbastion.bench.lab.checker import compare
from pgbastion.bench.restarts import Finding

WRITTEN = range(1, 4)
WHOLE = compare("n1", [1, 2, 3], acknowledged=[1, 3], attempted=WRITTEN)


def finding(**changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "seed": 7,
        "wanted": 2,
        "acknowledged": 2,
        "checks": {"n1": WHOLE, "n2": WHOLE},
        "again_s": (1.0, 3.0),
        **changes,
    }
    return Finding(**fields)


def test_every_row_on_every_server_is_a_success() -> None:
    assert finding().passed
    assert str(finding()).splitlines()[-1] == "verdict: nothing lost"


def test_a_run_that_was_cut_short_has_a_verdict_too() -> None:
    short = finding(again_s=(1.0,))

    assert short.passed
    assert str(short).startswith("1 of 2 times")


@pytest.mark.parametrize("stored", [[1, 2], [1, 2, 3, 3], [1, 2, 3, 4]])
def test_a_server_with_other_rows_fails(stored: list[int]) -> None:
    other = compare("n2", stored, acknowledged=[1, 3], attempted=WRITTEN)
    failed = finding(checks={"n1": WHOLE, "n2": other})

    assert not failed.passed
    assert "n2: " in str(failed)


@pytest.mark.parametrize(
    "changes",
    [
        {"checks": {}},
        {"again_s": ()},
        {"trouble": ("not within 180 s: an acknowledged write",)},
    ],
)
def test_what_was_not_seen_is_no_success(changes: dict[str, Any]) -> None:
    assert str(finding(**changes)).splitlines()[-1] == "verdict: FAILED"
