"""COST-04: rules raise one alert per crossing and owner, and end it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.events.alerts import AlertRuleChanged
from schemas.events.llm import CostEntry, ResponseCompleted
from schemas.events.operations import AlertChanged
from schemas.events.tables import SpendRow, SpendWindow
from schemas.events.traffic import TrafficRow
from schemas.money import NANO_USD
from schemas.publish import sample
from schemas.traffic import FINE, row_name, slot_of
from streams.agents.alert_rules import ALERT_RULES, RuleLedger
from streams.agents.spend import SPEND
from streams.agents.traffic import TRAFFIC
from tests.streams.harness import folded, records

S = 1_000_000
MINUTE = 1_790_000_040
"""The start of a minute, Unix s."""
pytestmark = pytest.mark.req("COST-04")


def rule(rule_id: str = "burns", version: int = 1, **told: Any) -> AlertRuleChanged:
    fields: dict[str, Any] = {
        "scope": "team",
        "scope_id": "search",
        "metric": "cost_usd",
        "comparator": "gt",
        "threshold": 5.0,
        "window": "5m",
    }
    return AlertRuleChanged(
        event_id="r",
        occurred_at_us=0,
        entity_version=version,
        actor="test",
        rule_id=rule_id,
        **fields | told,
    )


def spent(entity: str, usd: float, offset: int = 0, partition: int = 0, at: int = 0) -> SpendRow:
    cost = round(usd * NANO_USD)
    return SpendRow(
        event_id="s",
        occurred_at_us=0,
        entity=entity,
        partition=partition,
        offset=offset,
        windows=[
            SpendWindow("minute", MINUTE + at, 1, cost, 0, 10, 20),
            SpendWindow("day", MINUTE // 86_400 * 86_400, 1, cost, 0, 10, 20),
        ],
    )


def looked(ledger: RuleLedger, at_s: float, *, read_back: bool = True) -> list[AlertChanged]:
    due = [event for event in ledger.due(int(at_s * S)) if isinstance(event, AlertChanged)]
    for event in due if read_back else ():
        ledger.apply(event)
        assert ledger.knows(event)
    return due


def test_a_crossing_is_told_once_over_all_partitions_and_ended() -> None:
    ledger = RuleLedger()
    ledger.apply(rule())
    ledger.apply(spent("team:search", 3, partition=0))
    assert looked(ledger, MINUTE + 1) == []
    ledger.apply(spent("team:search", 2.5, partition=1))
    ledger.apply(spent("team:other", 100))
    (alert,) = looked(ledger, MINUTE + 3)
    assert (alert.alert_id, alert.status) == ("rule:burns:team:search", "open")
    assert (alert.value, alert.threshold, alert.rule_id) == (5.5, 5.0, "burns")
    assert alert.message == "burns: team search: 5.5 USD in 5m, more than 5"
    ledger.apply(spent("team:search", 4.0, offset=1, partition=1))
    assert looked(ledger, MINUTE + 5) == []
    assert looked(ledger, MINUTE + 359) == []
    (over,) = looked(ledger, MINUTE + 361)
    assert (over.status, over.number) == ("resolved", 2)
    assert over.event_id != alert.event_id


@pytest.mark.parametrize(
    ("comparator", "crossed", "trembling", "back"),
    [("gt", 5.5, (4.9, 5.1, 4.8), 4.7), ("lte", 4.5, (5.1, 4.9, 5.2), 5.3)],
)
def test_a_figure_that_trembles_at_the_threshold_is_told_once(
    comparator: str, crossed: float, trembling: tuple[float, ...], back: float
) -> None:
    ledger = RuleLedger()
    ledger.apply(rule(comparator=comparator, hysteresis=0.05))
    ledger.apply(spent("team:search", crossed))
    assert [it.status for it in looked(ledger, MINUTE + 1)] == ["open"]
    for number, usd in enumerate(trembling, 1):
        ledger.apply(spent("team:search", usd, offset=number))
        assert looked(ledger, MINUTE + 1 + 2 * number) == []
    ledger.apply(spent("team:search", back, offset=9))
    assert [it.status for it in looked(ledger, MINUTE + 21)] == ["resolved"]


def test_two_that_decide_at_once_make_the_same_event_and_an_unread_one_is_made_again() -> None:
    ledgers = [RuleLedger(), RuleLedger()]
    for ledger in ledgers:
        ledger.apply(rule())
        ledger.apply(spent("team:search", 6))
    (first,), (second,) = (looked(it, MINUTE + 1, read_back=False) for it in ledgers)
    assert first.event_id == second.event_id
    assert not ledgers[0].knows(first)
    (again,) = looked(ledgers[0], MINUTE + 3)
    assert again.event_id == first.event_id


def test_a_rule_without_an_owner_watches_each() -> None:
    ledger = RuleLedger()
    ledger.apply(rule(scope_id=None))
    for team, usd in (("a", 6), ("b", 1), ("c", 7)):
        ledger.apply(spent(f"team:{team}", usd))
    assert {it.scope for it in looked(ledger, MINUTE + 1)} == {"team:a", "team:c"}
    assert looked(ledger, MINUTE + 3) == []
    ledger.apply(spent("team:b", 9, offset=1))
    assert {it.scope for it in looked(ledger, MINUTE + 5)} == {"team:b"}


def test_a_provider_is_the_sum_of_its_targets() -> None:
    ledger = RuleLedger()
    ledger.apply(rule(scope="provider", scope_id="openai", window="day"))
    for target in ("openai/a", "openai/b", "other/c"):
        ledger.apply(spent(f"target:{target}", 3))
    (alert,) = looked(ledger, MINUTE + 1)
    assert alert.value == 6.0


def test_after_the_end_it_waits_for_the_cooldown() -> None:
    ledger = RuleLedger()
    ledger.apply(rule(cooldown_s=600))
    ledger.apply(spent("team:search", 6))
    assert len(looked(ledger, MINUTE + 1)) == 1
    assert len(looked(ledger, MINUTE + 400)) == 1
    ledger.apply(spent("team:search", 6, offset=1, at=420))
    assert looked(ledger, MINUTE + 430) == []
    ledger.apply(spent("team:search", 6, offset=2, at=960))
    assert [it.status for it in looked(ledger, MINUTE + 1_001)] == ["open"]


def test_what_was_ended_by_hand_is_raised_by_the_next_crossing_alone() -> None:
    ledger = RuleLedger()
    ledger.apply(rule())
    ledger.apply(spent("team:search", 6))
    (alert,) = looked(ledger, MINUTE + 1)
    by_hand = AlertChanged(
        event_id="h",
        occurred_at_us=(MINUTE + 2) * S,
        alert_id=alert.alert_id,
        alert_type=alert.alert_type,
        severity=alert.severity,
        scope=alert.scope,
        status="resolved",
        message=alert.message,
        resolved_by="ada",
        rule_id="burns",
        number=alert.number,
    )
    ledger.apply(by_hand)
    assert looked(ledger, MINUTE + 4) == []
    assert looked(ledger, MINUTE + 400) == []
    ledger.apply(spent("team:search", 6, offset=1, at=420))
    assert [it.status for it in looked(ledger, MINUTE + 430)] == ["open"]


@pytest.mark.parametrize(
    "change", [{"deleted": True}, {"enabled": False}, {"scope_id": "other"}, {"scope": "project"}]
)
def test_a_rule_that_watches_it_no_more_ends_what_it_raised(change: dict[str, Any]) -> None:
    ledger = RuleLedger()
    ledger.apply(rule())
    ledger.apply(spent("team:search", 6))
    assert len(looked(ledger, MINUTE + 1)) == 1
    ledger.apply(rule(version=2, **change))
    assert [it.status for it in looked(ledger, MINUTE + 3)] == ["resolved"]


def served(calls: int, failures: int, latency_us: int) -> TrafficRow:
    start_s = MINUTE - MINUTE % FINE.block_s
    bucket = (MINUTE - start_s) // FINE.bucket_s
    return TrafficRow(
        event_id="t",
        occurred_at_us=0,
        entity=row_name("user", FINE, slot_of("user", "ada"), MINUTE),
        partition=0,
        offset=0,
        members=["ada"],
        member=[0],
        bucket=[bucket],
        calls=[calls],
        failures=[failures],
        successes=[calls - failures],
        latency_us=[latency_us],
        cost_nano_usd=[2 * NANO_USD],
        input_tokens=[30],
        output_tokens=[12],
    )


@pytest.mark.parametrize(
    ("metric", "comparator", "threshold", "value"),
    [
        ("calls", "gte", 10, 10.0),
        ("failures", "gt", 3, 4.0),
        ("failure_rate", "gt", 0.3, 0.4),
        ("latency_ms", "gt", 100, 500.0),
        ("cost_usd", "gt", 1, 2.0),
        ("tokens", "lt", 50, 42.0),
    ],
)
def test_what_is_served_is_watched_too(
    metric: str, comparator: str, threshold: float, value: float
) -> None:
    ledger = RuleLedger()
    told = {"metric": metric, "comparator": comparator, "threshold": threshold, "window": "1m"}
    ledger.apply(rule(scope="user", scope_id="ada", **told))
    ledger.apply(served(10, 4, 3 * S))
    (alert,) = looked(ledger, MINUTE + 15)
    assert (alert.value, alert.alert_type) == (value, f"rule_{metric}")


def test_decisions_wait_until_rules_were_read() -> None:
    assert {topic.name for topic in ALERT_RULES.settled} == {"weir.alerts.changes.v1"}


@pytest.mark.parametrize("scope", ["cost_center", "organization", "user"])
@pytest.mark.parametrize("metric", ["cost_usd", "calls"])
def test_whoever_spends_too_much_in_a_day_is_told_of(scope: str, metric: str) -> None:
    day_s = MINUTE // 86_400 * 86_400
    names = {"cost_center": "cc", "organization": "acme", "user_id": "ada"}
    owner = {"cost_center": "cc", "organization": "acme", "user": "ada"}[scope]
    calls = [
        msgspec.structs.replace(
            sample(ResponseCompleted),
            occurred_at_us=(day_s + hour * 3_600) * S,
            cost_nano_usd=2 * NANO_USD,
            **names,
        )
        for hour in (-1, 1, 9, 17)
    ]
    lines = [
        msgspec.structs.replace(
            sample(CostEntry),
            occurred_at_us=call.occurred_at_us,
            entry="settled",
            cost_nano_usd=call.cost_nano_usd,
            **names,
        )
        for call in calls
    ]

    def alerts(upto: int) -> list[tuple[str, float | None]]:
        ledger = RuleLedger()
        threshold = {"cost_usd": 5.0, "calls": 2.0}[metric]
        ledger.apply(
            rule(scope=scope, scope_id=None, metric=metric, window="day", threshold=threshold)
        )
        for fold, events in ((TRAFFIC, calls[:upto]), (SPEND, lines[:upto])):
            for row in folded(fold, [records(fold, events)]).rows.values():
                if isinstance(row, SpendRow | TrafficRow):
                    ledger.apply(row)
        return [(it.scope, it.value) for it in looked(ledger, day_s + 18 * 3_600)]

    assert alerts(3) == []  # the first was yesterday
    assert alerts(4) == [(f"{scope}:{owner}", {"cost_usd": 6.0, "calls": 3.0}[metric])]
