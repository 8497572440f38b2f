"""Segments prepared ahead: what is in them, what they take, and what is left of them."""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import durability as durability_module
from gateway import relay as relay_module
from gateway import spare as spare_module
from gateway.adoption import Adopter, Remains
from gateway.durability import Durability
from gateway.ledger import Recorder
from gateway.outbox import Outbox
from gateway.segment import frames, segment_paths
from gateway.spare import SPARE_FILE
from infra.broker import Broker
from infra.kafka import KafkaLog
from schemas.events.llm import CostEntry, RequestAdmitted, ResponseCompleted
from schemas.log import Connection
from tests.gateway_durability.support import MASTER, call, here, request, seen_since, settings
from tests.gateway_durability.test_outbox import admit_until_refused, files_no_larger_than

SMALL = {"segment_bytes": 65_536, "chunk_bytes": 16_384}
SIZE = 65_536 + 16_384


@asynccontextmanager
async def opened(tmp_path: Path, **changes: int | float) -> AsyncIterator[Recorder]:
    outbox = Outbox(settings(tmp_path, **(SMALL | changes)), "/gateway/test")
    try:
        yield Recorder(outbox, MASTER)
    finally:
        os.close(outbox.close())


async def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


async def prepared(outbox: Outbox) -> Path:
    await until(lambda: outbox._spare.ready)
    return outbox.folder / SPARE_FILE


async def record(recorder: Recorder, calls: int = 1) -> None:
    for _ in range(calls):
        await recorder.durable("written", call(recorder)[1])


async def fill(recorder: Recorder) -> None:
    """Write until the next segment has begun."""
    begun = len(recorder.outbox.segments)
    while len(recorder.outbox.segments) == begun:
        await record(recorder)


def discard_all(outbox: Outbox) -> None:
    """Do what the relay does with segments that Kafka holds."""
    while len(outbox.segments) > 1:
        outbox.discard(outbox.segments[0])
        outbox.segments.pop(0)


def sequences(folder: Path) -> list[int]:
    """What an adopter finds."""
    remains = Remains(folder)
    assert not remains.damaged
    found = [one for path in segment_paths(folder) for one in frames(path.read_bytes())]
    return [entry.sequence for one in found for entry in one.entries if entry.topic]


def taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.req("BEY-03")
async def test_the_writer_goes_on_in_what_was_prepared(tmp_path: Path) -> None:
    async with opened(tmp_path) as recorder:
        outbox = recorder.outbox
        await record(recorder)
        outbox.prepare_ahead()
        spare = await prepared(outbox)
        inode = spare.stat().st_ino
        assert spare.read_bytes() == bytes(SIZE)
        await record(recorder)
        assert not spare.exists()
        await record(recorder)
        last = segment_paths(outbox.folder)[-1]
        assert last.stat().st_ino == inode
        assert last.stat().st_size == SIZE
        assert outbox.bytes_used == SIZE + sum(it.end for it in outbox.segments[:-1])
        await recorder.durable("synced")
        assert sequences(outbox.folder) == list(range(1, outbox.written + 1))


@pytest.mark.req("BEY-03")
async def test_of_a_used_segment_nothing_is_read_again(tmp_path: Path) -> None:
    """Whenever the worker dies: what is left are the entries after the segments that were given up."""
    async with opened(tmp_path) as recorder:
        outbox, reused = recorder.outbox, 0
        early = request()
        recorder.admitted(early)
        outbox.prepare_ahead()
        for number in range(6):
            await fill(recorder)
            await record(recorder)
            inodes = {path.stat().st_ino for path in segment_paths(outbox.folder)[:-1]}
            discard_all(outbox)
            spare = await prepared(outbox)
            assert spare.read_bytes() == bytes(SIZE)
            reused += spare.stat().st_ino in inodes
            await fill(recorder)
            await record(recorder, number)
            dead = tmp_path / "dead" / str(number)
            shutil.copytree(outbox.folder, dead)
            first = outbox.segments[0].first
            assert sequences(dead) == list(range(first, outbox.written + 1))
            assert set(Remains(dead).admitted) == {early.request_id.encode()}
        assert reused >= 5


@pytest.mark.interpreted("a function replaced, to look at the moment of its call")
async def test_the_old_name_is_gone_for_good_before_what_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bytes] = []

    def look(folder: Path) -> None:
        held.append((folder / SPARE_FILE).read_bytes())

    async with opened(tmp_path) as recorder:
        outbox = recorder.outbox
        await fill(recorder)
        outbox.prepare_ahead()
        await prepared(outbox)
        await fill(recorder)
        monkeypatch.setattr(spare_module, "sync_folder", look)
        before = outbox.segments[0].path.read_bytes()
        discard_all(outbox)
        await prepared(outbox)
        assert held == [before]


@pytest.mark.req("EVT-05")
async def test_a_spare_counts_and_is_not_made_of_room_that_is_scarce(tmp_path: Path) -> None:
    bound = 4 * SIZE
    async with opened(tmp_path, max_bytes=bound) as recorder:
        outbox = recorder.outbox
        used = outbox.bytes_used
        outbox.prepare_ahead()
        assert outbox.bytes_used == used + SIZE
        await prepared(outbox)
        _, refused = admit_until_refused(recorder, 1_000)
        assert refused.status == 503
        assert taken(outbox.folder) <= outbox.bytes_used <= bound
    async with opened(tmp_path, max_bytes=2 * SIZE) as recorder:
        recorder.outbox.prepare_ahead()
        assert recorder.outbox.bytes_used <= SIZE
        await fill(recorder)
        discard_all(recorder.outbox)
        assert len(segment_paths(recorder.outbox.folder)) == 1
        assert not (recorder.outbox.folder / SPARE_FILE).exists()


@pytest.mark.req("BEY-03")
async def test_a_disk_without_room_for_a_spare_takes_what_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, segment_bytes=100_000, chunk_bytes=65_536) as recorder:
        outbox = recorder.outbox
        with files_no_larger_than(2 * 65_536), caplog.at_level(logging.WARNING):
            outbox.prepare_ahead()  # a file of 165_536 bytes
            await until(lambda: not outbox._spare.bytes)
            for _ in range(3):
                await fill(recorder)
                discard_all(outbox)
                await until(lambda: not outbox._spare.bytes)
            assert taken(outbox.folder) <= outbox.bytes_used + 100
        assert caplog.text.count("is prepared ahead") == 1
        assert not (outbox.folder / SPARE_FILE).exists()
        assert outbox.failing is None
        await fill(recorder)
        discard_all(outbox)
        await prepared(outbox)  # there is room again


@pytest.mark.parametrize("ready", [True, False])
async def test_an_outbox_that_is_closed_leaves_no_spare(tmp_path: Path, ready: bool) -> None:
    size = {} if ready else {"segment_bytes": 64 * 1024**2}
    async with opened(tmp_path, **size) as recorder:
        await record(recorder)
        recorder.outbox.prepare_ahead()
        spare = recorder.outbox.folder / SPARE_FILE
        if ready:
            await prepared(recorder.outbox)
        else:
            await until(spare.exists)
        assert spare.exists()
    assert not spare.exists()
    assert recorder.outbox._spare.bytes == 0
    assert not recorder.outbox._spare.prepare()


@pytest.mark.req("BEY-03")
async def test_segments_are_used_again_and_all_of_it_arrives_once(
    tmp_path: Path, broker: Broker, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "KEEP_SECONDS", 0.05)
    monkeypatch.setattr(relay_module, "MARK_SECONDS", 0.05)
    monkeypatch.setattr(durability_module, "PREPARE_AFTER_S", 0.0)
    start, ids, inodes = await here(log), [], list[int]()
    connection = Connection(broker.bootstrap)
    async with Durability(settings(tmp_path, **SMALL), connection, MASTER, "/gw/t") as worker:
        end = time.monotonic() + 20
        while len(inodes) < len(set(inodes)) + 3 and time.monotonic() < end:
            ids += [call(worker.recorder)[0] for _ in range(5)]
            await worker.recorder.durable("synced")
            await asyncio.sleep(0.02)
            newest = worker.outbox.segments[-1].path.stat().st_ino
            if [newest] != inodes[-1:]:
                inodes.append(newest)
        assert len(inodes) > len(set(inodes))
    seen = await seen_since(log, start)
    for kind in (RequestAdmitted, ResponseCompleted, CostEntry):
        assert seen.ids(kind) == dict.fromkeys(ids, 1)
    assert list((tmp_path / "outbox").iterdir()) == []


@pytest.mark.req("BEY-03")
async def test_the_spare_of_a_dead_worker_goes_with_it(tmp_path: Path, broker: Broker) -> None:
    chosen = settings(tmp_path / "dead", **SMALL)
    async with opened(tmp_path / "alive") as recorder:
        await record(recorder, 3)
        recorder.outbox.prepare_ahead()
        await prepared(recorder.outbox)
        dead = chosen.folder / recorder.outbox.id
        shutil.copytree(recorder.outbox.folder, dead)
        assert taken(dead) > SIZE
        Remains(dead)  # as it waits for Kafka's return
        assert taken(dead) < SIZE
    adopter = Adopter(chosen, Connection(broker.bootstrap), "/gw/adopter")
    await asyncio.to_thread(adopter.scan)
    assert adopter.adopted == 1
    assert list(chosen.folder.iterdir()) == []
