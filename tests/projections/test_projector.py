"""The projector and replays on a real broker: exactly once through kills, and nothing hidden."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from bench.facts import Books, Outbox, call_events
from infra.broker import Broker
from infra.kafka import KafkaLog
from projections.database import Database, Folder
from projections.digest import Digest, digests
from projections.projection import closure, projections
from projections.projector import Projector
from projections.replay import Moment, Replayer, Report
from projections.settings import ProjectionsSettings
from schemas.errors import ConfigurationError, InvalidRequest, LogTruncated
from schemas.events.llm import REQUESTS
from schemas.identity import uuid7
from schemas.log import Connection, Cursor
from tests.projections.records import admitted, settled

CHILD = """
import sys
from pathlib import Path
from typing import Any
from infra.kafka import KafkaLog
from projections.projector import Projector
from projections.settings import ProjectionsSettings
from schemas.log import Connection
settings = ProjectionsSettings(Path(sys.argv[1]), commit_interval_s=0.01, commit_records=100)
Projector(settings, lambda: KafkaLog(Connection(sys.argv[2]), "/child")).run_here()
"""


class Stack:
    """A data folder on the module's broker; `books` add up what all tests have produced."""

    books = Books()

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.connection = Connection(broker.bootstrap)
        self.settings = ProjectionsSettings(folder, commit_interval_s=0.05)

    def open_log(self) -> KafkaLog:
        return KafkaLog(self.connection, "/test")

    def produce(self, seed: int, events: int) -> None:
        """Add calls to the log, some events twice."""
        rng = random.Random(seed)
        outbox = Outbox(self.connection, f"{rng.getrandbits(64):016x}")
        until = self.books.events + events
        while self.books.events < until:
            for item in call_events(rng, self.books):
                outbox.send(item, repeat=rng.random() < 0.05)
        outbox.flush()

    def put(self, topic: str, values: list[bytes | None]) -> None:
        """Append raw values to partition 0."""
        producer = Producer({"bootstrap.servers": self.connection.bootstrap})
        for value in values:
            producer.produce(topic, value=value, key=b"raw", partition=0)
        producer.flush()

    def child(self) -> subprocess.Popen[bytes]:
        """A projector in a process of its own, for the tests to kill."""
        command = [sys.executable, "-c", CHILD, str(self.settings.data_dir)]
        return subprocess.Popen(
            [*command, self.connection.bootstrap], cwd=Path(__file__).parents[2]
        )

    async def replay(self, name: str, **how: Any) -> Report:
        """Rebuild from the log, as `Replayer.replay`."""
        return await Replayer(self.settings, self.open_log).replay(name, **how)

    @asynccontextmanager
    async def projector(self) -> AsyncIterator[Projector]:
        projector = Projector(self.settings, self.open_log)
        stop = asyncio.Event()
        task = asyncio.create_task(projector.run(stop))
        try:
            yield projector
        finally:
            stop.set()
            await task


@pytest.fixture
def stack(fresh_broker: Broker, tmp_path: Path) -> Stack:
    return Stack(fresh_broker, tmp_path)


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "it never became true"
        await asyncio.sleep(0.05)


def counts(database: Database) -> tuple[int, int, int]:
    [(calls, cost, feedback)] = database.query(
        "SELECT count(*) FILTER (key_id LIKE 'key-team-%'), "
        "coalesce(sum(cost_nano_usd) FILTER (key_id LIKE 'key-team-%'), 0), "
        "coalesce(sum(feedback_count) FILTER (key_id LIKE 'key-team-%'), 0) FROM calls"
    )
    return calls, int(cost), int(feedback)


def expected(books: Books) -> tuple[int, int, int]:
    return books.calls, books.cost_nano_usd, books.feedback


async def caught_up(projector: Projector) -> None:
    projector.caught_up.clear()
    await until(lambda: projector.caught_up.is_set() and projector.status.lag_records == 0)


def state(settings: ProjectionsSettings) -> dict[str, Digest]:
    database = Database(Folder(settings.data_dir).live(), projections())
    try:
        return digests(database.query, projections())
    finally:
        database.close()


@pytest.mark.req("EVT-02")
@pytest.mark.req("EVT-03")
async def test_every_event_becomes_one_row(stack: Stack) -> None:
    stack.produce(1, 1_500)
    async with stack.projector() as projector:
        await caught_up(projector)
        assert counts(projector.live()) == expected(stack.books)
        stack.produce(2, 300)  # while it runs
        await until(lambda: counts(projector.live()) == expected(stack.books))
        await caught_up(projector)  # the other topics' records may still be under way
        assert projector.status.state == "running"
    async with stack.projector() as projector:  # a restart reads nothing twice
        await caught_up(projector)
        assert projector.status.events_total == 0
        assert counts(projector.live()) == expected(stack.books)


@pytest.mark.req("GEN-05")
async def test_broken_records_become_dead_letters_and_stop_nobody(stack: Stack) -> None:
    mark = uuid7()
    async with stack.projector() as projector:
        async with stack.open_log() as log:
            await log.publish(admitted(f"{mark}-before"))
            stack.put(REQUESTS.name, [b"broken avro", None, b"\xc3\x01" + b"\x00" * 20])
            await log.publish(admitted(f"{mark}-after"))
        letters = (
            "SELECT error_code, record_value FROM dead_letters "
            f"WHERE source_topic = '{REQUESTS.name}' ORDER BY source_offset"
        )
        await until(lambda: len(projector.live().query(letters)) == 3)
        found = projector.live().query(letters)
        assert [row[0] for row in found] == ["unknown_schema", "corrupt_record", "unknown_schema"]
        assert [row[1] for row in found][:2] == [b"broken avro", None]
        stored = f"SELECT request_id FROM requests WHERE request_id LIKE '{mark}%' ORDER BY ALL"
        await until(lambda: len(projector.live().query(stored)) == 2)
        before = digests(projector.live().query, projections())
    # A rebuild meets the same records, and buries nobody a second time.
    for path in stack.settings.data_dir.glob("weir-*"):
        path.unlink()
    async with stack.projector() as projector:
        await caught_up(projector)
        await until(lambda: len(projector.live().query(letters)) == 3)
        await asyncio.sleep(0.3)
        assert digests(projector.live().query, projections()) == before


@pytest.mark.req("EVT-02")
@pytest.mark.req("BEY-04")
async def test_killed_at_any_point_it_loses_and_doubles_nothing(stack: Stack) -> None:
    rng = random.Random(7)
    for round_number in range(4):
        stack.produce(100 + round_number, 900)
        child = stack.child()
        database = stack.settings.data_dir / "live"
        await until(lambda started=database: started.exists())
        await asyncio.sleep(rng.uniform(0.2, 1.5))
        child.kill()
        child.wait()
    async with stack.projector() as projector:
        await caught_up(projector)
        assert counts(projector.live()) == expected(stack.books)
    through_kills = state(stack.settings)
    report = await stack.replay("all", verify=True)
    assert report.passed
    assert {name: pair.rebuilt for name, pair in report.digests.items()} == through_kills


@pytest.mark.req("BEY-04")
@pytest.mark.req("EVT-03")
async def test_a_replay_beside_the_live_one(stack: Stack) -> None:
    stack.produce(20, 300)
    async with stack.projector() as projector:
        await caught_up(projector)
        replayer = Replayer(stack.settings, stack.open_log, projector)
        first = projector.live()
        answers: list[int] = []
        replay = asyncio.create_task(asyncio.to_thread(asyncio.run, replayer.replay("calls")))
        while not replay.done():  # queries go on
            answers.append(counts(projector.live())[0])
            await asyncio.sleep(0.02)
        report = await replay
        assert report.passed
        assert report.swapped
        assert set(answers) == {stack.books.calls}
        assert projector.live().path != first.path
        await until(lambda: not first.path.exists())
        stack.produce(21, 50)  # and the new one follows the log
        await until(lambda: counts(projector.live()) == expected(stack.books))
        verified = await asyncio.to_thread(asyncio.run, replayer.replay("calls", verify=True))
        assert verified.passed
        assert not verified.swapped


@pytest.mark.req("BEY-04")
async def test_a_row_that_was_touched_is_noticed(stack: Stack) -> None:
    stack.produce(30, 60)
    async with stack.projector() as projector:
        await caught_up(projector)
    for tampering in (
        (
            "UPDATE costs SET cost_nano_usd = cost_nano_usd + 1 WHERE event_id = "
            "(SELECT min(event_id) FROM costs WHERE cost_nano_usd IS NOT NULL)"
        ),
        "DELETE FROM requests WHERE event_id = (SELECT min(event_id) FROM requests)",
    ):
        database = Database(Folder(stack.settings.data_dir).live(), projections())
        database._connection.execute(tampering)
        database.close()
        report = await stack.replay("calls", verify=True)
        assert report.verified is False
        assert not report.passed
        assert not report.digests["calls"].equal
        assert (await stack.replay("all")).swapped
    healed = await stack.replay("calls", verify=True)
    assert healed.passed


@pytest.mark.req("BEY-05")
async def test_the_past_as_of_offsets_and_of_a_time(stack: Stack) -> None:
    async with stack.open_log() as log:
        ends = await log.end_positions([REQUESTS])
        await log.publish(admitted("past-1"))
        await asyncio.sleep(0.05)
        border = datetime.now(UTC).isoformat()
        await asyncio.sleep(0.05)
        await log.publish(admitted("past-2"))
        await log.publish(settled("past-2"))
        between = await log.end_positions([REQUESTS])

    async def rows(as_of: str) -> tuple[int, set[str]]:
        report = await stack.replay("requests", as_of=Moment.parse(as_of))
        assert report.database is not None
        path = stack.settings.data_dir / "moments" / report.database
        database = Database(path, closure("requests"))
        marked = database.query("SELECT request_id FROM requests WHERE request_id LIKE 'past-%'")
        assert database.cursor().positions.keys() == {REQUESTS.name}
        database.close()
        return report.digests["requests"].rebuilt.rows, {row[0] for row in marked}

    before, marked = await rows(json.dumps(ends))
    assert marked == set()
    assert await rows(border) == (before + 1, {"past-1"})
    assert await rows(json.dumps(between)) == (before + 2, {"past-1", "past-2"})
    with pytest.raises(LogTruncated, match="before offset 99999999"):
        await rows(json.dumps({REQUESTS.name: {0: 99_999_999}}))
    with pytest.raises(InvalidRequest):
        Moment.parse("yesterday")
    with pytest.raises(InvalidRequest):
        Moment.parse('{"topic": 5}')


async def test_a_log_that_ends_too_early_stops_it_and_is_said(stack: Stack) -> None:
    folder = Folder(stack.settings.data_dir)
    database = Database(folder.live(), projections())
    database.apply({}, Cursor(positions={REQUESTS.name: {0: 99_999_999}}))
    database.close()
    async with stack.projector() as projector:
        await until(lambda: projector.status.state == "stopped")
        assert "99999999" in (projector.status.error or "")
        assert projector.live().query("SELECT count(*) FROM calls") == [(0,)]  # queries go on
        stack.produce(40, 30)
        await asyncio.sleep(0.3)
        assert projector.live().cursor().next_offset(REQUESTS.name, 0) == 99_999_999
        # What the error advises helps.
        replayer = Replayer(stack.settings, stack.open_log, projector)
        with pytest.raises(LogTruncated):
            await asyncio.to_thread(asyncio.run, replayer.replay("all", verify=True))
        assert (await asyncio.to_thread(asyncio.run, replayer.replay("all"))).swapped
        await until(lambda: projector.status.state == "running")
        assert counts(projector.live()) == expected(stack.books)


async def test_only_one_process_has_the_files(stack: Stack) -> None:
    child = stack.child()
    try:
        await until((stack.settings.data_dir / "live").exists)
        await asyncio.sleep(1.0)
        with pytest.raises(ConfigurationError):
            await stack.replay("calls", verify=True)
    finally:
        child.kill()
        child.wait()


@pytest.mark.slow
async def test_a_broker_that_goes_away_is_waited_for(stack: Stack, fresh_broker: Broker) -> None:
    stack.produce(50, 60)
    async with stack.projector() as projector:
        await caught_up(projector)
        fresh_broker.kill()
        await until(lambda: projector.status.state == "waiting")
        assert counts(projector.live()) == expected(stack.books)  # queries go on
        assert projector.snapshot(0.0).path.exists()
        await asyncio.to_thread(fresh_broker.start)
        stack.produce(51, 60)
        await until(lambda: counts(projector.live()) == expected(stack.books))
        await until(lambda: projector.status.state == "running")
