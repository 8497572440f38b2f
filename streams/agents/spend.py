"""Spend per key, team, project, cost center, organization, target and in total, by minute, hour, day and month (UTC)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from schemas.event import Event
from schemas.events.llm import CostEntry
from schemas.events.tables import SpendCursor, SpendRow, SpendWindow
from schemas.pricing import newly_unpriced
from streams.fold import NOTHING, Fold
from streams.windows import Window, bucket

WINDOWS = (
    Window("minute", keep=60, seconds=60),
    Window("hour", keep=48, seconds=3_600),
    Window("day", keep=62, seconds=86_400),
    Window("month", keep=13, seconds=None),
)
_BY_NAME = {window.name: number for number, window in enumerate(WINDOWS)}

RESERVED = "admitted"
"""The one kind of ledger line that is no spend: money set aside, not yet owed."""

TOTAL = "total:"


class Line(NamedTuple):
    """A ledger line: the index of its window of each kind, and what it adds there."""

    indexes: tuple[int, ...]
    cost_nano_usd: int
    unpriced: int
    input_tokens: int
    output_tokens: int


Sums = list[int]
"""Entries, cost in nano-USD, unpriced entries, input and output tokens."""

State = list[dict[int, Sums]]
"""For each kind of window, the sums by index."""


def split(event: CostEntry) -> Iterator[tuple[str, Line]]:
    """Yield the line under everything that pays for it. A correction's line is a difference."""
    if event.entry == RESERVED:
        return
    line = Line(
        tuple(window.index(event.occurred_at_us) for window in WINDOWS),
        event.cost_nano_usd or 0,
        newly_unpriced(event),
        event.input_tokens or 0,
        event.output_tokens or 0,
    )
    yield f"key:{event.key_id}", line
    if event.team:
        yield f"team:{event.team}", line
    if event.project:
        yield f"project:{event.project}", line
    if event.cost_center:
        yield f"cost_center:{event.cost_center}", line
    if event.organization:
        yield f"organization:{event.organization}", line
    if event.target:
        yield f"target:{event.target}", line
    yield TOTAL, line


def apply(state: State, line: Line) -> Sequence[Event]:
    """Add one line to its window of every kind."""
    for window, buckets, index in zip(WINDOWS, state, line.indexes, strict=True):
        sums = bucket(buckets, index, window.keep, _no_sums)
        if sums is None:
            continue
        sums[0] += 1
        sums[1] += line.cost_nano_usd
        sums[2] += line.unpriced
        sums[3] += line.input_tokens
        sums[4] += line.output_tokens
    return NOTHING


def _no_sums() -> Sums:
    return [0, 0, 0, 0, 0]


def new() -> State:
    """Return a state without spend."""
    return [{} for _ in WINDOWS]


def freeze(state: State) -> dict[str, Any]:
    """Return the windows, by kind and then oldest first."""
    return {
        "windows": [
            SpendWindow(window.name, window.start_s(index), *sums)
            for window, buckets in zip(WINDOWS, state, strict=True)
            for index, sums in sorted(buckets.items())
        ]
    }


def thaw(row: SpendRow) -> State:
    """Return the state that `freeze` gave."""
    state = new()
    for found in row.windows:
        number = _BY_NAME[found.window]
        state[number][WINDOWS[number].index_of_start(found.start_s)] = [
            found.entries,
            found.cost_nano_usd,
            found.unpriced,
            found.input_tokens,
            found.output_tokens,
        ]
    return state


SPEND = Fold(
    name="spend",
    event=CostEntry,
    row=SpendRow,
    cursor=SpendCursor,
    split=split,
    new=new,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
)
