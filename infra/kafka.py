"""The Log over a Kafka cluster: readers on aiokafka, the publisher on librdkafka."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from infra.identity import Identity, identify
from infra.publisher import KafkaPublisher
from schemas.codec import Headers
from schemas.connection import aiokafka_options, start
from schemas.errors import BrokerUnavailable, LogError, LogTruncated, WrongLog
from schemas.event import Event, Topic
from schemas.letters import dead_letter
from schemas.log import Connection, Cursor, Deduplicator, Position, Record
from schemas.table_view import TableView

_log = logging.getLogger(__name__)

_FETCH_BYTES_PER_PARTITION = 4 * 1024 * 1024
_VIEW_BATCH_RECORDS = 1_000
"""Records are ten objects each while they are read: 5,000 leave 5 MiB of holes among what a view keeps."""
_FOLLOW_WAIT_S = 1.0
_RETRY_S = 0.5


class Pace(NamedTuple):
    """When the broker answers a fetch: with so many bytes, or after so many milliseconds."""

    bytes_min: int
    wait_ms: int


_AT_ONCE = Pace(1, 250)
_WHEN_IT_COMES = Pace(1, 5_000)
"""Changes are rare and wanted at once; nothing is asked while there are none."""
_NOW_AND_THEN = Pace(1024 * 1024, 250)
"""Live tables change all the time: a fetch per record costs a gateway worker more than its calls do."""

Offsets = dict[str, dict[int, int]]


class KafkaReader:
    """A consumer of whole topics without a group: its cursor alone says where it stands."""

    def __init__(self, consumer: AIOKafkaConsumer, topics: Sequence[Topic], cursor: Cursor) -> None:
        self.cursor = cursor
        self._consumer = consumer
        self._partitions = [
            TopicPartition(topic.name, partition)
            for topic in topics
            for partition in range(topic.partitions)
        ]
        self._dense = {topic.name for topic in topics if topic.cleanup == "delete"}
        self._next: dict[tuple[str, int], int] = {}
        self._deduplicator = Deduplicator(cursor)

    async def open(self, identity: Identity) -> None:
        """Check the cursor against the cluster and seek. Raises LogTruncated or WrongLog."""
        cursor = self.cursor
        if cursor.cluster_id not in {None, identity.cluster_id}:
            raise WrongLog(
                f"the stored position belongs to cluster {cursor.cluster_id}, "
                f"this is cluster {identity.cluster_id}"
            )
        for name, topic_id in identity.topic_ids.items():
            if cursor.topic_ids.get(name, topic_id) != topic_id:
                raise WrongLog(f"topic {name} was deleted and created anew since it was last read")
        cursor.cluster_id = identity.cluster_id
        cursor.topic_ids.update(identity.topic_ids)

        # Assigned before anything is asked, it learns of all topics at once; else it would learn of
        # one after the other, with a pause between. Held until each partition has its position.
        self._consumer.assign(self._partitions)
        for where in self._partitions:
            self._consumer.pause(where)
            self._consumer.seek(where, 0)
        first = await self._consumer.beginning_offsets(self._partitions)
        last = await self._consumer.end_offsets(self._partitions)
        for where in self._partitions:
            known = where.partition in cursor.positions.get(where.topic, {})
            position = cursor.next_offset(where.topic, where.partition) if known else first[where]
            if not first[where] <= position <= last[where]:
                raise LogTruncated(
                    f"{where.topic}|{where.partition} holds the offsets {first[where]} to "
                    f"{last[where]}, the stored position is {position}"
                )
            self._next[where.topic, where.partition] = position
            self._consumer.seek(where, position)
        self._consumer.resume(*self._partitions)

    async def batch(self, max_records: int, timeout_s: float) -> list[Record]:
        """Return the next new records, possibly none, and advance the cursor past them."""
        return self._deduplicator.fresh(await self.raw_batch(max_records, timeout_s))

    async def raw_batch(self, max_records: int, timeout_s: float) -> list[Record]:
        """Return the next records, a producer's repeats included; the cursor stays.

        Raises LogTruncated when the log has lost what comes next.
        """
        try:
            fetched = await self._consumer.getmany(
                timeout_ms=int(timeout_s * 1000), max_records=max_records
            )
        except OffsetOutOfRangeError as error:
            raise LogTruncated(f"the log no longer holds the next offset: {error}") from error
        except KafkaError as error:
            raise BrokerUnavailable(f"reading failed: {type(error).__name__}") from error
        records: list[Record] = []
        for where, messages in fetched.items():
            self._check_gaps(where, messages)
            records.extend(
                Record(
                    where.topic,
                    where.partition,
                    message.offset,
                    message.timestamp,
                    message.key,
                    message.value,
                    message.headers,
                )
                for message in messages
            )
        return records

    def _check_gaps(self, where: TopicPartition, messages: Sequence[Any]) -> None:
        place = (where.topic, where.partition)
        first, last = messages[0].offset, messages[-1].offset
        expected = self._next[place]
        # Compaction leaves holes; nothing else may.
        if where.topic in self._dense and (first, last) != (
            expected,
            expected + len(messages) - 1,
        ):
            raise LogTruncated(
                f"{where.topic}|{where.partition} skips records between {expected} and {last}"
            )
        self._next[place] = last + 1

    async def end_positions(self) -> Offsets:
        """Return {topic: {partition: end offset}} as of now. Raises BrokerUnavailable."""
        try:
            return _by_topic(await self._consumer.end_offsets(self._partitions))
        except KafkaError as error:
            raise BrokerUnavailable("the broker does not tell the log's end") from error

    async def lag(self) -> int:
        """Return how many records lie between the cursor and the end."""
        ends = await self.end_positions()
        return sum(
            end - self._next[topic, partition]
            for topic, partitions in ends.items()
            for partition, end in partitions.items()
        )


class KafkaLog:
    """The log of one cluster. An async context manager: leaving it flushes and disconnects."""

    def __init__(self, connection: Connection, source: str = "/weir") -> None:
        self.connection = connection
        self.source = source
        self._publisher = KafkaPublisher(connection, source)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for what is being published, then disconnect."""
        await self._publisher.close()

    async def publish(
        self,
        event: Event,
        *,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        extra_headers: Headers = [],  # noqa: B006 - read only
    ) -> Position:
        """Append one event and wait until all in-sync replicas have it.

        Raises BrokerUnavailable when the acknowledgement did not come in time; the event may
        have been appended all the same.
        """
        return await self._publisher.publish(
            event,
            correlation_id=correlation_id,
            causation_id=causation_id,
            extra_headers=extra_headers,
        )

    async def tombstone(self, topic: Topic, key: str) -> Position:
        """Append a record without a value: in a compacted topic it removes the key."""
        return await self._publisher.tombstone(topic, key)

    @asynccontextmanager
    async def reader(
        self, topics: Sequence[Topic], cursor: Cursor | None = None
    ) -> AsyncIterator[KafkaReader]:
        """Open a reader of whole topics from a cursor (None: from the beginning).

        Raises BrokerUnavailable, and LogTruncated or WrongLog rather than reset a position.
        """
        async with self._reader(topics, cursor) as reader:
            yield reader

    @asynccontextmanager
    async def _reader(
        self, topics: Sequence[Topic], cursor: Cursor | None, pace: Pace = _AT_ONCE
    ) -> AsyncIterator[KafkaReader]:
        topics = tuple(dict.fromkeys(topics))  # two folds may ask for one source
        async with self._consumer(pace) as consumer:
            identity = await identify(self.connection, topics)
            reader = KafkaReader(consumer, topics, Cursor() if cursor is None else cursor)
            try:
                await reader.open(identity)
            except KafkaError as error:
                raise BrokerUnavailable(f"opening a reader failed: {error}") from error
            yield reader

    @asynccontextmanager
    async def _consumer(self, pace: Pace = _AT_ONCE) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            **aiokafka_options(self.connection),
            client_id=self.source.strip("/").replace("/", "-"),
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_wait_ms=pace.wait_ms,
            fetch_min_bytes=pace.bytes_min,
            max_partition_fetch_bytes=_FETCH_BYTES_PER_PARTITION,
        )
        await start(consumer, f"no answer from Kafka at {self.connection.bootstrap}")
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def follow(
        self, views: Sequence[TableView[Any]], stop: asyncio.Event, *, at_once: bool = False
    ) -> None:
        """Keep views up to date until `stop`; sets each view's `caught_up` at the first end.

        Changes are read as they come, live tables in gathered steps, or as they come `at_once`.

        A broker that is away is waited for. A record that cannot be decoded becomes a dead
        letter and leaves its key as it was. Raises LogTruncated or WrongLog.
        """
        while not stop.is_set():
            try:
                await self._follow(views, stop, at_once=at_once)
            except BrokerUnavailable as error:
                _log.warning("following pauses: %s", error.message)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _RETRY_S)

    async def _follow(
        self, views: Sequence[TableView[Any]], stop: asyncio.Event, *, at_once: bool
    ) -> None:
        """Follow changes and live tables side by side, each at its own pace."""
        live = [view for view in views if view.topic.cleanup == "compact" and not at_once]
        changes = [view for view in views if view not in live]
        paces = ((changes, _WHEN_IT_COMES), (live, _NOW_AND_THEN))
        following = {
            asyncio.create_task(self._follow_at(group, pace)) for group, pace in paces if group
        }
        stopping = asyncio.create_task(stop.wait())
        try:
            ended, _ = await asyncio.wait(
                {*following, stopping}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in (*following, stopping):
                task.cancel()
            await asyncio.gather(*following, stopping, return_exceptions=True)
        for task in ended & following:
            task.result()

    async def _follow_at(self, views: Sequence[TableView[Any]], pace: Pace) -> None:
        topics = list({view.topic.name: view.topic for view in views}.values())
        async with self._reader(topics, _earliest(views), pace) as reader:
            by_topic: dict[str, list[tuple[TableView[Any], Deduplicator]]] = {}
            for view in views:
                view.cursor.cluster_id = reader.cursor.cluster_id
                view.cursor.topic_ids[view.topic.name] = reader.cursor.topic_ids[view.topic.name]
                pair = (view, Deduplicator(view.cursor))
                by_topic.setdefault(view.topic.name, []).append(pair)
            waiting = await reader.end_positions()
            while True:
                _mark_caught_up(views, waiting)
                for record in await reader.raw_batch(_VIEW_BATCH_RECORDS, _FOLLOW_WAIT_S):
                    for view, deduplicator in by_topic[record.topic]:
                        if deduplicator.admit(record):
                            await self._apply(view, record)

    async def _apply(self, view: TableView[Any], record: Record) -> None:
        try:
            view.apply(record)
        except LogError as error:
            _log.error(
                "%s|%d@%d does not decode: %s",
                record.topic,
                record.partition,
                record.offset,
                error.message,
            )
            consumer = f"{self.source}:{view.event_type.type}"
            await self.publish(dead_letter(record, consumer, error))

    async def end_positions(self, topics: Sequence[Topic]) -> Offsets:
        """Return {topic: {partition: end offset}} as of now: the present moment."""
        async with self._consumer() as consumer:
            return _by_topic(await consumer.end_offsets(_partitions(topics)))

    async def positions_at(self, topics: Sequence[Topic], time_ms: int) -> Offsets:
        """Return the moment `time_ms`: for each partition the first offset appended at or after it."""
        async with self._consumer() as consumer:
            partitions = _partitions(topics)
            ends = await consumer.end_offsets(partitions)
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, time_ms))
            at = {where: hit.offset if (hit := found[where]) else ends[where] for where in ends}
            return _by_topic(at)


def _partitions(topics: Sequence[Topic]) -> list[TopicPartition]:
    return [
        TopicPartition(topic.name, partition)
        for topic in topics
        for partition in range(topic.partitions)
    ]


def _by_topic(offsets: Mapping[TopicPartition, int]) -> Offsets:
    result: Offsets = {}
    for where, offset in offsets.items():
        result.setdefault(where.topic, {})[where.partition] = offset
    return result


def _earliest(views: Sequence[TableView[Any]]) -> Cursor:
    """The position before everything that some view has not seen; new views begin at the start."""
    merged = Cursor()
    fresh = {view.topic.name for view in views if view.topic.name not in view.cursor.positions}
    for view in views:
        merged.cluster_id = view.cursor.cluster_id or merged.cluster_id
        merged.topic_ids.update(view.cursor.topic_ids)
        if view.topic.name in fresh:
            continue
        positions = merged.positions.setdefault(view.topic.name, {})
        for partition, offset in view.cursor.positions[view.topic.name].items():
            positions[partition] = min(offset, positions.get(partition, offset))
    return merged


def _mark_caught_up(views: Sequence[TableView[Any]], ends: Offsets) -> None:
    for view in views:
        if not view.caught_up.is_set() and all(
            view.cursor.next_offset(view.topic.name, partition) >= end
            for partition, end in ends[view.topic.name].items()
        ):
            view.caught_up.set()
