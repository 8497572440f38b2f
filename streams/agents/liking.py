"""How much the answers of each target are liked, by task, for adaptive routing (BEY-15).

Feedback counts for the target that it names as its model (``provider/model``, as answers carry it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from schemas.event import Event
from schemas.events.feedback import FeedbackRecorded
from schemas.events.rewards import LikingBlock, LikingCursor, LikingRow
from schemas.rewards import LIKING_KEPT, LIKING_SECONDS, entities_of
from streams.fold import NOTHING, Fold
from streams.windows import Window, bucket

WINDOW = Window("liking", keep=LIKING_KEPT, seconds=LIKING_SECONDS)
BEST = 1_000

State = dict[int, list[int]]
"""How many, and the sum of their satisfaction (0–1000), by block."""


def split(event: FeedbackRecorded) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the block and the satisfaction under the target's task and under all tasks."""
    if event.model_id is None or "/" not in event.model_id or not event.model_known:
        return
    liked = satisfaction_of(event)
    for entity in sorted(entities_of(event.task_type, event.model_id)):
        yield entity, (WINDOW.index(event.occurred_at_us), liked)


def satisfaction_of(event: FeedbackRecorded) -> int:
    """Return how satisfied somebody was, in thousandths: 0 the worst, 1000 the best."""
    return round((min(1.0, max(-1.0, event.satisfaction_score)) + 1.0) / 2.0 * BEST)


def apply(state: State, contribution: tuple[int, int]) -> Sequence[Event]:
    """Count one piece of feedback."""
    index, liked = contribution
    into = bucket(state, index, WINDOW.keep, lambda: [0, 0])
    if into is not None:
        into[0] += 1
        into[1] += liked
    return NOTHING


def freeze(state: State) -> dict[str, Any]:
    """Return the blocks, oldest first."""
    return {
        "blocks": [
            LikingBlock(WINDOW.start_s(index), *counts) for index, counts in sorted(state.items())
        ]
    }


def thaw(row: LikingRow) -> State:
    """Return the state that `freeze` gave."""
    return {
        WINDOW.index_of_start(block.start_s): [block.count, block.liked] for block in row.blocks
    }


LIKING = Fold(
    name="liking",
    event=FeedbackRecorded,
    row=LikingRow,
    cursor=LikingCursor,
    split=split,
    new=dict,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
)
