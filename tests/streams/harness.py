"""A fold's table as it would lie in Kafka, written by processes that may die between any two records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

from infra.kafka import KafkaLog
from schemas.codec import encode
from schemas.event import Event
from schemas.events.tables import CursorRow, TableRow
from schemas.log import Record
from streams.ends import EndsReader
from streams.fold import AnyFold
from streams.partition import PartitionFold, Row, Step, Tombstone
from streams.runtime import SourceRunner
from streams.settings import StreamsSettings
from streams.table import FoldRunner
from streams.writer import TableWriter


def records(
    fold: AnyFold, events: Sequence[Event], repeats: Sequence[int] = (), partition: int = 0
) -> list[Record]:
    """As one outbox would send them; a repeat is the resend of the last few."""
    values = [(number, encode(event)) for number, event in enumerate(events)]
    for at in repeats:
        if values:
            at %= len(values)
            values[at + 1 : at + 1] = values[max(0, at - 2) : at + 1]
    return [
        Record(
            fold.source.name,
            partition,
            offset,
            0,
            b"k",
            value,
            (("weir-outbox", b"o"), ("weir-seq", str(number).encode())),
        )
        for offset, (number, value) in enumerate(values)
    ]


def cut(found: Sequence[Record], at: Sequence[int]) -> list[Sequence[Record]]:
    """Return the records in batches, cut somewhere."""
    edges = sorted({0, len(found), *(number % (len(found) + 1) for number in at)})
    return [found[a:b] for a, b in pairwise(edges)]


def contents(rows: dict[bytes, TableRow]) -> dict[bytes, object]:
    """Return the rows without what depends on positions."""
    return {
        key: {
            name: getattr(row, name)
            for name in row.__struct_fields__
            if name not in {"event_id", "offset"}
        }
        for key, row in rows.items()
        if not isinstance(row, CursorRow)
    }


class Written:
    """The last record of each key, and what was emitted, by id."""

    def __init__(self, fold: AnyFold, partition: int = 0) -> None:
        self.fold = fold
        self.partition = partition
        self.values: dict[bytes, bytes] = {}
        self.rows: dict[bytes, TableRow] = {}
        self.emissions: dict[str, bytes] = {}

    def open(self) -> PartitionFold:
        """Take the partition over, as a new process does."""
        return PartitionFold(self.fold, self.partition, dict(self.values))

    def take(
        self, part: PartitionFold, batch: Sequence[Record], writes_max: int | None = None
    ) -> None:
        """Publish a step, or only so many of its records, as when the process dies in the middle."""
        step = part.take(batch)
        self.emissions |= {event.event_id: encode(event) for event in step.emissions}
        for row in _in_order(step)[:writes_max]:
            if isinstance(row, Tombstone):
                del self.values[row.key], self.rows[row.key]
            else:
                self.values[row.key], self.rows[row.key] = row.value, row.event
        part.published(step)


def _in_order(step: Step) -> list[Row | Tombstone]:
    return [*step.rows, *([step.cursor] if step.cursor else []), *step.swept]


def folded(fold: AnyFold, batches: Sequence[Sequence[Record]], partition: int = 0) -> Written:
    """Fold batches as one process that never dies."""
    table = Written(fold, partition)
    part = table.open()
    for batch in batches:
        table.take(part, batch)
    return table


@asynccontextmanager
async def served(fold: AnyFold, log: KafkaLog, data_dir: Path) -> AsyncIterator[FoldRunner]:
    """Run a fold on a broker, from when it has its partitions."""
    stop = asyncio.Event()
    async with (
        TableWriter(log.connection, "/test") as writer,
        EndsReader(log.connection, [fold.source]) as ends,
    ):
        runner = FoldRunner(fold, 0.1, log, writer)
        source = SourceRunner([runner], StreamsSettings(data_dir), log, ends, None)
        running = asyncio.create_task(source.run(stop))
        try:
            async with asyncio.timeout(40):
                await source.assigned.wait()
            yield runner
        finally:
            stop.set()
            await running
