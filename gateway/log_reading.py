"""Reading single records back from the log: rare, so a worker opens a reader for it and keeps nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from schemas.codec import decode_as
from schemas.errors import ContentErased
from schemas.event import Topic
from schemas.events.operations import PRIVACY_KEYS, DataKeyCreated
from schemas.log import Cursor, Log, Record
from schemas.partition import partition_of

KEY_TRIES, KEY_WAIT_S = 5, 0.3
_RECORDS = 5_000


async def records_from(
    log: Log, topic: Topic, partition: int, offset: int
) -> AsyncIterator[Record]:
    """Yield the records of one partition from an offset on, until its end as of now."""
    async with log.reader([topic]) as reader:
        ends: Mapping[int, int] = (await reader.end_positions())[topic.name]
    end = ends.get(partition, 0)
    cursor = Cursor(positions={topic.name: {**ends, partition: offset}})
    async with log.reader([topic], cursor) as reader:
        while reader.cursor.next_offset(topic.name, partition) < end:
            for record in await reader.batch(_RECORDS, 1.0):
                if record.partition == partition:
                    yield record


async def data_key(log: Log, key_id: str) -> DataKeyCreated:
    """Find a data key: a worker keeps none but its own. Raises ContentErased.

    Topics are relayed beside each other: what was sealed may be there a moment before its key.
    """
    for _ in range(KEY_TRIES):
        found = await _data_key(log, key_id)
        if found is not None:
            return found
        await asyncio.sleep(KEY_WAIT_S)
    raise ContentErased(f"the data key {key_id} no longer exists")


async def _data_key(log: Log, key_id: str) -> DataKeyCreated | None:
    partition = partition_of(key_id.encode(), PRIVACY_KEYS.partitions)
    found: DataKeyCreated | None = None
    async for record in records_from(log, PRIVACY_KEYS, partition, 0):
        if record.key == key_id.encode():
            found = None if record.value is None else decode_as(record.value, DataKeyCreated)
    return found
