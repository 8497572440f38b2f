"""The evidence of circuits (RT-07): per target its last outcomes, and how many of them failed.

Opening a circuit is a decision, made in `streams.agents.breaker` of the rows of all partitions.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.circuits import BUCKET_S, BUCKETS_KEPT, OUTCOMES_KEPT, verdict
from schemas.event import Event
from schemas.events.circuits import CircuitBucket, CircuitCursor, CircuitOutcome, CircuitRow
from schemas.events.llm import ResponseCompleted
from streams.agents.health import WAIT_S
from streams.fold import NOTHING, Fold
from streams.windows import Window, bucket

WINDOW = Window("circuits", keep=BUCKETS_KEPT, seconds=BUCKET_S)


@dataclass(slots=True)
class Bucket:
    """The changeable form of `CircuitBucket`."""

    calls: int = 0
    failures: int = 0


@dataclass(slots=True)
class State:
    """The changeable form of a row."""

    outcomes: list[CircuitOutcome] = field(default_factory=list)
    buckets: dict[int, Bucket] = field(default_factory=dict)
    last_failure_at_us: int | None = None


def split(event: ResponseCompleted) -> Iterator[tuple[str, CircuitOutcome]]:
    """Yield the attempts that their targets answer for.

    An attempt's times follow from the call's end and the durations of those after it.
    """
    ended_us = event.occurred_at_us
    for attempt in reversed(event.attempts):
        started_us = ended_us - attempt.latency_us
        good = verdict(attempt)
        if good is not None:
            yield attempt.target, CircuitOutcome(ended_us, started_us, good)
        ended_us = started_us


def apply(state: State, outcome: CircuitOutcome) -> Sequence[Event]:
    """Note one outcome."""
    insort(state.outcomes, outcome)
    del state.outcomes[:-OUTCOMES_KEPT]
    if not outcome.good:
        state.last_failure_at_us = max(state.last_failure_at_us or 0, outcome.ended_us)
    into = bucket(state.buckets, WINDOW.index(outcome.ended_us), WINDOW.keep, Bucket)
    if into is not None:
        into.calls += 1
        into.failures += not outcome.good
    return NOTHING


def freeze(state: State) -> dict[str, Any]:
    """Return outcomes and buckets, oldest first."""
    return {
        "outcomes": list(state.outcomes),
        "buckets": [
            CircuitBucket(WINDOW.start_s(index), found.calls, found.failures)
            for index, found in sorted(state.buckets.items())
        ],
        "last_failure_at_us": state.last_failure_at_us,
    }


def thaw(row: CircuitRow) -> State:
    """Return the state that `freeze` gave."""
    return State(
        list(row.outcomes),
        {
            WINDOW.index_of_start(found.start_s): Bucket(found.calls, found.failures)
            for found in row.buckets
        },
        row.last_failure_at_us,
    )


CIRCUITS = Fold(
    name="circuits",
    event=ResponseCompleted,
    row=CircuitRow,
    cursor=CircuitCursor,
    split=split,
    new=State,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
    wait_s=WAIT_S,
)
