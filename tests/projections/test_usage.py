"""What the vendors came to, read from the log."""

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.identity import uuid7
from tests.projections.records import event, settled
from tests.projections.test_api import Client, client

__all__ = ["client"]

DAY_US = 86_400_000_000
NOON = datetime(2024, 5, 20, 12, tzinfo=UTC)
NOON_US = int(NOON.timestamp()) * 1_000_000
SPAN = "since=2024-05-20T00:00:00&until=2024-05-22T00:00:00Z"


def attempt(target: str, error_class: str | None) -> dict[str, Any]:
    outcome = "failed" if error_class else "success"
    times = {"latency_us": 1_000, "first_token_us": None}
    return {
        "target": target,
        "outcome": outcome,
        "error_class": error_class,
        "status": None,
    } | times


async def ended(client: Client, provider: str, at_us: int, cost: int | None, **fields: Any) -> None:
    request_id = uuid7()
    named = {"provider": provider, "model": "m", "target": f"{provider}/m", "occurred_at_us": at_us}
    fields = {"outcome": "success", "attempts": [attempt(f"{provider}/m", None)]} | fields
    tokens = {"input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 5}
    response = event(
        "weir.llm.response.completed",
        request_id=request_id,
        latency_us=2_000,
        **named,
        **tokens,
        **fields,
    )
    await client.log.publish(response)
    for entry, amount in (("admitted", 999), ("settled", cost)):
        if amount is None:
            continue
        last = settled(request_id, entry=entry, cost_nano_usd=amount, **named)
        await client.log.publish(last)
        await client.until_known("costs", last.event_id)
    await client.until_known("responses", response.event_id)


@pytest.mark.req("GW-06")
async def test_usage_by_provider_model_and_period(client: Client) -> None:
    one, two = f"one-{uuid7()}", f"two-{uuid7()}"
    await ended(client, one, NOON_US - DAY_US, 100)
    await ended(client, one, NOON_US, 300)
    await ended(client, one, NOON_US + DAY_US, 0, outcome="failed")
    refused = [attempt(f"{one}/m", "rate_limit"), attempt(f"{two}/m", None)]
    await ended(client, two, NOON_US + DAY_US, 100, attempts=refused)

    found = await client.get(f"/commercial/usage?{SPAN}&provider={one}")
    total = found["total"]
    assert (total["requests"], total["errors"], total["error_rate"]) == (2, 1, 0.5)
    assert (total["input_tokens"], total["cached_input_tokens"]) == (20, 8)
    assert (total["output_tokens"], total["limit_waits"]) == (10, 1)
    assert (total["cost_usd"], total["latency_p50_ms"]) == ("0.0000003", 2.0)
    days = [(row["period"], row["provider"], row["model"]) for row in found["usage"]]
    assert days == [(f"2024-05-{day}T00:00:00Z", one, "m") for day in (20, 21)]
    assert [row["requests"] for row in found["trend"]["periods"]] == [1, 1]
    assert found["trend"]["before"]["requests"] == 1
    assert (found["trend"]["requests_change"], found["trend"]["cost_change"]) == (1.0, 2.0)

    # The log of the tests is shared: others may have ended there too.
    both = await client.get(f"/api/v1/commercial/usage?{SPAN}&period=month&model=m")
    rows = {row["provider"]: row for row in both["providers"]}
    assert rows[one]["cost_per_request_usd"] == "0.00000015"
    assert rows[two]["cost_per_request_usd"] == "0.0000001"
    assert rows[two]["limit_waits"] == 0
    assert rows[one]["cost_share"] == pytest.approx(3 * rows[two]["cost_share"], rel=1e-3)
    assert 0 < rows[two]["request_share"] < rows[one]["request_share"] <= 1


@pytest.mark.req("GW-06", "GEN-05")
async def test_a_span_without_calls_and_spans_that_cannot_be(client: Client) -> None:
    empty = await client.get("/commercial/usage?until=2001-01-01T00:00:00Z&period=hour")
    assert empty["since"] == "2000-12-02T00:00:00Z"
    assert (empty["total"]["requests"], empty["total"]["cost_usd"]) == (0, "0")
    assert empty["usage"] == empty["providers"] == empty["trend"]["periods"] == []
    assert empty["trend"]["requests_change"] is None
    for query in (
        "since=2024-05-20T00:00:00&until=2024-05-19T00:00:00",
        "since=2020-01-01T00:00:00&until=2024-01-01T00:00:00&period=hour",
    ):
        wrong = await client.get(f"/commercial/usage?{query}", 400)
        assert wrong["error"]["code"] == "invalid_request"
        assert wrong["error"]["action"]
    await client.get("/commercial/usage?period=year", 422)
    for moment in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-05:00"):  # no span ends there
        await client.get(f"/commercial/usage?since={moment}", 422)
        await client.get(f"/commercial/usage?until={moment}", 422)


@pytest.mark.req("GW-06", "GEN-05")
async def test_what_calls_cost_is_unknown_until_the_ledger_says_it(client: Client) -> None:
    name, span = f"new-{uuid7()}", "since=2024-06-01T00:00:00&until=2024-06-02T00:00:00"
    june_us = NOON_US + 12 * DAY_US
    await ended(client, name, june_us, None)
    found = await client.get(f"/commercial/usage?{span}&provider={name}")
    assert (found["total"]["requests"], found["total"]["cost_usd"]) == (1, None)
    [row] = found["providers"]
    assert (row["cost_usd"], row["cost_per_request_usd"], row["cost_share"]) == (None, None, 0.0)
    assert found["trend"]["cost_change"] is None
    await ended(client, name, june_us, 300)
    found = await client.get(f"/commercial/usage?{span}&provider={name}")
    assert (found["total"]["requests"], found["total"]["cost_usd"]) == (2, "0.0000003")
