"""Traffic as series: calls, failures, latency, cost and tokens per dimension, ten seconds and hours.

Under high cardinality a slot keeps the members that rank lowest by a hash and counts all others
together. Who stays is a function of the set of members alone, since a member of the final few is
never put out by another: so the rows do not depend on the order of events.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from schemas.event import Event
from schemas.events.llm import ResponseCompleted
from schemas.events.traffic import TrafficCursor, TrafficRow
from schemas.traffic import (
    FINE,
    HOURS,
    MEMBERS_MAX,
    expires_us,
    hours_of,
    rank,
    row_name,
    slot_of,
)
from streams.fold import NOTHING, Fold

_SECOND_US = 1_000_000
_COLUMNS = (
    "calls",
    "failures",
    "successes",
    "latency_us",
    "cost_nano_usd",
    "input_tokens",
    "output_tokens",
)
OTHERS = ""
"""Whoever found no room."""

FAILED = frozenset({"failed", "abandoned"})


Amounts = tuple[int, ...]
"""What one call adds, in the order of the columns."""

Part = tuple[str, int, Amounts]
"""What one call adds to a member's bucket (its number within the block)."""

Cells = dict[int, list[int]]
"""A member's sums, in the order of the columns, by bucket."""

State = dict[str, Cells]


def split(event: ResponseCompleted) -> list[tuple[str, Part]]:
    """Return the call under everything that it belongs to, at both levels."""
    second = event.occurred_at_us // _SECOND_US
    good = event.outcome == "success"
    amounts = (
        1,
        int(event.outcome in FAILED),
        int(good),
        event.latency_us if good else 0,
        event.cost_nano_usd or 0,
        event.input_tokens or 0,
        event.output_tokens or 0,
    )
    fine = second % FINE.block_s // FINE.bucket_s
    hour = second % HOURS.block_s // HOURS.bucket_s
    block_s = second - second % FINE.block_s
    parts: list[tuple[str, Part]] = []
    for dimension, name in (
        ("total", ""),
        ("key", event.key_id),
        ("target", event.target),
        ("model", event.model),
        ("team", event.team),
        ("project", event.project),
        ("cost_center", event.cost_center),
        ("organization", event.organization),
        ("user", event.user_id),
        ("task", event.task_type),
    ):
        if name or dimension == "total":
            short, long = _rows(dimension, name or "", block_s)
            parts.append((short, (name or "", fine, amounts)))
            parts.append((long, (name or "", hour, amounts)))
    return parts


@lru_cache(maxsize=16_384)
def _rows(dimension: str, name: str, block_s: int) -> tuple[str, str]:
    """Return the rows of a member at both levels, in the block that starts then."""
    slot = slot_of(dimension, name)
    long = row_name(dimension, hours_of(dimension), slot, block_s)
    return row_name(dimension, FINE, slot, block_s), long


def apply(state: State, part: Part) -> Sequence[Event]:
    """Add one call, under its member's name or with the others'."""
    member, bucket, amounts = part
    cells = state.get(member)
    if cells is None:
        cells = _room(state, member)
    sums = cells.get(bucket)
    if sums is None:
        cells[bucket] = list(amounts)
    else:
        _add(sums, amounts)
    return NOTHING


def _room(state: State, member: str) -> Cells:
    """Return the cells of a member that has none: its own, or those of the others."""
    named = [name for name in state if name != OTHERS]
    if member == OTHERS or len(named) < MEMBERS_MAX:
        return state.setdefault(member, {})
    last = max(named, key=rank)
    others = state.setdefault(OTHERS, {})
    if rank(member) > rank(last):
        return others
    for bucket, sums in state.pop(last).items():
        _add(others.setdefault(bucket, [0] * len(_COLUMNS)), sums)
    return state.setdefault(member, {})


def _add(sums: list[int], amounts: Sequence[int]) -> None:
    calls, failures, successes, latency_us, cost, inputs, outputs = amounts
    sums[0] += calls
    sums[1] += failures
    sums[2] += successes
    sums[3] += latency_us
    sums[4] += cost
    sums[5] += inputs
    sums[6] += outputs


def freeze(state: State) -> dict[str, Any]:
    """Return the cells as columns, by member and then by bucket."""
    members = sorted(state)
    cells = [
        (number, bucket, *sums)
        for number, name in enumerate(members)
        for bucket, sums in sorted(state[name].items())
    ]
    columns = [list(column) for column in zip(*cells, strict=True)]
    return {
        "members": members,
        **dict(zip(("member", "bucket", *_COLUMNS), columns, strict=True)),
    }


def thaw(row: TrafficRow) -> State:
    """Return the state that `freeze` gave."""
    state: State = {name: {} for name in row.members}
    columns = [getattr(row, name) for name in _COLUMNS]
    for cell, (member, bucket) in enumerate(zip(row.member, row.bucket, strict=True)):
        state[row.members[member]][bucket] = [column[cell] for column in columns]
    return state


TRAFFIC = Fold(
    name="traffic",
    event=ResponseCompleted,
    row=TrafficRow,
    cursor=TrafficCursor,
    split=split,
    new=dict,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
    expires=expires_us,
)
