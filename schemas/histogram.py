"""Mergeable latency histograms with a bounded relative error.

The layout of DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019) with 1% relative accuracy, kept
as plain integer counts: addition commutes, so a fold gives the same bytes for any order and any
batching of its input, which randomized sketches do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

RELATIVE_ACCURACY = 0.01
_GAMMA = (1 + RELATIVE_ACCURACY) / (1 - RELATIVE_ACCURACY)
_LOG_GAMMA = math.log(_GAMMA)
MAX_BUCKET = math.ceil(math.log(86_400_000_000) / _LOG_GAMMA)
"""Values are capped at a day in microseconds, so a histogram has at most ~1,260 buckets."""


def bucket_of(value: int) -> int:
    """Return the bucket of a non-negative integer (microseconds, tokens …)."""
    if value <= 1:
        return 0
    return min(math.ceil(math.log(value) / _LOG_GAMMA), MAX_BUCKET)


def value_of(bucket: int) -> float:
    """Return the value that stands for a bucket, within 1% of every value inside it."""
    return 2 * _GAMMA**bucket / (_GAMMA + 1) if bucket > 0 else 1.0


def merge(histograms: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add histograms ({bucket as text: count}) bucket by bucket."""
    total: dict[str, int] = {}
    for histogram in histograms:
        for bucket, count in histogram.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def quantile(histogram: Mapping[str, int], q: float) -> float | None:
    """Return the q-quantile (0–1) of a histogram, or None when it is empty."""
    total = sum(histogram.values())
    if total == 0:
        return None
    rank = q * (total - 1)
    seen = 0
    for bucket in sorted(histogram, key=int):
        seen += histogram[bucket]
        if seen > rank:
            return value_of(int(bucket))
    raise AssertionError("counts of a histogram must be non-negative")
