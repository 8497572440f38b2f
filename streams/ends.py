"""Where sources end, asked on a connection of its own.

A broker answers a connection's requests in their order: on one that also fetches, the question waits
behind a fetch that waits for records, a second and a half on a quiet topic.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.connection import aiokafka_options, start
from schemas.errors import BrokerUnavailable
from schemas.event import Topic
from schemas.log import Connection

_ANSWER_MS = 10_000

Ends = dict[str, dict[int, int]]
"""{topic: {partition: the offset after its last record}}."""


class EndsReader:
    """A consumer that never fetches. An async context manager. Raises BrokerUnavailable."""

    def __init__(self, connection: Connection, topics: Iterable[Topic]) -> None:
        self._places = [
            TopicPartition(topic.name, partition)
            for topic in dict.fromkeys(topics)
            for partition in range(topic.partitions)
        ]
        self._consumer = AIOKafkaConsumer(
            **aiokafka_options(connection),
            auto_offset_reset="none",
            enable_auto_commit=False,
            request_timeout_ms=_ANSWER_MS,
        )

    async def __aenter__(self) -> Self:
        await start(self._consumer, "no broker says where sources end")
        # Assigned it learns of all topics at once, and what is paused and placed is never fetched.
        self._consumer.assign(self._places)
        for place in self._places:
            self._consumer.pause(place)
            self._consumer.seek(place, 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._consumer.stop()

    async def now(self) -> Ends:
        """Return the ends of all sources as of now."""
        try:
            found = await self._consumer.end_offsets(self._places)
        except KafkaError as error:
            raise BrokerUnavailable("the broker does not tell the log's end") from error
        ends: Ends = {}
        for place, offset in found.items():
            ends.setdefault(place.topic, {})[place.partition] = offset
        return ends
