"""Follows the log and keeps the live database up to date, in a thread and loop of its own."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import msgspec

from projections.database import Database, Folder
from projections.decode import Decoded, decode_batch
from projections.projection import projections, topics_of
from projections.settings import ProjectionsSettings
from projections.snapshots import Snapshot, Snapshots
from schemas.errors import (
    BrokerUnavailable,
    LogTruncated,
    Unavailable,
    WeirError,
    WrongLog,
)
from schemas.letters import dead_letter
from schemas.log import Cursor, Log, Reader, Record

_log = logging.getLogger(__name__)

OpenLog = Callable[[], AbstractAsyncContextManager[Log]]

_CONSUMER = "projections"
_RETRY_S = 1.0
_RETIRE_S = 2.0
_LAG_EVERY_S = 1.0
_ANSWER_S = 3.0
_TRICKLE_RECORDS = 500


class Status(msgspec.Struct):
    """What `weir status` shows. `state` is starting, catching_up, running, waiting or stopped."""

    state: str = "starting"
    error: str | None = None
    action: str | None = None
    lag_records: int | None = None
    events_total: int = 0
    rejected_total: int = 0
    committed_at: float | None = None
    commit_seconds: float | None = None


class Projector:
    """The one writer of the live database; see `run`, `snapshot` and `swap`."""

    def __init__(self, settings: ProjectionsSettings, open_log: OpenLog) -> None:
        self.settings = settings
        self.folder = Folder(settings.data_dir)
        self.snapshots = Snapshots(settings, self.folder)
        self.status = Status()
        self.caught_up = threading.Event()
        self._open_log = open_log
        self._stopping = threading.Event()
        self._opened = threading.Event()
        self._database: Database | None = None
        self._swap: tuple[Path, Future[None]] | None = None

    # --- from outside ------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log until `stop`. Raises what the thread died of, if it did."""
        thread = asyncio.create_task(asyncio.to_thread(self.run_here))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({thread, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:  # a cancelled task must not leave the thread behind
            self._stopping.set()
            stopped.cancel()
        await thread

    def run_here(self) -> None:
        """Follow the log in this thread until `stop`."""
        threading.current_thread().name = "projector"
        asyncio.run(self._main())

    def stop(self) -> None:
        """Let `run_here` return after its current batch. From any thread."""
        self._stopping.set()

    def live(self) -> Database:
        """Return the live database, waiting for its opening. From any thread."""
        if not self._opened.wait(30):
            raise Unavailable("the projections are not open yet")
        assert self._database is not None
        return self._database

    def snapshot(self, age_max_s: float | None = None) -> Snapshot:
        """Return a recent copy of the live database. Blocks; from any thread."""
        return self.snapshots.fresh(self.live, age_max_s)

    def swap(self, path: Path) -> Future[None]:
        """Make a rebuilt (closed) database the live one; the log is followed from its cursor."""
        done: Future[None] = Future()
        self._swap = (path, done)
        return done

    # --- in the thread -----------------------------------------------------------------------

    async def _main(self) -> None:
        self.folder.tidy()
        self._database = open_live(self.folder)
        self._opened.set()
        writer = ThreadPoolExecutor(1, thread_name_prefix="projector-writer")
        try:
            while not self._stopping.is_set():
                try:
                    await self._follow(writer)
                except BrokerUnavailable as error:
                    self.say("waiting", error)
                    await self._pause(_RETRY_S)
                except (LogTruncated, WrongLog) as error:
                    # Never reset by ourselves: queries go on, until somebody replays.
                    self.say("stopped", error)
                    while self._swap is None and not self._stopping.is_set():
                        await self._pause(_RETRY_S)
                    self._take_over()
        finally:
            self.status.state = "stopped"
            writer.shutdown()
            self.snapshots.close()
            self._database.close()

    async def _follow(self, writer: ThreadPoolExecutor) -> None:
        async with self._open_log() as log:
            database = self.live()
            topics = topics_of(database.chosen)
            async with log.reader(topics, database.cursor()) as reader:
                loader = _Loader(self, database, log, reader, writer)
                try:
                    with bulk_reading():
                        await loader.run(until_caught_up=True)
                    await loader.run()
                finally:
                    await loader.finish()
        self._take_over()

    def _take_over(self) -> None:
        if self._swap is None:
            return
        (path, done), self._swap = self._swap, None
        old = self.live()

        def switch() -> None:
            self._database = Database(path, projections())
            self.folder.switch(path)

        try:
            self.snapshots.exclusively(switch)
            _log.info("%s is the live database now", path.name)
            done.set_result(None)
            # Whoever holds the old one may still be about to read it.
            retirement = threading.Timer(_RETIRE_S, old.discard)
            retirement.daemon = True
            retirement.start()
        except Exception as error:
            done.set_exception(error)
            raise

    @property
    def wanted(self) -> bool:
        """Whether following should go on: neither a stop nor a swap waits."""
        return not self._stopping.is_set() and self._swap is None

    def say(self, state: str, error: WeirError) -> None:
        """Show why following pauses."""
        if self.status.state != state:
            _log.error("the projector is %s: %s", state, error.message)
        self.status.state, self.status.error = state, error.message
        self.status.action = error.advice

    async def _pause(self, seconds: float) -> None:
        await asyncio.to_thread(self._stopping.wait, seconds)


class Backlog:
    """Records that wait for their commit; full when it is time to wait for them."""

    def __init__(self, settings: ProjectionsSettings) -> None:
        self._settings = settings
        self._bytes = 0
        self.records: list[Record] = []

    @property
    def full(self) -> bool:
        """Whether more would take too much memory."""
        return (
            len(self.records) >= self._settings.pending_records_max
            or self._bytes >= self._settings.pending_bytes_max
        )

    def add(self, records: Sequence[Record]) -> None:
        """Append records."""
        self.records.extend(records)
        self._bytes += sum(len(record[5] or b"") for record in records)

    def take(self) -> list[Record]:
        """Return what waits, and begin anew."""
        taken, self.records, self._bytes = self.records, [], 0
        return taken


class _Loader:
    """Reads ahead while the previous batch is committed, so that batches grow with the backlog."""

    def __init__(
        self,
        owner: Projector,
        database: Database,
        log: Log,
        reader: Reader,
        writer: ThreadPoolExecutor,
    ) -> None:
        self._owner = owner
        self._settings = owner.settings
        self._status = owner.status
        self._database = database
        self._log = log
        self._reader = reader
        self._writer = writer
        self._pending = Backlog(self._settings)
        self._committing = 0
        self._commit: asyncio.Task[None] | None = None
        self._committed_at = 0.0
        self._measured_at = 0.0
        self._status.error = self._status.action = None
        self._status.state = "catching_up"

    async def run(self, until_caught_up: bool = False) -> None:
        """Load until the owner wants otherwise, or until the first time at the log's end."""
        settings = self._settings
        while self._owner.wanted and not (until_caught_up and self._status.state == "running"):
            records = await self._reader.batch(
                settings.pending_records_max, settings.commit_interval_s
            )
            self._pending.add(records)
            await self._commit_when_due()
            if len(records) < _TRICKLE_RECORDS:
                await self._when_quiet(bool(records))

    async def finish(self) -> None:
        """Wait for the commit under way. What is pending only is read again."""
        if self._commit is not None:
            await self._commit

    async def _commit_when_due(self) -> None:
        if self._commit is not None:
            if not self._commit.done() and not self._pending.full:
                return
            await self._commit
            self._commit = None
        waited = time.monotonic() - self._committed_at
        due = self._pending.full or len(self._pending.records) >= self._settings.commit_records
        if self._pending.records and (due or waited >= self._settings.commit_interval_s):
            records = self._pending.take()
            # The cursor goes on moving while this batch is written.
            cursor = Cursor.load(self._reader.cursor.dump())
            self._commit = asyncio.create_task(self._write(records, cursor))
            self._committed_at = time.monotonic()

    async def _write(self, records: Sequence[Record], cursor: Cursor) -> None:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        self._committing = len(records)
        decoded: Decoded = await loop.run_in_executor(
            self._writer, decode_batch, records, self._database.event_types
        )
        for rejected in decoded.rejected:
            record, error = rejected.record, rejected.error
            _log.warning(
                "%s|%d@%d: %s", record.topic, record.partition, record.offset, error.message
            )
            await self._log.publish(dead_letter(record, _CONSUMER, error))
        added = await loop.run_in_executor(self._writer, self._database.apply, decoded.rows, cursor)
        if self._database.wal_bytes() > self._settings.wal_bytes_max:
            await loop.run_in_executor(self._writer, self._database.checkpoint)
        self._committing = 0
        self._status.events_total += added
        self._status.rejected_total += len(decoded.rejected)
        self._status.committed_at = time.time()
        self._status.commit_seconds = time.monotonic() - started

    async def _when_quiet(self, trickling: bool) -> None:
        if time.monotonic() - self._measured_at >= _LAG_EVERY_S:
            await self._measure()
            self._measured_at = time.monotonic()
        if trickling:  # gather a few more: waking for each record would cost more than it brings
            await asyncio.sleep(self._settings.commit_interval_s / 4)
        elif (
            self._commit is None
            and not self._pending.records
            and self._database.wal_bytes() > self._settings.wal_quiet_bytes
        ):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._writer, self._database.checkpoint)

    async def _measure(self) -> None:
        """Find out how far the log's end is; a broker that is away does not even say that."""
        status = self._status
        uncommitted = len(self._pending.records) + self._committing
        try:
            lag = await asyncio.wait_for(self._reader.lag(), _ANSWER_S)
        except (TimeoutError, BrokerUnavailable):
            status.lag_records = None
            self._owner.say("waiting", BrokerUnavailable("the broker does not answer"))
            return
        status.lag_records = lag + uncommitted
        if status.lag_records < _TRICKLE_RECORDS:
            status.state, status.error, status.action = "running", None, None
            self._owner.caught_up.set()
        elif status.state == "waiting":
            status.state, status.error, status.action = "catching_up", None, None


@contextmanager
def bulk_reading() -> Iterator[None]:
    """Pause the cyclic garbage collector: on a backlog it takes half of the time.

    Each record brings a dozen tuples, none of which is ever part of a cycle, and the collector
    walks all of those that wait for their commit over and over.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def open_live(folder: Folder) -> Database:
    """Open the live database; one of other definitions gives way to an empty one."""
    database = Database(folder.live(), projections())
    if database.is_current():
        return database
    old = database.path
    database.close()
    _log.warning("the projections' definitions changed: %s is rebuilt from the log", old.name)
    path = folder.next()
    database = Database(path, projections())
    folder.switch(path)
    folder.tidy()
    return database
