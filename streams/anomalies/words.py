"""An anomaly in words: how bad it is, what happened, and the alert that tells of it."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.events.operations import AlertChanged, AnomalyChanged, AnomalyDriver
from streams.decider import decision_id

_COST, _PRICE = "cost_nano_usd", "price"


def severity_of(metric: str, kind: str, score: float, expected: float, actual: float) -> str:
    """Return the severity: by what it does to callers and to the bill, then by how sure it is."""
    if kind == "new_value":
        return "info"
    if metric == "failure_rate" and actual >= 0.5:
        return "critical"
    if metric == _COST and actual >= 10 * max(expected, 1.0):
        return "critical"
    return "error" if abs(score) >= 15 else "warning"


def explained(
    metric: str,
    dimension: str,
    kind: str,
    expected: float,
    actual: float,
    made: Sequence[AnomalyDriver],
) -> str:
    """Return a sentence that says what happened and who made the difference."""
    where = "in total" if dimension == "total:" else f"of {dimension}"
    if kind == "new_value":
        return f"{dimension} was never seen before and made {_said(metric, actual)}"
    happened = (
        f"{_NAMES[metric]} {where}: {_said(metric, actual)} instead of {_said(metric, expected)}"
    )
    if not made:
        return happened + ("" if kind == "trend" else "; no one alone made the difference")
    driver = made[0]
    who = f"{driver.dimension} {driver.name}"
    return (
        f"{happened}; {who} made {driver.contribution:.0%} of the change: "
        f"{_said(metric, driver.actual)} instead of {_said(metric, driver.expected)}, "
        f"a share of {driver.share_after:.0%} after {driver.share_before:.0%}"
    )


_NAMES = {
    "calls": "calls",
    _COST: "cost",
    "tokens": "tokens",
    "failure_rate": "failures",
    "latency_us": "latency",
    _PRICE: "price",
}


def _said(metric: str, value: float) -> str:
    if metric == _COST:
        return f"{value / 1e9:.4g} USD a minute"
    if metric == _PRICE:
        return f"{value / 1e9:.4g} USD a million tokens"
    if metric == "failure_rate":
        return f"{value:.1%} of calls"
    if metric == "latency_us":
        return f"{value / 1e3:,.0f} ms"
    return f"{value:,.0f} {metric} a minute"


def alert_of(change: AnomalyChanged) -> AlertChanged:
    """Return the alert (OPS-01) that goes with a change of an anomaly."""
    return AlertChanged(
        event_id=decision_id("anomaly-alert", change.event_id),
        occurred_at_us=change.occurred_at_us,
        alert_id=f"anomaly:{change.anomaly_id}",
        alert_type="cost_anomaly" if change.metric in (_COST, _PRICE) else "metric_anomaly",
        severity=change.severity,
        scope=change.dimension,
        status="open" if change.status == "open" else "resolved",
        message=change.explanation,
        value=change.actual,
        threshold=change.expected,
        opened_at_us=change.found_at_us,
        resolved_at_us=change.ended_at_us,
        details={"anomaly_id": change.anomaly_id, "kind": change.kind, "event": change.event_id},
    )
