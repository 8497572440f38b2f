"""Appends rows to tables: whole batches, one idempotent producer for all folds of a process.

Handing a row to a producer on its own costs as much processor time as making it, since each has a
future to wait for; a batch has one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.codec import Headers, headers
from schemas.connection import MAX_RECORD_BYTES, aiokafka_options, start
from schemas.errors import BrokerUnavailable
from schemas.event import Topic
from schemas.log import Connection
from streams.partition import OFFSET_HEADER, Row, Tombstone

_BATCH_BYTES = 256 * 1024
_STOP_S = 2.0


class TableWriter:
    """The producer of the tables' rows. An async context manager. Raises BrokerUnavailable."""

    def __init__(self, connection: Connection, source: str) -> None:
        self._source = source
        self._producer = AIOKafkaProducer(
            **aiokafka_options(connection),
            acks="all",
            enable_idempotence=True,
            linger_ms=0,  # a step's rows are sent together; waiting would only add up
            compression_type="zstd",
            max_batch_size=_BATCH_BYTES,
            max_request_size=MAX_RECORD_BYTES,
            request_timeout_ms=30_000,
        )

    async def __aenter__(self) -> Self:
        await start(self._producer, "the producer of the tables found no broker")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # It waits for what is on its way; without a broker that would be half a minute.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._producer.stop(), _STOP_S)

    async def append(
        self, topic: Topic, partition: int, rows: Sequence[Row], last: Sequence[Row | Tombstone]
    ) -> None:
        """Append rows and then what vouches for them; returns when all in-sync replicas have it.

        A batch is appended whole or not at all, so few rows go in one with what follows them; of
        many, all are acknowledged first.
        """
        batches: list[Any] = []
        self._fill(batches, rows)
        before = max(0, len(batches) - 1)
        self._fill(batches, last)
        await self._send(topic, partition, batches[:before])
        for batch in batches[before:]:
            await self._send(topic, partition, [batch])

    def _fill(self, batches: list[Any], rows: Iterable[Row | Tombstone]) -> None:
        for row in rows:
            value, told = _value_and_headers(row, self._source)
            words = {"timestamp": None, "key": row.key, "value": value, "headers": told}
            if not batches or batches[-1].append(**words) is None:
                batches.append(self._producer.create_batch())
                batches[-1].append(**words)  # an empty one takes a row of any size

    async def _send(self, topic: Topic, partition: int, batches: Sequence[Any]) -> None:
        try:
            for batch in batches:
                batch.close()
            sent = [
                await self._producer.send_batch(batch, topic.name, partition=partition)
                for batch in batches
            ]
            await asyncio.gather(*sent)
        except KafkaError as error:
            raise BrokerUnavailable(f"rows of {topic.name} are not acknowledged") from error


def _value_and_headers(row: Row | Tombstone, source: str) -> tuple[bytes | None, Headers]:
    """Return what a row or tombstone says; both say by how much of the source."""
    if isinstance(row, Tombstone):
        return None, [(OFFSET_HEADER, str(row.offset).encode())]
    offset = str(row.event.offset).encode()
    return row.value, [*headers(row.event, source), (OFFSET_HEADER, offset)]
