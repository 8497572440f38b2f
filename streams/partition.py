"""A fold over one source partition: from records to the rows that have to be written.

Exactness rests on three rules that this module keeps and its caller completes:

1. A row says the last source offset that it includes. After a crash, rows may be ahead of the
   cursor; what such a row already includes is not applied to it again.
2. The cursor row, written after the rows it vouches for, says where to read on, together with
   the watermarks that tell a producer's repeats.
3. Everything here is a function of the records' order alone, so that whoever repeats the work
   writes the same bytes.

Rows that a fold lets expire are swept by event time: as soon as the newest event of the partition,
the watermark, is past a row's expiry. What belongs to a row that has expired is late, and left out.
The watermark is in the cursor row, and tombstones follow that: whoever finds an expired row under
a cursor that is past it sweeps it again.
"""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, cast

import msgspec

from schemas.codec import decode, encode
from schemas.errors import LogError, WrongLog
from schemas.event import Event
from schemas.events.tables import CursorRow, TableRow
from schemas.letters import dead_letter
from schemas.log import Cursor, Deduplicator, Record
from streams.arrival import Arrival, read
from streams.fold import AnyFold

CURSOR_ENTITY = ":cursor"

OFFSET_HEADER = "weir-offset"
"""On a row: the last source offset that it includes, readable without decoding."""

OUTBOXES_MAX = 256
"""Watermarks kept per partition; an outbox not heard of while 256 others were is closed."""

STATES_MAX = 32_768
"""States kept in memory per partition; those that were made first are read back from their rows."""

AHEAD_US_MAX = 300_000_000
"""How far an event's time may be ahead of the broker's clock, microseconds.

What is further on counts as of its appending: one host with a wrong clock would else push
everybody's present out of every window.
"""

_NAMESPACE = uuid.UUID("6f0d3a52-9f0e-5b43-8d0b-7c1f3f1f6a11")


class FoldFailed(LogError):
    """The fold cannot take this event: a defect of the fold, or an event that makes no sense."""

    code = "fold_failed"


class Row(NamedTuple):
    """A record of the table: its key, its value, and the event in it."""

    key: bytes
    value: bytes
    event: TableRow


class Tombstone(NamedTuple):
    """What removes a row that expired: its key, and the source offset at which that was seen."""

    key: bytes
    offset: int


class Step(NamedTuple):
    """What must be written for some records: all of one field acknowledged before the next."""

    emissions: list[Event]
    rows: list[Row]
    cursor: Row | None
    swept: list[Tombstone]


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
    newer rows or tombstones; but all are a function of the log up to their offset, whoever
    writes them.
    """
    rows: dict[int, dict[bytes, bytes]] = {number: {} for number in partitions}
    offsets: dict[bytes, int] = {}
    for record in records:
        offset = int(record.header(OFFSET_HEADER) or -1)
        if record.key is None or offset < offsets.get(record.key, 0):
            continue
        offsets[record.key] = offset
        if record.value is None:
            rows[record.partition].pop(record.key, None)
        else:
            rows[record.partition][record.key] = record.value
    return rows


class PartitionFold:
    """The state of a fold in one source partition, in memory, over its published rows.

    `stored` are the published rows, value by key, and becomes this object's own. `late` counts what
    came too late for its row, since the opening. Raises WrongLog when the stored cursor belongs to
    a source topic that was deleted and created anew.
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
        self._pending: list[Arrival] = []
        """What was folded since the last step."""
        self._poison: dict[int, Exception] = {}
        self._emissions: list[Event] = []
        self._marked = 0
        """The offset up to which the last step went."""
        self._expiries: list[tuple[int, str]] = []
        """A heap of (when a row expires, its entity), of all rows, published or not yet."""
        self._swept: dict[str, int] = {}
        """What expired, with the source offset that showed it, until the tombstone is written."""
        self._watermark_us = 0
        self.late = 0
        self._cursor = Cursor()
        self._deduplicator = Deduplicator(self._cursor)
        self._restore()

    @property
    def next_offset(self) -> int:
        """Return the source offset to read next."""
        return self._cursor.next_offset(self.fold.source.name, self.partition)

    @property
    def changed(self) -> int:
        """Return how many rows the next step writes."""
        return len(self._dirty)

    def take(self, records: Sequence[Record]) -> Step:
        """Fold records in and say what to write: `add` and `step` in one."""
        self.add(read(records, self.fold.event))
        return self.step()

    def add(self, arrivals: Sequence[Arrival]) -> None:
        """Fold records in, which must follow `next_offset` without gaps.

        What cannot be decoded or folded becomes a dead letter among the emissions and leaves no
        trace in any row.
        """
        self._pending.extend(arrivals)
        while True:
            try:
                self._fold(arrivals)
                return
            except _Poisonous as failure:
                # Other entities may have counted the event before one refused it: begin again
                # from what is published, without that event.
                self._poison[failure.offset] = failure.error
                self._restore()
                arrivals = self._pending

    def step(self) -> Step:
        """Say what must be written for what was added; `published` is due before the next `add`."""
        swept = [Tombstone(self._key(entity), offset) for entity, offset in self._swept.items()]
        emissions, pending = self._emissions, self._pending
        self._emissions, self._pending = [], []
        self._poison.clear()
        if self.next_offset == self._marked:
            return Step(emissions, [], None, swept)
        self._marked = self.next_offset
        self._forget_outboxes(pending)
        rows = [self._row(*dirty) for dirty in self._dirty.items()]
        self._dirty.clear()
        return Step(emissions, rows, self._mark(), swept)

    def published(self, step: Step) -> None:
        """Hear that a step's rows and cursor are in the log."""
        self._stored.update((row.key, row.value) for row in step.rows)
        if step.cursor is not None:
            self._stored[step.cursor.key] = step.cursor.value
        for key, _ in step.swept:
            self._stored.pop(key, None)
        self._swept.clear()
        for entity in list(islice(self._entries, max(0, len(self._entries) - STATES_MAX))):
            del self._entries[entity]  # its row says the same

    def _fold(self, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals:
            record = arrival.record
            try:
                if not self._deduplicator.admit_marked(record, arrival.mark):
                    continue
                if arrival.error is not None:
                    raise arrival.error
                if error := self._poison.get(record.offset):
                    raise FoldFailed(f"{type(error).__name__}: {error}") from error
                if arrival.event is not None:
                    self._emissions.extend(self._apply(record, arrival.event))
            except LogError as error:
                self._emissions.append(dead_letter(record, self.consumer, error))

    def _apply(self, record: Record, event: Event) -> Iterator[Event]:
        """Add the event to every entity that it concerns; yield what that emits."""
        appended_us = record.timestamp_ms * 1_000
        if event.occurred_at_us > appended_us + AHEAD_US_MAX and appended_us > 0:
            event = msgspec.structs.replace(event, occurred_at_us=appended_us)
        if event.occurred_at_us > self._watermark_us:
            self._watermark_us = event.occurred_at_us
            self._sweep(record.offset)
        try:
            parts = list(self.fold.split(event))
        except Exception as error:  # whatever a fold's code raises condemns the event alone
            raise FoldFailed(f"{type(error).__name__}: {error}") from error
        number = 0
        for entity, part in parts:
            try:
                entry = self._entry(entity)
            except FoldFailed as error:
                raise _Poisonous(record.offset, error) from error
            if entry is None:
                self.late += 1
                continue
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

    def _entry(self, entity: str) -> _Entry | None:
        """Return the state of an entity, None when its row has expired."""
        found = self._entries.get(entity)
        if found is not None:
            return found
        value = self._stored.get(self._key(entity))
        if value is None:
            if not self._lives(entity):
                return None
            found = _Entry(self.fold.new(), -1, 0, -1)
        elif entity in self._swept:
            return None
        else:
            row = cast("TableRow", decode(value))
            found = _Entry(self.fold.thaw(row), row.offset, row.occurred_at_us, row.offset)
        self._entries[entity] = found
        return found

    def _lives(self, entity: str) -> bool:
        """Whether a new row would not be expired already; notes when it will be."""
        expires_us = self._expires_us(entity)
        if expires_us is None:
            return True
        if expires_us <= self._watermark_us:
            return False
        heapq.heappush(self._expiries, (expires_us, entity))
        return True

    def _expires_us(self, entity: str) -> int | None:
        if self.fold.expires is None:
            return None
        try:
            return self.fold.expires(entity)
        except Exception as error:  # as in `_apply`
            raise FoldFailed(f"{type(error).__name__}: {error}") from error

    def _sweep(self, offset: int) -> None:
        """Take out what the watermark is past; what was never published needs no tombstone."""
        while self._expiries and self._expiries[0][0] <= self._watermark_us:
            _, entity = heapq.heappop(self._expiries)
            self._entries.pop(entity, None)
            self._dirty.pop(entity, None)
            if self._key(entity) in self._stored:
                self._swept[entity] = offset

    def _key(self, entity: str) -> bytes:
        return f"{entity}|{self.partition}".encode()

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
                occurred_at_us=self._watermark_us,
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
        self._dirty.clear()
        self._emissions.clear()
        self._swept.clear()
        self._watermark_us = 0
        self._cursor = Cursor()
        self._deduplicator = Deduplicator(self._cursor)
        self._restore_cursor()
        self._expiries = [
            (expires_us, entity)
            for entity in self._stored_entities()
            if (expires_us := self._expires_us(entity)) is not None
        ]
        heapq.heapify(self._expiries)
        self._marked = self.next_offset
        self._sweep(self.next_offset - 1)

    def _restore_cursor(self) -> None:
        value = self._stored.get(self._key(CURSOR_ENTITY))
        if value is None:
            return
        row = cast("CursorRow", decode(value))
        if self._topic_id is not None and row.topic_id not in {None, self._topic_id}:
            raise WrongLog(
                f"topic {self.fold.source.name} was deleted and created anew since the table "
                f"{self.fold.table.name} was folded from it"
            )
        self._watermark_us = row.occurred_at_us
        self._cursor.positions = {self.fold.source.name: {self.partition: row.offset + 1}}
        self._watermarks.update(row.watermarks)

    def _stored_entities(self) -> Iterator[str]:
        """Yield the entities of the published rows, for a fold whose rows expire."""
        if self.fold.expires is None:
            return
        for key in self._stored:
            entity = key.decode().rpartition("|")[0]
            if entity != CURSOR_ENTITY:
                yield entity

    def _forget_outboxes(self, arrivals: Sequence[Arrival]) -> None:
        """Keep the watermarks of the outboxes heard of last, and the cursor row small."""
        marks = self._watermarks
        for name in dict.fromkeys(arrival.mark[0] for arrival in arrivals if arrival.mark):
            if name in marks:
                marks[name] = marks.pop(name)
        while len(marks) > OUTBOXES_MAX:
            del marks[next(iter(marks))]

    def _event_id(self, offset: int, what: str) -> str:
        name = f"{self.fold.name}|{self.fold.source.name}|{self.partition}@{offset}|{what}"
        return str(uuid.uuid5(_NAMESPACE, name))
