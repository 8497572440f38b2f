"""Records as they arrive, decoded once for all folds of their source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from schemas.codec import decode_as
from schemas.errors import CorruptRecord, LogError
from schemas.event import Event
from schemas.log import Mark, Record, mark_of


class Arrival(NamedTuple):
    """A record and what is in it: an event, or an error, or neither where it is of another type."""

    record: Record
    mark: Mark | None
    event: Event | None
    error: LogError | None = None


def read(records: Sequence[Record], event_type: type[Event]) -> list[Arrival]:
    """Decode records of a source whose folds take events of one type."""
    return [_read(record, event_type) for record in records]


def _read(record: Record, event_type: type[Event]) -> Arrival:
    mark = mark_of(record)
    if record.value is None:
        error = CorruptRecord(f"a record of {record.topic} has no value")
        return Arrival(record, mark, None, error)
    try:
        return Arrival(record, mark, decode_as(record.value, event_type))
    except LogError as error:
        return Arrival(record, mark, None, error)
