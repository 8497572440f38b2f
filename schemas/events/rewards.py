"""What adaptive routing learns from: how calls of each task fared at each target.

The entity of a row is ``TASK|TARGET``, the task a word of `schemas.rewards`; ``*`` stands for all.
"""

from __future__ import annotations

import msgspec

from schemas.event import Topic
from schemas.events.tables import CursorRow, TableRow

REWARD_TABLE = Topic("weir.rewards.tables.v1", cleanup="compact")
LIKING_TABLE = Topic("weir.liking.tables.v1", cleanup="compact")


class RewardCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the rewards fold."""

    topic = REWARD_TABLE
    type = "weir.rewards.cursor"


class RewardBlock(msgspec.Struct, frozen=True):
    """Attempts whose call ended within [start_s, start_s + 30) of event time.

    `good` of `calls` succeeded. Of these, `log_slowness` sums the natural logarithm of how many times
    longer they took than an answer of that length usually does (`schemas.rewards.usual_us`), in
    thousandths, and `log_slowness_squared` the squares of that; `priced` have a known cost,
    `cost_nano_usd` is its sum.
    """

    start_s: int
    calls: int
    good: int
    log_slowness: int
    log_slowness_squared: int
    priced: int
    cost_nano_usd: int


class RewardRow(TableRow, frozen=True, kw_only=True):
    """The recent blocks of `entity`, oldest first."""

    topic = REWARD_TABLE
    type = "weir.rewards.row"

    blocks: list[RewardBlock]


class LikingCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the liking fold."""

    topic = LIKING_TABLE
    type = "weir.liking.cursor"


class LikingBlock(msgspec.Struct, frozen=True):
    """Feedback given within [start_s, start_s + 6 h) of event time.

    `liked` sums satisfaction in thousandths, 0 the worst and 1000 the best.
    """

    start_s: int
    count: int
    liked: int


class LikingRow(TableRow, frozen=True, kw_only=True):
    """The feedback of the last week on `entity`, oldest block first."""

    topic = LIKING_TABLE
    type = "weir.liking.row"

    blocks: list[LikingBlock]
