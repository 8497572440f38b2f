"""Creates and checks Weir's topics, which the event classes declare themselves."""

import asyncio
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.connection import librdkafka_options
from schemas.errors import BrokerUnavailable, ConfigurationError
from schemas.event import Topic
from schemas.events import topics as declared_topics
from schemas.log import Connection

_TIMEOUT_S = 20.0


async def ensure_topics(connection: Connection, topics: Iterable[Topic] | None = None) -> list[str]:
    """Create every declared topic that is missing; the names of those created.

    Raises `ConfigurationError` when a topic exists with another partition count: the partition
    of a record is computed when it is appended to an outbox, so counts can never change.
    """
    return await asyncio.to_thread(_ensure, connection, list(topics or declared_topics()))


def partition_counts(connection: Connection) -> dict[str, int]:
    """Every topic of the cluster with its partition count. Raises `BrokerUnavailable`."""
    admin = AdminClient(librdkafka_options(connection))
    try:
        found = admin.list_topics(timeout=_TIMEOUT_S).topics
    except KafkaException as error:
        raise BrokerUnavailable(f"no answer from Kafka at {connection.bootstrap}") from error
    return {name: len(topic.partitions) for name, topic in found.items()}


def topic_config(topic: Topic) -> dict[str, str]:
    """The topic's settings in Kafka's own words."""
    config = {
        "cleanup.policy": topic.cleanup,
        # A moment resolves to offsets through the time at which the broker appended a record.
        "message.timestamp.type": "LogAppendTime",
    }
    if topic.cleanup == "delete":
        config["retention.ms"] = str(-1 if topic.retention_ms is None else topic.retention_ms)
    else:
        # Whoever recovers reads all that was not compacted yet, and an open segment never is.
        config["segment.bytes"] = str(2 * 1024 * 1024)
        config["min.cleanable.dirty.ratio"] = "0.2"
    return config


def _ensure(connection: Connection, topics: list[Topic]) -> list[str]:
    counts = partition_counts(connection)
    for topic in topics:
        if (found := counts.get(topic.name, topic.partitions)) != topic.partitions:
            raise ConfigurationError(
                f"topic {topic.name} has {found} partitions on {connection.bootstrap}, "
                f"Weir needs {topic.partitions}",
                action="Use a cluster without this topic, or delete the topic if nothing needs it.",
            )
    missing = [topic for topic in topics if topic.name not in counts]
    if missing:
        _create(connection, missing)
    return [topic.name for topic in missing]


def _create(connection: Connection, topics: list[Topic]) -> None:
    admin = AdminClient(librdkafka_options(connection))  # kept: its futures die with it
    futures: dict[str, Any] = admin.create_topics(
        [
            NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=connection.replication_factor,
                config=topic_config(topic),
            )
            for topic in topics
        ],
        request_timeout=_TIMEOUT_S,
    )
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            # Another process of Weir may create them at the same time.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise ConfigurationError(
                    f"cannot create topic {name}: {error.args[0].str()}",
                    action="Give Weir's user the right to create topics, or create them yourself"
                    " as `weir topics` lists them.",
                ) from error
