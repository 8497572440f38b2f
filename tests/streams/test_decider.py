"""All deciders of a process share a reader: what it brings is decoded once, and who asked for it hears."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import encode
from schemas.errors import LogTruncated
from schemas.event import Event, Topic
from schemas.events.deciders import DECIDERS
from schemas.events.operations import HEARTBEATS, AlertChanged, DeadLetter, Heartbeat
from schemas.log import Cursor, Record
from streams.agents.health import HEALTH
from streams.decider import Decider, Ledger, decide
from streams.settings import StreamsSettings

ALERTS = AlertChanged.topic


def beat(part: str, lag: int) -> Heartbeat:
    return Heartbeat(
        event_id="e", occurred_at_us=1, part=part, instance="0", started_at_us=1, lag=lag
    )


class Pure(Ledger):
    """Notes what it hears, and decides once that a lag of 9 is told."""

    def __init__(self) -> None:
        self.heard: list[int | None] = []
        self.gone: list[bytes] = []
        self.told = False

    def apply(self, event: Event) -> None:
        if isinstance(event, Heartbeat):
            self.heard.append(event.lag)
        self.told |= isinstance(event, AlertChanged)

    def removed(self, topic: str, key: bytes) -> None:
        self.gone.append(key)

    def due(self, at_us: int) -> Sequence[Event]:
        if 9 not in self.heard or self.told:
            return ()
        alert = AlertChanged(
            event_id="alert",
            occurred_at_us=at_us,
            alert_id="a",
            alert_type="lag",
            severity="warning",
            scope="all",
            status="open",
            message="nine",
        )
        return (alert,)

    def knows(self, decision: Event) -> bool:
        return self.told


class FakeLog:
    """A log of three topics in memory, whose records are all partition 0's."""

    def __init__(self) -> None:
        topics = (HEARTBEATS, ALERTS, DECIDERS)
        self.records: dict[str, list[Record]] = {topic.name: [] for topic in topics}
        self.letters: list[DeadLetter] = []
        self.opened: list[tuple[list[str], dict[str, dict[int, int]]]] = []

    def append(self, topic: Topic, key: bytes, value: bytes | None) -> None:
        found = self.records[topic.name]
        found.append(Record(topic.name, 0, len(found), 0, key, value, ()))

    async def publish(self, event: Event, **_: Any) -> None:
        if isinstance(event, DeadLetter):
            self.letters.append(event)
        else:
            self.append(event.topic, event.key.encode(), encode(event))

    @asynccontextmanager
    async def reader(
        self, topics: Sequence[Topic], cursor: Cursor | None = None
    ) -> AsyncIterator["FakeReader"]:
        cursor, names = cursor or Cursor(), [topic.name for topic in topics]
        if any(cursor.next_offset(name, 0) > len(self.records[name]) for name in names):
            raise LogTruncated("the log is shorter")
        self.opened.append((names, {name: dict(at) for name, at in cursor.positions.items()}))
        yield FakeReader(self, names, cursor)


class FakeReader:
    """Reads some topics of it."""

    def __init__(self, log: FakeLog, names: Sequence[str], cursor: Cursor) -> None:
        self._log = log
        self._names = names
        self.cursor = cursor

    async def batch(self, _: int, wait_s: float) -> list[Record]:
        found = []
        for name in self._names:
            records = self._log.records[name]
            found += records[self.cursor.next_offset(name, 0) :]
            self.cursor.positions[name] = {0: len(records)}
        if not found:
            await asyncio.sleep(wait_s)
        return found

    async def lag(self) -> int:
        ends = {name: len(self._log.records[name]) for name in self._names}
        return sum(end - self.cursor.next_offset(name, 0) for name, end in ends.items())

    async def end_positions(self) -> Mapping[str, Mapping[int, int]]:
        return {name: {0: len(self._log.records[name])} for name in self._names}


@pytest.mark.req("EVT-04")
async def test_each_hears_the_newest_of_each_key_once_and_decides_for_itself() -> None:
    log, stop = FakeLog(), asyncio.Event()
    ledgers = [Pure(), Pure()]
    seats = [
        (
            Decider(
                name=f"d{number}",
                leads=HEALTH,
                reads=(HEARTBEATS,),
                decisions=ALERTS,
                ledger=lambda _, number=number: ledgers[number],  # type: ignore[misc]
                wait_s=0.01,
            ),
            lambda number=number: number == 0,
        )
        for number in range(2)
    ]
    for lag in (1, 2, 9):
        log.append(HEARTBEATS, b"p", encode(beat("p", lag)))
    log.append(HEARTBEATS, b"rubbish", b"rubbish")
    log.append(HEARTBEATS, b"q", None)
    deciding = asyncio.create_task(decide(seats, StreamsSettings(Path("no")), log, stop))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while not all(ledger.told for ledger in ledgers):
            await asyncio.sleep(0.01)
    stop.set()
    await deciding
    assert [names for names, _ in log.opened] == [[DECIDERS.name], [HEARTBEATS.name, ALERTS.name]]
    assert [ledger.heard for ledger in ledgers] == [[9], [9]]
    assert [ledger.gone for ledger in ledgers] == [[b"q"], [b"q"]]
    assert sorted(letter.consumer for letter in log.letters) == ["streams:d0", "streams:d1"]
    assert len(log.records[ALERTS.name]) == 1
