"""Budgets as forecasts see them: whose spending is which series, and when a limit will be reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from schemas.event import Event
from schemas.events.changes import BudgetChanged
from schemas.events.escrow import TOTAL as WHOLE
from schemas.events.escrow import EscrowRow, spent_in
from schemas.events.forecasts import Exhaustion, ForecastMade, ForecastPoint
from schemas.events.operations import AlertChanged
from schemas.traffic import TOTAL
from streams.decider import decision_id

DAY_S = 86_400
FLAGGED_S = 14 * DAY_S
OWNERS_MAX = 50
"""Of a budget that holds for each by himself: so many are forecast, who spent most this month first."""
OWN = "budget:"
"""Before the series of what a budget has counted itself."""

SERIES = frozenset({"team", "project", "key", "provider"})
"""Scopes of budgets whose spending is a series of the traffic table; others have what they counted."""


class Account(NamedTuple):
    """What one owner may spend: `entity` names its escrow, `series` foretells it."""

    budget: BudgetChanged
    owner: str | None
    entity: str
    series: str
    row: EscrowRow | None

    def limits(self, spent: float, today_s: int) -> Iterator[tuple[str, int, float]]:
        """Yield (period, limit, spent in it before today), nano-USD.

        `spent` is that of the month as the series has it; the budget's own count goes before it.
        """
        today = date_of(today_s)
        month, whole = spent, 0.0
        if self.row is not None:
            so_far = spent_in(self.row, today)
            month = float(spent_in(self.row, today[:7]) - so_far)
            whole = float(spent_in(self.row, WHOLE) - so_far)
        for period, limit, before in (
            ("day", self.budget.daily_limit_nano_usd, 0.0),
            ("month", self.budget.monthly_limit_nano_usd, month),
            ("total", self.budget.total_limit_nano_usd, whole),
        ):
            if limit:
                yield period, limit, before


class BudgetBook:
    """Budgets and what became of them, read from the log."""

    def __init__(self) -> None:
        self._budgets: dict[str, BudgetChanged] = {}
        self._rows: dict[str, EscrowRow] = {}

    def apply(self, event: Event) -> None:
        """Take in a budget, or what became of one."""
        if isinstance(event, EscrowRow):
            self._rows[event.entity] = event
        elif isinstance(event, BudgetChanged) and event.follows(self._budgets.get(event.key)):
            self._budgets[event.key] = event
            if event.deleted:
                del self._budgets[event.key]

    def accounts(self, today_s: int) -> list[Account]:
        """Return all that is limited now."""
        budgets = [budget for budget in self._budgets.values() if budget.enabled]
        return [account for budget in budgets for account in self._accounts(budget, today_s)]

    def days(self, series: str, today_s: int) -> list[float]:
        """Return what the days up to yesterday spent of a budget's own series, from its first on."""
        spent = self._spent(series)
        first_s = min((second_of(day) for day in spent), default=today_s)
        return [float(spent.get(date_of(at), 0)) for at in range(first_s, today_s, DAY_S)]

    def so_far(self, series: str, today_s: int) -> float:
        """Return what today has already spent of a budget's own series."""
        return float(self._spent(series).get(date_of(today_s), 0))

    def _spent(self, series: str) -> dict[str, int]:
        row = self._rows.get(series.removeprefix(OWN))
        return {} if row is None else row.past | {day.day: day.spent for day in row.days}

    def _accounts(self, budget: BudgetChanged, today_s: int) -> list[Account]:
        is_series = budget.scope in SERIES
        if budget.scope == "global" or budget.scope_id is not None:
            series = (
                f"{budget.scope}:{budget.scope_id}" if is_series else f"{OWN}{budget.budget_id}"
            )
            series = TOTAL if budget.scope == "global" else series
            row = self._rows.get(budget.budget_id)
            return [Account(budget, None, budget.budget_id, series, row)]
        prefix, month = f"{budget.budget_id}/", date_of(today_s)[:7]
        each = [row for entity, row in self._rows.items() if entity.startswith(prefix)]
        each.sort(key=lambda row: (-spent_in(row, month), row.entity))
        found = []
        for row in each[:OWNERS_MAX]:
            owner = row.entity.removeprefix(prefix)
            series = f"{budget.scope}:{owner}" if is_series else f"{OWN}{row.entity}"
            found.append(Account(budget, owner, row.entity, series, row))
        return found


def exhaustions(
    accounts: Sequence[Account], points: Sequence[ForecastPoint], spent: float, now_s: int
) -> list[Exhaustion]:
    """Return the limits that the points reach, from now on (Unix s).

    `spent` is what the month of the first has spent before it.
    """
    found = []
    for account in accounts:
        for period, limit, before in account.limits(spent, points[0].start_s):
            at_s = exhausted_at_s(points, period, float(limit), before)
            if at_s is not None:
                soon = at_s - points[0].start_s < FLAGGED_S
                budget_id, owner = account.budget.budget_id, account.owner
                found.append(Exhaustion(budget_id, period, limit, max(at_s, now_s), soon, owner))
    return found


def exhausted_at_s(
    points: Sequence[ForecastPoint], period: str, limit: float, spent: float
) -> int | None:
    """Return when a limit is reached, Unix s, None when the prediction does not reach it.

    `spent` is what the month of the first point, or the budget's whole life, has spent before it. Within
    a day spending counts as even.
    """
    total, month = spent, month_of(points[0].start_s) if points else None
    for point in points:
        if period == "day":
            total = 0.0
        elif period == "month" and month_of(point.start_s) != month:
            total, month = 0.0, month_of(point.start_s)
        if total + point.predicted >= limit:
            part = (limit - total) / point.predicted if point.predicted > 0 else 0.0
            return point.start_s + int(max(0.0, part) * DAY_S)
        total += point.predicted
    return None


def alerts(made: ForecastMade, before: ForecastMade | None) -> Iterator[AlertChanged]:
    """Yield an alert for each budget that is newly flagged, or no longer."""
    was = {_name(one): None for one in (before.exhaustions if before else ()) if one.flagged}
    now = {_name(one): one for one in made.exhaustions if one.flagged}
    for name in sorted(now.keys() - was.keys()):
        yield _alert(made, name, now[name])
    for name in sorted(was.keys() - now.keys()):
        yield _alert(made, name, None)


def _name(found: Exhaustion) -> tuple[str, str]:
    owner = "" if found.owner is None else f"/{found.owner}"
    return f"{found.budget_id}{owner}", found.period


def _alert(made: ForecastMade, name: tuple[str, str], found: Exhaustion | None) -> AlertChanged:
    entity, period = name
    alert_id = f"forecast:{entity}:{period}"
    when = date_of(found.at_s) if found else ""
    return AlertChanged(
        event_id=decision_id("forecast-alert", f"{alert_id}|{made.event_id}"),
        occurred_at_us=made.occurred_at_us,
        alert_id=alert_id,
        alert_type="spending_limit",
        severity="warning",
        scope=f"budget:{entity}",
        status="open" if found else "resolved",
        message=(
            f"the budget {entity} will be exhausted on {when}, as spending goes on"
            if found
            else f"the budget {entity} is not expected to be exhausted within two weeks any more"
        ),
        value=made.month_total,
        threshold=float(found.limit_nano_usd) if found else None,
    )


def month_of(time_s: int) -> str:
    """Return the month of a moment: ``2026-11``."""
    return date_of(time_s)[:7]


def date_of(time_s: int) -> str:
    """Return the UTC day of a moment: ``2026-11-20``."""
    return datetime.fromtimestamp(time_s, UTC).date().isoformat()


def second_of(day: str) -> int:
    """Return when a UTC day begins, Unix s."""
    return (date.fromisoformat(day) - date(1970, 1, 1)).days * DAY_S
