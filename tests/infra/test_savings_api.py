"""COST-17: savings against a stated baseline, per period and rule, with a projection."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest

from infra.savings_api import SavingsBoard
from schemas.errors import InvalidRequest, NotFound
from schemas.events.changes import PriceChanged, PriceTier, ProviderChanged, TargetChanged
from schemas.events.llm import CostEntry
from schemas.events.savings import SavingsRow
from schemas.money import NANO_USD
from streams.agents.savings import SAVINGS

DAY = 86_400
NOW = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp())
MONTH = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
CHANGE: dict[str, Any] = {
    "event_id": "c",
    "occurred_at_us": 0,
    "entity_version": 1,
    "actor": "test",
}
pytestmark = pytest.mark.req("COST-17")


def entry(at_s: int, target: str, usd: float, **told: Any) -> CostEntry:
    fields: dict[str, Any] = {
        "entry": "settled",
        "input_tokens": 1_000_000,
        "output_tokens": 0,
        "basis": "reported",
        "route": "support",
        "cost_nano_usd": round(usd * NANO_USD),
    }
    return CostEntry(
        event_id="e",
        occurred_at_us=at_s * 1_000_000,
        request_id="r",
        key_id="k",
        target=target,
        **fields | told,
    )


def board(*entries: CostEntry) -> SavingsBoard:
    made = SavingsBoard(lambda: NOW * 1_000_000)
    rows, prices, providers, targets = made.views
    states: dict[str, Any] = {}
    for one in entries:
        for entity, line in SAVINGS.split(one):
            SAVINGS.apply(states.setdefault(entity, {}), line)
    for entity, state in states.items():
        row = SavingsRow(
            event_id="s",
            occurred_at_us=0,
            entity=entity,
            partition=0,
            offset=0,
            **SAVINGS.freeze(state),
        )
        rows.entries[row.key] = row
    for model, since_s, usd in (("best", 0, 10), ("best", MONTH + 10 * DAY, 20), ("small", 0, 1)):
        price = PriceChanged(
            **CHANGE,
            provider="list",
            model=model,
            valid_from_us=since_s * 1_000_000,
            input_price=usd * NANO_USD,
            output_price=usd * NANO_USD,
            price_version="1",
            source="test",
        )
        prices.entries[price.key] = price
    provider = ProviderChanged(
        **CHANGE, name="a", dialect="openai", base_url="http://x", price_provider="list"
    )
    providers.entries[provider.key] = provider
    for model in ("best", "small", "unpriced"):
        listed = TargetChanged(**CHANGE, provider="a", model=model, capabilities=["chat"])
        targets.entries[listed.key] = listed
    return made


@pytest.mark.req("PROV-08")
def test_a_day_costs_its_mean_calls_tier_however_much_it_sums_up_to() -> None:
    calls = [entry(MONTH + DAY, "a/small", 1, input_tokens=400_000) for _ in range(3)]
    made = board(*calls)
    prices = made.views[1].entries
    [best] = [it for it in prices.values() if it.model == "best" and it.valid_from_us == 0]
    for above, baseline in ((400_000, "12"), (399_999, "24")):
        tier = PriceTier(
            above_input_tokens=above, input_price=20 * NANO_USD, output_price=20 * NANO_USD
        )
        changed = msgspec.structs.replace(best, tiers=[tier])
        made.views[1].entries[best.key] = changed
        made.views[1].generation += 1
        assert made.savings(None, None, None).total.baseline == baseline


def test_everything_is_held_against_the_dearest_at_the_price_of_its_day() -> None:
    told = board(
        entry(MONTH + DAY, "a/small", 1),
        entry(MONTH + DAY, "a/best", 10),
        entry(MONTH + 12 * DAY, "a/small", 1),
        entry(MONTH + 12 * DAY, "a/small", 1, entry="admitted"),
        entry(MONTH + 12 * DAY, "local/tuned", 0, deployment_id="d"),
        entry(MONTH - DAY, "a/small", 1),
    ).savings(None, None, None)
    assert (told.baseline_target, told.baseline_chosen) == ("a/best", "dearest")
    assert (told.total.calls, told.total.actual, told.total.baseline) == (4, "12", "60")
    assert (told.total.saved, told.total.percent) == ("48", 80.0)
    assert {it.name: (it.calls, it.saved) for it in told.by_rule} == {
        "routing": (2, "28"),
        "tuned_model": (1, "20"),
        "baseline": (1, "0"),
    }
    assert [(it.name, it.saved) for it in told.by_day] == [
        ("2026-11-02", "9"),
        ("2026-11-13", "39"),
    ]
    assert told.by_target[0].name in {"a/small", "local/tuned"}
    # The month's pace is that of the days since the first call, not of those before anybody called.
    assert (told.projection.days, told.projection.baseline) == (19.5, "92.307692308")


def test_a_baseline_that_is_asked_for_may_have_been_cheaper() -> None:
    made = board(entry(MONTH + DAY, "a/best", 10))
    told = made.savings(date(2026, 11, 2), date(2026, 11, 2), "a/small")
    assert (told.baseline_chosen, told.total.saved, told.total.percent) == ("asked", "-9", -900.0)


def test_what_has_no_tokens_saves_nothing_and_hits_save_what_they_would_have_cost() -> None:
    told = board(
        entry(MONTH, "a/small", 4, input_tokens=None, output_tokens=None, units={"image": 1}),
        entry(MONTH, "a/small", 0, input_tokens=None, cache_saved_nano_usd=3 * NANO_USD),
        entry(MONTH, "a/small", 0, input_tokens=None, cost_nano_usd=None, entry="unpriced"),
    ).savings(None, None, None)
    assert (told.total.actual, told.total.saved) == ("4", "3")
    assert (told.uncounted, told.unpriced_calls) == ("4", 1)
    assert {it.name for it in told.by_rule} == {"routing", "cache"}


@pytest.mark.parametrize("surface", ["embeddings", "rerank", "count_tokens"])
def test_what_the_baseline_does_not_offer_saves_nothing(surface: str) -> None:
    told = board(entry(MONTH, "a/small", 0.02, surface=surface)).savings(None, None, None)
    assert (told.total.calls, told.total.saved, told.uncounted) == (1, "0", "0.02")


def test_a_correction_is_no_call_but_its_money_counts() -> None:
    fields = {"entry": "corrected", "input_tokens": None, "output_tokens": None}
    told = board(entry(MONTH, "a/small", 1), entry(MONTH, "a/small", 0.5, **fields))
    total = told.savings(None, None, None).total
    assert (total.calls, total.actual, total.baseline) == (1, "1.5", "10")


def test_what_cannot_be_asked_is_refused() -> None:
    made = board()
    with pytest.raises(NotFound, match="no price"):
        made.savings(None, None, "a/unpriced")
    with pytest.raises(InvalidRequest, match="1 to 92 days"):
        made.savings(date(2026, 1, 1), date(2026, 11, 1), None)
    with pytest.raises(InvalidRequest):
        made.savings(date(2026, 11, 2), date(2026, 11, 1), None)
