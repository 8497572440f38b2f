"""Events and records for the tests of projections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from schemas.codec import encode
from schemas.event import Event
from schemas.events import event_types
from schemas.identity import uuid7
from schemas.log import Record
from schemas.partition import partition_of
from schemas.publish import sample

TYPES = {event_type.type: event_type for event_type in event_types()}


def event(type_name: str, **fields: Any) -> Event:
    """An event with telling values in every field that is not named."""
    event_type = TYPES[type_name]
    base = {"event_id": uuid7(), "occurred_at_us": 1_700_000_000_000_000} | fields
    plain = msgspec.to_builtins(sample(event_type), builtin_types=(bytes,)) | base
    return msgspec.convert(plain, event_type, builtin_types=(bytes,))


def admitted(request_id: str | None = None, **fields: Any) -> Event:
    fields.setdefault("propensity", 0.5)
    return event("weir.llm.request.admitted", request_id=request_id or uuid7(), **fields)


def settled(request_id: str | None = None, **fields: Any) -> Event:
    fields.setdefault("entry", "settled")
    return event("weir.llm.cost.entered", request_id=request_id or uuid7(), **fields)


class Appender:
    """Gives events the positions that they would have on their topics."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}

    def record(self, item: Event, value: bytes | None = None, timestamp_ms: int = 5) -> Record:
        """The record of an event; `value` replaces its bytes."""
        topic, key = item.topic, item.key.encode()
        partition = partition_of(key, topic.partitions)
        offset = self._next.get((topic.name, partition), 0)
        self._next[topic.name, partition] = offset + 1
        value = encode(item) if value is None else value
        return Record(topic.name, partition, offset, timestamp_ms, key, value, [])

    def records(self, items: Iterable[Event]) -> list[Record]:
        return [self.record(item) for item in items]
