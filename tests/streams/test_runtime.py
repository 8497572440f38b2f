"""What the runner adds to Faust: no gaps, the order of writing, and an end where something failed."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import encode
from schemas.event import Event
from schemas.events.feedback import FeedbackRecorded
from schemas.log import Connection, Record
from streams.agents.feedback import FEEDBACK
from streams.partition import PartitionFold, Row
from streams.runtime import FoldRunner
from streams.settings import StreamsSettings

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


class Runner(FoldRunner):
    """A runner whose Kafka is a list."""

    def __init__(self, data_dir: Path, log: FakeLog) -> None:
        super().__init__(FEEDBACK, StreamsSettings(data_dir), log, None)  # type: ignore[arg-type]
        self.fake = log
        self.reread: list[tuple[int, int]] = []
        self.broken = False

    async def _reread(self, topic: Any, spans: Any) -> list[Record]:
        ((start, end),) = spans.values()
        self.reread.append((start, end))
        return [record(offset) for offset in range(start, end)]

    async def _publish(self, partition: int, rows: Sequence[Row]) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise ConnectionError("no broker")
        self.fake.written.extend(row.event.key for row in rows)


@pytest.fixture
async def runner(tmp_path: Path) -> Runner:
    made = Runner(tmp_path, FakeLog())
    made._partitions[0] = PartitionFold(FEEDBACK, 0, {})
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


def total(runner: Runner) -> int:
    return int(runner._partitions[0]._entries["all"].state.total)


@pytest.mark.req("EVT-02")
async def test_records_that_come_again_or_from_too_far_on_are_put_right(runner: Runner) -> None:
    await runner._fold([[record(0), record(1)], [record(1), record(2)]])
    await runner._fold([[record(6), record(7)], [record(9)]])
    await runner._fold([[record(3), record(4)]])
    assert runner.reread == [(3, 6), (8, 9)]
    assert total(runner) == 10
    assert runner.positions() == {0: 10}


@pytest.mark.req("EVT-02")
async def test_dead_letters_are_written_before_rows_and_rows_before_the_cursor(
    runner: Runner,
) -> None:
    await runner._fold([[record(0), record(1, b"rubbish")]])
    assert runner.fake.written == ["weir.dead-letter", "all|0", ":cursor|0"]


async def test_a_batch_for_a_partition_that_is_gone_is_left_alone(runner: Runner) -> None:
    runner._partitions.clear()
    await runner._fold([[record(0)]])
    assert runner.fake.written == []


@pytest.mark.req("EVT-02")
async def test_what_cannot_be_written_ends_the_part_and_nothing_follows(runner: Runner) -> None:
    runner.broken = True

    class Stream:
        def take(self, _: int, within: float) -> Any:
            async def batches() -> Any:
                yield [[record(0)]]
                raise AssertionError("a batch after a failed one")

            return batches()

    consuming = asyncio.create_task(runner._consume(Stream()))  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        await runner._failure
    assert not consuming.done()
    assert runner.positions() == {}
    consuming.cancel()
