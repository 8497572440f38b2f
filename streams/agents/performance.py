"""How each target performs, over half an hour in steps of 30 s and over eight days in hours.

What the optimizer compares (RT-09). Every block is a row of its own, in a ring of slots: a call
changes two small rows, however long the memory is, and nothing has to be swept away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.event import Event
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.events.optimizer import PerformanceCursor, PerformanceRow
from schemas.histogram import bucket_of
from streams.attempts import answered_us, tells_of_target
from streams.fold import NOTHING, Fold

RECENT_S, RECENT_SLOTS = 30, 80
HOUR_S, HOUR_SLOTS = 3600, 192
RINGS = ((RECENT_S, RECENT_SLOTS), (HOUR_S, HOUR_SLOTS))


class Answered(NamedTuple):
    """What the attempt that answered a call came to; None where it is not known."""

    input_tokens: int | None
    output_tokens: int | None
    cost_nano_usd: int | None


class Slot(NamedTuple):
    """A target's block of `seconds` that begins at a Unix second."""

    target: str
    seconds: int
    start_s: int


class Contribution(NamedTuple):
    """An attempt, and the block that it counts in."""

    slot: Slot
    attempt: Attempt
    answered: Answered | None


@dataclass(slots=True)
class Block:
    """The changeable form of a row; `start_s` None while nothing was counted."""

    target: str = ""
    seconds: int = 0
    start_s: int | None = None
    calls: int = 0
    failures: int = 0
    answer: dict[str, int] = field(default_factory=dict)
    busy_us: int = 0
    completed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    priced: int = 0
    cost_nano_usd: int = 0


def slots(target: str, time_us: int) -> Iterator[tuple[str, Slot]]:
    """Yield the slots of the rings that a moment (Unix µs) of a target falls into, by their names."""
    time_s = time_us // 1_000_000
    for seconds, count in RINGS:
        index = time_s // seconds
        yield f"{seconds}:{index % count}:{target}", Slot(target, seconds, index * seconds)


def split(event: ResponseCompleted) -> Iterator[tuple[str, Contribution]]:
    """Yield each attempt under the slots of its target that its call's end falls into."""
    for attempt in event.attempts:
        answered = None
        if attempt.outcome == "success" and attempt.target == event.target:
            answered = Answered(event.input_tokens, event.output_tokens, event.cost_nano_usd)
        for name, slot in slots(attempt.target, event.occurred_at_us):
            yield name, Contribution(slot, attempt, answered)


def apply(state: Block, given: Contribution) -> Sequence[Event]:
    """Count one attempt, unless a later block has taken its slot."""
    slot, attempt, answered = given
    if state.start_s is not None and slot.start_s < state.start_s:
        return NOTHING
    if slot.start_s != state.start_s:
        empty = Block(*slot)
        for name in Block.__slots__:
            setattr(state, name, getattr(empty, name))
    if not tells_of_target(attempt):
        return NOTHING
    state.calls += 1
    state.busy_us += attempt.latency_us
    if attempt.outcome != "success":
        state.failures += 1
        return NOTHING
    name = str(bucket_of(answered_us(attempt)))
    state.answer[name] = state.answer.get(name, 0) + 1
    if answered is not None:
        state.completed += 1
        state.input_tokens += answered.input_tokens or 0
        state.output_tokens += answered.output_tokens or 0
        if answered.cost_nano_usd is not None:
            state.priced += 1
            state.cost_nano_usd += answered.cost_nano_usd
    return NOTHING


def freeze(state: Block) -> dict[str, Any]:
    """Return the block, its histogram in order."""
    fields = {name: getattr(state, name) for name in Block.__slots__}
    fields["start_s"] = state.start_s or 0
    fields["answer"] = dict(sorted(state.answer.items()))
    return fields


def thaw(row: PerformanceRow) -> Block:
    """Return the block that `freeze` gave."""
    fields = {name: getattr(row, name) for name in Block.__slots__}
    return Block(**(fields | {"answer": dict(row.answer)}))


PERFORMANCE = Fold(
    name="performance",
    event=ResponseCompleted,
    row=PerformanceRow,
    cursor=PerformanceCursor,
    split=split,
    new=Block,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
)
