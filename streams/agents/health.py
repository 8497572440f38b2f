"""Health per target, passive: from the attempts of real calls (BEY-09), never from probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.event import Event
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.events.tables import HealthBucket, HealthCursor, HealthRow
from schemas.histogram import bucket_of
from schemas.routing import BUCKET_SECONDS
from streams.attempts import CALLERS_OWN
from streams.fold import NOTHING, Fold
from streams.windows import Window, bucket

WINDOW = Window("health", keep=12, seconds=BUCKET_SECONDS)

WAIT_S = 0.2
"""Routing follows these rows."""

Contribution = tuple[int, Attempt]
"""The bucket, and an attempt that ended in it."""


@dataclass(slots=True)
class Bucket:
    """The changeable form of `HealthBucket`."""

    calls: int = 0
    failures: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latency: dict[str, int] = field(default_factory=dict)
    first_token: dict[str, int] = field(default_factory=dict)


State = dict[int, Bucket]


def split(event: ResponseCompleted) -> Iterator[tuple[str, Contribution]]:
    """Yield each attempt under its target."""
    index = WINDOW.index(event.occurred_at_us)
    for attempt in event.attempts:
        yield attempt.target, (index, attempt)


def apply(state: State, contribution: Contribution) -> Sequence[Event]:
    """Count one attempt."""
    index, attempt = contribution
    into = bucket(state, index, WINDOW.keep, Bucket)
    if into is None:
        return NOTHING
    if attempt.outcome == "cancelled":
        # The client left: that says nothing of the target, and must not pass for a success.
        _count(into.errors, "cancelled")
        return NOTHING
    into.calls += 1
    if attempt.outcome == "success":
        _count(into.latency, str(bucket_of(attempt.latency_us)))
        if attempt.first_token_us is not None:
            _count(into.first_token, str(bucket_of(attempt.first_token_us)))
        return NOTHING
    error_class = attempt.error_class or "unknown"
    _count(into.errors, error_class)
    if error_class not in CALLERS_OWN:
        into.failures += 1
    return NOTHING


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def freeze(state: State) -> dict[str, Any]:
    """Return the buckets, oldest first."""
    return {
        "buckets": [
            HealthBucket(
                start_s=WINDOW.start_s(index),
                calls=found.calls,
                failures=found.failures,
                errors=dict(sorted(found.errors.items())),
                latency=dict(sorted(found.latency.items())),
                first_token=dict(sorted(found.first_token.items())),
            )
            for index, found in sorted(state.items())
        ]
    }


def thaw(row: HealthRow) -> State:
    """Return the state that `freeze` gave."""
    return {
        WINDOW.index_of_start(found.start_s): Bucket(
            found.calls, found.failures, found.errors, found.latency, found.first_token
        )
        for found in row.buckets
    }


HEALTH = Fold(
    name="health",
    event=ResponseCompleted,
    row=HealthRow,
    cursor=HealthCursor,
    split=split,
    new=dict,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
    wait_s=WAIT_S,
)
