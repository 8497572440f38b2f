"""How much the answers of each target are liked, by task, for adaptive routing (BEY-15).

Feedback counts for the target that it names as its model (``provider/model``, as answers carry it).
"""

from __future__ import annotations

from collections.abc import Iterator

from schemas.events.feedback import FeedbackRecorded
from schemas.events.rewards import LikingBlock, LikingCursor, LikingRow
from schemas.rewards import LIKING_KEPT, LIKING_SECONDS, entities_of
from streams.fold import Fold
from streams.sums import Amounts, WindowSums
from streams.windows import Window

WINDOW = Window("liking", keep=LIKING_KEPT, seconds=LIKING_SECONDS)
BEST = 1_000
SUMS = WindowSums(WINDOW, LikingBlock, "blocks")
"""How many, and the sum of their satisfaction (0–1000)."""


def split(event: FeedbackRecorded) -> Iterator[tuple[str, Amounts]]:
    """Yield the block and the satisfaction under the target's task and under all tasks."""
    if event.model_id is None or "/" not in event.model_id or not event.model_known:
        return
    liked = satisfaction_of(event)
    for entity in sorted(entities_of(event.task_type, event.model_id)):
        yield entity, (WINDOW.index(event.occurred_at_us), (1, liked))


def satisfaction_of(event: FeedbackRecorded) -> int:
    """Return how satisfied somebody was, in thousandths: 0 the worst, 1000 the best."""
    return round((min(1.0, max(-1.0, event.satisfaction_score)) + 1.0) / 2.0 * BEST)


LIKING = Fold(
    name="liking",
    event=FeedbackRecorded,
    row=LikingRow,
    cursor=LikingCursor,
    split=split,
    new=dict,
    apply=SUMS.apply,
    freeze=SUMS.freeze,
    thaw=SUMS.thaw,
)
