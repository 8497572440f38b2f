"""What was called instead of a baseline, per rule, route, target and day (COST-17).

The rows are facts: tokens and money as the ledger has them. What the baseline would have cost is a
question, not a fact: which model it is can change, and a fold may not look at prices. So the reader
prices the sums of a day, with the list of that day; one rounding a day instead of one per call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from schemas.event import Event
from schemas.events.llm import CostEntry
from schemas.events.savings import SavingsCursor, SavingsDay, SavingsRow
from schemas.pricing import newly_unpriced
from streams.agents.spend import RESERVED
from streams.fold import NOTHING, Fold
from streams.windows import Window, bucket

DAYS = Window("day", keep=92, seconds=86_400)
_CORRECTED = "corrected"
_CHAT = "chat"
_COLUMNS = 9

Line = tuple[int, tuple[int, ...]]
"""The day's number, and what is added to its sums, in the order of `SavingsDay`."""

State = dict[int, list[int]]


def split(event: CostEntry) -> Iterator[tuple[str, Line]]:
    """Yield a line under its rule, route and target."""
    if event.entry == RESERVED:
        return
    rule = "routing"
    if event.cache_saved_nano_usd is not None:
        rule = "cache"
    elif event.deployment_id is not None:
        rule = "tuned_model"
    cost = event.cost_nano_usd or 0
    corrects = event.entry == _CORRECTED
    # Another model for chats would have made no vector, picture or ranking: nothing is claimed of those.
    chats = event.surface == _CHAT
    counted = chats and bool(event.input_tokens or event.output_tokens)
    tokens = (
        event.input_tokens or 0,
        event.cached_input_tokens or 0,
        event.cache_write_input_tokens or 0,
        event.output_tokens or 0,
    )
    amounts = (
        int(not corrects),
        cost,
        newly_unpriced(event),
        0 if counted or corrects else cost,
        0 if counted else event.cache_saved_nano_usd or 0,
        *(tokens if chats else (0, 0, 0, 0)),
    )
    yield f"{rule}|{event.route}|{event.target or ''}", (DAYS.index(event.occurred_at_us), amounts)


def _no_sums() -> list[int]:
    return [0] * _COLUMNS


def apply(state: State, line: Line) -> Sequence[Event]:
    """Add one line to its day."""
    day, amounts = line
    sums = bucket(state, day, DAYS.keep, _no_sums)
    if sums is not None:
        for column, amount in enumerate(amounts):
            sums[column] += amount
    return NOTHING


def freeze(state: State) -> dict[str, Any]:
    """Return the days, oldest first."""
    return {"days": [SavingsDay(DAYS.start_s(day), *sums) for day, sums in sorted(state.items())]}


def thaw(row: SavingsRow) -> State:
    """Return the state that `freeze` gave."""
    return {
        DAYS.index_of_start(day.start_s): [
            day.calls,
            day.cost_nano_usd,
            day.unpriced,
            day.uncounted_nano_usd,
            day.cache_saved_nano_usd,
            day.input_tokens,
            day.cached_input_tokens,
            day.cache_write_input_tokens,
            day.output_tokens,
        ]
        for day in row.days
    }


SAVINGS = Fold(
    name="savings",
    event=CostEntry,
    row=SavingsRow,
    cursor=SavingsCursor,
    split=split,
    new=dict,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
)
