"""A fold over one source partition: from records to the rows that have to be written.

Exactness rests on three rules that this module keeps and its caller completes:

1. A row says the last source offset that it includes. After a crash, rows may be ahead of the
   cursor; what such a row already includes is not applied to it again.
2. The cursor row, written after the rows it vouches for, says where to read on, together with
   the watermarks that tell a producer's repeats.
3. Everything here is a function of the records' order alone, so that whoever repeats the work
   writes the same bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import msgspec

from schemas.codec import decode, decode_as, encode
from schemas.errors import CorruptRecord, LogError, WrongLog
from schemas.event import Event
from schemas.events.tables import CursorRow, TableRow
from schemas.log import OUTBOX_HEADER, Cursor, Deduplicator, Record
from streams.fold import AnyFold
from streams.letters import dead_letter

CURSOR_ENTITY = ":cursor"

OFFSET_HEADER = "weir-offset"
"""On a row: the last source offset that it includes, readable without decoding."""

OUTBOXES_MAX = 256
"""Watermarks kept per partition; an outbox not heard of while 256 others were is closed."""

_NAMESPACE = uuid.UUID("6f0d3a52-9f0e-5b43-8d0b-7c1f3f1f6a11")


class FoldFailed(LogError):
    """The fold cannot take this event: a defect of the fold, or an event that makes no sense."""

    code = "fold_failed"


class Row(NamedTuple):
    """A record of the table: its key, its value, and the event in it."""

    key: bytes
    value: bytes
    event: TableRow


class Step(NamedTuple):
    """What must be written for some records: all of one field acknowledged before the next."""

    emissions: list[Event]
    rows: list[Row]
    cursor: Row | None


@dataclass(slots=True)
class _Entry:
    state: Any
    offset: int
    occurred_at_us: int
    floor: int
    """What the row already included when it was read: up to here, records are in it."""


class _Poisonous(Exception):
    def __init__(self, offset: int, error: Exception) -> None:
        super().__init__(str(error))
        self.offset = offset
        self.error = error


def recovered(
    records: Iterable[Record], partitions: Iterable[int]
) -> dict[int, dict[bytes, bytes]]:
    """Return the rows of each partition of a table: for each key the one that includes most.

    That need not be the last. A worker that was cut off may write late, under its successor's
    newer rows; but rows are a function of the log up to their offset, whoever writes them.
    """
    rows: dict[int, dict[bytes, bytes]] = {number: {} for number in partitions}
    offsets: dict[bytes, int] = {}
    for record in records:
        offset = int(record.header(OFFSET_HEADER) or -1)
        if record.key is None or record.value is None or offset < offsets.get(record.key, 0):
            continue
        rows[record.partition][record.key] = record.value
        offsets[record.key] = offset
    return rows


class PartitionFold:
    """The state of a fold in one source partition, in memory, over its published rows.

    `stored` are the published rows, value by key, and becomes this object's own. Raises WrongLog when the stored cursor belongs to a source topic
    that was deleted and created anew.
    """

    def __init__(
        self,
        fold: AnyFold,
        partition: int,
        stored: dict[bytes, bytes],
        topic_id: str | None = None,
    ) -> None:
        self.fold = fold
        self.partition = partition
        self.consumer = f"streams:{fold.name}"
        self._stored = stored
        self._topic_id = topic_id
        self._entries: dict[str, _Entry] = {}
        self._dirty: dict[str, _Entry] = {}
        self._occurred_at_us = 0
        self._cursor = Cursor()
        self._deduplicator = Deduplicator(self._cursor)
        self._restore()

    @property
    def next_offset(self) -> int:
        """Return the source offset to read next."""
        return self._cursor.next_offset(self.fold.source.name, self.partition)

    def take(self, records: Sequence[Record]) -> Step:
        """Fold records in, which must follow `next_offset` without gaps, and say what to write.

        What cannot be decoded or folded becomes a dead letter among the emissions and leaves no
        trace in any row.
        """
        poison: dict[int, Exception] = {}
        while True:
            try:
                return self._take(records, poison)
            except _Poisonous as failure:
                # Other entities may have counted the event before one refused it: begin again
                # from what is published, without that event.
                poison[failure.offset] = failure.error
                self._restore()

    def published(self, step: Step) -> None:
        """Hear that a step's rows and cursor are in the log; due before the next `take`."""
        self._stored.update((row.key, row.value) for row in step.rows)
        if step.cursor is not None:
            self._stored[step.cursor.key] = step.cursor.value

    def _take(self, records: Sequence[Record], poison: Mapping[int, Exception]) -> Step:
        emissions: list[Event] = []
        self._dirty.clear()
        before = self.next_offset
        for record in records:
            try:
                if not self._deduplicator.admit(record):
                    continue
                if error := poison.get(record.offset):
                    raise FoldFailed(f"{type(error).__name__}: {error}") from error
                event = self._decode(record)
                if event is not None:
                    emissions.extend(self._apply(record, event))
            except LogError as error:
                event_id = self._event_id(record.offset, "dead-letter")
                emissions.append(dead_letter(record, self.consumer, error, event_id))
        if self.next_offset == before:
            return Step(emissions, [], None)
        self._forget_outboxes(records)
        return Step(emissions, [self._row(*dirty) for dirty in self._dirty.items()], self._mark())

    def _decode(self, record: Record) -> Event | None:
        if record.value is None:
            raise CorruptRecord(f"a record of {record.topic} has no value")
        return cast("Event | None", decode_as(record.value, self.fold.event))

    def _apply(self, record: Record, event: Event) -> Iterator[Event]:
        """Add the event to every entity that it concerns; yield what that emits."""
        self._occurred_at_us = max(self._occurred_at_us, event.occurred_at_us)
        try:
            parts = list(self.fold.split(event))
        except Exception as error:  # whatever a fold's code raises condemns the event alone
            raise FoldFailed(f"{type(error).__name__}: {error}") from error
        number = 0
        for entity, part in parts:
            entry = self._entry(entity)
            if record.offset <= entry.floor:
                continue
            try:
                emitted = self.fold.apply(entry.state, part)
            except Exception as error:  # as above, but this event is partly applied
                raise _Poisonous(record.offset, error) from error
            entry.offset = record.offset
            entry.occurred_at_us = max(entry.occurred_at_us, event.occurred_at_us)
            self._dirty[entity] = entry
            for emission in emitted:
                event_id = self._event_id(record.offset, str(number))
                yield msgspec.structs.replace(emission, event_id=event_id)
                number += 1

    def _entry(self, entity: str) -> _Entry:
        found = self._entries.get(entity)
        if found is None:
            value = self._stored.get(f"{entity}|{self.partition}".encode())
            if value is None:
                found = _Entry(self.fold.new(), -1, 0, -1)
            else:
                row = cast("TableRow", decode(value))
                state = self.fold.thaw(row)
                found = _Entry(state, row.offset, row.occurred_at_us, row.offset)
            self._entries[entity] = found
        return found

    def _row(self, entity: str, entry: _Entry) -> Row:
        return self._encoded(
            self.fold.row(
                event_id=self._event_id(entry.offset, entity),
                occurred_at_us=entry.occurred_at_us,
                entity=entity,
                partition=self.partition,
                offset=entry.offset,
                **self.fold.freeze(entry.state),
            )
        )

    def _mark(self) -> Row:
        offset = self.next_offset - 1
        return self._encoded(
            self.fold.cursor(
                event_id=self._event_id(offset, CURSOR_ENTITY),
                occurred_at_us=self._occurred_at_us,
                entity=CURSOR_ENTITY,
                partition=self.partition,
                offset=offset,
                topic_id=self._topic_id,
                watermarks=self._watermarks,
            )
        )

    @staticmethod
    def _encoded(row: TableRow) -> Row:
        return Row(row.key.encode(), encode(row), row)

    @property
    def _watermarks(self) -> dict[str, int]:
        by_partition = self._cursor.watermarks.setdefault(self.fold.source.name, {})
        return by_partition.setdefault(self.partition, {})

    def _restore(self) -> None:
        """Begin from the published rows; states are read back when they are needed."""
        self._entries.clear()
        self._occurred_at_us = 0
        self._cursor = Cursor()
        self._deduplicator = Deduplicator(self._cursor)
        value = self._stored.get(f"{CURSOR_ENTITY}|{self.partition}".encode())
        if value is None:
            return
        row = cast("CursorRow", decode(value))
        if self._topic_id is not None and row.topic_id not in {None, self._topic_id}:
            raise WrongLog(
                f"topic {self.fold.source.name} was deleted and created anew since the table "
                f"{self.fold.table.name} was folded from it"
            )
        self._occurred_at_us = row.occurred_at_us
        self._cursor.positions = {self.fold.source.name: {self.partition: row.offset + 1}}
        self._watermarks.update(row.watermarks)

    def _forget_outboxes(self, records: Sequence[Record]) -> None:
        """Keep the watermarks of the outboxes heard of last, and the cursor row small."""
        marks = self._watermarks
        for outbox in dict.fromkeys(record.header(OUTBOX_HEADER) for record in records):
            name = (outbox or b"").decode("ascii", "replace")
            if name in marks:
                marks[name] = marks.pop(name)
        while len(marks) > OUTBOXES_MAX:
            del marks[next(iter(marks))]

    def _event_id(self, offset: int, what: str) -> str:
        name = f"{self.fold.name}|{self.fold.source.name}|{self.partition}@{offset}|{what}"
        return str(uuid.uuid5(_NAMESPACE, name))
