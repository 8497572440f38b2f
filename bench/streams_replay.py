"""The folds' tables against the log itself: every row of every fold, field by field.

Each source is read once from its beginning to its end, events are told apart by their ids, and the
fold's own pure functions are applied to them one after another, with no batch, cursor, outbox rule,
sweep or restart. What differs from the published row was done wrong by the machinery around them.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from bench.streams_load import PARTITIONS
from bench.streams_tables import CURSOR, Followed, Tables
from schemas.codec import decode
from schemas.discovery import discover
from schemas.event import Event
from schemas.events.tables import TableRow
from streams.fold import AnyFold, Fold

SILENCE_S = 60.0

ROW_OWN = {"event_id", "occurred_at_us", "offset"}
"""Fields of a row that are no result of the fold."""


def folds() -> list[AnyFold]:
    """Return every fold that there is."""
    return list(discover("streams.agents", Fold))


def followed() -> tuple[Followed, ...]:
    """Return what each fold reads and writes."""
    return tuple(Followed(fold.name, fold.source.name, fold.table.name) for fold in folds())


@dataclass
class Replayed:
    """What the log says of one fold."""

    fold: AnyFold
    states: dict[tuple[str, int], Any] = field(default_factory=dict)
    watermark_us: dict[int, int] = field(default_factory=dict)

    def take(self, event: Event, partition: int) -> None:
        """Apply one event that was not there before."""
        newest = self.watermark_us.get(partition, 0)
        self.watermark_us[partition] = max(newest, event.occurred_at_us)
        for entity, part in self.fold.split(event):
            where = (entity, partition)
            if where not in self.states:
                self.states[where] = self.fold.new()
            self.fold.apply(self.states[where], part)

    def differences(self, tables: Tables) -> Iterator[str]:
        """Yield a line for each row that is not what it should be."""
        wanted = {
            f"{entity}|{partition}": self.fold.freeze(state)
            for (entity, partition), state in self.states.items()
            if self._expires_us(entity) > self.watermark_us[partition]
        }
        found = {
            key: _fields(value)
            for (table, key), value in tables.values.items()
            if table == self.fold.table.name and not key.startswith(CURSOR)
        }
        for key in sorted(wanted.keys() | found.keys()):
            if wanted.get(key) != found.get(key):
                yield f"{self.fold.name} {key}: {found.get(key)} instead of {wanted.get(key)}"

    def _expires_us(self, entity: str) -> float:
        expires_us = None if self.fold.expires is None else self.fold.expires(entity)
        return math.inf if expires_us is None else expires_us


def _fields(value: bytes) -> dict[str, Any]:
    row = decode(value)
    if not isinstance(row, TableRow):
        raise TypeError(f"a table holds a {type(row).__name__}")
    own = ROW_OWN | {"entity", "partition"}
    return {name: getattr(row, name) for name in row.__struct_fields__ if name not in own}


@dataclass
class Replay:
    """Every source of every fold, read whole: `lags_ms` has the lag of each event in each fold."""

    wrong: list[str] = field(default_factory=list)
    rows: int = 0
    empty: list[str] = field(default_factory=list)
    """Folds that the load gave nothing to do."""
    events: int = 0
    repeats: int = 0
    ids: set[str] = field(default_factory=set)
    lags_ms: array[int] = field(default_factory=lambda: array("q"))


def replay(bootstrap: str, tables: Tables, measured: set[str] | None = None) -> Replay:
    """Hold every table against the log. `measured`: lags only of event ids with such a prefix."""
    result = Replay()
    by_source: dict[str, list[AnyFold]] = {}
    for fold in folds():
        by_source.setdefault(fold.source.name, []).append(fold)
    for source, readers in by_source.items():
        replayed = [Replayed(fold) for fold in readers]
        _read(bootstrap, source, replayed, tables, result, tuple(measured or ()))
        for one in replayed:
            result.wrong.extend(one.differences(tables))
            result.rows += len(one.states)
            if not one.states:
                result.empty.append(one.fold.name)
    return result


def _read(
    bootstrap: str,
    source: str,
    replayed: Sequence[Replayed],
    tables: Tables,
    result: Replay,
    measured: tuple[str, ...],
) -> None:
    by_name = {fold.name: fold for fold in tables.folds}
    for message in _messages(bootstrap, source):
        event = decode(message.value())
        if event.event_id in result.ids:
            result.repeats += 1
            continue
        result.ids.add(event.event_id)
        result.events += 1
        lagged = event.event_id.startswith(measured) if measured else False
        where = (message.partition(), message.offset(), message.timestamp()[1])
        for one in replayed:
            one.take(event, message.partition())
            if lagged:
                result.lags_ms.append(tables.lag_ms(by_name[one.fold.name], *where))


def _messages(bootstrap: str, source: str) -> Iterator[Any]:
    """Yield the records of a topic up to its end as of now, each partition in order."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "replay", "enable.auto.commit": False}
    )
    try:
        ends = {
            number: consumer.get_watermark_offsets(TopicPartition(source, number), timeout=10)[1]
            for number in range(PARTITIONS)
        }
        consumer.assign([TopicPartition(source, number, 0) for number in ends])
        left, heard_s = sum(ends.values()), time.monotonic()
        while left > 0:
            messages = consumer.consume(5_000, timeout=1.0)
            if messages:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > SILENCE_S:
                raise TimeoutError(f"{left} records of {source} cannot be read")
            for message in messages:
                if message.error() is None and message.offset() < ends[message.partition()]:
                    left -= 1
                    yield message
    finally:
        consumer.close()
