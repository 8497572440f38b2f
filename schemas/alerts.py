"""What becomes of an alert: each event that arrives, and the state that it leaves (OPS-01).

The log holds what was raised, control and deciders hold the state; both use this one rule, so an alert
that is raised twice is one alert for everybody.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from schemas.events.operations import AlertChanged

OPEN = "open"
ACKNOWLEDGED = "acknowledged"
RESOLVED = "resolved"
SEVERITIES = ("info", "warning", "error", "critical")
"""From the lightest to the worst."""


def followed(current: AlertChanged | None, event: AlertChanged) -> AlertChanged | None:
    """Return an alert's whole state after an event, None where the event changes nothing.

    `current` is the state before. What is not open can be neither acknowledged nor resolved.
    """
    stands = current is not None and current.status != RESOLVED
    if event.status == OPEN:
        if current is None or not stands:
            opened = event.opened_at_us or event.occurred_at_us
            return msgspec.structs.replace(event, opened_at_us=opened)
        return msgspec.structs.replace(
            event,
            status=current.status,
            opened_at_us=current.opened_at_us,
            acknowledged_at_us=current.acknowledged_at_us,
            acknowledged_by=current.acknowledged_by,
        )
    if current is None or not stands:
        return None
    if event.status == ACKNOWLEDGED:
        return msgspec.structs.replace(
            current,
            event_id=event.event_id,
            occurred_at_us=event.occurred_at_us,
            status=ACKNOWLEDGED,
            acknowledged_at_us=event.acknowledged_at_us or event.occurred_at_us,
            acknowledged_by=event.acknowledged_by,
        )
    return msgspec.structs.replace(
        current,
        event_id=event.event_id,
        occurred_at_us=event.occurred_at_us,
        status=RESOLVED,
        message=event.message,
        resolved_at_us=event.resolved_at_us or event.occurred_at_us,
        resolved_by=event.resolved_by,
        number=max(current.number, event.number),
    )


def retold(state: AlertChanged) -> Iterator[AlertChanged]:
    """Yield the fewest events that `followed` makes this state of, from nothing."""
    yield msgspec.structs.replace(state, status=OPEN)
    if state.status != OPEN:
        yield state


def is_news(before: AlertChanged | None, after: AlertChanged) -> bool:
    """Whether people are to be told: it opened, got worse, or is over. An acknowledgement is not."""
    if before is None or before.status == RESOLVED or after.status == RESOLVED:
        return True
    return rank(after.severity) > rank(before.severity)


def rank(severity: str) -> int:
    """Return how bad a severity is; a word from a later version counts as the worst."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
