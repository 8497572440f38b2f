import asyncio

import pytest
from aiokafka import AIOKafkaProducer

from infra.broker import Broker
from infra.kafka import KafkaLog
from infra.topics import ensure_topics
from schemas.clock import now_us
from schemas.errors import BrokerUnavailable, ConfigurationError, LogTruncated, WrongLog
from schemas.event import Topic
from schemas.events.operations import DEAD_LETTERS, HEARTBEATS, DeadLetter, Heartbeat
from schemas.identity import uuid7
from schemas.log import Connection, Cursor
from schemas.table_view import TableView


def beat(part: str, lag: int = 0) -> Heartbeat:
    return Heartbeat(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        part=part,
        instance="1",
        started_at_us=0,
        lag=lag,
    )


@pytest.mark.req("EVT-01", "EVT-02")
async def test_a_published_event_is_read_back_with_its_headers(log: KafkaLog) -> None:
    async with log.reader([HEARTBEATS], await cursor_at_end(log, HEARTBEATS)) as reader:
        event = beat(uuid7())
        position = await log.publish(event, correlation_id="c1")
        [record] = await reader.batch(10, 5)
        assert (record.topic, record.partition, record.offset) == position
        assert record.key == event.key.encode()
        assert record.header("ce_id") == event.event_id.encode()
        assert record.header("ce_correlationid") == b"c1"
        assert record.timestamp_ms > 1_700_000_000_000
        assert await reader.lag() == 0


@pytest.mark.req("EVT-02")
async def test_a_record_that_a_producer_sent_twice_is_read_once(
    log: KafkaLog, broker: Broker
) -> None:
    cursor = await cursor_at_end(log, DEAD_LETTERS)
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        for sequence in (1, 2, 2, 1, 3):
            headers = [("weir-outbox", b"feed"), ("weir-seq", str(sequence).encode())]
            await producer.send_and_wait(
                DEAD_LETTERS.name, b"x", key=b"k", partition=0, headers=headers
            )
    async with log.reader([DEAD_LETTERS], cursor) as reader:
        records = [record for _ in range(3) for record in await reader.batch(10, 0.5)]
    assert [record.header("weir-seq") for record in records] == [b"1", b"2", b"3"]


async def test_a_topic_that_is_asked_for_twice_is_read_once(log: KafkaLog) -> None:
    """Two folds may have one source."""
    cursor = await cursor_at_end(log, HEARTBEATS)
    async with log.reader([HEARTBEATS, HEARTBEATS], cursor) as reader:
        await log.publish(beat(uuid7()))
        records = [record for _ in range(2) for record in await reader.batch(10, 1)]
    assert len(records) == 1


async def test_a_cursor_resumes_where_it_stood(log: KafkaLog) -> None:
    cursor = await cursor_at_end(log, HEARTBEATS)
    async with log.reader([HEARTBEATS], cursor) as reader:
        await log.publish(beat("first"))
        assert len(await reader.batch(10, 5)) == 1
    stored = Cursor.load(cursor.dump())
    await log.publish(beat("second"))
    async with log.reader([HEARTBEATS], stored) as reader:
        [record] = await reader.batch(10, 5)
    assert record.key == b"second"


@pytest.mark.req("GEN-05")
async def test_a_log_that_ends_below_the_cursor_is_refused(log: KafkaLog) -> None:
    cursor = Cursor(positions={HEARTBEATS.name: {0: 1_000_000}})
    with pytest.raises(LogTruncated, match="1000000"):
        async with log.reader([HEARTBEATS], cursor):
            pass


@pytest.mark.req("GEN-05")
async def test_a_cursor_of_another_cluster_or_topic_is_refused(log: KafkaLog) -> None:
    with pytest.raises(WrongLog, match="cluster elsewhere"):
        async with log.reader([HEARTBEATS], Cursor(cluster_id="elsewhere")):
            pass
    with pytest.raises(WrongLog, match="created anew"):
        async with log.reader([HEARTBEATS], Cursor(topic_ids={HEARTBEATS.name: "other"})):
            pass


async def test_a_view_follows_and_survives_a_broken_record(log: KafkaLog, broker: Broker) -> None:
    view = TableView(Heartbeat)
    stop = asyncio.Event()
    letters = await cursor_at_end(log, DEAD_LETTERS)
    following = asyncio.create_task(log.follow([view], stop))
    await asyncio.wait_for(view.caught_up.wait(), 10)
    part = uuid7()
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        await producer.send_and_wait(HEARTBEATS.name, b"\xc3\x01 no avro", key=part.encode())
    await log.publish(beat(part, lag=7))
    async with asyncio.timeout(10):
        while (seen := view.get(part)) is None or seen.lag != 7:
            await asyncio.sleep(0.01)
    async with log.reader([DEAD_LETTERS], letters) as reader:
        [record] = await reader.batch(10, 5)
    assert record.header("ce_type") == DeadLetter.type.encode()
    stop.set()
    await asyncio.wait_for(following, 10)


async def test_a_time_resolves_to_offsets(log: KafkaLog) -> None:
    before = await log.publish(beat("before"))
    await asyncio.sleep(0.02)
    time_ms = now_us() // 1000
    await asyncio.sleep(0.02)
    after = await log.publish(beat("after"))
    at = await log.positions_at([HEARTBEATS], time_ms)
    assert before.offset < at[HEARTBEATS.name][0] == after.offset
    ahead = await log.positions_at([HEARTBEATS], time_ms + 3_600_000)
    assert ahead == await log.end_positions([HEARTBEATS])


async def test_topics_are_created_once_and_their_partition_counts_never_change(
    broker: Broker,
) -> None:
    connection = Connection(broker.bootstrap)
    topic = Topic(f"test.{uuid7()}", partitions=2)
    assert await ensure_topics(connection, [topic]) == [topic.name]
    assert await ensure_topics(connection, [topic]) == []
    with pytest.raises(ConfigurationError, match="has 2 partitions"):
        await ensure_topics(connection, [Topic(topic.name, partitions=3)])


@pytest.mark.req("GEN-05")
async def test_no_broker_is_a_clear_error() -> None:
    async with KafkaLog(Connection("127.0.0.1:9")) as log:
        with pytest.raises(BrokerUnavailable, match="127.0.0.1:9"):
            async with log.reader([HEARTBEATS]):
                pass


async def cursor_at_end(log: KafkaLog, topic: Topic) -> Cursor:
    return Cursor(positions=await log.end_positions([topic]))
