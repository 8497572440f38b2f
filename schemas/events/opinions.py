"""What people say of each target, over half an hour and over eight days."""

from __future__ import annotations

from schemas.event import Topic
from schemas.events.tables import CursorRow, TableRow

OPINION_TABLE = Topic("weir.opinions.tables.v1", cleanup="compact")


class OpinionCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the opinions fold."""

    topic = OPINION_TABLE
    type = "weir.opinions.cursor"


class OpinionRow(TableRow, frozen=True, kw_only=True):
    """Feedback on `target` given within [start_s, start_s + seconds) of event time.

    Rows are slots of a ring, as `PerformanceRow`s are. `satisfaction` sums thousandths, 0 the worst
    and 1000 the best, `satisfaction_squared` their squares; `disliked` counts what was below the
    middle.
    """

    topic = OPINION_TABLE
    type = "weir.opinions.row"

    target: str
    seconds: int
    start_s: int
    opinions: int
    disliked: int
    satisfaction: int
    satisfaction_squared: int
