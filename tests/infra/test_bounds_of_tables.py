"""What no record can hold is refused where it is said, and what the log holds can be shown."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from infra.tables import BudgetTable, LimitTable, PriceTable, RouteTable
from schemas.money import MOST_USD, from_usd


@pytest.mark.req("GEN-02", "GEN-05")
def test_a_price_of_a_small_unit_is_shown_exactly() -> None:
    price = PriceTable(unit_usd={"audio_ms": "0.0000000001"})
    assert price.model_dump(mode="json")["unit_usd"] == {"audio_ms": "0.0000000001"}


@pytest.mark.req("GEN-05")
def test_amounts_and_numbers_beyond_64_bits_are_refused() -> None:
    assert from_usd(MOST_USD) == MOST_USD * 10**9
    for amount in (MOST_USD + 1, "1e30", "NaN", "Infinity"):
        with pytest.raises(ValueError, match="at most"):
            from_usd(amount)
    with pytest.raises(ValidationError, match="64 bits"):
        RouteTable(targets=[{"target": "openai/gpt-4o"}], total_timeout_ms=2**70)
    with pytest.raises(ValidationError):
        BudgetTable(scope="global", daily_limit_usd="1e40")


@pytest.mark.req("COST-02", "GEN-05")
@pytest.mark.parametrize("table", [BudgetTable, LimitTable])
def test_what_would_hold_for_nobody_is_refused(table: type[BudgetTable | LimitTable]) -> None:
    amount = {"monthly_limit_usd": "1"} if table is BudgetTable else {"requests_per_minute": 1}
    with pytest.raises(ValidationError, match="global has none"):
        table.model_validate({"scope": "global", "scope_id": "search", **amount})
    with pytest.raises(ValidationError, match="leave it out"):
        table.model_validate({"scope": "team", "scope_id": " ", **amount})
