"""What the proxy's bench makes of its figures."""

from xml.etree import ElementTree as ET

import pytest

from pgbastion.bench._proxy_goals import MET, MISSED, NOT_RUN, Goal
from pgbastion.bench._proxy_plot import render_plot
from pgbastion.bench.proxy import WORKS

_MEDIANS = {"direct": 60.0, "haproxy": 90.0, "userspace": 95.0, "kernel": 80.0}


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (Goal("kernel", "haproxy", 0.88), MET),
        (Goal("kernel", "haproxy", 0.89), MISSED),
        (Goal("kernel", "haproxy", 0.89, at_most=True), MET),
        (Goal("kernel", "haproxy", 0.88, at_most=True), MISSED),
        # The kernel path adds 20, HAProxy 30.
        (Goal("kernel", "haproxy", 0.67, at_most=True, added=True), MET),
        (Goal("kernel", "haproxy", 0.66, at_most=True, added=True), MISSED),
    ],
)
def test_a_goal_is_a_bound_on_a_ratio(goal: Goal, verdict: str) -> None:
    assert goal.judge(_MEDIANS) == verdict


@pytest.mark.parametrize("absent", ["kernel", "haproxy", "direct"])
def test_a_goal_beside_what_was_not_measured_is_neither_met_nor_missed(
    absent: str,
) -> None:
    goal = Goal("kernel", "haproxy", 1.0, added=True)
    medians = {way: value for way, value in _MEDIANS.items() if way != absent}

    assert goal.judge(medians) == NOT_RUN


def test_every_work_has_a_goal_for_the_kernel_path() -> None:
    assert all(
        any(goal.way == "kernel" for goal in work.goals) for work in WORKS.values()
    )


def test_the_plot_has_a_bar_for_every_way_of_every_work() -> None:
    rows = [("select <8>", _MEDIANS), ("copy", {"direct": 5.0, "kernel": 4.0})]

    drawn = ET.fromstring(render_plot("a title", rows, "haproxy"))

    bars = drawn.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + 4 + 2  # the first one is the ground
    labels = [text.text for text in drawn.findall("{http://www.w3.org/2000/svg}text")]
    assert "select <8>" in labels
    assert "kernel 80.0 (0.89)" in labels
    assert "kernel 4.0 (0.80)" in labels
