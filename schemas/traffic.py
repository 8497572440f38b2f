"""Series of traffic: how the traffic table is laid out, and how it is read.

A series is named ``DIMENSION:NAME`` (``total:``, ``target:openai/gpt-4o``, ``user:ada``). It comes
at two levels: `FINE`, buckets of ten seconds for two hours, and `HOURS`, buckets of an hour for ten
weeks, or `DAY`, those of single users for a day. A row of the table holds a block of time of a few
members of a dimension, those whose names hash to its slot, so that rows stay small and their number is
bounded, whoever calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

import msgspec

from schemas.events.tables import block_key, block_of
from schemas.events.traffic import TrafficRow

_SECOND_US = 1_000_000


class Level(msgspec.Struct, frozen=True):
    """How finely time is cut: buckets of `bucket_s` in blocks of `block_s`, kept for `keep_s`."""

    name: str
    bucket_s: int
    block_s: int
    keep_s: int

    def bucket_start_s(self, time_s: int) -> int:
        """Return where the bucket of a moment begins."""
        return time_s - time_s % self.bucket_s


FINE = Level("fine", bucket_s=10, block_s=600, keep_s=7_200)
HOURS = Level("hours", bucket_s=3_600, block_s=86_400, keep_s=70 * 86_400)
DAY = Level("day", bucket_s=3_600, block_s=86_400, keep_s=86_400)
"""Hours of single users, who would outgrow everything else; laid out as `HOURS` are."""
LEVELS = {level.name: level for level in (FINE, HOURS, DAY)}

MEMBERS_MAX = 8
"""Members of a slot in one block; who comes beyond them counts under the name ``""``."""

SLOTS = {
    "total": 1,
    "target": 64,
    "model": 64,
    "team": 64,
    "project": 64,
    "cost_center": 64,
    "organization": 64,
    "task": 16,
    "key": 128,
    "user": 512,
}
"""Slots of each dimension: with `MEMBERS_MAX`, 4,096 users and 1,024 keys in one block and partition."""

TOTAL = "total:"


class Sums(NamedTuple):
    """What the calls of a bucket add up to."""

    calls: int = 0
    failures: int = 0
    successes: int = 0
    latency_us: int = 0
    cost_nano_usd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens


NO_SUMS = Sums()


def added(left: Sums, right: Sums) -> Sums:
    """Return both together."""
    return Sums(*[a + b for a, b in zip(left, right, strict=True)])


def slot_of(dimension: str, name: str) -> int:
    """Return the slot that holds a member."""
    return crc32(name.encode()) % SLOTS[dimension]


def hours_of(dimension: str) -> Level:
    """Return the level that has the hours of a dimension."""
    return DAY if dimension == "user" else HOURS


def rank(name: str) -> tuple[int, str]:
    """Return who stays in a slot that is full: the lowest, whatever the order of arrival."""
    return crc32(b"rank" + name.encode()), name


def slot_name(dimension: str, level: Level, slot: int) -> str:
    """Return what the rows of a slot are named before their block."""
    return f"{dimension}.{level.name}.{slot}"


def row_name(dimension: str, level: Level, slot: int, time_s: int) -> str:
    """Return the entity of the row for a slot and a moment."""
    return block_key(slot_name(dimension, level, slot), time_s - time_s % level.block_s)


def expires_us(entity: str) -> int:
    """Return the event time (Unix µs) from which a row is of no use any more."""
    name, start_s = block_of(entity)
    level = LEVELS[name.split(".")[1]]
    return (start_s + level.block_s + level.keep_s) * _SECOND_US


class TrafficTable:
    """The rows as they come, partials by partition; adds up what is asked for."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[str, dict[int, TrafficRow]]] = {}
        """By start of block, then by what stands before it in the entity, then by partition."""

    def apply(self, row: TrafficRow) -> None:
        """Take in a row; an older one changes nothing."""
        name, start_s = block_of(row.entity)
        partials = self._blocks.setdefault(start_s, {}).setdefault(name, {})
        known = partials.get(row.partition)
        if known is None or row.offset >= known.offset:
            partials[row.partition] = row

    def removed(self, key: str) -> None:
        """Take in that the row under a key (``ENTITY|PARTITION``) has expired."""
        entity, _, partition = key.rpartition("|")
        name, start_s = block_of(entity)
        block = self._blocks.get(start_s, {})
        partials = block.get(name, {})
        partials.pop(int(partition), None)
        if not partials:
            block.pop(name, None)
        if not block:
            self._blocks.pop(start_s, None)

    def series(self, name: str, level: Level, from_s: int, to_s: int) -> dict[int, Sums]:
        """Return {start of bucket, Unix s: sums} of a series within [from, to); empty ones are not there."""
        dimension, _, member = name.partition(":")
        row_of = slot_name(dimension, level, slot_of(dimension, member))
        found: dict[int, Sums] = {}
        for start_s in range(from_s - from_s % level.block_s, to_s, level.block_s):
            for row in self._blocks.get(start_s, {}).get(row_of, {}).values():
                for whose, at_s, sums in cells(row, level, start_s):
                    if whose == member and from_s <= at_s < to_s:
                        found[at_s] = added(found.get(at_s, NO_SUMS), sums)
        return dict(sorted(found.items()))

    def members(self, dimension: str, level: Level, from_s: int, to_s: int) -> dict[str, Sums]:
        """Return {name: sums} of all members of a dimension within [from, to)."""
        prefix = f"{dimension}:"
        found: dict[str, Sums] = {}
        for start_s in range(from_s - from_s % level.block_s, to_s, level.block_s):
            for name, at_s, sums in self._cells(level, start_s):
                if name.startswith(prefix) and from_s <= at_s < to_s:
                    member = name.removeprefix(prefix)
                    found[member] = added(found.get(member, NO_SUMS), sums)
        return found

    def bucket(self, level: Level, start_s: int) -> dict[str, Sums]:
        """Return {series: sums} of every series in the bucket that starts then."""
        found: dict[str, Sums] = {}
        for name, _, sums in self._cells(level, start_s - start_s % level.block_s, start_s):
            found[name] = added(found.get(name, NO_SUMS), sums)
        return found

    def total(self, name: str, level: Level, from_s: int, to_s: int) -> Sums:
        """Return the sums of a series over [from, to), whole buckets."""
        together = NO_SUMS
        for sums in self.series(name, level, from_s, to_s).values():
            together = added(together, sums)
        return together

    def _cells(
        self, level: Level, block_s: int, only_s: int | None = None
    ) -> Iterator[tuple[str, int, Sums]]:
        """Yield (series, start of bucket, partial sums) of a block, or of one bucket in it."""
        for name, partials in self._blocks.get(block_s, {}).items():
            dimension, found, _ = name.split(".")
            if found != level.name:
                continue
            for row in partials.values():
                for member, at_s, sums in cells(row, level, block_s, only_s):
                    yield f"{dimension}:{member}", at_s, sums


def cells(
    row: TrafficRow, level: Level, start_s: int, only_s: int | None = None
) -> Iterator[tuple[str, int, Sums]]:
    """Yield (member, start of bucket, sums) of a row, or of one of its buckets."""
    wanted = None if only_s is None else (only_s - start_s) // level.bucket_s
    for cell, bucket in enumerate(row.bucket):
        if wanted is None or bucket == wanted:
            sums = Sums(
                row.calls[cell],
                row.failures[cell],
                row.successes[cell],
                row.latency_us[cell],
                row.cost_nano_usd[cell],
                row.input_tokens[cell],
                row.output_tokens[cell],
            )
            yield row.members[row.member[cell]], start_s + bucket * level.bucket_s, sums
