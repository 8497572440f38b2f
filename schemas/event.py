"""What an event is, and the topic that it declares for itself."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import msgspec

DAYS = 86_400_000
"""Milliseconds in a day: Kafka's unit of retention."""

FACT_PARTITIONS = 4
"""Never changed: the partition of a record is computed when it is appended to an outbox."""


class Topic(msgspec.Struct, frozen=True):
    """A Kafka topic as its events declare it.

    `retention_ms` None keeps records for ever; `cleanup` "compact" keeps the last one per key.
    """

    name: str
    partitions: int = FACT_PARTITIONS
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every event: an immutable fact with a time-ordered id.

    A concrete event sets `topic`, `type` (its CloudEvents type) and `version`, and its `key`
    names the aggregate whose records stay in order. A field added after version 1 has a default,
    else old records could not be read.
    """

    topic: ClassVar[Topic]
    type: ClassVar[str]
    version: ClassVar[int] = 1

    event_id: str
    occurred_at_us: int

    @property
    def key(self) -> str:
        """The partition key, as text."""
        raise TypeError(f"{type(self).__name__} declares no key")

    def follows(self, current: Self | None) -> bool:
        """Whether this event takes the place of `current`, the last one under its key."""
        del current
        return True
