"""Feedback counts per scope; `streams.agents.trigger` decides on them when a fine-tune is due (FB-06)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.event import Event
from schemas.events.feedback import FeedbackRecorded
from schemas.events.tables import FeedbackCursor, FeedbackRow
from schemas.rewards import TASK_TYPES
from streams.fold import NOTHING, Fold
from streams.windows import Window, bucket

BUCKET_SECONDS = 300
WINDOW = Window("feedback", keep=48 * 12, seconds=BUCKET_SECONDS)
"""Two days of five minutes: the longest window that a threshold may look back on."""

ALL = "all"


@dataclass(slots=True)
class State:
    """Feedback ever, and per recent five minutes (in a list, since buckets must be changeable)."""

    total: int = 0
    buckets: dict[int, list[int]] = field(default_factory=dict)


def split(event: FeedbackRecorded) -> Iterator[tuple[str, int]]:
    """Yield the moment (Unix µs) under every scope that the feedback counts in."""
    yield ALL, event.occurred_at_us
    if event.model_id and event.model_known:
        yield f"model:{event.model_id}", event.occurred_at_us
    if event.task_type in TASK_TYPES:  # callers' own words may be endless
        yield f"task:{event.task_type}", event.occurred_at_us


def apply(state: State, occurred_at_us: int) -> Sequence[Event]:
    """Count one piece of feedback."""
    state.total += 1
    into = bucket(state.buckets, WINDOW.index(occurred_at_us), WINDOW.keep, lambda: [0])
    if into is not None:
        into[0] += 1
    return NOTHING


def freeze(state: State) -> dict[str, Any]:
    """Return the total and the buckets, oldest first."""
    buckets = sorted(state.buckets.items())
    return {
        "total": state.total,
        "buckets": {str(WINDOW.start_s(index)): count for index, (count,) in buckets},
    }


def thaw(row: FeedbackRow) -> State:
    """Return the state that `freeze` gave."""
    buckets = {WINDOW.index_of_start(int(start)): [count] for start, count in row.buckets.items()}
    return State(row.total, buckets)


FEEDBACK = Fold(
    name="feedback",
    event=FeedbackRecorded,
    row=FeedbackRow,
    cursor=FeedbackCursor,
    split=split,
    new=State,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
)
