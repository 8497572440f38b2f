import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from gateway.adoption import Remains
from gateway.entry import Entry
from gateway.ledger import Recorder, cost_entry
from gateway.outbox import Outbox
from gateway.outbox_folder import lock_folder
from gateway.segment import frames, segment_paths
from schemas import codec
from schemas.errors import OutboxFull, PayloadTooLarge
from schemas.events.llm import REQUESTS, ContentCaptured, RequestAdmitted
from schemas.partition import partition_of
from tests.gateway_durability.support import (
    MASTER,
    PRICE,
    call,
    request,
    response,
    settings,
)


@asynccontextmanager
async def opened(tmp_path: Path, **changes: int | float) -> AsyncIterator[Recorder]:
    outbox = Outbox(settings(tmp_path, **changes), "/gateway/test")
    try:
        yield Recorder(outbox, MASTER)
    finally:
        os.close(outbox.close())


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As a full disk: any write or allocation beyond `size` fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def admit_until_refused(
    recorder: Recorder, content_bytes: int
) -> tuple[list[RequestAdmitted], OutboxFull]:
    waiting = []
    while True:
        admitted = request()
        try:
            recorder.admitted(admitted, content_bytes)
        except OutboxFull as error:
            return waiting, error
        waiting.append(admitted)


def entries(outbox: Outbox) -> list:
    return [
        entry
        for path in segment_paths(outbox.folder)
        for whole in frames(path.read_bytes())
        for entry in whole.entries
    ]


@pytest.mark.req("BEY-03")
async def test_written_means_in_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as recorder:
        _, sequence = call(recorder)
        assert entries(recorder.outbox) == []
        await recorder.durable("written", sequence)
        found = entries(recorder.outbox)
        assert [entry.sequence for entry in found] == list(range(1, 6))
        topics = [entry.topic.split(".")[2] for entry in found]
        assert topics == ["requests", "keys", "responses", "costs", "content"]
        assert recorder.outbox.reserved == 0
        assert recorder.outbox.open_requests == 0


async def test_an_entry_is_what_its_event_says(tmp_path: Path) -> None:
    event = request()
    async with opened(tmp_path) as recorder:
        outbox = recorder.outbox
        links = {"correlation_id": "a" * 300, "causation_id": "b", "traceparent": "c"}
        outbox.append(event, event, **links)
        await outbox.durable("written")
        for sequence, entry in enumerate(entries(outbox), 1):
            assert entry == Entry(
                sequence,
                REQUESTS.name,
                partition_of(event.key.encode(), REQUESTS.partitions),
                event.key.encode(),
                codec.encode(event),
                [*codec.event_headers(event), *codec.link_headers(**links)],
                event.occurred_at_us // 1000,
                codec.origin_of(RequestAdmitted, "/gateway/test"),
            )
            shared = codec.shared_headers(entry.origin)
            assert [*shared, *entry.headers] == codec.headers(event, "/gateway/test", **links)


@pytest.mark.interpreted("a function replaced, to count its calls")
async def test_one_write_for_all_of_a_loop_turn(tmp_path: Path, monkeypatch) -> None:
    writes: list[int] = []
    write = os.pwrite
    async with opened(tmp_path) as recorder:
        monkeypatch.setattr(
            os, "pwrite", lambda *args: (writes.append(len(args[1])), write(*args))[1]
        )
        for _ in range(20):
            call(recorder)
        await recorder.durable("written")
        assert len(writes) == 1


async def test_synced_waiters_share_their_syncs(tmp_path: Path, monkeypatch) -> None:
    syncs: list[int] = []
    sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (syncs.append(fd), sync(fd)))
    async with opened(tmp_path) as recorder:
        await asyncio.gather(*(recorder.durable("synced", call(recorder)[1]) for _ in range(50)))
        assert recorder.outbox.synced == recorder.outbox.written
        assert len(syncs) <= 2


async def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as recorder:
        with pytest.raises(ValueError, match="telepathic"):
            await recorder.durable("telepathic", call(recorder)[1])


@pytest.mark.req("EVT-05")
async def test_the_bound_refuses_new_work_and_counts_it(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=512 * 1024, chunk_bytes=64 * 1024) as recorder:
        waiting, refused = admit_until_refused(recorder, 1_000)
        assert refused.status == 503
        assert refused.retry_after_seconds
        assert recorder.outbox.refused == 1
        assert len(waiting) > 5
        for admitted in waiting:
            answer = response(admitted)
            recorder.completed(answer, cost_entry(answer, PRICE, 7), b'"x"', mode="full")
        await recorder.durable("written")
        assert recorder.outbox.bytes_used <= 512 * 1024


@pytest.mark.req("BEY-03")
async def test_a_full_disk_refuses_new_work_and_never_a_finished_answer(tmp_path: Path) -> None:
    async with opened(tmp_path, chunk_bytes=64 * 1024) as recorder:
        with files_no_larger_than(256 * 1024):
            waiting, _ = admit_until_refused(recorder, 2_000)
            for admitted in waiting:
                answer = response(admitted)
                content = b'"' + b"y" * 2_000 + b'"'
                seq = recorder.completed(answer, cost_entry(answer, PRICE, 7), content, mode="full")
                await recorder.durable("written", seq)
        assert recorder.outbox.failing is None
        call(recorder)  # there is room again
        await recorder.durable("written")
        done = {e.key for e in entries(recorder.outbox) if "responses" in e.topic}
        assert done >= {admitted.request_id.encode() for admitted in waiting}


async def test_an_answer_beyond_its_room_waits_until_the_disk_takes_it(tmp_path: Path) -> None:
    async with opened(tmp_path, chunk_bytes=64 * 1024) as recorder:
        admitted = request()
        recorder.admitted(admitted)
        answer = response(admitted)
        with files_no_larger_than(64 * 1024):
            content = b'"' + b"z" * 200_000 + b'"'
            seq = recorder.completed(answer, cost_entry(answer, PRICE, 7), content, mode="full")
            await asyncio.sleep(0.05)
            assert recorder.outbox.failing is not None
            with pytest.raises(OutboxFull):
                recorder.admitted(request())
        await recorder.durable("written", seq)
        assert recorder.outbox.failing is None
        assert len(entries(recorder.outbox)) == 5
        call(recorder)


async def test_a_disk_that_stays_full_ends_the_answer_with_an_error(tmp_path: Path) -> None:
    async with opened(tmp_path, chunk_bytes=64 * 1024, write_patience_s=0.2) as recorder:
        admitted = request()
        recorder.admitted(admitted)
        answer = response(admitted)
        with files_no_larger_than(64 * 1024):
            content = b'"' + b"z" * 200_000 + b'"'
            seq = recorder.completed(answer, cost_entry(answer, PRICE, 7), content, mode="full")
            with pytest.raises(OutboxFull):
                await recorder.durable("written", seq)


async def test_an_oversize_record_is_refused_at_append(tmp_path: Path) -> None:
    async with opened(tmp_path, max_record_bytes=4_000) as recorder:
        with pytest.raises(PayloadTooLarge):
            recorder.admitted(request(tags={"note": "x" * 5_000}))
        assert recorder.outbox.reserved == 0
        call(recorder)
        await recorder.durable("written")


async def test_content_too_large_for_a_record_is_kept_by_its_hash(tmp_path: Path) -> None:
    async with opened(tmp_path, max_record_bytes=30_000) as recorder:
        call(recorder, b'"' + b"x" * 40_000 + b'"')
        await recorder.durable("written")
        content = [e for e in entries(recorder.outbox) if e.topic == ContentCaptured.topic.name]
        assert len(content) == 1
        assert len(content[0].value) < 1_000


@pytest.mark.req("BEY-03")
async def test_a_new_segment_carries_the_requests_still_open(tmp_path: Path) -> None:
    async with opened(tmp_path, segment_bytes=20_000, chunk_bytes=16_384) as recorder:
        early = request()
        recorder.admitted(early)
        for _ in range(100):
            call(recorder)
            await recorder.durable("written")
        paths = segment_paths(recorder.outbox.folder)
        assert len(paths) > 3
        assert all(path.stat().st_size < 30_000 for path in paths[:-1])
        # Everything before the last segment may be gone once Kafka has it.
        for path in paths[:-1]:
            path.unlink()
        remains = Remains(recorder.outbox.folder)
        assert set(remains.admitted) == {early.request_id.encode()}
        answer = response(early)
        recorder.completed(answer, cost_entry(answer, PRICE, 7))


async def test_the_folder_is_locked_while_the_worker_lives(tmp_path: Path) -> None:
    async with opened(tmp_path) as recorder:
        folder = recorder.outbox.folder
        assert lock_folder(folder) is None
    descriptor = lock_folder(folder)
    assert descriptor is not None
    os.close(descriptor)


async def test_partitions_are_those_of_kafkas_partitioner(tmp_path: Path) -> None:
    async with opened(tmp_path) as recorder:
        # Values from org.apache.kafka.common.utils.Utils.murmur2, modulo 4.
        admitted = request("a-little-bit-long-string")
        recorder.admitted(admitted)
        await recorder.durable("written")
        [entry] = entries(recorder.outbox)
        assert entry.partition == (-985981536 & 0x7FFFFFFF) % REQUESTS.partitions
        answer = response(admitted)
        recorder.completed(answer, cost_entry(answer, PRICE, 7))
