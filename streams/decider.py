"""Makes decisions of what live tables say, each exactly once, and learns of them by reading back.

A decision needs the partials of all partitions, so it cannot be made inside a fold; it may look at
the clock, so it is an event and never recomputed. Before it decides, a decider has read its own
decisions to their end; after it decided, it waits until it has read them back. Two processes that
decide at once, during a rebalance, make the same event with the same id, which names what is
decided and its number, never the moment.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from schemas.clock import now_us
from schemas.codec import decode
from schemas.errors import BrokerUnavailable, CorruptRecord, LogError
from schemas.event import Event, Topic
from schemas.log import Log, Reader, Record
from streams.fold import AnyFold
from streams.letters import dead_letter
from streams.settings import StreamsSettings

_BATCH_RECORDS = 5_000
_RETRY_S = 0.5
_NAMESPACE = uuid.UUID("a1c5a2de-55d5-5a0e-8a3c-0b6b0d8a7c51")
_log = logging.getLogger(__name__)


class Ledger(ABC):
    """What a decider has read; pure."""

    @abstractmethod
    def apply(self, event: Event) -> None:
        """Take in one event of what the decider reads."""

    def removed(self, topic: str, key: bytes) -> None:
        """Take in that a key was deleted from a topic. Raises CorruptRecord where none may be.

        Of a table whose fold lets rows expire, tombstones are to be expected.
        """
        raise CorruptRecord(f"the record {key!r} of {topic} has no value")

    @abstractmethod
    def due(self, at_us: int) -> Sequence[Event]:
        """Return what is to be published now (Unix µs), in this order.

        What follows from a decision, an alert for example, stands before it: after a death
        between the two both are made again, with their ids.
        """

    @abstractmethod
    def knows(self, decision: Event) -> bool:
        """Whether this decision, or a later one about the same thing, has been read back."""


@dataclass(frozen=True)
class Decider:
    """How decisions are made: what is read, by whom, how often."""

    name: str
    """Names the dead letters' consumer, ``streams:NAME``."""

    leads: AnyFold
    """The process that has this fold's first partition decides."""

    reads: tuple[Topic, ...]
    """Tables and configuration, read from their beginnings."""

    decisions: Topic
    """Where the decisions go, which is read too, and to its end before anything is decided."""

    ledger: Callable[[StreamsSettings], Ledger]

    settled: tuple[Topic, ...] = ()
    """Further topics that must be read to their end before a decision.

    Not for busy tables: their rows come all the time.
    """

    wait_s: float = 0.5
    """How long to wait for records before the clock is looked at again."""

    @property
    def topics(self) -> list[Topic]:
        """All that is read."""
        return list(dict.fromkeys([*self.reads, self.decisions]))


async def decide(
    decider: Decider,
    settings: StreamsSettings,
    log: Log,
    mine: Callable[[], bool],
    stop: asyncio.Event,
) -> None:
    """Publish each decision once, until `stop`; waits out a broker that is away.

    `mine` says whether this process is the one to decide. Raises LogTruncated or WrongLog.
    """
    while not stop.is_set():
        try:
            async with log.reader(decider.topics) as reader:
                await _decide(decider, decider.ledger(settings), log, reader, mine, stop)
        except BrokerUnavailable as error:
            # Whether the last event arrived is unknown: read everything back before the next.
            _log.warning("%s decides nothing for now: %s", decider.name, error.message)
            await asyncio.sleep(_RETRY_S)


async def _decide(
    decider: Decider,
    ledger: Ledger,
    log: Log,
    reader: Reader,
    mine: Callable[[], bool],
    stop: asyncio.Event,
) -> None:
    awaited: list[Event] = []
    # What a table says is only true once it was read to the end: half of it looks like calm.
    beginning = dict(await reader.end_positions())
    settled = {topic.name for topic in (decider.decisions, *decider.settled)}
    while not stop.is_set():
        for record in await reader.batch(_BATCH_RECORDS, decider.wait_s):
            await _take(decider, ledger, log, record)
        beginning = {
            topic: ends for topic, ends in beginning.items() if not _read(reader, topic, ends)
        }
        awaited = [decision for decision in awaited if not ledger.knows(decision)]
        if beginning or awaited or not mine() or not (due := ledger.due(now_us())):
            continue
        if await _behind(reader, settled):
            continue
        for event in due:
            await log.publish(event, correlation_id=event.event_id)
            if event.topic is decider.decisions:
                awaited.append(event)


async def _behind(reader: Reader, topics: set[str]) -> bool:
    """Whether one of these topics has records that were not read yet."""
    ends = await reader.end_positions()
    return not all(_read(reader, topic, ends[topic]) for topic in topics)


def _read(reader: Reader, topic: str, ends: Mapping[int, int]) -> bool:
    """Whether a topic was read up to these offsets."""
    return all(
        reader.cursor.next_offset(topic, partition) >= end for partition, end in ends.items()
    )


async def _take(decider: Decider, ledger: Ledger, log: Log, record: Record) -> None:
    try:
        if record.value is None:
            ledger.removed(record.topic, record.key or b"")
        else:
            ledger.apply(decode(record.value))
    except LogError as error:
        consumer = f"streams:{decider.name}"
        name = f"{consumer}|{record.topic}|{record.partition}@{record.offset}"
        event_id = str(uuid.uuid5(_NAMESPACE, name))
        await log.publish(dead_letter(record, consumer, error, event_id))


def decision_id(namespace: str, name: str) -> str:
    """Return the id of a decision: the same for everybody who makes it."""
    return str(uuid.uuid5(uuid.uuid5(_NAMESPACE, namespace), name))
