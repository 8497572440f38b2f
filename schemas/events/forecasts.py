"""Forecasts of spend, calls and tokens (COST-07, ANA-08)."""

from __future__ import annotations

import msgspec

from schemas.event import Event, Topic

FORECASTS = Topic("weir.forecasts.v1", cleanup="compact")

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Confidences for which a forecast has bands."""


class ForecastPoint(msgspec.Struct, frozen=True):
    """A day (UTC) or hour that starts at `start_s`: what is predicted, and half the width of each band."""

    start_s: int
    predicted: float
    widths: list[float]


class Exhaustion(msgspec.Struct, frozen=True):
    """A budget that the prediction exhausts: in `period` (day, month, total) from `at_s` on.

    `owner` says whose, where the budget holds for each by himself.
    """

    budget_id: str
    period: str
    limit_nano_usd: int
    at_s: int
    flagged: bool
    owner: str | None = None


class ForecastMade(Event, frozen=True, kw_only=True):
    """The forecast of a series, which takes the place of the one before.

    `metric` is calls, cost_nano_usd or tokens of `scope` per day: ``total:``, ``team:search``, or
    ``budget:each-user/ada`` for what a budget itself has counted. `model`, several models with ``+``
    between when it is their mean, was chosen by a rolling back-test of `folds` origins; errors are mean absolute errors
    relative to the mean of the days (`error`, and `naive_error` of seasonal naive), `coverage` is the
    part of held-out days inside the 95% band. `levels` says which bands the points have.
    `month_total` adds the prediction to what the month has already. `hours` has the hours of the
    next week, of series that are known by the hour.
    """

    topic = FORECASTS
    type = "weir.forecasts.made"
    version = 2

    metric: str
    scope: str
    model: str
    history_days: int
    folds: int
    error: float | None
    naive_error: float | None
    coverage: float | None
    levels: list[float]
    points: list[ForecastPoint]
    month_total: float
    exhaustions: list[Exhaustion] = msgspec.field(default_factory=list)
    number: int
    hours: list[ForecastPoint] = msgspec.field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.metric}|{self.scope}"
