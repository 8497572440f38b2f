"""`GET /admin/cost/savings` (COST-17): what was spent against what one baseline model would have cost."""

from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from infra.admin_desk import ANSWERS, PREFIXES
from schemas.clock import now_us
from schemas.errors import InvalidRequest, NotFound
from schemas.events.changes import PriceChanged, ProviderChanged, TargetChanged
from schemas.events.savings import SavingsDay, SavingsRow
from schemas.money import to_usd
from schemas.prices import PriceBook, list_of
from schemas.pricing import cost_of, price_for
from schemas.table_view import TableView

DAYS_MAX = 92
_DAY_S = 86_400


class Saving(BaseModel):
    """Money of some calls. `saved` is baseline less actual; below zero the baseline was cheaper."""

    name: str = Field(description="the rule, route, target or day", examples=["routing"])
    calls: int
    actual: str = Field(description="what was spent", examples=["12.5"])
    baseline: str = Field(description="what it would have cost", examples=["50"])
    saved: str = Field(examples=["37.5"])
    percent: float | None = Field(description="saved, of the baseline", examples=[75.0])


class Projection(BaseModel):
    """The running month, at the pace of the period's days."""

    month: str = Field(examples=["2026-11"])
    days: float = Field(description="days since the period's first call, that the pace is of")
    actual: str
    baseline: str
    saved: str


class Savings(BaseModel):
    """What was saved in a period, by rule, route, target and day."""

    baseline_target: str = Field(description="the model that all calls are held against")
    baseline_chosen: str = Field(
        description="asked: named in the request; dearest: the dearest listed"
    )
    first_day: date
    last_day: date
    total: Saving
    by_rule: list[Saving] = Field(
        description="cache: answered by our own; tuned_model: by a deployment; routing: by a route's choice"
    )
    by_route: list[Saving]
    by_target: list[Saving]
    by_day: list[Saving]
    projection: Projection
    unpriced_calls: int = Field(description="without a price yet: their cost counts as 0")
    uncounted: str = Field(
        description="spent on vectors, images, sound and the like, which the baseline does not offer: no saving is "
        "claimed of it"
    )
    method: str


_METHOD = (
    "The tokens of each day at the baseline's list price of that day, the vendor's cache included; a model "
    "with another tokenizer would have counted somewhat differently."
)


@dataclass
class _Sums:
    calls: int = 0
    actual: int = 0
    baseline: int = 0

    def add(self, calls: int, actual: int, baseline: int) -> None:
        self.calls += calls
        self.actual += actual
        self.baseline += baseline

    def told(self, name: str) -> Saving:
        saved = self.baseline - self.actual
        return Saving(
            name=name,
            calls=self.calls,
            actual=to_usd(self.actual),
            baseline=to_usd(self.baseline),
            saved=to_usd(saved),
            percent=round(100 * saved / self.baseline, 2) if self.baseline else None,
        )


@dataclass
class _Account:
    total: _Sums = field(default_factory=_Sums)
    by: dict[str, dict[str, _Sums]] = field(
        default_factory=lambda: {"rule": {}, "route": {}, "target": {}, "day": {}}
    )
    unpriced: int = 0
    uncounted: int = 0

    def add(self, names: dict[str, str], calls: int, actual: int, baseline: int) -> None:
        self.total.add(calls, actual, baseline)
        for kind, name in names.items():
            self.by[kind].setdefault(name, _Sums()).add(calls, actual, baseline)

    def told(self, kind: str) -> list[Saving]:
        found = self.by[kind].items()
        if kind == "day":
            return [sums.told(name) for name, sums in sorted(found)]
        ranked = sorted(found, key=lambda it: (it[1].actual - it[1].baseline, it[0]))
        return [sums.told(name) for name, sums in ranked]


class SavingsBoard:
    """The table and the prices; `views` are to be followed."""

    def __init__(self, clock_us: Callable[[], int] = now_us) -> None:
        self._clock_us = clock_us
        self._rows = TableView(SavingsRow)
        self._prices = TableView(PriceChanged)
        self._providers = TableView(ProviderChanged)
        self._targets = TableView(TargetChanged)
        self._book, self._priced = PriceBook(), -1

    @property
    def views(self) -> list[TableView[Any]]:
        """The views that this board is made of."""
        return [self._rows, self._prices, self._providers, self._targets]

    def savings(self, first: date | None, last: date | None, baseline: str | None) -> Savings:
        """Return the savings of some days. Raises InvalidRequest, NotFound."""
        now = datetime.fromtimestamp(self._clock_us() / 1e6, UTC)
        first, last = first or now.date().replace(day=1), last or now.date()
        if not first <= last or (last - first).days >= DAYS_MAX:
            raise InvalidRequest(f"a period is 1 to {DAYS_MAX} days, its first day first")
        chosen = "asked" if baseline else "dearest"
        target = baseline or self._dearest()
        if self._price(target, now) is None:
            raise NotFound(f"{target} has no price", action="Name a target that has one.")
        account = self._account(target, first, last)
        return Savings(
            baseline_target=target,
            baseline_chosen=chosen,
            first_day=first,
            last_day=last,
            total=account.total.told("total"),
            by_rule=account.told("rule"),
            by_route=account.told("route"),
            by_target=account.told("target"),
            by_day=account.told("day"),
            projection=_projection(account, first, last, now),
            unpriced_calls=account.unpriced,
            uncounted=to_usd(account.uncounted),
            method=_METHOD,
        )

    def _account(self, target: str, first: date, last: date) -> _Account:
        account = _Account()
        prices: dict[int, PriceChanged | None] = {}
        for row in self._rows.entries.values():
            rule, _, rest = row.entity.partition("|")
            route, _, called = rest.rpartition("|")
            for day in row.days:
                on = datetime.fromtimestamp(day.start_s, UTC)
                if not first <= on.date() <= last:
                    continue
                if day.start_s not in prices:
                    end = on + timedelta(seconds=_DAY_S - 1)
                    prices[day.start_s] = self._price(target, end)
                would = _cost_of_day(prices[day.start_s], day)
                # What the baseline cannot be asked about is neither saved nor lost.
                would += day.uncounted_nano_usd + day.cache_saved_nano_usd
                name = "baseline" if called == target and rule == "routing" else rule
                names = {"rule": name, "route": route, "target": called, "day": str(on.date())}
                account.add(names, day.calls, day.cost_nano_usd, would)
                account.unpriced += day.unpriced
                account.uncounted += day.uncounted_nano_usd
        return account

    def _price(self, target: str, at: datetime) -> PriceChanged | None:
        """The list price of a target at a moment, by its own name or its provider's list."""
        provider, _, model = target.partition("/")
        if self._prices.generation != self._priced:
            self._priced = self._prices.generation
            self._book = PriceBook(self._prices.entries.values())
        rows = {row.name: row for row in self._providers.entries.values()}
        return self._book.find(list_of(provider, rows), model, round(at.timestamp() * 1e6))

    def _dearest(self) -> str:
        """The listed chat model whose output costs most: everything sent to the best there is."""
        now = datetime.fromtimestamp(self._clock_us() / 1e6, UTC)
        found = [
            (price.output_price, f"{it.provider}/{it.model}")
            for it in self._targets.entries.values()
            if it.enabled and "chat" in it.capabilities
            if (price := self._price(f"{it.provider}/{it.model}", now)) is not None
            if price.output_price is not None and price.input_price is not None
        ]
        if not found:
            raise NotFound("no listed target has a price", action="Name the baseline.")
        return max(found)[1]


def _cost_of_day(price: PriceChanged | None, day: SavingsDay) -> int:
    """What a day's calls would have cost, each as long as their mean: of their sum no tier is told."""
    if price is not None and price.tiers:
        mean_tokens = day.input_tokens // max(1, day.calls)
        price = msgspec.structs.replace(price_for(price, mean_tokens), tiers=[])
    return cost_of(price, day) or 0


def _projection(account: _Account, first: date, last: date, now: datetime) -> Projection:
    """At the pace of the period: its days since the first call up to now, the running one by its share."""
    total = account.total
    called = (date.fromisoformat(day) for day in account.by["day"])
    first = min(called, default=first)
    days = (min(last, now.date()) - first).days + 1
    elapsed = float(days)
    if last >= now.date():
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        elapsed = days - 1 + max((now - midnight) / timedelta(days=1), 0.01)
    share = monthrange(now.year, now.month)[1] / elapsed if elapsed > 0 else 0.0
    actual, baseline = round(total.actual * share), round(total.baseline * share)
    return Projection(
        month=f"{now:%Y-%m}",
        days=round(elapsed, 2),
        actual=to_usd(actual),
        baseline=to_usd(baseline),
        saved=to_usd(baseline - actual),
    )


First = Annotated[date | None, Query(alias="from", description="first UTC day; of this month")]
Last = Annotated[date | None, Query(alias="to", description="last UTC day; today")]
Baseline = Annotated[
    str | None,
    Query(
        description="the target that all calls are held against; the dearest that is listed",
        examples=["openai/gpt-4o"],
        pattern="^[^/]+/.+$",
        max_length=200,
    ),
]


def savings_router(board: SavingsBoard) -> APIRouter:
    """The endpoint."""
    router = APIRouter(tags=["cost"])

    async def savings(first: First = None, last: Last = None, baseline: Baseline = None) -> Savings:
        return board.savings(first, last, baseline)

    for prefix in PREFIXES:
        router.get(
            f"{prefix}/admin/cost/savings",
            summary="What was saved against one model for everything",
            include_in_schema=prefix != "",
            responses={404: ANSWERS[404]},
        )(savings)
    return router
