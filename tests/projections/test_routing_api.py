"""What routing decided, read from the log."""

import pytest

from schemas.identity import uuid7
from tests.projections.records import admitted
from tests.projections.test_api import Client, client

__all__ = ["client"]


@pytest.mark.req("RT-16")
async def test_decisions_newest_first_with_filters_and_every_candidate(client: Client) -> None:
    route = f"r-{uuid7()}"
    first, second = uuid7(), uuid7()
    for number, request_id in enumerate((first, second)):
        await client.log.publish(
            admitted(
                request_id,
                event_id=f"{request_id}-e",
                occurred_at_us=1_700_000_000_000_000 + number,
                route=route,
                strategy="task_type",
                task_type="code",
                task_confidence=0.75,
                complexity="complex",
                reason="utility 0.900",
                decision_us=250,
            )
        )
        await client.until_known("requests", f"{request_id}-e")
    page = await client.get(f"/routing/decisions?route={route}&limit=1")
    assert page["total"] == 2
    [latest] = page["decisions"]
    assert latest["request_id"] == second
    assert latest["reason"] == "utility 0.900"
    assert latest["task_confidence"] == 0.75
    assert latest["complexity"] == "complex"
    assert latest["decision_ms"] == 0.25
    assert latest["candidates"]
    assert latest["decided_at"].endswith("Z")
    assert latest["attempts"] == []
    assert latest["fallback_used"] is False
    rest = await client.get(f"/api/v1/routing/decisions?route={route}&offset=1")
    assert [row["request_id"] for row in rest["decisions"]] == [first]
    one = await client.get(f"/routing/decisions?request_id={first}")
    assert one["total"] == 1
    none = await client.get(f"/routing/decisions?route={route}&strategy=failover")
    assert none["decisions"] == []
    wrong = await client.get("/routing/decisions?limit=0", 422)
    assert wrong["error"]["code"] == "validation_failed"
