"""`GET /admin/cost/budgets` (COST-03): what each budget has spent, from the rows of its escrow.

The figures are those by which the gateway grants, so they are exact; they follow a settlement as fast
as the log does.
"""

from calendar import monthrange
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from infra.admin_desk import ANSWERS, PREFIXES, Limit, Offset, about, found
from schemas.clock import now_us
from schemas.events.changes import BudgetChanged
from schemas.events.escrow import TOTAL, EscrowRow, spent_in
from schemas.money import to_usd
from schemas.table_view import TableView

PATH = "/cost/budgets"
OWNERS_MAX = 1_000
"""Of a budget that holds for each by itself, so many are told: those that spent most of theirs."""


class BudgetWindow(BaseModel):
    """A limit of a budget in the window that runs now. Money is exact, in USD."""

    window: str = Field(description="daily, monthly or total", examples=["daily"])
    period: str = Field(description="the UTC day, the month, or total", examples=["2026-11-20"])
    limit: str = Field(description="what may be spent", examples=["50"])
    spent: str = Field(description="what was spent", examples=["12.5"])
    held: str = Field(description="granted to workers and not spent (yet)", examples=["0.3"])
    remaining: str = Field(description="limit less spent, not below 0", examples=["37.5"])
    percent: float = Field(description="spent, of the limit", examples=[25.0])
    projected: str | None = Field(
        description="spent by the end at the pace so far; null for total", examples=["31.25"]
    )
    status: str = Field(description="ok, warning or exceeded", examples=["ok"])
    resets_at: datetime | None = Field(description="when it begins anew (UTC)")


class BudgetSpending(BaseModel):
    """A budget's spending by one owner: that of its scope."""

    owner: str | None = Field(description="whose spending; null for a global budget")
    status: str = Field(description="the worst of its windows", examples=["ok"])
    windows: list[BudgetWindow]


class BudgetStatus(BaseModel):
    """A budget and what was spent of it. The figures are of its tightest window."""

    id: str
    version: int = Field(description="counts its changes")
    actor: str = Field(description="who changed it last")
    updated_at: str = Field(description="when", examples=["2026-11-20T21:45:20.864Z"])
    name: str | None
    scope: str = Field(examples=["team"])
    scope_id: str | None
    daily_limit_usd: str | None
    monthly_limit_usd: str | None
    total_limit_usd: str | None
    warning_threshold: float
    on_exceeded: str = Field(examples=["reroute"])
    enabled: bool
    limit: str
    spent: str
    remaining: str
    percent: float
    projected: str | None
    status: str = Field(description="ok, warning or exceeded", examples=["ok"])
    owners: list[BudgetSpending] = Field(description="one for a budget of one owner")


class BudgetPage(BaseModel):
    """Budgets by id."""

    items: list[BudgetStatus]
    total: int
    limit: int
    offset: int


class BudgetBoard:
    """What the log says of budgets; `views` are to be followed."""

    def __init__(self, clock_us: Callable[[], int] = now_us) -> None:
        self._clock_us = clock_us
        self._budgets = TableView(BudgetChanged)
        self._rows = TableView(EscrowRow)

    @property
    def views(self) -> list[TableView[Any]]:
        """The views that this board is made of."""
        return [self._budgets, self._rows]

    def all(self) -> list[BudgetChanged]:
        """Return the budgets by id."""
        return sorted(self._budgets.entries.values(), key=lambda budget: budget.budget_id)

    def status(self, budget: BudgetChanged) -> BudgetStatus:
        """Return a budget with what was spent of it."""
        now = datetime.fromtimestamp(self._clock_us() / 1e6, UTC)
        owners = [_spending(budget, owner, row, now) for owner, row in self._owners(budget)]
        owners.sort(key=lambda one: -max(window.percent for window in one.windows))
        told = max(owners[0].windows, key=lambda window: window.percent)
        return BudgetStatus(
            id=budget.budget_id,
            **about(budget),
            name=budget.name,
            scope=budget.scope,
            scope_id=budget.scope_id,
            daily_limit_usd=_usd(budget.daily_limit_nano_usd),
            monthly_limit_usd=_usd(budget.monthly_limit_nano_usd),
            total_limit_usd=_usd(budget.total_limit_nano_usd),
            warning_threshold=budget.warning_threshold,
            on_exceeded=budget.on_exceeded,
            enabled=budget.enabled,
            limit=told.limit,
            spent=told.spent,
            remaining=told.remaining,
            percent=told.percent,
            projected=told.projected,
            status=owners[0].status,
            owners=owners[:OWNERS_MAX],
        )

    def find(self, budget_id: str) -> BudgetChanged:
        """Return a budget. Raises NotFound."""
        budget: BudgetChanged = found(self._budgets.get(budget_id), f"budget {budget_id}")
        return budget

    def _owners(self, budget: BudgetChanged) -> list[tuple[str | None, EscrowRow | None]]:
        rows = {row.entity: row for row in self._rows.entries.values()}
        if budget.scope == "global" or budget.scope_id is not None:
            return [(budget.scope_id, rows.get(budget.budget_id))]
        prefix = f"{budget.budget_id}/"
        each = [
            (entity.removeprefix(prefix), row)
            for entity, row in rows.items()
            if entity.startswith(prefix)
        ]
        return [*each] or [(None, None)]


def budgets_router(board: BudgetBoard) -> APIRouter:
    """The endpoints that read; `administration` serves those that change."""
    router = APIRouter(tags=["budgets"])

    async def listing(limit: Limit = 100, offset: Offset = 0) -> BudgetPage:
        budgets = board.all()
        items = [board.status(budget) for budget in budgets[offset : offset + limit]]
        return BudgetPage(items=items, total=len(budgets), limit=limit, offset=offset)

    async def one(budget_id: str) -> BudgetStatus:
        return board.status(board.find(budget_id))

    for prefix in PREFIXES:
        path, shown = f"{prefix}/admin{PATH}", prefix != ""
        router.get(path, summary="Budgets and what was spent", include_in_schema=shown)(listing)
        router.get(
            f"{path}/{{budget_id}}",
            summary="One budget and what was spent",
            include_in_schema=shown,
            responses={404: ANSWERS[404]},
        )(one)
    return router


def _spending(
    budget: BudgetChanged, owner: str | None, row: EscrowRow | None, now: datetime
) -> BudgetSpending:
    windows = list(_windows(budget, row, now))
    order = ("ok", "warning", "exceeded")
    worst = max((window.status for window in windows), key=order.index, default="ok")
    return BudgetSpending(owner=owner, status=worst, windows=windows)


def _windows(budget: BudgetChanged, row: EscrowRow | None, now: datetime) -> Iterator[BudgetWindow]:
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    month = day.replace(day=1)
    month_days = monthrange(now.year, now.month)[1]
    spans: list[tuple[str, int | None, str, datetime | None, timedelta | None]] = [
        ("daily", budget.daily_limit_nano_usd, f"{day:%Y-%m-%d}", day, timedelta(days=1)),
        ("monthly", budget.monthly_limit_nano_usd, f"{day:%Y-%m}", month, timedelta(month_days)),
        ("total", budget.total_limit_nano_usd, TOTAL, None, None),
    ]
    for name, limit, period, begun, length in spans:
        if limit is None:
            continue
        spent = 0 if row is None else spent_in(row, period)
        projected = None
        if begun is not None and length is not None:
            share = max((now - begun) / length, 0.01)
            projected = to_usd(round(spent / share))
        yield BudgetWindow(
            window=name,
            period=period,
            limit=to_usd(limit),
            spent=to_usd(spent),
            held=to_usd(_held(row, period)),
            remaining=to_usd(max(0, limit - spent)),
            percent=round(100 * spent / limit, 4) if limit else 100.0,
            projected=projected,
            status=_status(budget, row, period, spent, limit),
            resets_at=None if begun is None or length is None else begun + length,
        )


def _held(row: EscrowRow | None, period: str) -> int:
    days = [] if row is None else row.days
    return sum(
        max(0, node.granted - node.returned - node.spent)
        for day in days
        if period == TOTAL or day.day.startswith(period)
        for node in day.nodes
    )


def _status(
    budget: BudgetChanged, row: EscrowRow | None, period: str, spent: int, limit: int
) -> str:
    """A budget is exceeded when nothing is left, or when a call was refused for its sake."""
    alerts = [] if row is None else row.alerts
    if spent >= limit or f"{period}|exceeded" in alerts:
        return "exceeded"
    return "warning" if spent >= limit * budget.warning_threshold else "ok"


def _usd(nano_usd: int | None) -> str | None:
    return None if nano_usd is None else to_usd(nano_usd)
