"""Brings an installation to what its release and its settings say, and tells what it changed (OPS-05).

Everything here is made at a start too, but for the settings of topics that exist already: those of an
earlier release, or of a cluster whose operator made the topics himself. Repeating it changes nothing.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from pydantic import BaseModel, Field

from infra.kafka import KafkaLog
from infra.seeding import seed
from infra.settings import WeirSettings
from infra.topics import ensure_topics, partition_counts, topic_config
from schemas.connection import librdkafka_options
from schemas.errors import BrokerUnavailable
from schemas.event import Topic
from schemas.events import topics as declared_topics
from schemas.log import Connection

_TIMEOUT_S = 20.0
_RETENTION = "retention.ms"

Differences = dict[str, dict[str, tuple[str, str]]]
"""{topic: {setting: (what it is, what it should be)}}."""


class Initialized(BaseModel):
    """What initializing has changed; all empty when there was nothing to do."""

    topics: list[str] = Field(default=[], description="created")
    topic_settings: list[str] = Field(
        default=[],
        description="put right",
        examples=[["weir.spend.tables.v1: cleanup.policy delete → compact"]],
    )
    entities: int = Field(
        default=0,
        description="providers, targets, prices and more that the settings name, published",
    )
    admin_key: str | None = Field(
        default=None, description="made because there was none; shown this once"
    )


async def initialize(connection: Connection, settings: WeirSettings) -> Initialized:
    """Create and put right what is missing or differs. Raises BrokerUnavailable."""
    created = await ensure_topics(connection)
    wrong = await asyncio.to_thread(topic_differences, connection)
    await asyncio.to_thread(_set, connection, wrong)
    async with KafkaLog(connection, "/initialize") as log:
        seeded = await seed(log, settings, os.environ)
    return Initialized(
        topics=created,
        topic_settings=told(wrong),
        entities=seeded.published,
        admin_key=seeded.admin_key,
    )


def told(differences: Differences) -> list[str]:
    """Return a line for each setting that differs."""
    return [
        f"{topic}: {name} {found} → {wanted}"
        for topic, settings in sorted(differences.items())
        for name, (found, wanted) in sorted(settings.items())
    ]


def topic_differences(connection: Connection) -> Differences:
    """Return what Weir's topics are set to and should not be. Raises BrokerUnavailable.

    An operator may keep records for longer than Weir asks, never for less.
    """
    counts = partition_counts(connection)
    known = {topic.name: topic for topic in declared_topics() if topic.name in counts}
    admin = AdminClient(librdkafka_options(connection))  # kept: its futures die with it
    asked = admin.describe_configs(
        [ConfigResource(ConfigResource.Type.TOPIC, name) for name in known],
        request_timeout=_TIMEOUT_S,
    )
    found: Differences = {}
    for resource, future in asked.items():
        try:
            settings = {name: entry.value for name, entry in future.result().items()}
        except KafkaException as error:
            raise BrokerUnavailable(f"the settings of {resource.name} are not told") from error
        if wrong := _differing(known[resource.name], settings):
            found[resource.name] = wrong
    return found


def _differing(topic: Topic, settings: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {
        name: (found, wanted)
        for name, wanted in topic_config(topic).items()
        if (found := settings.get(name, wanted)) != wanted
        and not (name == _RETENTION and _keeps(found) >= _keeps(wanted))
    }


def _keeps(retention_ms: str) -> float:
    return float("inf") if retention_ms == "-1" else float(retention_ms)


def _set(connection: Connection, differences: Differences) -> None:
    if not differences:
        return
    admin = AdminClient(librdkafka_options(connection))
    resources = []
    for topic, settings in differences.items():
        entries = [
            ConfigEntry(name, wanted, incremental_operation=AlterConfigOpType.SET)
            for name, (_, wanted) in settings.items()
        ]
        resources.append(
            ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        )
    futures: dict[Any, Any] = admin.incremental_alter_configs(resources, request_timeout=_TIMEOUT_S)
    for resource, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            raise BrokerUnavailable(
                f"cannot set {resource.name}: {error.args[0].str()}",
                action="Give Weir's user the right to alter topics, or set them yourself.",
            ) from error
