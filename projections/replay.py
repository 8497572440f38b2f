"""Builds projections anew from the log, beside the live ones, and says whether they are the same.

A rebuild goes into a file of its own while queries on the live database go on. It stops at a fixed
vector of offsets, the one at which the live digests were taken, so both sides saw the same log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from projections.database import Database, Folder
from projections.decode import decode_batch
from projections.digest import Digest, digests, failed_audits
from projections.projection import Projection, closure, projections, topics_of
from projections.projector import Backlog, OpenLog, Projector, bulk_reading
from projections.settings import ProjectionsSettings
from schemas.errors import InvalidRequest, LogTruncated
from schemas.log import Cursor, Deduplicator, Reader, Record

_log = logging.getLogger(__name__)

Positions = Mapping[str, Mapping[int, int]]
Progress = Callable[[int, int], None]
"""Hears how many of how many records are read."""

_CATCH_UP_ROUNDS = 5
_MOMENTS_KEPT = 5


def _silent(_done: int, _total: int) -> None:
    """Hear no progress."""


class Moment(msgspec.Struct, frozen=True):
    """A point of the log: a vector of offsets, or what had been appended before `before_ms`."""

    positions: Positions | None = None
    before_ms: int | None = None

    @classmethod
    def parse(cls, text: str) -> Moment:
        """Read ISO 8601 (UTC unless it says otherwise) or JSON {topic: {partition: offset}}.

        Raises InvalidRequest.
        """
        if text.lstrip().startswith("{"):
            try:
                return cls(positions=msgspec.json.decode(text, type=dict[str, dict[int, int]]))
            except msgspec.DecodeError as error:
                raise InvalidRequest(f"these are no offsets: {error}") from error
        try:
            at = datetime.fromisoformat(text)
        except ValueError as error:
            raise InvalidRequest(
                f"{text!r} is neither a time nor offsets",
                action='Give 2026-11-20T21:00:00Z or {"topic": {"0": 17}}.',
            ) from error
        return cls(before_ms=int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))


class Comparison(msgspec.Struct, frozen=True):
    """The digest of one projection, live and rebuilt."""

    live: Digest | None
    rebuilt: Digest

    @property
    def equal(self) -> bool:
        """Whether there was a live one to compare with, and it is the same."""
        return self.live == self.rebuilt


class Report(msgspec.Struct, kw_only=True):
    """What a replay did. `seconds` is the rebuild alone, without digests."""

    name: str
    events: int = 0
    rejected: int = 0
    seconds: float = 0.0
    digests: dict[str, Comparison] = {}
    failed_audits: list[str] = []
    verified: bool | None = None
    swapped: bool = False
    database: str | None = None

    @property
    def passed(self) -> bool:
        """Whether everything that was compared is equal and no audit found a row."""
        return self.verified is not False and not self.failed_audits

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        for name, comparison in self.digests.items():
            plain["digests"][name]["equal"] = comparison.equal
        return plain | {
            "passed": self.passed,
            "events_per_second": round(self.events / self.seconds) if self.seconds else None,
        }


class Reference(msgspec.Struct, frozen=True):
    """The live state that a rebuild is compared with."""

    cursor: Cursor
    digests: dict[str, Digest]


def reference_of(path: Path, chosen: Sequence[Projection]) -> Reference:
    """Read the cursor and the digests of a copy of the live database."""
    with duckdb.connect(str(path), read_only=True) as connection:

        def query(statement: str) -> list[tuple[Any, ...]]:
            return connection.execute(statement).fetchall()

        cursor = Cursor.load(query("SELECT value FROM weir.cursor")[0][0])
        return Reference(cursor, digests(query, chosen))


class Replayer:
    """Replays against a running projector, or against a data folder that nobody has open."""

    def __init__(
        self, settings: ProjectionsSettings, open_log: OpenLog, projector: Projector | None = None
    ) -> None:
        self._settings = settings
        self._open_log = open_log
        self._projector = projector
        self._folder = projector.folder if projector else Folder(settings.data_dir)

    async def replay(
        self,
        name: str,
        *,
        verify: bool = False,
        as_of: Moment | None = None,
        progress: Progress = _silent,
    ) -> Report:
        """Rebuild `name` (or ``all``) and what it reads.

        With `verify` the rebuild is only compared and thrown away; with `as_of` it is kept as a
        database of the past; otherwise it takes the live one's place, whole. `progress` hears how
        many of how many records are read. Raises NotFound, LogTruncated or BrokerUnavailable.
        """
        chosen = closure(name) if verify or as_of else projections()
        closure(name)
        report = Report(name=name)
        reference = None if as_of else await asyncio.to_thread(self._reference, chosen)
        path = self._path(as_of)
        database = await asyncio.to_thread(Database, path, chosen)
        try:
            builder = _Builder(self._settings, self._open_log, database, progress)
            with bulk_reading():
                if as_of is not None:
                    await builder.build(as_of.positions, as_of.before_ms)
                else:
                    assert reference is not None
                    try:
                        await builder.build(reference.cursor.positions)
                    except LogTruncated:
                        if verify:
                            raise
                        # The log ends before the live cursor: it is what there is to rebuild from.
                        reference = None
                        await builder.build(None)
            report.events, report.rejected = builder.events, builder.rejected
            report.seconds = round(builder.seconds, 3)
            await asyncio.to_thread(_compare, report, database, chosen, reference)
            if as_of is None and not verify:
                await builder.catch_up()
        except BaseException:
            await asyncio.to_thread(database.discard)
            raise
        if verify:
            await asyncio.to_thread(database.discard)
        else:
            await asyncio.to_thread(database.close)
            report.database = path.name
            if as_of is None:
                await self._take_over(path)
                report.swapped = True
        return report

    def _reference(self, chosen: Sequence[Projection]) -> Reference:
        if self._projector is not None:
            return reference_of(self._projector.snapshot(0.0).path, chosen)
        database = Database(self._folder.live(), projections())
        try:
            return Reference(database.cursor(), digests(database.query, chosen))
        finally:
            database.close()

    def _path(self, as_of: Moment | None) -> Path:
        if as_of is None:
            return self._folder.next()
        for old in sorted(self._folder.moments.iterdir())[: -_MOMENTS_KEPT + 1]:
            old.unlink(missing_ok=True)
        return self._folder.moments / f"moment-{time.time_ns() // 1_000_000}.duckdb"

    async def _take_over(self, path: Path) -> None:
        if self._projector is not None:
            await asyncio.wrap_future(self._projector.swap(path))
        else:
            self._folder.switch(path)
            self._folder.tidy()


class _Builder:
    """Fills an empty database up to a vector of offsets, reading ahead of its commits."""

    def __init__(
        self,
        settings: ProjectionsSettings,
        open_log: OpenLog,
        database: Database,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._open_log = open_log
        self._database = database
        self._progress = progress
        self.cursor = Cursor()
        self.events = 0
        self.rejected = 0
        self.seconds = 0.0

    async def build(self, until: Positions | None, before_ms: int | None = None) -> None:
        """Apply every record below `until` (None: the end of now) that is older than `before_ms`.

        Raises LogTruncated when the log ends before `until`.
        """
        started = time.monotonic()
        async with self._open_log() as log:
            topics = topics_of(self._database.chosen)
            start = Cursor.load(self.cursor.dump())
            async with log.reader(topics, start) as reader:
                self.cursor.cluster_id = reader.cursor.cluster_id
                self.cursor.topic_ids = dict(reader.cursor.topic_ids)
                ends = await reader.end_positions()
                target = {topic.name: dict((until or ends).get(topic.name, {})) for topic in topics}
                _check_reachable(target, ends)
                with ThreadPoolExecutor(1, thread_name_prefix="replay-writer") as writer:
                    await self._read(reader, target, before_ms, writer)
        self.seconds += time.monotonic() - started

    async def catch_up(self) -> None:
        """Go on to the end of the log, until little can be missing."""
        for _ in range(_CATCH_UP_ROUNDS):
            before = self.events
            await self.build(None)
            if self.events - before < self._settings.commit_records:
                return

    async def _read(
        self,
        reader: Reader,
        target: dict[str, dict[int, int]],
        before_ms: int | None,
        writer: ThreadPoolExecutor,
    ) -> None:
        loop = asyncio.get_running_loop()
        total = sum(sum(partitions.values()) for partitions in target.values())
        limit = _Limit(reader, self.cursor, target, before_ms)
        pending = Backlog(self._settings)
        commit: asyncio.Future[None] | None = None
        reading = True
        while reading or pending.records:
            if reading:
                records = await reader.batch(self._settings.pending_records_max, 0.2)
                pending.add(limit.admit(records))
                reading = not limit.reached() and (bool(records) or await reader.lag() > 0)
            self._progress(limit.read(), total)
            if commit is not None and (commit.done() or pending.full or not reading):
                await commit
                commit = None
            if commit is None and pending.records:
                cursor = _copy(limit.cursor)
                commit = loop.run_in_executor(writer, self._apply, pending.take(), cursor)
        if commit is not None:
            await commit
        self.cursor = limit.cursor
        for topic, partitions in target.items():
            self.cursor.positions.setdefault(topic, {}).update(partitions)
        await loop.run_in_executor(writer, self._apply, [], self.cursor)

    def _apply(self, records: Sequence[Record], cursor: Cursor) -> None:
        decoded = decode_batch(records, self._database.event_types)
        self.rejected += len(decoded.rejected)  # their dead letters are in the log already
        self.events += self._database.apply(decoded.rows, cursor)
        if self._database.wal_bytes() > self._settings.wal_bytes_max:
            self._database.checkpoint()


class _Limit:
    """Lets through what lies below a vector of offsets, and keeps the cursor of just that.

    Until a record is held back for the first time the reader's own cursor is the right one.
    """

    def __init__(
        self,
        reader: Reader,
        cursor: Cursor,
        target: dict[str, dict[int, int]],
        before_ms: int | None,
    ) -> None:
        self._reader = reader
        self._target = target
        self._before_ms = before_ms
        self._marks: Deduplicator | None = None
        self.cursor = cursor
        if before_ms is not None:
            self._marks = Deduplicator(cursor)

    def admit(self, records: list[Record]) -> list[Record]:
        """Return those of a batch that belong to the rebuild."""
        if self._before_ms is not None:
            self._cut(records, self._before_ms)
        if self._marks is None:
            if not self._crossed():
                self.cursor = _copy(self._reader.cursor)
                return records
            self._marks = Deduplicator(self.cursor)
        target = self._target
        return [
            record
            for record in records
            if record.offset < target[record.topic].get(record.partition, 0)
            and self._marks.admit(record)
        ]

    def _cut(self, records: list[Record], before_ms: int) -> None:
        """Lower the target of a partition to its first record of `before_ms` or later.

        The broker stamps records as it appends them, so times never fall within a partition.
        """
        for record in records:
            if record.timestamp_ms >= before_ms:
                partitions = self._target[record.topic]
                partitions[record.partition] = min(partitions[record.partition], record.offset)

    def _crossed(self) -> bool:
        return any(
            offset > self._target[topic].get(partition, 0)
            for topic, partitions in self._reader.cursor.positions.items()
            for partition, offset in partitions.items()
        )

    def reached(self) -> bool:
        """Whether everything below the vector was read."""
        return all(
            self._reader.cursor.next_offset(topic, partition) >= offset
            for topic, partitions in self._target.items()
            for partition, offset in partitions.items()
        )

    def read(self) -> int:
        """Return how many records below the vector were read."""
        return sum(
            min(self._reader.cursor.next_offset(topic, partition), offset)
            for topic, partitions in self._target.items()
            for partition, offset in partitions.items()
        )


def _copy(cursor: Cursor) -> Cursor:
    return Cursor.load(cursor.dump())


def _check_reachable(target: Positions, ends: Positions) -> None:
    for topic, partitions in target.items():
        for partition, offset in partitions.items():
            end = ends.get(topic, {}).get(partition, 0)
            if offset > end:
                raise LogTruncated(f"{topic}|{partition} ends at {end}, before offset {offset}")


def _compare(
    report: Report,
    database: Database,
    chosen: Sequence[Projection],
    reference: Reference | None,
) -> None:
    rebuilt = digests(database.query, chosen)
    live = reference.digests if reference else {}
    report.digests = {name: Comparison(live.get(name), digest) for name, digest in rebuilt.items()}
    report.failed_audits = failed_audits(database.query, chosen)
    if reference is not None:
        report.verified = all(comparison.equal for comparison in report.digests.values())
        if not report.verified:
            _log.error("the rebuild of %s differs from the live projections", report.name)
