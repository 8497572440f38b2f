"""What a trial of a canary has shown so far: its sides, and how they compare, however often one looks.

Everything here is a function of counts and sums, so whoever decides and whoever only looks see the
same. Feedback is an argument: it names a target, not a trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from schemas.events.canaries import CanaryRow
from schemas.histogram import merge
from schemas.money import NANO_USD
from schemas.rewards import LOG_UNITS
from schemas.statistics import Moments, differs_always, means_differ_always

ALPHA = 0.05
BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"


@dataclass(frozen=True)
class Side:
    """The calls of one side: all partials together."""

    calls: int
    failures: int
    latency: dict[str, int]
    log_latency: Moments
    log_cost: Moments
    cost_nano_usd: int
    first_us: int | None


@dataclass(frozen=True)
class Comparison:
    """One metric of both sides; `p_value` is always valid: it may be looked at after every call.

    `metric` is failures (share of calls), latency_ms or cost_usd (of the typical call: geometric means), or satisfaction (mean, 0–1).
    """

    metric: str
    canary: float
    baseline: float
    p_value: float
    verdict: str


def side_of(rows: Iterable[CanaryRow]) -> Side:
    """Return the sum of a side's partials."""
    held = list(rows)
    calls, failures = sum(row.calls for row in held), sum(row.failures for row in held)
    priced = sum(row.priced for row in held)
    return Side(
        calls=calls,
        failures=failures,
        latency=merge(row.latency for row in held),
        log_latency=Moments.of_integers(
            calls - failures,
            sum(row.log_latency for row in held),
            sum(row.log_latency_squared for row in held),
            LOG_UNITS,
        ),
        log_cost=Moments.of_integers(
            priced,
            sum(row.log_cost for row in held),
            sum(row.log_cost_squared for row in held),
            LOG_UNITS,
        ),
        cost_nano_usd=sum(row.cost_nano_usd for row in held),
        first_us=min((row.first_us for row in held), default=None),
    )


def compared(canary: Side, baseline: Side, liking: tuple[Moments, Moments]) -> list[Comparison]:
    """Compare the sides in every metric; `liking` is the satisfaction (0–1) with each."""
    here, there = (one.failures / one.calls if one.calls else 0.0 for one in (canary, baseline))
    p_value = differs_always((canary.failures, canary.calls), (baseline.failures, baseline.calls))
    mine, theirs = liking
    latencies = canary.log_latency, baseline.log_latency
    costs = canary.log_cost, baseline.log_cost
    return [
        Comparison("failures", here, there, p_value, _verdict(p_value, here - there)),
        _means("latency_ms", *latencies, lambda log: math.exp(log) / 1_000),
        _means("cost_usd", *costs, lambda log: math.expm1(log) / NANO_USD),
        _means("satisfaction", mine, theirs, lambda mean: mean, rising=True),
    ]


def _means(
    metric: str,
    mine: Moments,
    theirs: Moments,
    shown: Callable[[float], float],
    *,
    rising: bool = False,
) -> Comparison:
    """Compare means; of a `rising` metric more is better."""
    p_value = means_differ_always(mine, theirs)
    gap = theirs.mean - mine.mean if rising else mine.mean - theirs.mean
    here, there = (shown(one.mean) if one.count else 0.0 for one in (mine, theirs))
    return Comparison(metric, here, there, p_value, _verdict(p_value, gap))


def _verdict(p_value: float, loss: float) -> str:
    if p_value >= ALPHA:
        return UNDECIDED
    return WORSE if loss > 0 else BETTER
