"""The outbox of one worker: every event lies in a local file before an answer's last byte leaves.

One folder ``{id}`` per process start, locked while the process lives and never reopened for
writing. What one turn of the event loop appends goes out in one write, at the latest when it ends;
whoever waits for a record writes at once. Room on the
disk is allocated ahead: a request is admitted only when its settlement already has its place, so
a full disk refuses new work and never a finished answer. `relay.Relay` carries the entries to
Kafka and deletes segments; `adoption` finishes the outbox of a worker that died.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.outbox_folder import create_folder, sync_folder
from gateway.segment import (
    ENTRY,
    Kind,
    carry,
    ends_of,
    framed,
    kind_of,
    links,
    list_of,
    place,
    segment_path,
    size_of,
    write_all,
)
from gateway.spare import Spare
from schemas import codec
from schemas.errors import BrokerUnavailable, OutboxFull, PayloadTooLarge
from schemas.event import Event
from schemas.events.llm import CostEntry, RequestAdmitted, ResponseCompleted

LEASES_FILE = "leases"
"""The budgets that this worker ever asked for money, one a line: what its adopter must close."""
RESERVED = "admitted"
"""The ledger's line that says what a call holds of budgets now."""
RETRY_SECONDS = 0.1
_ID_HEX = 16
OUTBOX_BYTES_MAX = 12 * 1024**3
"""Eight hours at 50 requests/s of 8.9 KB each. A chat of 1.8 KB answered by 150 tokens takes 6.1 KB."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutboxSettings:
    """Where outboxes lie and how much all of the folder may hold; sizes in bytes, times in seconds.

    `max_bytes` bounds the outboxes of all workers of the machine together, dead ones included. `write_patience_s` is how long a
    finished answer waits for a disk that refuses even its reserved room, `replicated_patience_s`
    for Kafka's acknowledgement.
    """

    folder: Path
    max_bytes: int = OUTBOX_BYTES_MAX
    segment_bytes: int = 16 * 1024**2
    chunk_bytes: int = 1024**2
    max_record_bytes: int = 15 * 1024**2
    write_patience_s: float = 10.0
    replicated_patience_s: float = 30.0


class Segment:
    """A segment as writer and relay share it; `end` counts its whole bytes, `last` its sequence."""

    __slots__ = ("end", "first", "last", "path")

    def __init__(self, path: Path, first: int, end: int = 0, last: int = 0) -> None:
        self.path = path
        self.first = first
        self.end = end
        self.last = last


_Places = dict[int, bytes]
"""A key with its partition, as they lie within a frame, by the number of partitions."""


class Outbox:
    """Appends events; all methods but `sync` and `acknowledge` belong to the event loop's thread.

    `reserved` room is held by admitted requests until they are settled, `bytes_beside` is what the
    outboxes of other workers held when somebody looked last. Sequences start at 1;
    `written`, `synced` and `acked` are the highest for which that and all before it is true.
    """

    def __init__(self, settings: OutboxSettings, source: str) -> None:
        self.settings = settings
        self.id = os.urandom(_ID_HEX // 2).hex()
        self.folder = settings.folder / self.id
        self.segments: list[Segment] = []
        self.written = self.synced = self.acked = 0
        self.reserved = 0
        self.bytes_beside = 0
        self.refused = 0
        self.failing: OSError | None = None
        self.wake: Callable[[], None] = lambda: None
        self.hurry: Callable[[], None] = lambda: None
        self._source = source
        self._sequence = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._flush_planned = self._retry_planned = False
        self._flush_waiters: list[asyncio.Future[None]] = []
        self._failing_since = 0.0
        self._syncing: asyncio.Future[None] | None = None
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._open: dict[str, bytes] = {}
        self._kinds: dict[type[Event], Kind] = {}
        self._retired: deque[int] = deque()
        # Longer than a segment by what is written and reserved when it is full.
        size = settings.segment_bytes + settings.chunk_bytes
        self._spare = Spare(self.folder, size, settings.chunk_bytes)
        self._ahead = self._prepared = False
        self._folder_changed = True
        self._places: dict[str, _Places] = {}
        self._syncer = ThreadPoolExecutor(1, "outbox-sync")
        self._lock = create_folder(self.folder)
        self._sync_lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._descriptor, self._allocated = self._begin_segment()

    # --- room ------------------------------------------------------------------------------

    @property
    def bytes_used(self) -> int:
        """Bytes of its own on the disk, room allocated and prepared ahead included."""
        full = sum(segment.end for segment in self.segments[:-1])
        return full + self._allocated + self._spare.bytes

    @property
    def share(self) -> float:
        """How full the bound is, with what other workers' outboxes hold."""
        return (self.bytes_used + self.bytes_beside) / self.settings.max_bytes

    def reserve(self, size: int) -> None:
        """Hold room for later settlements. Raises OutboxFull: the bound, or the disk, is reached."""
        self._make_room(size)
        self.reserved += size

    def _make_room(self, size: int) -> None:
        if self.failing is not None:
            self._refuse(f"the outbox cannot be written: {self.failing.strerror}")
        current = self.segments[-1]
        needed = current.end + self._pending_bytes + self.reserved + size
        if needed > self._allocated:
            held = self.bytes_used + self.bytes_beside
            if held - self._allocated + needed > self.settings.max_bytes:
                self._refuse(f"the outboxes hold {held} bytes, their limit")
            try:
                self._allocated = self._allocate(self._descriptor, self._allocated, needed)
            except OSError as error:
                self._refuse(f"the disk refuses room for the outbox: {error.strerror}")

    def release(self, size: int) -> None:
        """Give reserved room back."""
        self.reserved -= size

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        raise OutboxFull(reason, retry_after_seconds=1.0)

    def _allocate(self, descriptor: int, start: int, needed: int) -> int:
        end = -(-needed // self.settings.chunk_bytes) * self.settings.chunk_bytes
        os.posix_fallocate(descriptor, start, end - start)
        return end

    def prepare_ahead(self) -> None:
        """From now on go on in segments whose room was written before; see `spare`.

        This one is new. Later ones are made of those that Kafka holds; where none was free in time,
        room is allocated as it is needed, until there is one.
        """
        self._ahead = True
        if self._spare_fits:
            self._spare.prepare()

    @property
    def _spare_fits(self) -> bool:
        """Whether there is room for more than what must be kept: a spare never makes a call be refused."""
        held = self.bytes_used + self.bytes_beside
        return 2 * (held + self._spare.size) <= self.settings.max_bytes

    # --- append ----------------------------------------------------------------------------

    def append(
        self,
        *events: Event,
        settles: bool = False,
        waited_for: bool = False,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
    ) -> int:
        """Append events that stand or fall together; return the sequence of the last.

        Room is checked unless they settle an admitted request, whose room was reserved. Whoever
        waits for them with `durable` at once says so: they need no turn of the loop then. Raises
        OutboxFull, or PayloadTooLarge for a record that Kafka would not take; nothing of the
        group is appended then.
        """
        sequence, bytes_max = self._sequence, self.settings.max_record_bytes
        own, linked = links(correlation_id, causation_id, traceparent)
        made, parts = list[tuple[Event, str, bytes, _Places]](), [list_of(len(events))]
        name, places = "", _Places()
        time_us, ends = -1, b""
        for event in events:
            sequence += 1
            kind = self._kinds.get(type(event)) or self._learn(type(event))
            value = kind.encode(event)
            if len(value) > bytes_max:
                raise PayloadTooLarge(f"an event of {len(value)} bytes exceeds {bytes_max}")
            called = event.key
            if name != called:  # the events of one request share its key: hash it once
                name, places = called, self._places.get(called) or _Places()
            made.append((event, name, value, places))
            where = places.get(kind.partitions)
            if where is None:
                where = places[kind.partitions] = place(name, kind.partitions)
            if time_us != event.occurred_at_us:
                time_us = event.occurred_at_us
                ends = ends_of(time_us, linked)
            number, event_id = sequence.to_bytes(8, "big"), event.event_id.encode()
            parts += (ENTRY, number, kind.topic, where, size_of(value), value)
            parts += (own, size_of(event_id), event_id, ends, kind.origin)
        data = framed(b"".join(parts))
        if not settles:
            self._make_room(len(data))
        for event, name, value, places in made:
            self._note(event, name, value, places)
        self._sequence = sequence
        self._pending.append(data)
        self._pending_bytes += len(data)
        if not (waited_for or self._flush_planned):
            self._flush_planned = True
            self._loop.call_soon(self._planned_flush)
        return sequence

    def _learn(self, event_type: type[Event]) -> Kind:
        kind = self._kinds[event_type] = kind_of(event_type, self._source)
        return kind

    def _note(self, event: Event, key: str, value: bytes, places: _Places) -> None:
        """Keep what an adopter must know of requests that are open: their admissions."""
        kind = type(event)
        if kind is RequestAdmitted:
            self._open[key], self._places[key] = value, places
        elif kind is ResponseCompleted:
            self._open.pop(key, None)
            self._places.pop(key, None)
        elif isinstance(event, CostEntry) and event.entry == RESERVED:
            self._open[key] = reserved_anew(self._open[key], value)

    def _planned_flush(self) -> None:
        self._flush_planned = False
        self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        segment, data = self.segments[-1], b"".join(self._pending)
        try:
            # Torn bytes after `end` do no harm: the next try writes over them.
            write_all(self._descriptor, data, segment.end)
        except OSError as error:
            self._flush_failed(error)
            return
        if self.failing is not None:
            _log.warning("the outbox can be written again")
            self.failing = None
        self._pending.clear()
        self._pending_bytes = 0
        segment.end += len(data)
        segment.last = self.written = self._sequence
        self._allocated = max(self._allocated, segment.end)
        waiters, self._flush_waiters = self._flush_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.wake()
        if segment.end >= self.settings.segment_bytes:
            self._rotate(segment)
        elif self._spare.ready and not self._prepared:
            self._rotate(segment)  # at once: its room is better

    def _flush_failed(self, error: OSError) -> None:
        now = time.monotonic()
        if self.failing is None:
            _log.error("the outbox cannot be written, new requests are refused: %s", error)
            self._failing_since = now
        self.failing = error
        if now - self._failing_since > self.settings.write_patience_s:
            waiters, self._flush_waiters = self._flush_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(
                        OutboxFull(
                            f"the outbox cannot be written: {error.strerror}",
                            retry_after_seconds=1.0,
                        )
                    )
        if not self._retry_planned:
            self._retry_planned = True
            self._loop.call_later(RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._retry_planned = False
        self._flush()

    def _rotate(self, old: Segment) -> None:
        try:
            descriptor, allocated = self._begin_segment()
        except OSError as error:
            _log.warning("the outbox goes on in its old segment: %s", error)
            return
        os.ftruncate(self._descriptor, old.end)
        # In this order, so that `sync` on another thread never misses the old descriptor.
        self._retired.append(self._descriptor)
        self._descriptor, self._allocated = descriptor, allocated

    def _begin_segment(self) -> tuple[int, int]:
        """Open the next segment with room for its carry and all settlements.

        Return its descriptor and how many bytes are allocated. Raises OSError.
        """
        path = segment_path(self.folder, self._sequence + 1)
        head = carry(self._sequence, list(self._open.values())) if self._open else b""
        taken, allocated = self._spare.take(path), 0
        if taken is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        else:
            descriptor, allocated = taken, self._spare.size
        try:
            needed = len(head) + self.reserved + self.settings.chunk_bytes
            if needed > allocated:
                allocated = self._allocate(descriptor, allocated, needed)
            write_all(descriptor, head, 0)
        except OSError:
            path.unlink()
            os.close(descriptor)
            raise
        self._folder_changed = True
        self._prepared = taken is not None
        self.segments.append(Segment(path, self._sequence + 1, len(head), self._sequence))
        return descriptor, allocated

    # --- durability ------------------------------------------------------------------------

    async def durable(self, level: str, sequence: int | None = None) -> None:
        """Wait until everything up to `sequence` (default: all so far) has reached a level.

        `written`: in the file, survives any process; `synced`: on the disk, survives power loss;
        `replicated`: acknowledged by Kafka. Raises OutboxFull or BrokerUnavailable when that
        takes longer than the settings allow; the record itself is kept and goes on its way.
        """
        target = self._sequence if sequence is None else sequence
        if self.written < target:
            # Whoever ends a call writes at once, for all who appended in this turn: to wait for the
            # next turn of the loop would cost each call more than the writes that this saves.
            self._flush()
            if self.written < target:
                await self._until_written(target)
        if level == "synced":
            await self._until_synced(target)
        elif level == "replicated":
            await self._until_replicated(target)
        elif level != "written":
            raise ValueError(f"no durability level is called {level!r}")

    async def _until_written(self, target: int) -> None:
        while self.written < target:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._flush_waiters.append(waiter)
            await waiter

    async def _until_synced(self, target: int) -> None:
        while self.synced < target:
            # Whoever waits while a sync runs shares the next one: a group commit.
            if self._syncing is None:
                self._syncing = self._loop.run_in_executor(self._syncer, self.sync)
                self._syncing.add_done_callback(self._sync_ended)
            await asyncio.shield(self._syncing)

    def _sync_ended(self, _: asyncio.Future[None]) -> None:
        self._syncing = None

    async def _until_replicated(self, target: int) -> None:
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((target, done))
        # Only now: an acknowledgement before the line above would have woken nobody.
        if self.acked >= target:
            self._release_waiting()
        else:
            self.hurry()
        try:
            await asyncio.wait_for(done, self.settings.replicated_patience_s)
        except TimeoutError as error:
            raise BrokerUnavailable(
                "Kafka has not acknowledged the record yet; it is in the outbox and will be sent",
                action="Start the broker again (`weir status`); nothing is lost.",
            ) from error

    def sync(self) -> None:
        """Bring everything written so far to the disk. Any thread; raises OSError."""
        with self._sync_lock:
            target = self.written
            if self.synced >= target:
                return
            current = self._descriptor
            retired = [self._retired.popleft() for _ in range(len(self._retired))]
            for descriptor in (*retired, current):
                os.fdatasync(descriptor)
            for descriptor in retired:
                os.close(descriptor)
            if self._folder_changed:
                self._folder_changed = False
                sync_folder(self.folder)
            self.synced = target

    def acknowledge(self, sequence: int) -> None:
        """Note that Kafka holds everything up to `sequence`. Called by the relay's thread."""
        self.acked = sequence
        if self._waiting:
            self._loop.call_soon_threadsafe(self._release_waiting)

    def discard(self, segment: Segment) -> None:
        """Delete a segment that Kafka holds, or make the spare of it. Called by the relay's thread."""
        if not (self._ahead and self._spare_fits and self._spare.prepare(segment.path)):
            segment.path.unlink(missing_ok=True)

    def _release_waiting(self) -> None:
        still = []
        for target, done in self._waiting:
            if target > self.acked and not done.done():
                still.append((target, done))
            elif not done.done():
                done.set_result(None)
        self._waiting = still

    # --- end -------------------------------------------------------------------------------

    @property
    def open_requests(self) -> int:
        """How many admitted requests have no outcome yet."""
        return len(self._open)

    def close(self) -> int:
        """Write what is pending, sync, and stop; return the descriptor that holds the lock.

        The caller finishes the outbox under that lock (`adoption`) or closes the descriptor.
        """
        self._flush()
        self._spare.close()
        self._syncer.shutdown()
        self.sync()
        os.ftruncate(self._descriptor, self.segments[-1].end)
        os.close(self._descriptor)
        return self._lock


def reserved_anew(admitted: bytes, line: bytes) -> bytes:
    """Return an admission with what a later line of the ledger says is reserved."""
    cost = codec.decode_as(line, CostEntry)
    request = codec.decode_as(admitted, RequestAdmitted)
    if cost is None or request is None or cost.entry != RESERVED:
        return admitted
    return codec.encode(
        msgspec.structs.replace(
            request,
            target=cost.target,
            provider=cost.provider,
            model=cost.model,
            reserved_nano_usd=cost.cost_nano_usd,
            budgets=cost.budgets,
        )
    )
