"""The state of the whole and what people may do about it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.events.changes import (
    BudgetChanged,
    PriceChanged,
    ProviderChanged,
    TargetChanged,
)
from schemas.events.circuits import CircuitChanged
from schemas.events.escrow import BudgetTerms, EscrowDay, EscrowRow
from schemas.events.operations import AlertChanged
from schemas.events.optimizer import (
    OptimizationRequested,
    OptimizerActed,
    OptimizerRuleChanged,
)
from schemas.events.savings import SavingsDay, SavingsRow
from schemas.events.training import TriggerFired
from streams.agents.performance import RECENT_S
from tests.infra.steered import META, NOW, NOW_S, Place


@pytest.mark.req("ANA-13")
def test_the_whole_is_healthy_degraded_or_unhealthy() -> None:
    place = Place()
    place.called("a/m", 60, 0)
    place.called("b/m", 40, 0)
    place.called("b/m", 100, 0, hours_ago=5)
    body = place.health()
    assert (body["status"], body["reasons"], body["success_rate"]) == ("healthy", [], 1.0)
    assert body["refresh_seconds"] == 30
    assert body["total_cost_usd"] == "2"
    assert body["average_latency_ms"] == 200.0
    a, b = body["providers"]
    assert (a["name"], a["status"], a["tasks"], a["share"]) == ("a", "healthy", 60, 0.3)
    assert (b["tasks"], b["cost_usd"], b["circuit"]) == (140, "1.4", "closed")
    place.called("b/m", 40, 20)
    assert place.health()["status"] == "degraded"
    place.called("a/m", 60, 50)
    assert place.health()["status"] == "unhealthy"


@pytest.mark.req("ANA-13")
def test_one_call_that_failed_makes_nothing_unhealthy() -> None:
    place = Place()
    place.called("a/m", 1, 1)
    body = place.health()
    assert (body["status"], body["success_rate"]) == ("healthy", 0.0)


@pytest.mark.req("ANA-13", "RT-08")
def test_a_provider_that_fails_is_told_though_callers_were_answered_by_another() -> None:
    place = Place()
    place.called("a/m", 100, 0)
    place.told_of("b/m", 40, 40, RECENT_S, NOW_S // RECENT_S * RECENT_S - RECENT_S)
    body = place.health()
    assert (body["status"], body["success_rate"]) == ("degraded", 1.0)
    assert body["reasons"] == ["b is unhealthy"]
    assert [one["id"] for one in body["recommendations"]] == ["provider:b"]


@pytest.mark.req("ANA-13", "RT-09")
def test_changes_in_force_and_their_rules_are_told() -> None:
    place = Place()
    place.acted("active", before=0.12, after=0.05)
    body = place.health()
    assert body["rules"] == [
        {"rule": "cost", "mode": "on", "targets": []},
        {"rule": "error_rate", "mode": "propose", "targets": ["a/m"]},
    ]
    (act,) = body["optimization"]["active"]
    assert (act["target"], act["keeps"], act["before"]) == ("a/m", 0.5, 0.12)
    page = place.client.get("/routing/optimizer").json()
    assert (page["total"], page["items"][0]["reason"]) == (1, act["reason"])


@pytest.mark.req("ANA-15")
def test_what_acts_by_itself_tells_its_gain() -> None:
    place = Place()
    place.acted("active", before=0.12, after=0.06, verdict="helped")
    body = place.client.get("/api/phase3/status").json()
    assert body["optimizer"]["running"] is True
    assert body["optimizer"]["active_rules"] == ["cost", "error_rate"]
    assert body["optimizer"]["changes"] == {"active": 1}
    assert body["optimizer"]["gain"] == {"error_rate": 0.5}
    assert body["monitoring"] == {"streams_alive": True, "alerts": 0, "lag": 0}
    assert body["cost"]["month"] is None  # nothing that is listed has a price


@pytest.mark.req("ANA-15", "COST-17")
def test_what_acts_by_itself_tells_what_the_month_has_saved() -> None:
    place = Place()
    rows, prices, _, targets = place.savings.views
    targets.entries["a/m"] = TargetChanged(
        **META, entity_version=1, actor="x", provider="a", model="m", capabilities=["chat"]
    )
    prices.entries["a/m@0"] = PriceChanged(
        **META,
        entity_version=1,
        actor="x",
        provider="a",
        model="m",
        valid_from_us=0,
        input_price=10**9,
        output_price=10**9,
        price_version="1",
        source="test",
    )
    rows.entries["r"] = SavingsRow(
        **META,
        entity="routing|auto|b/m",
        partition=0,
        offset=1,
        days=[SavingsDay(NOW_S // 86_400 * 86_400, 1, 10**8, 0, 0, 0, 10**6, 0, 0, 0)],
    )
    month = place.client.get("/api/phase3/status").json()["cost"]["month"]
    assert (month["baseline"], month["saved"], month["percent"]) == ("1", "0.9", 90.0)


@pytest.mark.req("ANA-14")
def test_rules_are_turned_off_and_on_and_asked_to_look() -> None:
    place = Place()
    assert place.act("disable_rule", 200, rule="cost")["result"]["mode"] == "off"
    assert place.health()["rules"][0] == {"rule": "cost", "mode": "off", "targets": []}
    assert place.act("enable_rule", 200, rule="cost", mode="propose")["status"] == "done"
    found = [it for it in place.log.events if isinstance(it, OptimizerRuleChanged)]
    assert [(it.mode, it.entity_version) for it in found] == [("off", 1), ("propose", 2)]
    place.act("run_optimization", 202)
    assert isinstance(place.log.events[-1], OptimizationRequested)
    assert ("operator", "optimizer.off", "optimizer:cost") in place.audit.told
    assert place.act("enable_rule", 404, rule="none")["error"]["code"] == "not_found"
    assert "mode" in place.act("enable_rule", 422, rule="cost", mode="x")["error"]["details"][0]


@pytest.mark.req("ANA-14")
def test_circuits_providers_budgets_training_and_alerts() -> None:
    place = Place()
    place.act("reset_circuit", 409, target="a/m")
    opened = CircuitChanged(
        **META,
        target="a/m",
        provider="a",
        model="m",
        state="open",
        number=3,
        since_us=NOW,
        openings=1,
        opened_at_us=NOW,
        next_probe_at_us=NOW + 1,
        failure_count=5,
        success_count=0,
        last_failure_at_us=NOW,
        reason="5 failures in a row",
    )
    place.log.tell(opened)
    place.act("reset_circuit", 202, target="a/m")
    closed = place.log.events[-1]
    assert isinstance(closed, CircuitChanged)
    assert (closed.state, closed.number, closed.actor) == ("closed", 4, "operator")
    place.act("set_provider_enabled", 200, provider="a", enabled=False)
    off = place.log.events[-1]
    assert isinstance(off, ProviderChanged)
    assert (off.enabled, off.base_url, off.entity_version) == (False, "http://x", 2)
    budget = BudgetChanged(
        **META, entity_version=1, actor="x", budget_id="b1", scope="global", daily_limit_nano_usd=1
    )
    place.log.tell(budget)
    place.act("update_budget", 200, budget_id="b1", daily_limit_usd="5")
    raised = place.log.events[-1]
    assert isinstance(raised, BudgetChanged)
    assert raised.daily_limit_nano_usd == 5 * 10**9
    place.act("trigger_fine_tuning", 202)
    assert isinstance(place.log.events[-1], TriggerFired)
    alert = AlertChanged(
        **META,
        alert_id="x",
        alert_type="t",
        severity="error",
        scope="s",
        status="open",
        message="it burns",
    )
    place.log.tell(alert)
    assert place.health()["alerts"][0]["message"] == "it burns"
    place.act("acknowledge_alert", alert_id="x")
    known = place.alerts.get("x")
    assert known is not None
    assert known.status == "acknowledged"


@pytest.mark.req("ANA-14", "GW-16")
def test_what_cannot_be_done_is_said() -> None:
    place = Place()
    assert "update_budget" in place.act("dance", 422)["error"]["details"][0]
    assert "params.target" in place.act("reset_circuit", 422)["error"]["details"][0]
    assert place.log.events == []


@pytest.mark.req("ANA-12")
def test_insights_are_ranked_and_applied() -> None:
    place = Place()
    place.acted("proposed", before=0.12)
    place.called("a/m", 100, 0)
    place.called("b/m", 100, 60)
    body = place.client.get("/admin/analytics/insights").json()
    assert [(one["id"], one["effect"]) for one in body["items"]] == [
        ("provider:b", 0.3),
        ("proposal:a/m", 0.2),
    ]
    answer = place.client.post("/admin/analytics/insights/proposal:a/m/apply")
    assert answer.status_code == 202
    applied = place.log.events[-1]
    assert isinstance(applied, OptimizerActed)
    assert (applied.state, applied.actor, applied.number) == ("active", "operator", 2)
    assert place.audit.told[-1][1] == "optimizer.apply"
    assert place.client.post("/admin/analytics/insights/none/apply").status_code == 404


@pytest.mark.req("ANA-12")
def test_a_budget_that_is_too_small_is_proposed_with_room_over_what_was_spent() -> None:
    place = Place()
    spent = 3 * 10**9
    limits: dict[str, Any] = {
        "daily_limit_nano_usd": 2 * 10**9,
        "total_limit_nano_usd": 100 * 10**9,
    }
    budget = BudgetChanged(
        **META, entity_version=1, actor="x", budget_id="b1", scope="global", **limits
    )
    day = datetime.fromtimestamp(NOW_S, UTC).strftime("%Y-%m-%d")
    row = EscrowRow(
        **META,
        entity="b1",
        partition=0,
        offset=1,
        terms=BudgetTerms(1, 2 * 10**9, None, 100 * 10**9, 800_000),
        days=[EscrowDay(day, spent, spent, 0, [])],
        months={},
        before_nano_usd=0,
        alerts=[],
        turn=1,
    )
    place.log.tell(budget)
    place.log.tell(row)
    (insight,) = place.health()["recommendations"]
    assert (insight["id"], insight["effect"]) == ("budget:b1", 1.0)
    assert insight["params"] == {"budget_id": "b1", "daily_limit_usd": "3.6"}
    place.client.post("/admin/analytics/insights/budget:b1/apply")
    raised = place.log.events[-1]
    assert isinstance(raised, BudgetChanged)
    assert raised.daily_limit_nano_usd == 3_600_000_000
    assert raised.total_limit_nano_usd == 100 * 10**9
