"""From the outbox to a real broker and back through the deduplicating reader."""

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from gateway import relay as relay_module
from gateway.adoption import Adopter
from gateway.durability import Durability
from gateway.relay import ACKED_FILE, AckedMark, Relay
from gateway.segment import segment_paths
from infra.broker import Broker
from infra.kafka import KafkaLog
from schemas.errors import BrokerUnavailable
from schemas.events.llm import (
    CONTENT,
    ContentCaptured,
    CostEntry,
    RequestAdmitted,
    ResponseCompleted,
)
from schemas.events.operations import DataKeyCreated, OutboxClosed
from schemas.log import OUTBOX_HEADER, SEQUENCE_HEADER, Connection
from schemas.partition import partition_of
from schemas.privacy import Opener, Sealed
from tests.gateway_durability.support import MASTER, Seen, call, here, seen_since, settings


def durability(tmp_path: Path, broker: Broker, **changes: int | float) -> Durability:
    return Durability(settings(tmp_path, **changes), Connection(broker.bootstrap), MASTER, "/gw/t")


def in_order(seen: Seen, outbox_id: str) -> bool:
    """Whether each partition holds this outbox's entries in the order of their sequences."""
    sequences: dict[tuple[str, int], list[int]] = {}
    for record in seen.records:
        if record.header(OUTBOX_HEADER) == outbox_id.encode():
            number = int(record.header(SEQUENCE_HEADER) or 0)
            sequences.setdefault((record.topic, record.partition), []).append(number)
    return bool(sequences) and all(found == sorted(found) for found in sequences.values())


@pytest.mark.req("BEY-03")
@pytest.mark.req("EVT-01")
async def test_calls_reach_the_log_once_and_in_order(
    tmp_path: Path, broker: Broker, log: KafkaLog
) -> None:
    start = await here(log)
    async with durability(tmp_path, broker) as worker:
        ids = [call(worker.recorder)[0] for _ in range(300)]
        await worker.recorder.durable("replicated")
        assert worker.status().entries_waiting == 0
        outbox_id = worker.outbox.id
    seen = await seen_since(log, start)
    for kind in (RequestAdmitted, ResponseCompleted, CostEntry, ContentCaptured):
        assert {i: n for i, n in seen.ids(kind).items() if i in ids} == dict.fromkeys(ids, 1)
    assert any(isinstance(e, OutboxClosed) and e.outbox_id == outbox_id for e in seen.events)
    assert in_order(seen, outbox_id)
    content = [record for record in seen.records if record.topic == CONTENT.name]
    for record in content:
        assert record.partition == partition_of(record.key or b"", CONTENT.partitions)
    assert list((tmp_path / "outbox").iterdir()) == []


async def test_content_opens_with_the_data_key_from_the_log(
    tmp_path: Path, broker: Broker, log: KafkaLog
) -> None:
    start = await here(log)
    async with durability(tmp_path, broker) as worker:
        request_id, _ = call(worker.recorder, b'{"request":"secret"}')
    seen = await seen_since(log, start)
    keys = {e.data_key_id: e for e in seen.events if isinstance(e, DataKeyCreated)}
    [content] = [
        e
        for e in seen.events
        if getattr(e, "request_id", "") == request_id and isinstance(e, ContentCaptured)
    ]
    assert b"secret" not in content.ciphertext
    sealed = Sealed(content.data_key_id, content.nonce, content.ciphertext)
    assert Opener(MASTER, keys.get).open(sealed, request_id) == b'{"request":"secret"}'


@pytest.mark.req("EVT-02")
async def test_what_is_sent_twice_is_read_once(
    tmp_path: Path, broker: Broker, log: KafkaLog
) -> None:
    start = await here(log)
    async with durability(tmp_path, broker) as worker:
        ids = [call(worker.recorder)[0] for _ in range(200)]
        await worker.recorder.durable("replicated")
        # As after a crash that lost the mark: another producer sends all of it again.
        (worker.outbox.folder / ACKED_FILE).unlink(missing_ok=True)
        again = Relay(worker.outbox, Connection(broker.bootstrap), 10**6)
        again.finish(20)
        await asyncio.to_thread(again.run)
        assert again.drained
        late = call(worker.recorder)[0]
    seen = await seen_since(log, start)
    assert seen.dropped >= 800
    for kind in (RequestAdmitted, ResponseCompleted, CostEntry, ContentCaptured):
        counts = seen.ids(kind)
        assert all(counts[request_id] == 1 for request_id in [*ids, late])


@pytest.mark.req("EVT-05")
@pytest.mark.req("BEY-03")
async def test_broker_away_spools_and_replays_in_order(
    tmp_path: Path, fresh_broker: Broker, fresh_log: KafkaLog
) -> None:
    start = await here(fresh_log)
    async with durability(tmp_path, fresh_broker, replicated_patience_s=4.0) as worker:
        ids = [call(worker.recorder)[0] for _ in range(50)]
        await worker.recorder.durable("replicated")
        await asyncio.to_thread(fresh_broker.kill)
        for _ in range(20):
            ids += [call(worker.recorder)[0] for _ in range(10)]
            await worker.recorder.durable("synced")
            await asyncio.sleep(0.05)
        with pytest.raises(BrokerUnavailable):
            await worker.recorder.durable("replicated")
        assert worker.status().entries_waiting > 0
        await asyncio.to_thread(fresh_broker.start)
        until = time.monotonic() + 20
        while worker.status().entries_waiting and time.monotonic() < until:
            await asyncio.sleep(0.1)
        assert worker.status().entries_waiting == 0
        assert not worker.status().broker_away
    seen = await seen_since(fresh_log, start)
    assert in_order(seen, worker.outbox.id)
    for kind in (RequestAdmitted, ResponseCompleted, CostEntry):
        assert seen.ids(kind) == dict.fromkeys(ids, 1)


@pytest.mark.slow
@pytest.mark.req("BEY-03")
async def test_broker_killed_again_and_again_loses_and_doubles_nothing(
    tmp_path: Path, fresh_broker: Broker, fresh_log: KafkaLog
) -> None:
    start, draw, ids = await here(fresh_log), random.Random(7), []
    async with durability(tmp_path, fresh_broker) as worker:
        for _ in range(3):
            until = time.monotonic() + 0.3 + draw.random()
            while time.monotonic() < until:
                ids += [call(worker.recorder)[0] for _ in range(5)]
                await asyncio.sleep(0.002)
            await asyncio.to_thread(fresh_broker.kill)
            ids += [call(worker.recorder)[0] for _ in range(50)]
            await asyncio.to_thread(fresh_broker.start)
        await worker.recorder.durable("replicated")
    seen = await seen_since(fresh_log, start)
    for kind in (RequestAdmitted, ResponseCompleted, CostEntry, ContentCaptured):
        assert seen.ids(kind) == dict.fromkeys(ids, 1)


async def test_segments_go_once_kafka_holds_them(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "KEEP_SECONDS", 0.2)
    async with durability(tmp_path, broker, segment_bytes=50_000, chunk_bytes=16_384) as worker:
        for _ in range(100):
            call(worker.recorder)
            await worker.recorder.durable("written")
        assert len(segment_paths(worker.outbox.folder)) > 3
        await worker.recorder.durable("replicated")
        until = time.monotonic() + 10
        while len(segment_paths(worker.outbox.folder)) > 1 and time.monotonic() < until:
            await asyncio.sleep(0.1)
        assert len(segment_paths(worker.outbox.folder)) == 1
        assert worker.outbox.bytes_used < 200_000
        call(worker.recorder)
        await worker.recorder.durable("replicated")


def test_a_torn_mark_counts_as_none(tmp_path: Path) -> None:
    mark = AckedMark(tmp_path)
    assert mark.load() == 0
    mark.save(12345)
    assert mark.load() == 12345
    file = tmp_path / ACKED_FILE
    file.write_text(file.read_text()[1:])
    assert mark.load() == 0


@pytest.mark.req("EVT-05")
async def test_a_suspended_broker_counts_as_away_and_stopping_does_not_wait_for_it(
    tmp_path: Path, fresh_broker: Broker, fresh_log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "SILENCE_SECONDS", 0.5)
    start = await here(fresh_log)
    worker = durability(tmp_path, fresh_broker)
    await worker.__aenter__()
    call(worker.recorder)
    await worker.recorder.durable("replicated")
    assert fresh_broker.process is not None
    fresh_broker.process.send_signal(signal.SIGSTOP)
    try:
        ids = [call(worker.recorder)[0] for _ in range(10)]
        until = time.monotonic() + 20
        while not worker.status().broker_away and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert worker.status().broker_away
        assert not await worker.close()
    finally:
        fresh_broker.process.send_signal(signal.SIGCONT)
    assert worker.outbox.folder.exists()
    adopter = Adopter(settings(tmp_path), Connection(fresh_broker.bootstrap), "/gw/next")
    await asyncio.to_thread(adopter.scan)
    assert adopter.adopted == 1
    seen = await seen_since(fresh_log, start)
    assert all(seen.ids(ResponseCompleted, outcome="success")[i] == 1 for i in ids)
