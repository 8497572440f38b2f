"""Each trap of Faust: what it does when it is left alone, and what the runtime makes of it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from infra.kafka import KafkaLog
from schemas.events.feedback import FeedbackRecorded
from schemas.log import Connection
from schemas.partition import partition_of
from streams import runtime
from streams.agents.feedback import FEEDBACK
from streams.fold import AnyFold
from streams.settings import StreamsSettings
from streams.table import FoldRunner
from streams.writer import TableWriter
from tests.streams.harness import served

SOURCE = FEEDBACK.source.name


class NoWriter(TableWriter):
    """A writer that has no broker."""

    def __init__(self) -> None:
        """Connect to nothing."""


def runners(fold: AnyFold = FEEDBACK) -> list[FoldRunner]:
    log = SimpleNamespace(connection=Connection("here:1"))
    return [FoldRunner(fold, 0.1, log, NoWriter())]  # type: ignore[arg-type]


def options(tmp_path: Path) -> dict[str, Any]:
    return runtime._options(runners(), StreamsSettings(tmp_path / "streams"), Connection("here:1"))


@pytest.fixture
def app(tmp_path: Path) -> faust.App:
    return faust.App("traps", **options(tmp_path))


def test_a_variable_of_the_environment_does_not_choose_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", "kafka://elsewhere:1")
    ours = options(tmp_path)
    alone = {name: ours[name] for name in ours.keys() - runtime._deaf_to_the_environment().keys()}
    assert str(faust.App("alone", **alone).conf.broker[0]) == "kafka://elsewhere:1"
    assert str(faust.App("ours", **ours).conf.broker[0]) == "kafka://here:1"


def test_the_folder_of_the_data_exists(tmp_path: Path) -> None:
    missing = options(tmp_path) | {"datadir": str(tmp_path / "a" / "b")}
    with pytest.raises(FileNotFoundError):
        faust.App("alone", **missing)._create_directories()
    faust.App("ours", **options(tmp_path))._create_directories()


async def test_no_topic_is_made_with_settings_that_are_not_ours(tmp_path: Path) -> None:
    ours = options(tmp_path)
    alone = {
        name: ours[name] for name in ours.keys() - runtime._no_topics_of_its_own(runners()).keys()
    }

    async def declared(words: dict[str, Any]) -> list[str]:
        made: list[str] = []
        app = faust.App("declares", **words)

        async def create_topic(topic: str, *_: Any, **__: Any) -> None:
            made.append(topic)

        app.producer = SimpleNamespace(create_topic=create_topic, maybe_start=_nothing)
        await app.topic(SOURCE).declare()
        return made

    assert await declared(alone) == [SOURCE]
    assert await declared(ours) == []


async def _nothing() -> None:
    """Start no producer."""


def test_each_process_is_a_member_by_name_and_what_waits_is_bounded(tmp_path: Path) -> None:
    apps = [
        faust.App("member", **runtime._options(runners(), settings, Connection("here:1")))
        for settings in (StreamsSettings(tmp_path, worker=0), StreamsSettings(tmp_path, worker=1))
    ]
    names = [app.conf.consumer_group_instance_id for app in apps]
    assert names == ["weir-feedback-0", "weir-feedback-1"]
    assert faust.App("alone").conf.consumer_group_instance_id is None
    assert apps[0].conf.stream_buffer_maxsize < faust.App("alone").conf.stream_buffer_maxsize


def message(value: bytes) -> ConsumerMessage:
    return ConsumerMessage(SOURCE, 0, 5, 1.0, 0, None, b"k", value, None, 0, 0, TP(SOURCE, 0))


async def test_the_source_is_plain_bytes_and_nothing_is_to_be_acknowledged(app: faust.App) -> None:
    avro = b"\xc3\x01avro"
    alone = app.topic(SOURCE)
    assert alone.acks
    assert await alone.decode(message(avro)) is None  # taken for JSON, and dropped without a word
    ours = runtime._raw_topic(app, FEEDBACK.source)
    assert (await ours.decode(message(avro))).value == avro
    assert not ours.acks


def fetched(offsets: dict[int, list[int]]) -> dict[TP, list[Any]]:
    return {
        TP(SOURCE, partition): [
            SimpleNamespace(
                offset=at, timestamp=7, timestamp_ms=7, key=b"k", value=b"v", headers=()
            )
            for at in found
        ]
        for partition, found in offsets.items()
    }


class Fetching:
    """The parts of Faust's consumer that hand records over."""

    should_stop = False
    flow_active = True
    _buffered_partitions: frozenset[TP] = frozenset()

    def __init__(self, offsets: dict[int, list[int]]) -> None:
        self.found = fetched(offsets)
        self.sought = 0
        self.getmany: Any = None

    async def _wait_next_records(self, _: float) -> Any:
        return self.found, set(self.found)

    async def perform_seek(self) -> None:
        self.sought += 1


async def handed_over(consumer: Fetching, *, rebalance_after: int | None = None) -> list[Any]:
    app = SimpleNamespace(consumer=consumer, consumer_generation_id=1)
    runtime._hand_over_chunks(app, 0.0)  # type: ignore[arg-type]
    messages: AsyncIterator[Any] = consumer.getmany(1.0)
    taken = []
    async for tp, chunk in messages:
        taken.append((tp.partition, [record.offset for record in chunk.value]))
        if len(taken) == rebalance_after:
            app.consumer_generation_id += 1
    return taken


async def test_what_a_fetch_brings_of_a_partition_is_one_message() -> None:
    consumer = Fetching({0: list(range(500)), 3: [7, 8]})
    assert await handed_over(consumer) == [(0, list(range(500))), (3, [7, 8])]


async def test_nothing_is_handed_over_from_before_a_rebalance() -> None:
    consumer = Fetching({0: [1], 1: [1], 2: [1]})
    assert await handed_over(consumer, rebalance_after=1) == [(0, [1])]
    consumer.flow_active = False
    assert await handed_over(consumer) == []
    assert consumer.sought == 1


async def test_a_crash_that_faust_keeps_to_itself_is_raised(app: faust.App) -> None:
    told = asyncio.create_task(runtime._crash_of(app))
    await app.crash(RuntimeError("the consumer is dead"))  # which raises nothing anywhere
    with pytest.raises(RuntimeError, match="the consumer is dead"):
        await asyncio.wait_for(told, 5)


def test_faust_and_its_client_are_quiet(caplog: pytest.LogCaptureFixture) -> None:
    noisy = {name: logging.getLogger(name) for name in ("faust", "mode", "aiokafka")}
    for logger in noisy.values():
        logger.setLevel(logging.NOTSET)
    caplog.set_level(logging.INFO)
    runtime._quiet_loggers()
    noisy["mode"].info("starting a service")
    noisy["aiokafka"].error("no broker")
    assert caplog.records == []


def feedback(identifier: str) -> FeedbackRecorded:
    return FeedbackRecorded(
        event_id=identifier,
        occurred_at_us=1_790_000_000_000_000,
        feedback_id="one-key",
        key_id="k",
        user_id="u",
        feedback_type="rating",
        satisfaction_score=0.0,
        has_correction=False,
        data_key_id="d",
        nonce=b"",
        ciphertext=b"",
    )


@pytest.mark.req("EVT-04")
@pytest.mark.parametrize("left_alone", [False, True])
async def test_what_the_group_committed_does_not_count(
    fresh_log: KafkaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_alone: bool
) -> None:
    """On a quiet topic nothing after the committed offset would ever show what was left out."""
    fold: AnyFold = replace(FEEDBACK, name=f"committed-{left_alone}")
    for number in range(3):
        await fresh_log.publish(feedback(f"{left_alone}{number}"))
    partition = partition_of(b"one-key", fold.source.partitions)
    (ends,) = (await fresh_log.end_positions([fold.source])).values()
    await commit(fresh_log.connection, f"weir-{fold.name}", partition, ends[partition])
    if left_alone:
        monkeypatch.setattr(runtime, "_read_from_cursors", lambda *_: None)
    async with served(fold, fresh_log, tmp_path) as runner:
        for _ in range(15 if left_alone else 400):
            await asyncio.sleep(0.1)
            if runner.positions()[partition] == ends[partition]:
                break
        at = runner.positions()[partition]
    # Where it began depends on how much of its cursor the run before had time to write.
    assert at < ends[partition] if left_alone else at == ends[partition]


async def commit(connection: Connection, group: str, partition: int, offset: int) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=connection.bootstrap, group_id=group)
    await consumer.start()
    try:
        where = TopicPartition(SOURCE, partition)
        consumer.assign([where])
        await consumer.commit({where: offset})
    finally:
        await consumer.stop()
