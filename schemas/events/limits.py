"""What gateway workers tell each other of the pace of their callers."""

from __future__ import annotations

import msgspec

from schemas.event import Event, Topic

LIMITS = Topic("weir.limits.usage.v1", partitions=1, cleanup="compact")


class PaceUsage(msgspec.Struct, frozen=True):
    """What one worker let through of one limit's calls (`pace`: limit and whom it holds for).

    `requests` and `tokens` map a slot of five seconds (Unix time / 5, as text) to a count, over
    the last minute; `running` calls have not ended; `demand` counts the calls of the last seconds,
    refused ones included. `spare` is what the worker may still let through before it hears more, by
    kind (requests, tokens, running): nobody else may.
    """

    pace: str
    requests: dict[str, int]
    tokens: dict[str, int]
    running: int
    demand: int
    spare: dict[str, int]


class LimitUsage(Event, frozen=True, kw_only=True):
    """The paces of a worker (`node`: its outbox) that changed since it last told, or all."""

    topic = LIMITS
    type = "weir.limits.usage"

    node: str
    paces: list[PaceUsage]

    @property
    def key(self) -> str:
        return self.node
