"""How long clients had no primary: measured where they come in, counted in buckets."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Final

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from pgbastion.model.snapshot import GAP_BOUNDS_S, Gaps

MS_PER_S: Final = 1_000


class GapMeter:
    """Measures the gaps of one node, from its first primary on.

    Args:
        now_ms: The clock, in milliseconds.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lost_ms: int | None = None
        self._had_one = False
        self.gaps = Gaps()

    def note(self, *, has_primary: bool) -> None:
        """Take whether this node knows a primary for clients now."""
        if not has_primary:
            if self._had_one and self._lost_ms is None:
                self._lost_ms = self._now_ms()
            return
        self._had_one = True
        if self._lost_ms is None:
            return
        self._count((self._now_ms() - self._lost_ms) / MS_PER_S)
        self._lost_ms = None

    def _count(self, gap_s: float) -> None:
        counts = list(self.gaps.counts)
        counts[bisect_left(GAP_BOUNDS_S, gap_s)] += 1
        self.gaps = replace(
            self.gaps,
            counts=tuple(counts),
            sum_s=self.gaps.sum_s + gap_s,
            newest_s=gap_s,
        )


def gap_metrics(gaps: Gaps) -> Iterator[Metric]:
    """Yield the gaps as a histogram, and the newest one."""
    bounds = [*map(str, GAP_BOUNDS_S), "+Inf"]
    histogram = HistogramMetricFamily(
        "pgbastion_primary_gap_seconds",
        "Times without a primary for clients that have ended, as this node saw them.",
    )
    buckets = list(zip(bounds, accumulate(gaps.counts), strict=True))
    histogram.add_metric([], buckets, sum_value=gaps.sum_s)
    yield histogram
    yield GaugeMetricFamily(
        "pgbastion_primary_gap_newest_seconds",
        "The newest of these times; 0: there was none since the daemon's start.",
        value=gaps.newest_s,
    )
