"""Which cluster and which incarnation of a topic: a stored position is worth nothing elsewhere."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from schemas.connection import librdkafka_options
from schemas.errors import BrokerUnavailable, ConfigurationError
from schemas.event import Topic
from schemas.log import Connection

_TIMEOUT_S = 10.0
_WRONG_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED})
"""What only a person can mend; anything else is a broker that does not answer."""


class Identity(NamedTuple):
    """The ids that Kafka gave a cluster and its topics when they were created."""

    cluster_id: str
    topic_ids: dict[str, str]


async def identify(connection: Connection, topics: Sequence[Topic]) -> Identity:
    """Return the ids of the cluster and of `topics`.

    Raises BrokerUnavailable, and ConfigurationError for a topic that is missing or has another
    partition count than its events declare.
    """
    return await asyncio.to_thread(_identify, connection, topics)


def _identify(connection: Connection, topics: Sequence[Topic]) -> Identity:
    admin = AdminClient(librdkafka_options(connection))  # kept: its futures die with it
    names = [topic.name for topic in topics]
    try:
        cluster_id = admin.list_topics(timeout=_TIMEOUT_S).cluster_id
        described = admin.describe_topics(TopicCollection(names), request_timeout=_TIMEOUT_S)
    except KafkaException as error:
        raise BrokerUnavailable(f"no answer from Kafka at {connection.bootstrap}") from error
    ids = {}
    for topic in topics:
        try:
            found = described[topic.name].result()
        except KafkaException as error:
            if error.args[0].code() not in _WRONG_TOPIC:
                raise BrokerUnavailable(f"no answer about topic {topic.name}") from error
            raise ConfigurationError(
                f"topic {topic.name} cannot be used: {error.args[0].str()}",
                action="Run `weir topics --create`, or give Weir's user the right to read it.",
            ) from error
        if len(found.partitions) != topic.partitions:
            raise ConfigurationError(
                f"topic {topic.name} has {len(found.partitions)} partitions, "
                f"its events declare {topic.partitions}"
            )
        ids[topic.name] = str(found.topic_id)
    return Identity(str(cluster_id), ids)
