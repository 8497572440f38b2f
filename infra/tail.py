"""Looks into the log: topics with their events, and single records decoded."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from infra.kafka import KafkaLog
from infra.settings import WeirSettings
from infra.topics import ensure_topics, partition_counts
from schemas.codec import decode
from schemas.errors import LogError, NotFound
from schemas.event import DAYS, Topic
from schemas.events import event_types, topics
from schemas.log import Cursor, Reader, Record

_BATCH = 1000
_WAIT_S = 0.5


async def describe_topics(settings: WeirSettings, *, create: bool = False) -> list[dict[str, Any]]:
    """Every declared topic, its events, and how many records the cluster holds of it."""
    connection = settings.connection()
    if create:
        await ensure_topics(connection)
    present = await asyncio.to_thread(partition_counts, connection)
    existing = [topic for topic in topics() if topic.name in present]
    async with KafkaLog(connection, "/cli") as log:
        ends = await log.end_positions(existing)
        starts = await log.positions_at(existing, 0)
    return [
        {
            "topic": topic.name,
            "partitions": topic.partitions,
            "kept": _kept(topic),
            "records": _count(topic, starts, ends) if topic.name in present else None,
            "events": [event.type for event in event_types() if event.topic == topic],
        }
        for topic in topics()
    ]


def _count(topic: Topic, starts: dict[str, dict[int, int]], ends: dict[str, dict[int, int]]) -> int:
    return sum(end - starts[topic.name][part] for part, end in ends[topic.name].items())


def _kept(topic: Topic) -> str:
    if topic.cleanup == "compact":
        return "last per key"
    return "for ever" if topic.retention_ms is None else f"{topic.retention_ms // DAYS} days"


def find_topic(name: str) -> Topic:
    """The topic of this name (`alerts` is `weir.alerts.v1`), or the only one that contains it. Raises NotFound."""
    by_name = {topic.name: topic for topic in topics()}
    for whole in (name, f"weir.{name}.v1"):
        if whole in by_name:
            return by_name[whole]
    found = [topic for topic in topics() if name in topic.name]
    if len(found) != 1:
        which = ", ".join(topic.name for topic in found) or "none"
        raise NotFound(
            f"{name!r} does not name one topic (it fits: {which})",
            action="List the topics with `weir topics`.",
        )
    return found[0]


async def follow_topic(
    settings: WeirSettings,
    name: str,
    last: int,
    show: Callable[[dict[str, Any]], None],
    *,
    follow: bool,
) -> None:
    """Show the `last` records per partition of a topic, oldest first whichever partition they are
    in, then further ones as they come.
    """
    topic = find_topic(name)
    async with KafkaLog(settings.connection(), "/cli") as log:
        ends = await log.end_positions([topic])
        starts = await log.positions_at([topic], 0)
        positions = {
            partition: max(starts[topic.name][partition], end - last)
            for partition, end in ends[topic.name].items()
        }
        cursor = Cursor(positions={topic.name: positions})
        async with log.reader([topic], cursor) as reader:
            for record in await _until(reader, topic.name, ends[topic.name]):
                show(line_of(record))
            while follow or await reader.lag():
                for record in await reader.batch(_BATCH, _WAIT_S):
                    show(line_of(record))


async def _until(reader: Reader, topic: str, ends: Mapping[int, int]) -> list[Record]:
    """Return what was there when the ends were asked for, in the order of its time."""
    found: list[Record] = []
    while any(reader.cursor.positions[topic].get(part, 0) < end for part, end in ends.items()):
        found += await reader.batch(_BATCH, _WAIT_S)
    return sorted(found, key=lambda one: (one.timestamp_ms, one.partition, one.offset))


def line_of(record: Record) -> dict[str, Any]:
    """One record as plain data; one that does not decode says why."""
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).isoformat(),
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key.decode("utf-8", "replace") if record.key else None,
        "type": (record.header("ce_type") or b"").decode("utf-8", "replace"),
        "source": (record.header("ce_source") or b"").decode("utf-8", "replace"),
        "event": None,
    }
    if record.value is None:
        line["type"] = "tombstone"
        return line
    try:
        event = decode(record.value)
    except LogError as error:
        line["event"] = {"error": error.message}
    else:
        line["type"] = event.type
        line["event"] = msgspec.to_builtins(event)
    return line
