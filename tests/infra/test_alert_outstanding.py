"""Who is still to be told of what."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from infra.alerting.outstanding import DELIVERY, DeliverySettings, Notification, Outstanding, wants
from schemas.events.alerts import AlertChannelChanged
from schemas.events.operations import AlertChanged
from schemas.identity import uuid7

S = 1_000_000
pytestmark = pytest.mark.req("OPS-01")


def channel(
    name: str = "hook", at_s: int = 0, version: int = 1, **told: Any
) -> AlertChannelChanged:
    fields: dict[str, Any] = {"name": name, "kind": "webhook", "url": "http://x/"}
    return AlertChannelChanged(
        event_id=uuid7(),
        occurred_at_us=at_s * S,
        entity_version=version,
        actor="test",
        **fields | told,
    )


def alert(alert_id: str, status: str, at_s: int, **told: Any) -> AlertChanged:
    fields: dict[str, Any] = {
        "alert_type": "lag",
        "severity": "error",
        "scope": "fold:spend",
        "message": "behind",
    }
    return AlertChanged(
        event_id=f"{alert_id}|{status}|{at_s}",
        occurred_at_us=at_s * S,
        alert_id=alert_id,
        status=status,
        **fields | told,
    )


def due(outstanding: Outstanding, at_s: float) -> list[Notification]:
    outstanding.settle(int(at_s * S))
    return [notification for _, notification in outstanding.due(int(at_s * S))]


def test_each_change_is_told_once_and_in_order() -> None:
    outstanding = Outstanding(DELIVERY)
    for event in (
        channel(),
        alert("a", "open", 1),
        alert("a", "open", 2),
        alert("a", "resolved", 3),
    ):
        outstanding.apply(event)
    (first,) = due(outstanding, 4)
    assert first.alert.status == "open"
    outstanding.apply(outstanding.result(first, None, 4 * S, 4 * S))
    (second,) = due(outstanding, 5)
    assert second.alert.status == "resolved"
    assert second.notification_id != first.notification_id
    outstanding.apply(outstanding.result(second, None, 5 * S, 5 * S))
    assert due(outstanding, 6) == []
    assert outstanding.waiting == {}


def test_a_failure_is_repeated_later_and_later_with_the_same_id_and_holds_back_only_its_alert() -> (
    None
):
    outstanding = Outstanding(DeliverySettings(retry_first_s=2, retry_max_s=5))
    for event in (
        channel(),
        alert("a", "open", 1),
        alert("a", "resolved", 2),
        alert("b", "open", 3),
    ):
        outstanding.apply(event)
    (first,) = due(outstanding, 4)
    failed = outstanding.result(first, "refused", 4 * S, 4 * S)
    assert (failed.outcome, failed.attempt) == ("failed", 1)
    assert 4 * S < (failed.next_attempt_at_us or 0) <= 6 * S
    outstanding.apply(failed)
    (other,) = due(outstanding, 4)
    assert other.alert.alert_id == "b"
    outstanding.apply(outstanding.result(other, None, 4 * S, 4 * S))
    assert due(outstanding, 4.5) == []
    (again,) = due(outstanding, 6)
    assert (again.notification_id, again.attempts) == (first.notification_id, 1)
    pauses = [outstanding.pause_s(attempt) for attempt in range(1, 9)]
    assert all(pause <= 5 for pause in pauses)
    assert pauses[0] < 2 < pauses[-1] + 3


def test_a_restart_goes_on_where_the_last_one_was_whatever_comes_first() -> None:
    settings = DeliverySettings()
    first = Outstanding(settings)
    facts = [channel(), channel("chat"), alert("a", "open", 1), alert("b", "open", 2)]
    for event in facts:
        first.apply(event)
    for _, notification in list(_all(first, 3)):
        if notification.channel == "hook":
            done = notification.alert.alert_id == "a"
            facts.append(first.result(notification, None if done else "refused", 3 * S, 3 * S))
    for order in (facts, facts[::-1]):
        again = Outstanding(settings)
        # Topics are read side by side: a delivery may be read before what it delivered.
        for event in sorted(order, key=lambda it: isinstance(it, AlertChannelChanged)):
            again.apply(event)
        told = {(n.channel, n.alert.alert_id, n.attempts) for _, n in _all(again, 100)}
        assert told == {("hook", "b", 1), ("chat", "a", 0), ("chat", "b", 0)}


def _all(outstanding: Outstanding, at_s: int) -> list[tuple[AlertChannelChanged, Notification]]:
    outstanding.settle(at_s * S)
    return [
        (outstanding._channels[name].current, notification)
        for name, waiting in outstanding._waiting.items()
        for notification in waiting.values()
    ]


def test_a_channel_hears_nothing_of_before_it_was_set_up() -> None:
    outstanding = Outstanding(DELIVERY)
    outstanding.apply(alert("a", "open", 1))
    outstanding.apply(channel(at_s=5))
    outstanding.apply(alert("b", "open", 6))
    assert [it.alert.alert_id for it in due(outstanding, 7)] == ["b"]


def test_what_waits_goes_to_the_channels_new_address() -> None:
    outstanding = Outstanding(DELIVERY)
    outstanding.apply(channel())
    outstanding.apply(alert("a", "open", 1))
    outstanding.settle(2 * S)
    outstanding.apply(channel(at_s=3, version=2, url="http://y/"))
    ((where, _),) = outstanding.due(4 * S)
    assert where.url == "http://y/"


@pytest.mark.parametrize("change", [{"deleted": True}, {"enabled": False}])
def test_what_nobody_wants_any_more_is_given_up(change: dict[str, Any]) -> None:
    outstanding = Outstanding(DELIVERY)
    outstanding.apply(channel())
    outstanding.apply(alert("a", "open", 1))
    outstanding.settle(2 * S)
    outstanding.apply(channel(at_s=3, version=2, **change))
    assert due(outstanding, 4) == []
    ((notification, why),) = outstanding.unwanted()
    event = outstanding.abandoned(notification, why, 4 * S)
    assert event.outcome == "abandoned"
    outstanding.apply(event)
    assert outstanding.unwanted() == []


def test_it_gives_up_after_a_time_and_after_so_many_attempts() -> None:
    for settings in (DeliverySettings(give_up_s=10), DeliverySettings(attempts_max=3)):
        outstanding = Outstanding(settings)
        outstanding.apply(channel())
        outstanding.apply(alert("a", "open", 1))
        at_s, outcomes = 2.0, []
        while found := due(outstanding, at_s):
            event = outstanding.result(found[0], "refused", int(at_s * S), int(at_s * S))
            outstanding.apply(event)
            outcomes.append(event.outcome)
            at_s += 20
        assert outcomes[-1] == "abandoned"
        assert len(outcomes) <= 3


def test_only_so_many_wait() -> None:
    outstanding = Outstanding(DELIVERY)
    outstanding.apply(channel())
    for number in range(1_005):
        outstanding.apply(alert(f"a{number}", "open", 1))
    outstanding.settle(2 * S)
    assert outstanding.waiting == {"hook": 1_000}
    assert len(outstanding.unwanted()) == 5


def test_a_channel_takes_what_it_wants() -> None:
    opened, over = alert("a", "open", 1), alert("a", "resolved", 2)
    assert wants(channel(), opened)
    assert not wants(channel(severity="critical"), opened)
    assert wants(channel(alert_types=["budget_*", "la*"]), opened)
    assert not wants(channel(alert_types=["budget_*"]), opened)
    assert not wants(channel(resolved=False), over)
    named = msgspec.structs.replace(opened, channels=["other"])
    assert not wants(channel(), named)
    assert wants(channel("other"), named)


def test_an_alert_whose_channels_do_not_exist_is_told_to_all() -> None:
    outstanding = Outstanding(DELIVERY)
    for event in (
        channel("hook"),
        channel("chat"),
        alert("a", "open", 1, channels=["chat", "gone"]),
        alert("b", "open", 2, channels=["misspelt"]),
    ):
        outstanding.apply(event)
    found = [(it.channel, it.alert.alert_id) for it in due(outstanding, 3)]
    assert sorted(found) == [("chat", "a"), ("hook", "b")]
    assert outstanding.waiting == {"hook": 1, "chat": 2}
