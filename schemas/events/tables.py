"""Live tables: the values of Faust folds, published as the folds' own changelogs.

A row is one key's partial for one source partition (Kafka key ``key|partition``); readers add
the partials. `offset` is the last source offset that the row includes. Some tables have a row per
entity and block of time; when a block has passed for good, a tombstone removes its row.
"""

from __future__ import annotations

import msgspec

from schemas.event import Event, Topic

HEALTH_TABLE = Topic("weir.health.tables.v1", cleanup="compact")
SPEND_TABLE = Topic("weir.spend.tables.v1", cleanup="compact")
FEEDBACK_TABLE = Topic("weir.feedback.tables.v1", cleanup="compact")


def block_key(name: str, start_s: int) -> str:
    """Return the entity of what `name` did in the block of time that starts at a Unix second."""
    return f"{name}@{start_s}"


def block_of(entity: str) -> tuple[str, int]:
    """Return the inverse of `block_key`. Raises ValueError for an entity without a block."""
    name, _, start_s = entity.rpartition("@")
    return name, int(start_s)


class TableRow(Event, frozen=True, kw_only=True):
    """What every row carries for recovery and for readers."""

    entity: str
    partition: int
    offset: int

    @property
    def key(self) -> str:
        return f"{self.entity}|{self.partition}"


class CursorRow(TableRow, frozen=True, kw_only=True):
    """How far a fold has come in one source partition; written after the rows it vouches for.

    `offset` is the last source offset that every row of the partition includes. `watermarks`
    ({outbox id: highest sequence}, the least recently heard first) tell repeats of a producer,
    `topic_id` tells a source topic that was created anew.
    """

    topic_id: str | None = None
    watermarks: dict[str, int] = msgspec.field(default_factory=dict)


class HealthCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the health fold."""

    topic = HEALTH_TABLE
    type = "weir.health.cursor"


class SpendCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the spend fold."""

    topic = SPEND_TABLE
    type = "weir.spend.cursor"


class FeedbackCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the feedback fold."""

    topic = FEEDBACK_TABLE
    type = "weir.feedback.cursor"


class HealthBucket(msgspec.Struct, frozen=True):
    """Attempts on a target whose call ended within [start_s, start_s + 10) of event time.

    `calls` are those the target answered for: failed ones count in `failures`, a caller's own
    mistake does not. `errors` counts each error class, ``cancelled`` included. Histograms map a
    bucket of `schemas.histogram` (as text) to a count, over microseconds of successes.
    """

    start_s: int
    calls: int
    failures: int
    errors: dict[str, int]
    latency: dict[str, int]
    first_token: dict[str, int]


class HealthRow(TableRow, frozen=True, kw_only=True):
    """Recent health of the target `entity`: its last buckets, oldest first."""

    topic = HEALTH_TABLE
    type = "weir.health.row"

    buckets: list[HealthBucket]


class SpendWindow(msgspec.Struct, frozen=True):
    """Sums of one window (``minute``, ``hour``, ``day``, ``month``) that starts at `start_s`."""

    window: str
    start_s: int
    entries: int
    cost_nano_usd: int
    unpriced: int
    input_tokens: int
    output_tokens: int


class SpendRow(TableRow, frozen=True, kw_only=True):
    """Spend of `entity`: ``key:…``, ``team:…``, ``project:…``, ``cost_center:…``, ``organization:…``,
    ``target:…`` or ``total:``.
    """

    topic = SPEND_TABLE
    type = "weir.spend.row"

    windows: list[SpendWindow]


class FeedbackRow(TableRow, frozen=True, kw_only=True):
    """Feedback of the scope `entity`: ``all``, ``model:…`` or ``task:…``.

    `total` counts for ever; `buckets` holds the recent past, {start_s as text: count} per five
    minutes.
    """

    topic = FEEDBACK_TABLE
    type = "weir.feedback.row"

    total: int
    buckets: dict[str, int]
