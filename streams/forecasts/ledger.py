"""Which forecasts are due, what they say of budgets, and the alerts that follow (COST-07).

The work is done in a thread: a fit takes a second, and folds run beside us. A forecast is made anew
when its series has changed, and not before `REFRESH_US` have passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

from schemas.event import Event
from schemas.events.changes import BudgetChanged
from schemas.events.forecasts import LEVELS, Exhaustion, ForecastMade, ForecastPoint
from schemas.events.operations import AlertChanged
from schemas.events.traffic import TRAFFIC_TABLE, TrafficRow
from schemas.traffic import HOURS, TOTAL, Sums, TrafficTable
from streams.decider import Ledger, decision_id
from streams.forecasts.models import DAYS_MIN, Forecast, forecast

DAY_S = 86_400
_SECOND_US = 1_000_000
HORIZON_DAYS = 90
HISTORY_DAYS = HOURS.keep_s // DAY_S
REFRESH_US = 3_600 * _SECOND_US
FLAGGED_S = 14 * DAY_S
SERIES_MAX = 300
"""Series that are forecast: the total and the scopes of budgets first, then the busiest."""

METRICS: dict[str, Callable[[Sums], int]] = {
    "calls": lambda sums: sums.calls,
    "cost_nano_usd": lambda sums: sums.cost_nano_usd,
    "tokens": lambda sums: sums.tokens,
}
DIMENSIONS = ("team", "project")
SCOPES = {"global": "total", "team": "team", "project": "project", "key": "key"}
"""Scopes of budgets whose spending is a series of ours."""

Submit = Callable[[Callable[[], Forecast]], "Future[Forecast]"]


class Work(NamedTuple):
    """A forecast under way: of which days, from which day on (Unix s), and its number."""

    result: Future[Forecast]
    history: list[float]
    today_s: int
    number: int


class ForecastLedger(Ledger):
    """Hours of traffic, budgets, and the forecasts so far."""

    def __init__(self, submit: Submit | None = None) -> None:
        self._submit = submit or _thread()
        self._traffic = TrafficTable()
        self._budgets: dict[str, BudgetChanged] = {}
        self._made: dict[str, ForecastMade] = {}
        self._running: dict[str, Work] = {}
        self._looked_at_us = 0

    def apply(self, event: Event) -> None:
        """Take in a row, a budget or a forecast."""
        if isinstance(event, TrafficRow) and f".{HOURS.name}." in event.entity:
            self._traffic.apply(event)
        elif isinstance(event, BudgetChanged):
            if event.follows(self._budgets.get(event.key)):
                self._budgets[event.key] = event
                if event.deleted:
                    del self._budgets[event.key]
        elif isinstance(event, ForecastMade):
            self._made[event.key] = event

    def removed(self, topic: str, key: bytes) -> None:
        """Take in that a row has expired."""
        if topic == TRAFFIC_TABLE.name and f".{HOURS.name}." in key.decode():
            self._traffic.removed(key.decode())

    def knows(self, decision: Event) -> bool:
        """Whether this forecast, or a later one of the series, has been read back."""
        if not isinstance(decision, ForecastMade):
            return False
        return self._is_known(decision.key, decision.number)

    def due(self, at_us: int) -> Sequence[Event]:
        """Return the forecasts that are ready, after their alerts; begin those that are due."""
        if not self._running and at_us - self._looked_at_us >= 10 * _SECOND_US:
            self._looked_at_us = at_us
            self._begin(at_us)
        self._running = {
            key: work for key, work in self._running.items() if not self._is_known(key, work.number)
        }
        for key, work in self._running.items():
            if work.result.done():
                made = self._event(key, work, at_us)
                return [*self._alerts(made), made]
        return ()

    def _is_known(self, key: str, number: int) -> bool:
        made = self._made.get(key)
        return made is not None and made.number >= number

    # --- what is to be done ----------------------------------------------------------------------

    def _begin(self, at_us: int) -> None:
        today_s = at_us // _SECOND_US // DAY_S * DAY_S
        for scope in self._scopes(today_s):
            days = self._days(scope, today_s)
            for metric, value in METRICS.items():
                key = f"{metric}|{scope}"
                made = self._made.get(key)
                if len(days) < DAYS_MIN or (
                    made is not None and not self._stale(made, today_s, at_us)
                ):
                    continue
                history = [float(value(sums)) for sums in days]
                number = made.number + 1 if made else 1
                self._running[key] = Work(self._submit(_work(history)), history, today_s, number)

    def _stale(self, made: ForecastMade, today_s: int, at_us: int) -> bool:
        """Whether a forecast is old: of a day before, or of an hour before and overtaken since."""
        first = made.points[0]
        if first.start_s != today_s:
            return True
        if at_us - made.occurred_at_us < REFRESH_US:
            return False
        budgeted = made.metric == "cost_nano_usd" and bool(self._of(made.scope))
        return budgeted or self._so_far(made.metric, made.scope, today_s) > first.predicted

    def _so_far(self, metric: str, scope: str, today_s: int) -> float:
        """Return what today has already."""
        return float(METRICS[metric](self._traffic.total(scope, HOURS, today_s, today_s + DAY_S)))

    def _scopes(self, today_s: int) -> list[str]:
        scopes = {TOTAL: None} | {
            scope: None for budget in self._budgets.values() if (scope := scope_of(budget))
        }
        since_s = today_s - 28 * DAY_S
        for dimension in DIMENSIONS:
            members = self._traffic.members(dimension, HOURS, since_s, today_s)
            busiest = sorted(members, key=lambda name: -members[name].calls)
            scopes |= {f"{dimension}:{name}": None for name in busiest if name}
        return list(scopes)[: SERIES_MAX // len(METRICS)]

    def _days(self, scope: str, today_s: int) -> list[Sums]:
        """Return the whole days of a series up to yesterday, from its first on."""
        hours = self._traffic.series(scope, HOURS, today_s - HISTORY_DAYS * DAY_S, today_s)
        if not hours:
            return []
        first_s = min(hours) // DAY_S * DAY_S
        if min(hours) != first_s:
            first_s += DAY_S  # the first day may have begun before we did
        days = [Sums()] * ((today_s - first_s) // DAY_S)
        for start_s, sums in hours.items():
            if start_s >= first_s:
                at = (start_s - first_s) // DAY_S
                days[at] = Sums(*[a + b for a, b in zip(days[at], sums, strict=True)])
        return days

    # --- what comes of it ------------------------------------------------------------------------

    def _event(self, key: str, work: Work, at_us: int) -> ForecastMade:
        result, history, today_s, number = work
        found = result.result()
        metric, _, scope = key.partition("|")
        found.predicted[0] = max(found.predicted[0], self._so_far(metric, scope, today_s))
        points = [
            ForecastPoint(
                today_s + day * DAY_S,
                _short(value),
                [_short(found.widths[level][day]) for level in LEVELS],
            )
            for day, value in enumerate(found.predicted)
        ]
        spent = _spent_this_month(history, today_s)
        in_month = [p.predicted for p in points if _month(p.start_s) == _month(today_s)]
        exhausted = self._exhaustions(scope, points, spent) if metric == "cost_nano_usd" else []
        return ForecastMade(
            event_id=decision_id("forecast", f"{key}#{number}"),
            occurred_at_us=at_us,
            metric=metric,
            scope=scope,
            model=found.model,
            history_days=len(history),
            folds=found.folds,
            error=found.error,
            naive_error=found.naive_error,
            coverage=found.coverage,
            levels=list(LEVELS),
            points=points,
            month_total=_short(spent + sum(in_month)),
            exhaustions=exhausted,
            number=number,
        )

    def _of(self, scope: str) -> list[BudgetChanged]:
        return [b for b in self._budgets.values() if b.enabled and scope_of(b) == scope]

    def _exhaustions(
        self, scope: str, points: Sequence[ForecastPoint], spent: float
    ) -> list[Exhaustion]:
        found = []
        for budget in self._of(scope):
            for period, limit in (
                ("day", budget.daily_limit_nano_usd),
                ("month", budget.monthly_limit_nano_usd),
            ):
                at_s = exhausted_at_s(points, period, float(limit), spent) if limit else None
                if at_s is not None and limit is not None:
                    soon = at_s - points[0].start_s < FLAGGED_S
                    found.append(Exhaustion(budget.budget_id, period, limit, at_s, soon))
        return found

    def _alerts(self, made: ForecastMade) -> Iterator[AlertChanged]:
        """Yield an alert for each budget that is newly flagged, or no longer."""
        before = self._made.get(made.key)
        was = {(e.budget_id, e.period) for e in (before.exhaustions if before else ()) if e.flagged}
        now = {(e.budget_id, e.period): e for e in made.exhaustions if e.flagged}
        for name in sorted(now.keys() - was):
            yield _alert(made, name, now[name])
        for name in sorted(was - now.keys()):
            yield _alert(made, name, None)


def exhausted_at_s(
    points: Sequence[ForecastPoint], period: str, limit: float, spent: float
) -> int | None:
    """Return when a limit is reached, Unix s, None when the prediction does not reach it.

    `spent` is what the month of the first point has spent before it. Within a day spending counts as
    even.
    """
    total, month = spent, _month(points[0].start_s) if points else None
    for point in points:
        if period == "day":
            total = 0.0
        elif _month(point.start_s) != month:
            total, month = 0.0, _month(point.start_s)
        if total + point.predicted >= limit:
            part = (limit - total) / point.predicted if point.predicted > 0 else 0.0
            return point.start_s + int(max(0.0, part) * DAY_S)
        total += point.predicted
    return None


def scope_of(budget: BudgetChanged) -> str | None:
    """Return the series that a budget limits, None when there is no such series."""
    dimension = SCOPES.get(budget.scope)
    if dimension is None or (dimension != "total" and not budget.scope_id):
        return None
    return TOTAL if dimension == "total" else f"{dimension}:{budget.scope_id}"


def _alert(made: ForecastMade, name: tuple[str, str], found: Exhaustion | None) -> AlertChanged:
    budget_id, period = name
    alert_id = f"forecast:{budget_id}:{period}"
    when = datetime.fromtimestamp(found.at_s, UTC).date().isoformat() if found else ""
    return AlertChanged(
        event_id=decision_id("forecast-alert", f"{alert_id}|{made.event_id}"),
        occurred_at_us=made.occurred_at_us,
        alert_id=alert_id,
        alert_type="spending_limit",
        severity="warning",
        scope=f"budget:{budget_id}",
        status="open" if found else "resolved",
        message=(
            f"the budget {budget_id} will be exhausted on {when}, as spending goes on"
            if found
            else f"the budget {budget_id} is not expected to be exhausted within two weeks any more"
        ),
        value=made.month_total,
        threshold=float(found.limit_nano_usd) if found else None,
    )


def _spent_this_month(history: Sequence[float], today_s: int) -> float:
    days = datetime.fromtimestamp(today_s, UTC).day - 1
    return float(sum(history[-days:])) if days else 0.0


def _month(time_s: int) -> tuple[int, int]:
    day = datetime.fromtimestamp(time_s, UTC)
    return day.year, day.month


def _short(value: float) -> float:
    return float(f"{float(value):.6g}")


def _work(history: list[float]) -> Callable[[], Forecast]:
    return lambda: forecast(history, HORIZON_DAYS, LEVELS)


def _thread() -> Submit:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="forecasts").submit
