"""Publishes single events, each awaited until every in-sync replica has it."""

import asyncio
import contextlib
import os
import threading
from typing import Any

from confluent_kafka import KafkaException, Producer

from schemas.codec import Headers, encode, headers
from schemas.connection import MAX_RECORD_BYTES, librdkafka_options
from schemas.errors import BrokerUnavailable, LogError, PayloadTooLarge
from schemas.event import Event, Topic
from schemas.log import (
    OUTBOX_HEADER,
    SEQUENCE_HEADER,
    Connection,
    Position,
)
from schemas.partition import partition_of

_ACKNOWLEDGED_WITHIN_S = 10.0
_POLL_S = 0.1


class KafkaPublisher:
    """One idempotent producer and the thread that hears its acknowledgements.

    The producer stands in for an outbox: its records carry an id and a sequence of their own, so
    that readers drop what a retry doubled.
    """

    def __init__(self, connection: Connection, source: str) -> None:
        self._connection = connection
        self._source = source
        self._outbox = os.urandom(8).hex().encode()
        self._sequence = 0
        self._producer: Any = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    async def publish(
        self,
        event: Event,
        *,
        correlation_id: str | None,
        causation_id: str | None,
        extra_headers: Headers,
    ) -> Position:
        """Append one event; see `KafkaLog.publish`."""
        described = headers(
            event, self._source, correlation_id=correlation_id, causation_id=causation_id
        )
        return await self._append(
            event.topic, event.key.encode(), encode(event), [*described, *extra_headers]
        )

    async def tombstone(self, topic: Topic, key: str) -> Position:
        """Append a record without a value under a key."""
        return await self._append(topic, key.encode(), None, [])

    async def _append(
        self, topic: Topic, key: bytes, value: bytes | None, described: Headers
    ) -> Position:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Position] = loop.create_future()

        def delivered(error: Any, message: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, done, error, message)

        marks = [
            (OUTBOX_HEADER, self._outbox),
            (SEQUENCE_HEADER, str(self._sequence).encode()),
        ]
        self._sequence += 1
        try:
            self._open().produce(
                topic.name,
                key=key,
                value=value,
                partition=partition_of(key, topic.partitions),
                headers=[*described, *marks],
                on_delivery=delivered,
            )
        except BufferError as error:
            raise BrokerUnavailable("too many events wait for the broker") from error
        except KafkaException as error:
            raise _refused(error.args[0]) from error
        return await done

    def _open(self) -> Any:
        if self._producer is None:
            self._producer = Producer(
                librdkafka_options(self._connection)
                | {
                    "acks": "all",
                    "enable.idempotence": True,
                    "compression.type": "zstd",
                    "linger.ms": 0,
                    "message.timeout.ms": int(_ACKNOWLEDGED_WITHIN_S * 1000),
                    "message.max.bytes": MAX_RECORD_BYTES,
                    "queue.buffering.max.messages": 100_000,
                }
            )
            self._thread = threading.Thread(target=self._listen, name="publisher", daemon=True)
            self._thread.start()
        return self._producer

    def _listen(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(_POLL_S)

    async def close(self) -> None:
        """Wait for what is under way, at most as long as an acknowledgement may take."""
        if self._producer is None:
            return
        await asyncio.to_thread(self._producer.flush, _ACKNOWLEDGED_WITHIN_S)
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._producer = None


def _settle(done: "asyncio.Future[Position]", error: Any, message: Any) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(Position(message.topic(), message.partition(), message.offset()))
    else:
        done.set_exception(_refused(error))


def _refused(error: Any) -> LogError | BrokerUnavailable | PayloadTooLarge:
    """Say in our words why librdkafka did not append."""
    name = error.name()
    if name in {"MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE"}:
        return PayloadTooLarge(f"an event of more than {MAX_RECORD_BYTES} bytes cannot be kept")
    if name in {"_MSG_TIMED_OUT", "_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_PURGE_QUEUE"}:
        return BrokerUnavailable(f"no acknowledgement within {_ACKNOWLEDGED_WITHIN_S:.0f} s")
    return LogError(f"the broker refused an event: {error.str()}")
