"""The savings table: what was called instead of the baseline, as tokens; a reader prices them."""

from __future__ import annotations

import msgspec

from schemas.event import Topic
from schemas.events.tables import CursorRow, TableRow

SAVINGS_TABLE = Topic("weir.savings.tables.v1", cleanup="compact")


class SavingsCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the savings fold."""

    topic = SAVINGS_TABLE
    type = "weir.savings.cursor"


class SavingsDay(msgspec.Struct, frozen=True):
    """Sums of the ledger's lines of one UTC day (`start_s`, Unix s).

    `input_tokens` include cached and cache-written ones. `unpriced` lines have no cost yet.
    `uncounted` is the cost of lines without tokens and of what is no chat (vectors, images, seconds): the
    baseline cannot be asked what they would have cost. `cache_saved_nano_usd` is what hits of our cache without tokens saved.
    """

    start_s: int
    calls: int
    cost_nano_usd: int
    unpriced: int
    uncounted_nano_usd: int
    cache_saved_nano_usd: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_input_tokens: int
    output_tokens: int


class SavingsRow(TableRow, frozen=True, kw_only=True):
    """What became of the calls under `entity`, ``RULE|ROUTE|TARGET``: cache, tuned_model or routing."""

    topic = SAVINGS_TABLE
    type = "weir.savings.row"

    days: list[SavingsDay]
