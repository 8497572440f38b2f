"""Anomalies and forecasts (ANA-05, ANA-08, COST-07, COST-08) as the log has them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from infra.admin_desk import ANSWERS, PREFIXES, Limit, Offset
from schemas.clock import now_us
from schemas.errors import NotFound, ValidationFailed
from schemas.events.forecasts import LEVELS, ForecastMade, ForecastPoint
from schemas.events.operations import AnomalyChanged
from schemas.money import to_usd
from schemas.table_view import TableView
from schemas.traffic import TOTAL

COST, PRICE = "cost_nano_usd", "price"
DAY_S = 86_400
_NANO = 1e9

Granularity = Literal["hour", "day", "week", "month"]
Metric = Literal["usage", "tokens", "cost", "capacity"]
AnomalyMetric = Literal["calls", "cost", "tokens", "failure_rate", "latency_us", "price"]
Kind = Literal["spike", "drop", "level_shift", "trend", "new_value"]
SCOPES = ("team", "project", "provider", "model", "key", "budget")
_METRICS: dict[str, str] = {"usage": "calls", "tokens": "tokens", "cost": COST, "capacity": "calls"}
_STARTS: dict[str, Callable[[datetime], datetime]] = {
    "hour": lambda hour: hour,
    "day": lambda day: day,
    "week": lambda day: day - timedelta(days=day.weekday()),
    "month": lambda day: day.replace(day=1),
}


class Driver(BaseModel):
    """Who made the difference."""

    dimension: str = Field(examples=["user"])
    name: str = Field(examples=["ada"])
    contribution: float = Field(description="part of the change")
    share_before: float = Field(description="part of what was expected")
    share_after: float = Field(description="part of what came")
    expected: float
    actual: float


class Anomaly(BaseModel):
    """Something that was not to be expected. Cost is in USD a minute, calls and tokens per minute,
    failures a share, latency microseconds, price USD a million tokens.
    """

    id: str
    metric: str = Field(description="calls, cost, tokens, failure_rate, latency_us or price")
    dimension: str = Field(description="the series", examples=["total:", "user:ada"])
    kind: str = Field(description="spike, drop, level_shift, trend or new_value")
    expected: float | None
    actual: float | None
    score: float | None = Field(description="in the series' own standard deviations")
    severity: str
    started_at: datetime
    found_at: datetime | None
    ended_at: datetime | None
    status: str = Field(description="open or ended")
    explanation: str
    drivers: list[Driver] = Field(description="the one who made the difference first")


class AnomalyPage(BaseModel):
    """Anomalies, the newest first."""

    items: list[Anomaly]
    total: int
    limit: int
    offset: int


class Point(BaseModel):
    """What is predicted for a span that begins at `timestamp` (UTC)."""

    timestamp: datetime
    predicted: float
    lower: float
    upper: float


class Backtest(BaseModel):
    """How the model did on days that it had not seen: absolute errors relative to the mean."""

    mape: float | None
    naive_mape: float | None = Field(description="of seasonal naive, on the same days")
    coverage: float | None = Field(description="part of the days within the 95% band")
    folds: int


class Exhausted(BaseModel):
    """A budget that spending will exhaust if it goes on like this."""

    budget_id: str
    owner: str | None = Field(description="whose, where the budget holds for each by himself")
    period: str = Field(description="day, month or total")
    limit_usd: str
    exhausted_at: datetime
    flagged: bool = Field(description="in less than 14 days")


class ForecastAnswer(BaseModel):
    """A forecast. Cost is in USD; points of weeks and months hold the days that are within the horizon.

    There are hours for the next seven days.
    """

    metric: str
    scope: str
    model: str = Field(description="several, with + between, when it is their mean")
    made_at: datetime
    confidence: float
    granularity: str
    points: list[Point]
    backtest: Backtest
    history_days: int
    month_total: float = Field(description="of the current month, with what it has already")
    exhaustion: list[Exhausted]
    peak_per_minute: float | None = Field(
        None,
        description="capacity: the highest upper bound of a day's calls, at the pace of the week's busiest hour",
    )


class Foresight:
    """What the log says of anomalies and forecasts; `views` are to be followed."""

    def __init__(self, clock_us: Callable[[], int] = now_us) -> None:
        self._clock_us = clock_us
        self._anomalies = TableView(AnomalyChanged)
        self._forecasts = TableView(ForecastMade)

    @property
    def views(self) -> list[TableView[Any]]:
        """What is followed."""
        return [self._anomalies, self._forecasts]

    def anomalies(self, keep: Callable[[AnomalyChanged], bool]) -> list[Anomaly]:
        """Return the anomalies that `keep` takes, the newest first."""
        found = sorted(
            (change for change in self._anomalies.entries.values() if keep(change)),
            key=lambda change: (-change.started_at_us, change.anomaly_id),
        )
        return [_anomaly(change) for change in found]

    def forecast(
        self, metric: str, scope: str, horizon: int, granularity: str, confidence: float
    ) -> ForecastAnswer:
        """Return a forecast. Raises NotFound while there is none, ValidationFailed for what cannot be."""
        if confidence not in LEVELS:
            raise ValidationFailed(
                f"there are no bands for a confidence of {confidence:g}",
                action=f"Ask for one of {', '.join(map(str, LEVELS))}.",
            )
        made = self._made(metric, scope)
        unit = _NANO if made.metric == COST else 1.0
        today_s = self._clock_us() // 1_000_000 // DAY_S * DAY_S
        days = [point for point in made.points if point.start_s >= today_s][:horizon]
        place = made.levels.index(confidence)
        points = _points(days, granularity, place, unit)
        if granularity == "hour":
            if not made.hours:
                raise ValidationFailed(
                    f"{scope} is known by the day alone", action="Ask for granularity=day."
                )
            until_s = today_s + horizon * DAY_S
            hours = [point for point in made.hours if today_s <= point.start_s < until_s]
            points = _points(hours, granularity, place, unit)
        return ForecastAnswer(
            metric=metric,
            scope=scope,
            model=made.model,
            made_at=_moment(made.occurred_at_us),
            confidence=confidence,
            granularity=granularity,
            points=points,
            backtest=Backtest(
                mape=made.error,
                naive_mape=made.naive_error,
                coverage=made.coverage,
                folds=made.folds,
            ),
            history_days=made.history_days,
            month_total=made.month_total / unit,
            exhaustion=[
                Exhausted(
                    budget_id=one.budget_id,
                    owner=one.owner,
                    period=one.period,
                    limit_usd=to_usd(one.limit_nano_usd),
                    exhausted_at=datetime.fromtimestamp(one.at_s, UTC),
                    flagged=one.flagged,
                )
                for one in made.exhaustions
            ],
            peak_per_minute=_peak(made, days, place) if metric == "capacity" else None,
        )

    def _made(self, metric: str, scope: str) -> ForecastMade:
        dimension, colon, name = scope.partition(":")
        if not colon or (scope != TOTAL and (dimension not in SCOPES or not name)):
            named = ", ".join(f"{one}:NAME" for one in SCOPES)
            raise ValidationFailed(
                f"there is no scope {scope!r}", action=f"Name total: or {named}."
            )
        made = self._forecasts.get(f"{_METRICS[metric]}|{scope}")
        if made is None:
            raise NotFound(
                f"there is no forecast of {metric} for {scope}",
                action="Wait for five whole days (UTC) of traffic; the total, keys with a budget and the busiest "
                "teams, projects, providers and models have one, and of cost each budget: budget:ID or budget:ID/OWNER.",
            )
        return made


def _peak(made: ForecastMade, days: Sequence[ForecastPoint], place: int) -> float | None:
    """Return the calls per minute of the busiest hour, were a day as busy as the bands allow."""
    by_day: dict[int, list[float]] = {}
    for hour in made.hours:
        by_day.setdefault(hour.start_s // DAY_S, []).append(hour.predicted)
    busiest = max((max(day) / sum(day) for day in by_day.values() if sum(day)), default=None)
    if busiest is None:
        return None
    most = max((day.predicted + day.widths[place] for day in days), default=0.0)
    return round(most * busiest / 60, 4)


def _points(
    days: Sequence[ForecastPoint], granularity: str, place: int, unit: float
) -> list[Point]:
    """Add days up; their bands add up too, as if all were wrong the same way."""
    found: dict[datetime, tuple[float, float]] = {}
    for day in days:
        start = _STARTS[granularity](datetime.fromtimestamp(day.start_s, UTC))
        predicted, width = found.get(start, (0.0, 0.0))
        found[start] = (predicted + day.predicted, width + day.widths[place])
    return [
        Point(
            timestamp=start,
            predicted=predicted / unit,
            lower=max(0.0, predicted - width) / unit,
            upper=(predicted + width) / unit,
        )
        for start, (predicted, width) in found.items()
    ]


def _anomaly(change: AnomalyChanged) -> Anomaly:
    unit = _NANO if change.metric in (COST, PRICE) else 1.0
    return Anomaly(
        id=change.anomaly_id,
        metric="cost" if change.metric == COST else change.metric,
        dimension=change.dimension,
        kind=change.kind,
        expected=None if change.expected is None else change.expected / unit,
        actual=None if change.actual is None else change.actual / unit,
        score=change.score,
        severity=change.severity,
        started_at=_moment(change.started_at_us),
        found_at=None if change.found_at_us is None else _moment(change.found_at_us),
        ended_at=None if change.ended_at_us is None else _moment(change.ended_at_us),
        status=change.status,
        explanation=change.explanation,
        drivers=[
            Driver(
                dimension=driver.dimension,
                name=driver.name,
                contribution=driver.contribution,
                share_before=driver.share_before,
                share_after=driver.share_after,
                expected=driver.expected / unit,
                actual=driver.actual / unit,
            )
            for driver in change.drivers
        ],
    )


def _moment(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us / 1e6, UTC)


Scope = Annotated[
    str,
    Query(
        description="total:, team:NAME, project:NAME, provider:NAME, model:NAME, key:ID, budget:ID, budget:ID/OWNER",
        examples=["total:"],
    ),
]
Horizon = Annotated[int, Query(ge=1, le=90, description="days")]
Status = Annotated[Literal["open", "ended"] | None, Query(description="only these")]
Text = Annotated[str | None, Query(description="only this one")]


def foresight_router(board: Foresight) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["insight"])

    async def cost_anomalies(
        status: Status = None, limit: Limit = 100, offset: Offset = 0
    ) -> AnomalyPage:
        found = board.anomalies(lambda c: c.metric in (COST, PRICE) and status in (None, c.status))
        return _page(found, limit, offset)

    async def anomalies(
        status: Status = None,
        metric: Annotated[AnomalyMetric | None, Query(description="only these")] = None,
        kind: Annotated[Kind | None, Query(description="only these")] = None,
        dimension: Text = None,
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> AnomalyPage:
        name = COST if metric == "cost" else metric
        found = board.anomalies(
            lambda c: (
                status in (None, c.status)
                and name in (None, c.metric)
                and kind in (None, c.kind)
                and dimension in (None, c.dimension)
            )
        )
        return _page(found, limit, offset)

    async def cost_forecast(
        horizon_days: Horizon = 30,
        granularity: Granularity = "day",
        scope: Scope = "total:",
        confidence: float = 0.95,
    ) -> ForecastAnswer:
        return board.forecast("cost", scope, horizon_days, granularity, confidence)

    async def forecasts(
        metric: Metric = "usage",
        horizon_days: Horizon = 30,
        granularity: Granularity = "day",
        scope: Scope = "total:",
        confidence: float = 0.95,
    ) -> ForecastAnswer:
        return board.forecast(metric, scope, horizon_days, granularity, confidence)

    answers: dict[int | str, dict[str, Any]] = {404: ANSWERS[404]}
    for path, summary, endpoint in (
        (
            "/admin/cost/anomalies",
            "Anomalies of cost, with who made the difference",
            cost_anomalies,
        ),
        ("/admin/analytics/anomalies", "Anomalies of traffic", anomalies),
        ("/admin/cost/forecast", "Spend to come, and budgets that it exhausts", cost_forecast),
        ("/admin/analytics/forecast", "Calls, tokens, cost and capacity to come", forecasts),
    ):
        for prefix in PREFIXES:
            router.get(f"{prefix}{path}", summary=summary, responses=answers)(endpoint)
    return router


def _page(found: list[Anomaly], limit: int, offset: int) -> AnomalyPage:
    return AnomalyPage(
        items=found[offset : offset + limit], total=len(found), limit=limit, offset=offset
    )
