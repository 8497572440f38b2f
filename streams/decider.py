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
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.clock import now_us
from schemas.codec import decode
from schemas.errors import BrokerUnavailable, CorruptRecord, LogError, LogTruncated, WrongLog
from schemas.event import Event, Topic
from schemas.letters import dead_letter
from schemas.log import Cursor, Log, Reader, Record
from streams.fold import AnyFold
from streams.memory import RECORDS, Memory, beginning, recall, remembered
from streams.settings import StreamsSettings

_BATCH_RECORDS = 5_000
_PAUSE_S = 0.05
_RETRY_S = 0.5
_DAY_US = 86_400_000_000
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

    def remembered(self) -> Iterable[Event] | None:
        """Return events that leave a new ledger as the decisions left this one; None: all are read."""
        return None

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
    """How long to wait before it is looked again whether something is due."""

    @property
    def topics(self) -> list[Topic]:
        """All that is read."""
        return list(dict.fromkeys([*self.reads, self.decisions]))


Seat = tuple[Decider, Callable[[], bool]]
"""A decider, and whether this process is the one, as of now, that decides for it."""


async def decide(
    seats: Sequence[Seat], settings: StreamsSettings, log: Log, stop: asyncio.Event
) -> None:
    """Publish each decision once, until `stop`; waits out a broker that is away.

    All deciders share one reader, so that a row is read and decoded once.
    Raises LogTruncated or WrongLog.
    """
    topics = list(dict.fromkeys(topic for decider, _ in seats for topic in decider.topics))
    memories: dict[str, Memory] = {}
    recalls = True
    while not stop.is_set():
        try:
            memories = await recall(log) if recalls else {}
            async with log.reader(topics, _beginning(topics, seats, memories)) as reader:
                # What a table says is only true once it was read to the end: half looks like calm.
                ends = await reader.end_positions()
                deciding = [
                    _Deciding(decider, mine, decider.ledger(settings), ends, memories)
                    for decider, mine in seats
                ]
                await _decide(deciding, log, reader, stop)
        except BrokerUnavailable as error:
            # Whether the last event arrived is unknown: read everything back before the next.
            _log.warning("nothing is decided for now: %s", error.message)
            await asyncio.sleep(_RETRY_S)
        except (LogTruncated, WrongLog) as error:
            if not memories:
                raise
            _log.warning("what deciders remember is of another log: %s", error.message)
            recalls = False


def _beginning(
    topics: Sequence[Topic], seats: Sequence[Seat], memories: Mapping[str, Memory]
) -> Cursor:
    deciders = [decider for decider, _ in seats]
    return beginning(
        {
            topic.name: [memories.get(it.name) for it in deciders if topic in it.topics]
            for topic in topics
        }
    )


class _Deciding:
    """A decider with its ledger, between two starts."""

    def __init__(
        self,
        decider: Decider,
        mine: Callable[[], bool],
        ledger: Ledger,
        ends: Mapping[str, Mapping[int, int]],
        memories: Mapping[str, Memory],
    ) -> None:
        self.decider = decider
        self.ledger = ledger
        self._memory = memories.get(decider.name)
        self._news = 0
        """Decisions that were read and are in no memory."""
        for event in self._memory.events if self._memory is not None else ():
            ledger.apply(event)
        self._mine = mine
        self._beginning = {topic.name: ends[topic.name] for topic in decider.topics}
        self._settled = {topic.name for topic in (decider.decisions, *decider.settled)}
        self._awaited: list[Event] = []
        self._looked_s = 0.0

    async def take(self, log: Log, record: Record, event: Event | None) -> None:
        """Take in what was read, `event` None for a tombstone."""
        if self._memory is not None and self._memory.covers(record):
            return
        self._news += record.topic == self.decider.decisions.name
        try:
            if event is None:
                self.ledger.removed(record.topic, record.key or b"")
            else:
                self.ledger.apply(event)
        except LogError as error:
            await self.refuse(log, record, error)

    async def refuse(self, log: Log, record: Record, error: LogError) -> None:
        """Publish the dead letter of a record."""
        await log.publish(dead_letter(record, f"streams:{self.decider.name}", error))

    async def look(self, log: Log, reader: Reader) -> None:
        """Publish what is due, unless it was looked just now."""
        if time.monotonic() - self._looked_s < self.decider.wait_s:
            return
        self._beginning = {
            topic: ends for topic, ends in self._beginning.items() if not _read(reader, topic, ends)
        }
        self._awaited = [event for event in self._awaited if not self.ledger.knows(event)]
        if self._beginning or self._awaited:
            return
        self._looked_s = time.monotonic()
        if self._news >= RECORDS and self._mine():
            await self._remember(log, reader)
        if not self._mine() or not (due := self.ledger.due(now_us())):
            return
        if await _behind(reader, self._settled):
            self._looked_s = 0.0
            return
        for event in due:
            await log.publish(event, correlation_id=event.event_id)
            if event.topic is self.decider.decisions:
                self._awaited.append(event)

    async def _remember(self, log: Log, reader: Reader) -> None:
        """Publish what came of the decisions so far."""
        self._news = 0
        events = self.ledger.remembered()
        if events is None:
            return
        told = remembered(self.decider.name, self.decider.decisions, events, reader.cursor)
        if told is not None:
            await log.publish(told)


async def _decide(
    deciding: Sequence[_Deciding], log: Log, reader: Reader, stop: asyncio.Event
) -> None:
    by_topic: dict[str, list[_Deciding]] = {}
    for one in deciding:
        for topic in one.decider.topics:
            by_topic.setdefault(topic.name, []).append(one)
    compacted = {t.name for one in deciding for t in one.decider.topics if t.cleanup == "compact"}
    wait_s = min(one.decider.wait_s for one in deciding)
    while not stop.is_set():
        records = await reader.batch(_BATCH_RECORDS, wait_s)
        for record in _newest(records, compacted):
            await _hand_out(record, by_topic[record.topic], log)
        for one in deciding:
            await one.look(log, reader)
        if len(records) < _BATCH_RECORDS:
            await asyncio.sleep(_PAUSE_S)  # rows come all the time: what gathers is read at once


def _newest(records: Sequence[Record], compacted: set[str]) -> Iterable[Record]:
    """Return the records but those of compacted topics that a later one here makes void."""
    last = {
        (record.topic, record.partition, record.key): record.offset
        for record in records
        if record.topic in compacted
    }
    for record in records:
        if last.get((record.topic, record.partition, record.key), record.offset) == record.offset:
            yield record


async def _hand_out(record: Record, readers: Sequence[_Deciding], log: Log) -> None:
    event, error = None, None
    if record.value is not None:
        try:
            event = decode(record.value)
        except LogError as found:
            error = found
    for one in readers:
        if error is None:
            await one.take(log, record, event)
        else:
            await one.refuse(log, record, error)


async def _behind(reader: Reader, topics: set[str]) -> bool:
    """Whether one of these topics has records that were not read yet."""
    ends = await reader.end_positions()
    return not all(_read(reader, topic, ends[topic]) for topic in topics)


def _read(reader: Reader, topic: str, ends: Mapping[int, int]) -> bool:
    """Whether a topic was read up to these offsets."""
    return all(
        reader.cursor.next_offset(topic, partition) >= end for partition, end in ends.items()
    )


def decision_id(namespace: str, name: str) -> str:
    """Return the id of a decision: the same for everybody who makes it."""
    return str(uuid.uuid5(uuid.uuid5(_NAMESPACE, namespace), name))


def daily_id(namespace: str, name: str, at_us: int) -> str:
    """Return the id of a decision that may be made again when the first was forgotten (at Unix µs).

    On another day it is another one: under an id that was there before, nobody would be told of it.
    """
    return decision_id(namespace, f"{name}@{at_us // _DAY_US}")
