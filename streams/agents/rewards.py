"""How calls of each task fare at each target, for adaptive routing (BEY-15): from real attempts alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

from schemas.events.llm import Attempt, ResponseCompleted
from schemas.events.rewards import RewardBlock, RewardCursor, RewardRow
from schemas.rewards import BLOCK_SECONDS, BLOCKS_KEPT, LOG_UNITS, entities_of, usual_us
from streams.attempts import tells_of_target
from streams.fold import Fold
from streams.sums import Amounts, WindowSums
from streams.windows import Window

WINDOW = Window("rewards", keep=BLOCKS_KEPT, seconds=BLOCK_SECONDS)
SUMS = WindowSums(WINDOW, RewardBlock, "blocks")


def split(event: ResponseCompleted) -> Iterator[tuple[str, Amounts]]:
    """Yield each attempt that its target answers for, under its task and under all tasks."""
    index = WINDOW.index(event.occurred_at_us)
    for attempt in event.attempts:
        if tells_of_target(attempt):
            counts = _counts(attempt, event)
            for entity in sorted(entities_of(event.task_type, attempt.target)):
                yield entity, (index, counts)


def _counts(attempt: Attempt, event: ResponseCompleted) -> tuple[int, ...]:
    """Return what an attempt adds to the counts of `RewardBlock`, in its order."""
    if attempt.outcome != "success":
        return 1, 0, 0, 0, 0, 0
    slowness = max(1, attempt.latency_us) / usual_us(event.output_tokens)
    log_slowness = round(LOG_UNITS * math.log(slowness))
    cost = event.cost_nano_usd if attempt.target == event.target else None
    return 1, 1, log_slowness, log_slowness**2, int(cost is not None), cost or 0


REWARDS = Fold(
    name="rewards",
    event=ResponseCompleted,
    row=RewardRow,
    cursor=RewardCursor,
    split=split,
    new=dict,
    apply=SUMS.apply,
    freeze=SUMS.freeze,
    thaw=SUMS.thaw,
)
