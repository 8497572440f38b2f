"""Which forecasts are due, and what they say (COST-07).

The work is done in a thread: a fit takes a tenth of a second, and folds run beside us. A forecast is made
anew when its series has changed, and not before `REFRESH_US` have passed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from schemas.event import Event
from schemas.events.changes import BudgetChanged
from schemas.events.escrow import EscrowRow
from schemas.events.forecasts import LEVELS, ForecastMade, ForecastPoint
from schemas.events.operations import Heartbeat
from schemas.events.traffic import TRAFFIC_TABLE, TrafficCursor, TrafficRow
from schemas.traffic import HOURS, TOTAL, Sums, TrafficTable, added
from streams.anomalies.frontier import Frontier
from streams.decider import Ledger, decision_id
from streams.forecasts.budgets import DAY_S, OWN, Account, BudgetBook, alerts, exhaustions, month_of
from streams.forecasts.candidates import Array
from streams.forecasts.hours import hours_ahead
from streams.forecasts.models import DAYS_MIN, Forecast, forecast

HOUR_S = 3_600
_SECOND_US = 1_000_000
HORIZON_DAYS = 90
HISTORY_DAYS = HOURS.keep_s // DAY_S
REFRESH_US = 3_600 * _SECOND_US
LOOK_AGAIN_US = 300 * _SECOND_US
"""After so long at a series that was too short: streams may have been catching up."""
LOOK_US = 10 * _SECOND_US
LAG_US_MAX = 60 * _SECOND_US
"""Streams that are further behind are catching up: half a history looks like little traffic."""
SCOPES_MAX = 100
"""Scopes that are forecast: the total and those of budgets first, then the busiest."""
AT_ONCE = 30
"""Forecasts that are begun at one time, so that looking for them never takes long."""

COST = "cost_nano_usd"
METRICS: dict[str, Callable[[Sums], int]] = {
    "calls": lambda sums: sums.calls,
    COST: lambda sums: sums.cost_nano_usd,
    "tokens": lambda sums: sums.tokens,
}
DIMENSIONS = ("team", "project", "provider", "model")


class Made(NamedTuple):
    """What a thread has worked out: days, and the hours where the series is known by the hour."""

    days: Forecast
    hours: tuple[Array, Mapping[float, Array]] | None


Submit = Callable[[Callable[[], Made]], "Future[Made]"]


class Work(NamedTuple):
    """A forecast under way: of which days, from which day on (Unix s), and its number."""

    result: Future[Made]
    history: list[float]
    today_s: int
    number: int


class ForecastLedger(Ledger):
    """Hours of traffic, budgets, and the forecasts so far."""

    def __init__(self, submit: Submit | None = None) -> None:
        self._submit = submit or _thread()
        self._traffic = TrafficTable()
        self._budgets = BudgetBook()
        self._made: dict[str, ForecastMade] = {}
        self._running: dict[str, Work] = {}
        self._short: dict[str, int] = {}
        """Series that are too short, and when they were looked at, Unix µs."""
        self._looked_at_us = 0
        self._frontier = Frontier()

    def apply(self, event: Event) -> None:
        """Take in a row, a budget, a forecast, or how far the streams are."""
        if isinstance(event, TrafficRow):
            if f".{HOURS.name}." in event.entity:
                self._traffic.apply(event)
        elif isinstance(event, TrafficCursor):
            self._frontier.cursor(event)
        elif isinstance(event, Heartbeat):
            self._frontier.beat(event)
        elif isinstance(event, BudgetChanged | EscrowRow):
            self._budgets.apply(event)
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
        is_behind = at_us - self._frontier.at_us > LAG_US_MAX
        if not self._running and not is_behind and at_us - self._looked_at_us >= LOOK_US:
            self._looked_at_us = at_us
            self._begin(at_us)
        self._running = {
            key: work for key, work in self._running.items() if not self._is_known(key, work.number)
        }
        for key, work in self._running.items():
            if work.result.done():
                made = self._event(key, work, at_us)
                return [*alerts(made, self._made.get(key)), made]
        return ()

    def _is_known(self, key: str, number: int) -> bool:
        made = self._made.get(key)
        return made is not None and made.number >= number

    # --- what is to be done ----------------------------------------------------------------------

    def _begin(self, at_us: int) -> None:
        today_s = at_us // _SECOND_US // DAY_S * DAY_S
        accounts = self._budgets.accounts(today_s)
        budgeted = {account.series for account in accounts}
        for scope in self._scopes(accounts, today_s):
            stale = [
                metric
                for metric in (METRICS if not scope.startswith(OWN) else (COST,))
                if self._is_stale(metric, scope, today_s, at_us, scope in budgeted)
            ]
            if not stale or at_us - self._short.get(scope, 0) < LOOK_AGAIN_US:
                continue
            if len(self._running) >= AT_ONCE:
                break
            for metric, history in self._histories(scope, stale, today_s).items():
                if history.shape[0] < DAYS_MIN:
                    self._short[scope] = at_us
                    continue
                key = f"{metric}|{scope}"
                made = self._made.get(key)
                number = made.number + 1 if made else 1
                days = history.sum(axis=1).tolist()
                self._running[key] = Work(self._submit(_work(history)), days, today_s, number)

    def _is_stale(
        self, metric: str, scope: str, today_s: int, at_us: int, is_budgeted: bool
    ) -> bool:
        """Whether a forecast is old: of a day before, or of an hour before and overtaken since."""
        made = self._made.get(f"{metric}|{scope}")
        if made is None or made.points[0].start_s != today_s:
            return True
        if at_us - made.occurred_at_us < REFRESH_US:
            return False
        if metric == COST and is_budgeted:
            return True
        return self._so_far(metric, scope, today_s) > made.points[0].predicted

    def _so_far(self, metric: str, scope: str, today_s: int) -> float:
        """Return what today has already."""
        if scope.startswith(OWN):
            return self._budgets.so_far(scope, today_s)
        hours = self._series(scope, today_s, today_s + DAY_S)
        return float(sum(METRICS[metric](sums) for sums in hours.values()))

    def _scopes(self, accounts: Sequence[Account], today_s: int) -> list[str]:
        scopes = dict.fromkeys([TOTAL, *(account.series for account in accounts)])
        since_s = today_s - 28 * DAY_S
        for dimension in DIMENSIONS:
            members = self._members(dimension, since_s, today_s)
            busiest = sorted(members, key=lambda name: -members[name].calls)
            scopes |= {f"{dimension}:{name}": None for name in busiest if name}
        return list(scopes)[:SCOPES_MAX]

    def _members(self, dimension: str, from_s: int, to_s: int) -> dict[str, Sums]:
        """Return the sums by member; providers are those of their targets."""
        if dimension != "provider":
            return self._traffic.members(dimension, HOURS, from_s, to_s)
        found: dict[str, Sums] = {}
        for target, sums in self._traffic.members("target", HOURS, from_s, to_s).items():
            name = target.partition("/")[0]
            found[name] = added(found.get(name, Sums()), sums)
        return found

    def _series(self, scope: str, from_s: int, to_s: int) -> dict[int, Sums]:
        dimension, _, name = scope.partition(":")
        if dimension != "provider":
            return self._traffic.series(scope, HOURS, from_s, to_s)
        found: dict[int, Sums] = {}
        for target in self._traffic.members("target", HOURS, from_s, to_s):
            if target.partition("/")[0] == name:
                for at_s, sums in self._traffic.series(
                    f"target:{target}", HOURS, from_s, to_s
                ).items():
                    found[at_s] = added(found.get(at_s, Sums()), sums)
        return found

    def _histories(self, scope: str, metrics: Sequence[str], today_s: int) -> dict[str, Array]:
        """Return the whole days of a series up to yesterday, from its first on, by metric.

        A row is a day: its 24 hours, or one column where no more is known.
        """
        if scope.startswith(OWN):
            return {COST: np.array(self._budgets.days(scope, today_s), float).reshape(-1, 1)}
        hours = self._series(scope, today_s - HISTORY_DAYS * DAY_S, today_s)
        first_s = min(hours, default=today_s)
        if first_s % DAY_S:
            first_s += DAY_S - first_s % DAY_S  # the first day may have begun before we did
        count = max(0, today_s - first_s) // HOUR_S
        found = {metric: np.zeros(count) for metric in metrics}
        for at_s, sums in hours.items():
            if at_s >= first_s:
                for metric, values in found.items():
                    values[(at_s - first_s) // HOUR_S] = METRICS[metric](sums)
        return {metric: values.reshape(-1, 24) for metric, values in found.items()}

    # --- what comes of it ------------------------------------------------------------------------

    def _event(self, key: str, work: Work, at_us: int) -> ForecastMade:
        result, history, today_s, number = work
        found, hours = result.result()
        metric, _, scope = key.partition("|")
        found.predicted[0] = max(found.predicted[0], self._so_far(metric, scope, today_s))
        points = _points(found.predicted, found.widths, today_s, DAY_S)
        spent = _spent_this_month(history, today_s)
        in_month = [p.predicted for p in points if month_of(p.start_s) == month_of(today_s)]
        limited = [a for a in self._budgets.accounts(today_s) if a.series == scope]
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
            exhaustions=exhaustions(limited, points, spent, at_us // _SECOND_US)
            if metric == COST
            else [],
            number=number,
            hours=[] if hours is None else _points(*hours, today_s, HOUR_S),
        )


def _points(
    predicted: Array, widths: Mapping[float, Array], from_s: int, step_s: int
) -> list[ForecastPoint]:
    return [
        ForecastPoint(
            from_s + at * step_s, _short(value), [_short(widths[level][at]) for level in LEVELS]
        )
        for at, value in enumerate(predicted)
    ]


def _spent_this_month(history: Sequence[float], today_s: int) -> float:
    days = datetime.fromtimestamp(today_s, UTC).day - 1
    return float(sum(history[-days:])) if days else 0.0


def _short(value: float) -> float:
    return float(f"{float(value):.6g}")


def _work(history: Array) -> Callable[[], Made]:
    def work() -> Made:
        days = forecast(history.sum(axis=1).tolist(), HORIZON_DAYS, LEVELS)
        is_hourly = history.shape[1] > 1
        return Made(days, hours_ahead(history, days.predicted, days.widths) if is_hourly else None)

    return work


def _thread() -> Submit:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="forecasts").submit
