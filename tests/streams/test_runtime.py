"""What the runner adds to Faust: no gaps, the order of writing, and an end where something failed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.codec import encode
from schemas.errors import LogTruncated
from schemas.event import Event, Topic
from schemas.events.feedback import FeedbackRecorded
from schemas.log import Connection, Record
from streams.agents.feedback import FEEDBACK
from streams.partition import PartitionFold, Row, Tombstone
from streams.runtime import SourceRunner
from streams.settings import StreamsSettings
from streams.table import WAITING_MAX, FoldRunner
from streams.writer import TableWriter

SOURCE = FEEDBACK.source.name


class FakeLog:
    """The parts of a log that a runner uses, noting what was published."""

    connection = Connection("127.0.0.1:1")
    source = "/test"

    def __init__(self) -> None:
        self.written: list[str] = []

    async def publish(self, event: Event, **_: Any) -> None:
        await asyncio.sleep(0)
        self.written.append(event.type)


class Writer(TableWriter):
    """A writer whose Kafka is a list."""

    def __init__(self, log: FakeLog) -> None:
        self.written = log.written
        self.broken = False

    async def append(
        self, topic: Topic, partition: int, rows: Sequence[Row], last: Sequence[Row | Tombstone]
    ) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise ConnectionError("no broker")
        self.written += [row.key.decode() for row in [*rows, *last]]


class Source(SourceRunner):
    """A source of one fold, whose Kafka is a list."""

    def __init__(self, data_dir: Path, log: FakeLog) -> None:
        self.fake = log
        self.writer = Writer(log)
        self.fold = FoldRunner(FEEDBACK, 0.01, log, self.writer)  # type: ignore[arg-type]
        no_ends = SimpleNamespace()
        super().__init__([self.fold], StreamsSettings(data_dir), log, no_ends, None)  # type: ignore[arg-type]
        self.reread: list[tuple[int, int]] = []

    async def _reread(self, partition: int, start: int, end: int) -> list[Record]:
        assert partition == 0
        self.reread.append((start, end))
        return [record(offset) for offset in range(start, end)]

    def opened(self) -> None:
        self.fold.open({0: PartitionFold(FEEDBACK, 0, {})})
        self._next[0] = 0
        self._openings += 1

    async def fed(self, *chunks: list[Record]) -> None:
        """Take chunks, and fold them at once."""
        for chunk in chunks:
            await self._take(chunk)
        await self.fold.flush()


@pytest.fixture
async def source(tmp_path: Path) -> Source:
    made = Source(tmp_path, FakeLog())
    made.opened()
    return made


def record(offset: int, value: bytes | None = None) -> Record:
    event = FeedbackRecorded(
        event_id="e",
        occurred_at_us=1,
        feedback_id="f",
        key_id="k",
        user_id="u",
        feedback_type="rating",
        satisfaction_score=0.0,
        has_correction=False,
        data_key_id="d",
        nonce=b"",
        ciphertext=b"",
    )
    return Record(SOURCE, 0, offset, 0, b"k", encode(event) if value is None else value, ())


def total(source: Source) -> int:
    return int(source.fold._parts[0]._entries["all"].state.total)


@pytest.mark.req("EVT-02")
async def test_records_that_come_again_or_from_too_far_on_are_put_right(source: Source) -> None:
    await source.fed([record(0), record(1)], [record(1), record(2)])
    await source.fed([record(6), record(7)], [record(9)])
    await source.fed([record(3), record(4)])
    assert source.reread == [(3, 6), (8, 9)]
    assert total(source) == 10
    assert source.fold.positions() == {0: 10}


@pytest.mark.req("EVT-02")
async def test_dead_letters_are_written_before_rows_and_rows_before_the_cursor(
    source: Source,
) -> None:
    await source.fed([record(0), record(1, b"rubbish")])
    assert source.fake.written == ["weir.dead-letter", "all|0", ":cursor|0"]


async def test_a_batch_for_a_partition_that_is_gone_is_left_alone(source: Source) -> None:
    await source._close_partitions()
    await source.fed([record(0)])
    assert source.fake.written == []


@pytest.mark.req("EVT-02")
async def test_what_was_decoded_under_an_old_assignment_does_not_enter_a_new_one(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else records would follow a cursor that they do not follow."""

    async def reassigned() -> None:
        source.opened()

    await source.fed([record(0), record(1)])
    monkeypatch.setattr(source.fold, "has_room", reassigned)
    await source.fed([record(2)])
    assert source.fold.positions() == {0: 0}


async def test_who_brings_more_than_has_room_waits(source: Source) -> None:
    await source._take([record(offset) for offset in range(WAITING_MAX)])
    waiting = asyncio.create_task(source._take([record(WAITING_MAX)]))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await source.fold.flush()
    await waiting
    await source.fold.flush()
    assert total(source) == WAITING_MAX + 1
    assert source.fake.written.count(":cursor|0") == 2


@pytest.mark.req("EVT-02")
async def test_what_cannot_be_written_ends_the_part_and_nothing_follows(source: Source) -> None:
    source.writer.broken = True
    folding = asyncio.create_task(source.fold.run())
    await source._take([record(0)])
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(folding, 5)
    assert source.fake.written == []


@pytest.mark.req("EVT-02")
async def test_what_cannot_be_read_again_ends_the_part(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: int) -> list[Record]:
        raise LogTruncated("it is gone")

    async def stream() -> AsyncIterator[list[Record]]:
        yield [record(5)]
        raise AssertionError("a chunk after one that failed")

    monkeypatch.setattr(source, "_reread", gone)
    consuming = asyncio.create_task(source._consume(stream()))
    with pytest.raises(LogTruncated):
        await source._failure
    assert not consuming.done()
    assert source.positions() == {}
    consuming.cancel()
