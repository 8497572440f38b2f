"""Carries an outbox to Kafka, in order, and forgets what Kafka holds.

One relay reads one outbox from its lowest unacknowledged entry on and sends every entry to the
partition that was computed when it was appended. The producer is idempotent and gapless and
never gives up a record (`message.timeout.ms` 0), so each partition receives ascending sequences;
after a fatal error a new producer starts again from the lowest unacknowledged one. Readers drop
the repeats by sequence (`schemas.log.Deduplicator`).

Nothing is sent that is not on the disk: after a power loss Kafka never knows more of an outbox
than its folder does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import zlib
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException

from gateway.entry import Entry
from gateway.lanes import Lanes
from gateway.outbox import Segment
from gateway.segment import CARRY_TOPIC, whole_entries
from schemas import codec
from schemas.connection import librdkafka_options
from schemas.errors import CorruptRecord
from schemas.log import OUTBOX_HEADER, SEQUENCE_HEADER, Connection

LINGER_SECONDS = 0.2
"""How long records gather that nobody waits for. Every batch costs a flush of the disk and a request
per partition, whatever it carries: at 900 calls a second a fifth of the relay's time at 100 ms."""
HURRY_SECONDS, HURRY_POLL_SECONDS = 1.0, 0.001
"""How long somebody who waits is kept in mind, and how often to look for what he wrote since."""
KEEP_SECONDS = 10.0
"""How long a segment outlives its last acknowledgement."""
RESTART_SECONDS = 1.0
MARK_SECONDS = 0.5
PROBE_SECONDS = 0.5
IN_FLIGHT_RECORDS = 10_000
IN_FLIGHT_BYTES = 16 * 1024**2
SILENCE_SECONDS = 5.0
"""A broker that acknowledges nothing for this long counts as away, be its connection open."""
READ_BYTES = 256 * 1024
"""Parsed at once: more costs twice the CPU, since the garbage collector walks what is alive."""
ACKED_FILE = "acked"

_log = logging.getLogger(__name__)


class Source(Protocol):
    """What a relay needs of an outbox, a worker's own or an adopted one."""

    id: str
    folder: Path
    segments: list[Segment]

    def sync(self) -> None:
        """Bring everything written so far to the disk."""
        ...

    def acknowledge(self, sequence: int) -> None:
        """Note that Kafka holds everything up to `sequence`."""
        ...

    def discard(self, segment: Segment) -> None:
        """Delete a segment that Kafka holds, or put its room to use."""
        ...


def producer_options(connection: Connection, max_record_bytes: int) -> dict[str, Any]:
    """Return librdkafka's settings for a relay."""
    return {
        **librdkafka_options(connection),
        "acks": "all",
        "enable.idempotence": True,
        "enable.gapless.guarantee": True,
        "message.timeout.ms": 0,
        "message.max.bytes": max_record_bytes + 64 * 1024,
        "socket.nagle.disable": True,
        "batch.num.messages": 5_000,
        "queue.buffering.max.messages": IN_FLIGHT_RECORDS * 2,
        "compression.type": "none",
        "reconnect.backoff.max.ms": 500,
    }


class AckedMark:
    """The highest sequence up to which Kafka holds everything, in a small checksummed file.

    A lost or torn mark only means that more is sent again, so it is never synced.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ACKED_FILE

    def load(self) -> int:
        """Return the mark, 0 when there is none that can be trusted."""
        try:
            number, checksum = self._path.read_text("ascii").split()
        except (OSError, ValueError):
            return 0
        return int(number) if checksum == _checksum(number) else 0

    def save(self, sequence: int) -> None:
        """Write the mark over the old one, which is as long. Raises OSError."""
        number = f"{sequence:020d}"
        # A new file renamed into its place cost a twentieth of the relay's time.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, f"{number} {_checksum(number)}".encode("ascii"), 0)
        finally:
            os.close(descriptor)


def _checksum(number: str) -> str:
    return f"{zlib.crc32(number.encode()):08x}"


class Tail:
    """Reads the entries of a growing outbox above a sequence, once each, and only whole ones."""

    def __init__(self, source: Source, after: int) -> None:
        self._source = source
        self._after = after
        self._segment: Segment | None = None
        self._descriptor = -1
        self._position = 0

    def close(self) -> None:
        """Close the open segment."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def batch(self) -> list[Entry]:
        """Return the next entries (some hundred kilobytes), none at the end of what is written.

        Raises CorruptRecord when a segment does not hold what its writer said.
        """
        while True:
            # Looked up before the end is read: once a next segment exists, the end is final.
            following = self._following()
            if self._segment is not None and self._segment.end > self._position:
                if entries := self._read(self._segment):
                    return entries
            elif following is None:
                return []
            else:
                self.close()
                self._segment, self._position = following, 0
                self._descriptor = os.open(following.path, os.O_RDONLY)

    def _following(self) -> Segment | None:
        first = 0 if self._segment is None else self._segment.first + 1
        return next((s for s in list(self._source.segments) if s.first >= first), None)

    def _read(self, segment: Segment) -> list[Entry]:
        start, left = self._position, segment.end - self._position
        entries, end = whole_entries(os.pread(self._descriptor, min(left, READ_BYTES), start))
        if not end and left > READ_BYTES:  # one frame larger than the window
            entries, end = whole_entries(os.pread(self._descriptor, left, start))
        if not end:
            raise CorruptRecord(f"{segment.path} is damaged at byte {start}")
        self._position += end
        if start and entries[0].sequence > self._after:  # a carry is the first of its segment
            return entries
        return [
            entry
            for entry in entries
            if entry.sequence > self._after and entry.topic != CARRY_TOPIC
        ]


class Batch:
    """Records handed over together, acknowledged when the last one of each partition is.

    A gapless producer delivers no record whose predecessor on the partition failed, so the last
    one speaks for all: a callback per partition instead of one per record.
    """

    __slots__ = ("count", "flight", "last", "partitions", "size")

    def __init__(self, flight: InFlight, last: int, count: int, partitions: int) -> None:
        self.flight = flight
        self.last = last
        self.count = count
        self.size = 0
        self.partitions = partitions

    def delivered(self, error: KafkaError | None, _: Any) -> None:
        """Note a partition's last delivery; runs inside `poll`."""
        if error is not None:
            self.flight.error = self.flight.error or error
            return
        self.partitions -= 1
        if not self.partitions:
            self.flight.settle()


class InFlight:
    """The batches that were handed to the producer and are not acknowledged.

    `seen_at` (monotonic seconds) is when `acked` was last seen to move past `seen`.
    """

    def __init__(self, acked: int) -> None:
        self.acked = self.seen = acked
        self.seen_at = time.monotonic()
        self.error: KafkaError | None = None
        self._batches: deque[Batch] = deque()
        self._records = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._records

    @property
    def full(self) -> bool:
        """Whether the producer holds as much as it may."""
        return self._records >= IN_FLIGHT_RECORDS or self._bytes >= IN_FLIGHT_BYTES

    def add(self, batch: Batch) -> None:
        """Note a batch that was handed over."""
        self._batches.append(batch)
        self._records += batch.count
        self._bytes += batch.size

    def settle(self) -> None:
        """Advance over the oldest batches as far as they are acknowledged."""
        while self._batches and not self._batches[0].partitions:
            batch = self._batches.popleft()
            self._records -= batch.count
            self._bytes -= batch.size
            self.acked = batch.last


class Relay:
    """Relays one outbox; `run` is the body of a thread, the other methods may be called from any.

    Counters: `acked` (sequence), `sent` and `restarts` since the start; `away` while no broker
    answers.
    """

    def __init__(self, source: Source, connection: Connection, max_record_bytes: int) -> None:
        self.source = source
        self.restarts = 0
        self.sent = 0
        self.away = False
        self._options = producer_options(connection, max_record_bytes)
        self._mark = AckedMark(source.folder)
        self.acked = self._saved = self._mark.load()
        self._saved_at = 0.0
        self._doomed: dict[int, float] = {}
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._hurried_at = -HURRY_SECONDS
        self._finishing = threading.Event()
        self._give_up_at = float("inf")
        self._header = (OUTBOX_HEADER, source.id.encode())

    # --- called by the writer ---------------------------------------------------------------

    def wake(self) -> None:
        """Say that something was written."""
        if not self._wake.is_set():
            self._wake.set()

    def hurry(self) -> None:
        """Say that somebody waits for an acknowledgement."""
        self._hurried_at = time.monotonic()
        self._hurry.set()
        self._wake.set()

    def finish(self, patience_s: float) -> None:
        """Make `run` return once everything is acknowledged, or after `patience_s` seconds."""
        self._give_up_at = time.monotonic() + patience_s
        self._finishing.set()
        self.hurry()

    @property
    def drained(self) -> bool:
        """Whether Kafka holds everything that was written."""
        return self.acked >= max((segment.last for segment in self.source.segments), default=0)

    # --- the thread ---------------------------------------------------------------------------

    def run(self) -> None:
        """Relay until `finish`."""
        while not self._over():
            try:
                self._session()
            except Exception as error:  # noqa: BLE001 - a relay that stops would fill the disk
                self.restarts += 1
                _log.error(
                    "the relay of outbox %s starts again: %r",
                    self.source.id,
                    error,
                    exc_info=not isinstance(error, KafkaException),
                )
                time.sleep(RESTART_SECONDS)
        with contextlib.suppress(OSError):
            self._save_mark()

    def _over(self) -> bool:
        return self._finishing.is_set() and (self.drained or time.monotonic() >= self._give_up_at)

    def _session(self) -> None:
        """Relay with one producer. Raises KafkaException for an error that ends it."""
        lanes = Lanes(self._options, self._on_error)
        tail, flight = Tail(self.source, self.acked), InFlight(self.acked)
        try:
            while not self._over():
                self._wake.clear()
                self.source.sync()
                self._send(lanes, tail, flight)
                self._progress(flight)
                if flight.error is not None:
                    raise KafkaException(flight.error)
                self._pause(lanes, flight)
        finally:
            tail.close()
            # What is still queued will be sent again by the next session, or by the adopter.
            lanes.purge()

    def _send(self, lanes: Lanes, tail: Tail, flight: InFlight) -> None:
        if not len(flight):
            lanes.choose(hurried=self._hurried)
        while not flight.full and (entries := tail.batch()):
            flight.add(self._hand_over(lanes, flight, entries))
            self.sent += len(entries)
            lanes.poll()

    def _hand_over(self, lanes: Lanes, flight: InFlight, entries: list[Entry]) -> Batch:
        # By place, and taken apart at once below: eleven look-ups by name take 0.3 us more.
        last_ones = {(entry[1], entry[2]): entry[0] for entry in entries}
        speakers = frozenset(last_ones.values())
        batch = Batch(flight, entries[-1].sequence, len(entries), len(speakers))
        for sequence, topic, partition, key, value, own, timestamp_ms, origin in entries:
            batch.size += len(value)
            headers = codec.shared_headers(origin) + own
            headers += (self._header, (SEQUENCE_HEADER, str(sequence).encode()))
            # By place: to name the arguments takes librdkafka's client 0.8 of 2.7 us.
            lanes.of(topic).produce(
                topic,
                value,
                key,
                partition,
                batch.delivered if sequence in speakers else None,
                None,  # another name of the one before
                timestamp_ms,
                headers,
            )
        return batch

    def _progress(self, flight: InFlight) -> None:
        now = time.monotonic()
        if flight.acked > self.acked:
            self.acked = flight.acked
            self.source.acknowledge(self.acked)
            if self.away:
                self._broker_is_back()
        if flight.acked > flight.seen or not len(flight):
            flight.seen, flight.seen_at = flight.acked, now
        elif now - flight.seen_at > SILENCE_SECONDS:
            self._broker_is_away()
        if now - self._saved_at >= MARK_SECONDS:
            self._saved_at = now
            self._save_mark()
            self._forget(now)

    def _pause(self, lanes: Lanes, flight: InFlight) -> None:
        """Wait for a batch to gather, or for acknowledgements when somebody needs them."""
        if self._hurried and (len(flight) or self._wake.is_set()):
            lanes.poll(HURRY_POLL_SECONDS)
        elif flight.full:  # the rest of a backlog follows as soon as there is room
            lanes.poll(LINGER_SECONDS)
        elif len(flight):
            self._hurry.wait(LINGER_SECONDS)
            lanes.poll()
        else:
            lanes.poll()
            if self.away:
                self._look_for_broker(lanes)
            if self._wake.wait(MARK_SECONDS):
                self._hurry.wait(LINGER_SECONDS)
        self._hurry.clear()
        self._progress(flight)

    @property
    def _hurried(self) -> bool:
        return time.monotonic() - self._hurried_at < HURRY_SECONDS

    def _look_for_broker(self, lanes: Lanes) -> None:
        # With nothing to send no acknowledgement would tell that the broker is back.
        with contextlib.suppress(KafkaException):
            lanes.ask_broker(PROBE_SECONDS)
            self._broker_is_back()

    def _broker_is_back(self) -> None:
        self.away = False
        _log.warning("the broker is back, outbox %s goes on", self.source.id)

    def _save_mark(self) -> None:
        if self.acked != self._saved:
            self._mark.save(self.acked)
            self._saved = self.acked

    def _forget(self, now: float) -> None:
        """Delete segments some seconds after Kafka holds all of them; the newest one stays."""
        for segment in list(self.source.segments)[:-1]:
            if segment.last > self.acked:
                return
            if now < self._doomed.setdefault(segment.first, now + KEEP_SECONDS):
                return
            self.source.discard(segment)
            self.source.segments.pop(0)
            del self._doomed[segment.first]

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._broker_is_away()

    def _broker_is_away(self) -> None:
        if not self.away:
            self.away = True
            _log.warning("no broker answers; outbox %s keeps what is written", self.source.id)
