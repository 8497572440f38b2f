"""The log as every package sees it: records, positions, and the ports that infra implements."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from schemas.codec import Headers
from schemas.event import Event, Topic

if TYPE_CHECKING:
    from schemas.table_view import TableView

OUTBOX_HEADER = "weir-outbox"
SEQUENCE_HEADER = "weir-seq"


class Record(NamedTuple):
    """A record as read from Kafka. `timestamp_ms` is the broker's append time."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]

    def header(self, name: str) -> bytes | None:
        """Return the first header of this name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Position(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int


class Cursor(msgspec.Struct):
    """How far a consumer has come; it is stored together with the consumer's state.

    `positions`: {topic: {partition: next offset}} guards against reading twice.
    `watermarks`: {topic: {partition: {outbox id: highest sequence}}} guards against a producer's
    sending twice. `cluster_id` and `topic_ids` tell a log that was replaced.
    """

    positions: dict[str, dict[int, int]] = msgspec.field(default_factory=dict)
    watermarks: dict[str, dict[int, dict[str, int]]] = msgspec.field(default_factory=dict)
    cluster_id: str | None = None
    topic_ids: dict[str, str] = msgspec.field(default_factory=dict)

    def next_offset(self, topic: str, partition: int) -> int:
        """Return the next offset to read, 0 for a partition not seen yet."""
        return self.positions.get(topic, {}).get(partition, 0)

    def dump(self) -> bytes:
        """Return the cursor as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def load(cls, data: bytes) -> Cursor:
        """Read what `dump` wrote. Raises msgspec.DecodeError for anything else."""
        return msgspec.json.decode(data, type=cls)


Mark = tuple[str, int]
"""The outbox that a record comes from, and its sequence there."""


def mark_of(record: Record) -> Mark | None:
    """Return a record's mark, None for one that no outbox of ours sent.

    A sequence that is no number belongs to none: one foreign record must not stop every reader of
    its topic.
    """
    outbox = sequence = None
    for name, value in record.headers:  # one pass: this runs for every record of every reader
        if name == OUTBOX_HEADER:
            outbox = value
        elif name == SEQUENCE_HEADER:
            sequence = value
    if outbox is None or sequence is None or not sequence.isdigit():
        return None
    return outbox.decode("ascii", "replace"), int(sequence)


class Deduplicator:
    """Advances a cursor over records and says which of them are new.

    A producer sends the records of one outbox in ascending sequence per partition and starts
    again from its lowest unacknowledged one, so whatever is not above the highest sequence seen
    is a repeat.
    """

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.dropped = 0

    def admit(self, record: Record) -> bool:
        """Advance the cursor; return False for a record that was seen before."""
        return self.admit_marked(record, mark_of(record))

    def admit_marked(self, record: Record, mark: Mark | None) -> bool:
        """As `admit`, for who knows the record's mark already."""
        positions = self.cursor.positions.setdefault(record.topic, {})
        if record.offset < positions.get(record.partition, 0):
            self.dropped += 1
            return False
        positions[record.partition] = record.offset + 1
        if mark is None:
            return True
        partitions = self.cursor.watermarks.setdefault(record.topic, {})
        marks = partitions.setdefault(record.partition, {})
        outbox_id, number = mark
        if number <= marks.get(outbox_id, -1):
            self.dropped += 1
            return False
        marks[outbox_id] = number
        return True

    def fresh(self, records: Iterable[Record]) -> list[Record]:
        """Return the new ones among records, in order."""
        return [record for record in records if self.admit(record)]


class Connection(msgspec.Struct, frozen=True):
    """How to reach a Kafka cluster; SASL and TLS fields are None on an open one."""

    bootstrap: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = None
    ca_file: str | None = None
    replication_factor: int = 1


class Reader(Protocol):
    """A deduplicating consumer of whole topics, positioned by a cursor and by nothing else."""

    cursor: Cursor

    async def batch(self, max_records: int, timeout_s: float) -> list[Record]:
        """Return the next new records, possibly none, and advance the cursor past them.

        Raises LogTruncated or WrongLog instead of ever resetting a position.
        """
        ...

    async def end_positions(self) -> Mapping[str, Mapping[int, int]]:
        """Return {topic: {partition: end offset}} as of now."""
        ...

    async def lag(self) -> int:
        """Return how many records lie between the cursor and the end."""
        ...


class Log(Protocol):
    """The port to Kafka; `infra.kafka` implements it."""

    connection: Connection
    source: str
    """The CloudEvents source of what this process publishes, e.g. ``/control/1234``."""

    async def publish(
        self,
        event: Event,
        *,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        extra_headers: Headers = ...,
    ) -> Position:
        """Append one event and wait for the acknowledgement of all in-sync replicas.

        Raises BrokerUnavailable when it did not come in time.
        """
        ...

    def reader(
        self, topics: Sequence[Topic], cursor: Cursor | None = None
    ) -> AbstractAsyncContextManager[Reader]:
        """Open a reader of whole topics from a cursor (None: from the beginning)."""
        ...

    async def positions_at(
        self, topics: Sequence[Topic], time_ms: int
    ) -> Mapping[str, Mapping[int, int]]:
        """Return {topic: {partition: first offset appended at or after a time}}."""
        ...

    async def follow(
        self, views: Sequence[TableView[Event]], stop: asyncio.Event, *, at_once: bool = False
    ) -> None:
        """Keep views up to date until `stop`; sets each view's `caught_up` at the first end.

        Changes are read as they come, live tables in gathered steps, or as they come `at_once`.
        """
        ...
