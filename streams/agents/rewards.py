"""How calls of each task fare at each target, for adaptive routing (BEY-15): from real attempts alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from schemas.event import Event
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.events.rewards import RewardBlock, RewardCursor, RewardRow
from schemas.rewards import BLOCK_SECONDS, BLOCKS_KEPT, LOG_UNITS, entities_of, usual_us
from streams.agents.health import CALLERS_OWN
from streams.fold import NOTHING, Fold
from streams.windows import Window, bucket

WINDOW = Window("rewards", keep=BLOCKS_KEPT, seconds=BLOCK_SECONDS)

Contribution = tuple[int, list[int]]
"""The block, and what is added to its counts."""
State = dict[int, list[int]]
"""The counts of `RewardBlock` in its order, by block."""


def split(event: ResponseCompleted) -> Iterator[tuple[str, Contribution]]:
    """Yield each attempt that its target answers for, under its task and under all tasks."""
    index = WINDOW.index(event.occurred_at_us)
    for attempt in event.attempts:
        if attempt.outcome == "cancelled" or attempt.error_class in CALLERS_OWN:
            continue
        counts = _counts(attempt, event)
        for entity in sorted(entities_of(event.task_type, attempt.target)):
            yield entity, (index, counts)


def _counts(attempt: Attempt, event: ResponseCompleted) -> list[int]:
    if attempt.outcome != "success":
        return [1, 0, 0, 0, 0, 0]
    slowness = max(1, attempt.latency_us) / usual_us(event.output_tokens)
    log_slowness = round(LOG_UNITS * math.log(slowness))
    cost = event.cost_nano_usd if attempt.target == event.target else None
    return [1, 1, log_slowness, log_slowness**2, int(cost is not None), cost or 0]


def apply(state: State, contribution: Contribution) -> Sequence[Event]:
    """Count one attempt."""
    index, counts = contribution
    into = bucket(state, index, WINDOW.keep, lambda: [0] * 6)
    if into is not None:
        for place, count in enumerate(counts):
            into[place] += count
    return NOTHING


def freeze(state: State) -> dict[str, Any]:
    """Return the blocks, oldest first."""
    return {
        "blocks": [
            RewardBlock(WINDOW.start_s(index), *counts) for index, counts in sorted(state.items())
        ]
    }


def thaw(row: RewardRow) -> State:
    """Return the state that `freeze` gave."""
    return {
        WINDOW.index_of_start(block.start_s): [
            block.calls,
            block.good,
            block.log_slowness,
            block.log_slowness_squared,
            block.priced,
            block.cost_nano_usd,
        ]
        for block in row.blocks
    }


REWARDS = Fold(
    name="rewards",
    event=ResponseCompleted,
    row=RewardRow,
    cursor=RewardCursor,
    split=split,
    new=dict,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
)
