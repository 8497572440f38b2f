"""OPS-01: conditions become alerts, once each, and end by themselves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.event import Event
from schemas.events.changes import DeploymentChanged, KeyChanged, LimitChanged
from schemas.events.limits import LIMITS, LimitUsage, PaceUsage
from schemas.events.operations import AlertChanged, DeadLetter, Heartbeat, OutboxClosed
from schemas.events.optimizer import OptimizerActed, OptimizerRan
from schemas.events.training import StepCompleted, TriggerFired
from schemas.publish import sample
from streams.agents.alert_watch import WatchLedger

S, HOUR, DAY = 1_000_000, 3_600, 86_400
NOW = 1_790_000_000
pytestmark = pytest.mark.req("OPS-01")
HEAD: dict[str, Any] = {"event_id": "e", "occurred_at_us": NOW * S}
CHANGE: dict[str, Any] = {**HEAD, "entity_version": 1, "actor": "test"}


def looked(ledger: WatchLedger, after_s: float) -> list[tuple[str, str, str]]:
    """What is decided so long after now, read back at once."""
    due = [it for it in ledger.due(int((NOW + after_s) * S)) if isinstance(it, AlertChanged)]
    for event in due:
        ledger.apply(event)
        assert ledger.knows(event)
    return [(it.alert_id, it.severity, it.status) for it in due]


def step(status: str, name: str = "learn", run: str = "run-1", at_s: int = 0) -> StepCompleted:
    return StepCompleted(
        event_id="s",
        occurred_at_us=(NOW + at_s) * S,
        run_id=run,
        step=name,
        status=status,
        duration_us=1,
    )


KEY = KeyChanged(
    **CHANGE,
    key_id="k",
    name="search",
    secret_hash="h",
    scopes=["inference"],
    expires_at_us=(NOW + 3 * DAY) * S,
)
ROLLED_BACK = DeploymentChanged(
    **CHANGE,
    deployment_id="d",
    model_version_id="v2",
    model="own/m",
    provider="local",
    state="rolled_back",
)
TRIGGER = TriggerFired(
    event_id="run-2",
    occurred_at_us=NOW * S,
    trigger_id="all#1",
    scope="all",
    reason="feedback_threshold",
    count=500,
    threshold=500,
    since_us=0,
    until_us=1,
)
ACT = OptimizerActed(
    **HEAD,
    action_id="latency:a/m#1",
    rule="latency",
    target="a/m",
    reason="slow",
    metric="latency_us",
    state="active",
    expires_at_us=(NOW + HOUR) * S,
)
LETTER = DeadLetter(
    **HEAD,
    consumer="streams:spend",
    source_topic="weir.llm.costs.v1",
    source_partition=0,
    source_offset=7,
    error_code="corrupt_record",
    error="it is cut off",
)


@pytest.mark.parametrize(
    ("event", "end", "alert_id", "severity", "lasts_s"),
    [
        (step("completed"), None, "tuning:run-1", "info", DAY),
        (
            step("failed", "tune"),
            step("completed", run="run-9", at_s=60),
            "tuning:run-1",
            "error",
            0,
        ),
        (step("refused", "evaluate"), None, "tuning:run-1", "warning", DAY),
        (
            ROLLED_BACK,
            msgspec.structs.replace(ROLLED_BACK, deployment_id="d2", state="promoted"),
            "rollback:d",
            "error",
            0,
        ),
        (TRIGGER, step("completed", "collect", "run-2", 60), "feedback:all#1", "info", 0),
        (
            KEY,
            msgspec.structs.replace(KEY, entity_version=2, expires_at_us=(NOW + 8 * DAY) * S),
            "key_expiry:k",
            "warning",
            0,
        ),
        (
            KEY,
            msgspec.structs.replace(KEY, entity_version=2, revoked=True),
            "key_expiry:k",
            "warning",
            0,
        ),
        (
            ACT,
            msgspec.structs.replace(ACT, state="restored"),
            "optimizer:latency:a/m#1",
            "info",
            0,
        ),
        (ACT, None, "optimizer:latency:a/m#1", "info", HOUR),
        (LETTER, None, "dead_letters:streams:spend", "error", HOUR),
    ],
)
def test_each_kind_is_raised_once_and_ends_by_itself(
    event: Event, end: Event | None, alert_id: str, severity: str, lasts_s: int
) -> None:
    ledger = WatchLedger()
    assert looked(ledger, 0) == []
    ledger.apply(event)
    assert looked(ledger, 2) == [(alert_id, severity, "open")]
    ledger.apply(event)
    assert looked(ledger, 4) == []
    if end is not None:
        ledger.apply(end)
    over = looked(ledger, 10 + lasts_s)
    assert (alert_id, severity, "resolved") in over
    assert looked(ledger, 12 + lasts_s) == []


def usage(requests: int, at_s: int = 0, node: str = "w1") -> LimitUsage:
    slot = str((NOW + at_s) // 5)
    return LimitUsage(
        event_id="u",
        occurred_at_us=(NOW + at_s) * S,
        node=node,
        paces=[PaceUsage("free|key k", {slot: requests}, {slot: 0}, 0, requests, {})],
    )


def test_a_limit_is_saturated_over_all_workers_until_it_is_calm() -> None:
    ledger = WatchLedger()
    ledger.apply(LimitChanged(**CHANGE, limit_id="free", scope="key", requests_per_minute=100))
    ledger.apply(usage(50))
    assert looked(ledger, 2) == []
    ledger.apply(usage(41, node="w2"))
    assert looked(ledger, 4) == [("limit:free|key k", "warning", "open")]
    ledger.apply(usage(30, node="w2"))
    assert looked(ledger, 6) == []  # 80 of 100: not calm yet
    ledger.removed(LIMITS.name, b"w2")
    assert looked(ledger, 8) == [("limit:free|key k", "warning", "resolved")]


def test_a_key_that_ends_is_worse_when_it_has_ended() -> None:
    ledger = WatchLedger()
    ledger.apply(KEY)
    assert looked(ledger, 2) == [("key_expiry:k", "warning", "open")]
    assert looked(ledger, 3 * DAY + 1) == [("key_expiry:k", "error", "open")]


def test_what_was_ended_by_hand_stays_so_while_it_holds() -> None:
    ledger = WatchLedger()
    ledger.apply(LETTER)
    (alert,) = [it for it in ledger.due(NOW * S) if isinstance(it, AlertChanged)]
    ledger.apply(alert)
    ledger.apply(msgspec.structs.replace(alert, status="resolved", resolved_by="ada"))
    assert looked(ledger, 10) == []
    assert looked(ledger, HOUR + 10) == []
    ledger.apply(msgspec.structs.replace(LETTER, occurred_at_us=(NOW + 2 * HOUR) * S))
    assert looked(ledger, 2 * HOUR + 1) == [("dead_letters:streams:spend", "error", "open")]


def test_alerts_of_a_worker_end_with_its_outbox() -> None:
    ledger = WatchLedger()
    told = AlertChanged(
        **HEAD,
        alert_id="broker_away:o1",
        alert_type="broker_away",
        severity="critical",
        scope="outbox:o1",
        status="open",
        message="away",
        details={"outbox_id": "o1"},
    )
    ledger.apply(told)
    assert looked(ledger, 2) == []
    ledger.apply(OutboxClosed(**HEAD, outbox_id="o1", records=1, abandoned=0))
    assert looked(ledger, 4) == [("broker_away:o1", "critical", "resolved")]
    assert looked(ledger, 6) == []


def beat(part: str, refused: int, at_s: int) -> Heartbeat:
    return Heartbeat(
        event_id="b",
        occurred_at_us=(NOW + at_s) * S,
        part=part,
        instance=f"{part}'s",
        started_at_us=0,
        refused=refused,
    )


def test_wrong_keys_count_over_workers_and_control_until_it_is_calm() -> None:
    ledger = WatchLedger()
    found = []
    for second in range(0, 200, 5):
        guesses = max(0, min(second, 60) - 30)  # one a second at each of three, for half a minute
        for part in ("gateway-0", "gateway-1", "control"):
            ledger.apply(beat(part, 1_000 + guesses, second))
        found += [(second, *it) for it in looked(ledger, second)]
    assert found == [
        (50, "keys_refused", "warning", "open"),
        (115, "keys_refused", "warning", "resolved"),
    ]


def test_an_instance_that_is_gone_takes_its_wrong_keys_along() -> None:
    ledger = WatchLedger()
    ledger.apply(beat("gateway-0", 0, 0))
    ledger.apply(beat("gateway-0", 500, 5))
    assert looked(ledger, 6) == [("keys_refused", "warning", "open")]
    assert looked(ledger, 80) == [("keys_refused", "warning", "resolved")]


def test_a_target_that_drifts_is_told_of_until_it_was_not_seen_to_for_a_while() -> None:
    ledger = WatchLedger()

    def ran(after_s: int, *drifting: str) -> None:
        told = dict.fromkeys(drifting, "the median is 900 ms, in seven days 400 ms")
        head = {"event_id": "e", "occurred_at_us": (NOW + after_s) * S}
        ledger.apply(OptimizerRan(**head, targets=1, acted=0, modes={}, drifting=told))

    ran(0)
    assert looked(ledger, 1) == []
    ran(30, "a/m")
    assert looked(ledger, 31) == [("drift:a/m", "warning", "open")]
    ran(60)
    ran(90, "a/m")
    assert looked(ledger, 600) == []
    ran(960)
    assert looked(ledger, 1_000) == [("drift:a/m", "warning", "resolved")]


def test_what_comes_again_after_it_was_forgotten_is_told_under_another_id() -> None:
    ledger = WatchLedger()
    ids = []
    for day in (0, 40):
        at_s = day * DAY
        ran = msgspec.structs.replace(
            sample(OptimizerRan), occurred_at_us=(NOW + at_s) * S, drifting={"a/m": "slow"}
        )
        ledger.apply(ran)
        for after_s in (0, 1_000, 1_002):
            for event in ledger.due((NOW + at_s + after_s) * S):
                ids.append(event.event_id)
                ledger.apply(event)
        ledger.due((NOW + at_s + 39 * DAY) * S)  # by then it is forgotten
        assert ledger._mine == {}
    assert len(ids) == 4
    assert len(set(ids)) == 4
