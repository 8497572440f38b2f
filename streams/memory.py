"""What a decider remembers of its decisions: a ledger's part that comes of them, at a place in their topic.

A memory is made of events, so it enters a ledger the way the topic itself would. From the place on
everything is read; what lies before it is known. Memories are derived: without one, or when one does not
fit the log, a decider reads its decisions from the beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from schemas.clock import now_us
from schemas.codec import decode, decode_as, encode
from schemas.errors import LogError
from schemas.event import Event, Topic
from schemas.events.deciders import DECIDERS, DecisionsRemembered
from schemas.identity import uuid7
from schemas.log import Cursor, Log, Record

RECORDS = 5_000
"""So many decisions are read at most after a start, a twentieth of a second: then a memory is due."""

BYTES_MAX = 8 * 1024 * 1024
"""A memory that is larger is not written: half of what a record may be."""

_BATCH_RECORDS = 1_000
_WAIT_S = 0.2
_log = logging.getLogger(__name__)


class Memory(NamedTuple):
    """The events, and the place up to which they speak of a topic."""

    topic: str
    cursor: Cursor
    events: Sequence[Event]

    def covers(self, record: Record) -> bool:
        """Whether a record lies before the place."""
        is_before = record.offset < self.cursor.next_offset(record.topic, record.partition)
        return record.topic == self.topic and is_before


async def recall(log: Log) -> dict[str, Memory]:
    """Return the last memory of each decider. Raises BrokerUnavailable."""
    found: dict[str, Memory] = {}
    async with log.reader([DECIDERS]) as reader:
        while await reader.lag() > 0:
            for record in await reader.batch(_BATCH_RECORDS, _WAIT_S):
                if record.value is not None:
                    _take(found, record.value)
    return found


def _take(found: dict[str, Memory], value: bytes) -> None:
    try:
        event = decode_as(value, DecisionsRemembered)
        if event is not None:
            cursor = Cursor.load(event.cursor)
            (topic,) = cursor.positions
            found[event.decider] = Memory(topic, cursor, [decode(it) for it in event.events])
    except (LogError, msgspec.DecodeError, ValueError) as error:
        # Of a newer version, say: all decisions are read instead.
        _log.warning("a decider's memory is left alone: %s", error)


def remembered(
    decider: str, topic: Topic, events: Iterable[Event], at: Cursor
) -> DecisionsRemembered | None:
    """Return the memory of a decider whose ledger has read its decisions up to `at`.

    None when it would be too large for a record.
    """
    name = topic.name
    cursor = Cursor(
        positions={name: dict(at.positions.get(name, {}))},
        watermarks={name: {p: dict(m) for p, m in at.watermarks.get(name, {}).items()}},
        cluster_id=at.cluster_id,
        topic_ids={it: topic_id for it, topic_id in at.topic_ids.items() if it == name},
    )
    encoded = [encode(event) for event in events]
    if sum(map(len, encoded)) > BYTES_MAX:
        return None
    return DecisionsRemembered(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        decider=decider,
        cursor=cursor.dump(),
        events=encoded,
    )


def beginning(readers: Mapping[str, Sequence[Memory | None]]) -> Cursor:
    """Return where a reader begins that serves all readers of each topic ({topic: their memories}).

    A topic of which one of them remembers nothing is read from its beginning.
    """
    cursor = Cursor()
    for topic, memories in readers.items():
        places = [it.cursor for it in memories if it is not None and it.topic == topic]
        if not places or len(places) < len(memories):
            continue
        cursor.cluster_id = places[0].cluster_id
        cursor.topic_ids.update(places[0].topic_ids)
        for partition in set.intersection(*(set(it.positions[topic]) for it in places)):
            first = min(places, key=lambda it: it.next_offset(topic, partition))
            cursor.positions.setdefault(topic, {})[partition] = first.next_offset(topic, partition)
            marks = first.watermarks.get(topic, {}).get(partition, {})
            cursor.watermarks.setdefault(topic, {})[partition] = dict(marks)
    return cursor
