"""Budgets as they are read: exact, by window, with the status that the gateway acts on."""

from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from infra.budgets_api import BudgetBoard, budgets_router
from schemas.errors import NotFound
from schemas.event import Event
from schemas.events.changes import BudgetChanged
from schemas.events.escrow import BudgetTerms, EscrowDay, EscrowNode, EscrowRow

NOON = int(datetime(2026, 11, 15, 12, tzinfo=UTC).timestamp() * 1e6)
USD = 1_000_000_000


def budget(budget_id: str = "b", **fields: Any) -> BudgetChanged:
    fields = {"scope": "global", "daily_limit_nano_usd": 10 * USD, **fields}
    return BudgetChanged(
        event_id="e",
        occurred_at_us=NOON,
        entity_version=3,
        actor="a",
        budget_id=budget_id,
        **fields,
    )


def row(entity: str, *alerts: str, **spent: int) -> EscrowRow:
    """Spent by day of November, in nano-dollars; the newest has a node that holds as much again."""
    newest = max(spent)
    days = [
        EscrowDay(
            f"2026-11-{day[1:]}",
            amount,
            0 if day == newest else amount,
            0,
            [EscrowNode("n", 2 * amount, 0, amount, 0, 0, 1, 1)] if day == newest else [],
        )
        for day, amount in sorted(spent.items())
    ]
    return EscrowRow(
        event_id="e",
        occurred_at_us=NOON,
        entity=entity,
        partition=0,
        offset=1,
        terms=BudgetTerms(3, None, None, None, 800_000),
        days=days,
        months={},
        before_nano_usd=0,
        alerts=list(alerts),
        turn=1,
    )


def client(*events: Event) -> TestClient:
    board = BudgetBoard(lambda: NOON)
    for event in events:
        for view in board.views:
            if isinstance(event, view.event_type):
                view.entries[event.key] = event
    app = FastAPI()
    app.include_router(budgets_router(board))
    return TestClient(app)


@pytest.mark.req("COST-03")
def test_limit_spent_remaining_percent_projected_and_status() -> None:
    both = budget(monthly_limit_nano_usd=20 * USD)
    served = client(both, row("b", d14=3 * USD, d15=2_500_000_001))
    answer = served.get("/admin/cost/budgets/b").json()
    told = {name: answer[name] for name in ("limit", "spent", "remaining", "percent", "projected")}
    assert told == {
        "limit": "20",
        "spent": "5.500000001",
        "remaining": "14.499999999",
        "percent": 27.5,
        "projected": "11.379310347",
    }
    assert (answer["status"], answer["version"]) == ("ok", 3)
    daily, monthly = answer["owners"][0]["windows"]
    assert (daily["period"], daily["spent"], daily["held"]) == (
        "2026-11-15",
        "2.500000001",
        "2.500000001",
    )
    assert daily["projected"] == "5.000000002"
    assert daily["resets_at"] == "2026-11-16T00:00:00Z"
    assert monthly["resets_at"] == "2026-12-01T00:00:00Z"


@pytest.mark.req("COST-03")
@pytest.mark.parametrize(
    ("spent", "alerts", "status"),
    [
        (7 * USD, [], "ok"),
        (8 * USD, [], "warning"),
        (9_990_000_000, ["2026-11-15|exceeded"], "exceeded"),
        (10 * USD, [], "exceeded"),
    ],
)
def test_status(spent: int, alerts: list[str], status: str) -> None:
    served = client(budget(), row("b", *alerts, d15=spent))
    assert served.get("/api/v1/admin/cost/budgets").json()["items"][0]["status"] == status


@pytest.mark.req("COST-03")
def test_a_budget_for_each_tells_who_spent_most_first() -> None:
    each = budget("users", scope="user")
    served = client(each, row("users/ann", d15=USD), row("users/bob", d15=9 * USD), budget("z"))
    page = served.get("/admin/cost/budgets").json()
    assert [item["id"] for item in page["items"]] == ["users", "z"]
    users = page["items"][0]
    assert [owner["owner"] for owner in users["owners"]] == ["bob", "ann"]
    assert (users["spent"], users["status"]) == ("9", "warning")
    assert page["items"][1]["spent"] == "0"
    with pytest.raises(NotFound):
        BudgetBoard().find("nobody")
