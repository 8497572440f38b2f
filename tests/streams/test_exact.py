"""The real part on a real broker: killed, stopped, fed repeats and rubbish, and still exact."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.exactness import Disturbance, Sending
from bench.streams_load import Load, Sent, producer
from bench.streams_recount import differences, recount
from bench.streams_replay import folds
from bench.streams_tables import Follower, Tables
from bench.streams_worker import Worker
from infra.broker import Broker
from infra.kafka import KafkaLog
from schemas.clock import now_us
from schemas.codec import decode
from schemas.event import Topic
from schemas.events.feedback import FeedbackRecorded
from schemas.events.operations import DEAD_LETTERS, HEARTBEATS, DeadLetter, Heartbeat
from schemas.events.training import TRIGGERS, TriggerFired
from schemas.identity import uuid7

THRESHOLD = 20


@pytest.fixture
def worker(fresh_broker: Broker, tmp_path: Path) -> Iterator[Worker]:
    """A streams process, killed at the end whatever happened."""
    words = {"feedback_threshold": THRESHOLD, "feedback_cooldown_s": 0}
    worker = Worker(fresh_broker.bootstrap, tmp_path / "streams", words)
    yield worker
    if worker.process is not None:
        worker.end()


async def last(log: KafkaLog, topic: Topic) -> list[object]:
    """Every event on a topic."""
    found: list[object] = []
    async with log.reader([topic]) as reader:
        while await reader.lag():
            batch = await reader.batch(1_000, 0.5)
            found.extend(decode(record.value) for record in batch if record.value is not None)
    return found


@pytest.mark.req("EVT-02", "EVT-04", "COST-09")
def test_tables_equal_a_recount_through_kills_and_repeats(
    fresh_broker: Broker, tmp_path: Path
) -> None:
    ledger: list[Sent] = []
    load = Load(11, "exact", int(time.time()), ledger.append, repeats=0.05)
    tables = Tables(fresh_broker.bootstrap)
    draw, actions = random.Random(11), ("second", "stop", "kill")
    disturbance = Disturbance(fresh_broker, tmp_path, draw, actions)
    try:
        with Follower(tables), Sending(fresh_broker.bootstrap, load, 600):
            disturbance.rounds(3, (3.0, 4.0))
        disturbance.wait_caught_up(tables)
    finally:
        disturbance.close()
    actions_done = [str(done["action"]) for done in disturbance.done]
    assert len(actions_done) >= 3
    # No process fails, also while two share the partitions.
    assert not [action for action in actions_done if action.endswith("ended by itself, 1")]
    wanted = recount(ledger)
    assert len(wanted) > 300
    assert {table for table, *_ in wanted} == {fold.name for fold in tables.folds}
    assert differences(wanted, tables.figures(load.prefix)) == []
    assert differences(recount(ledger[1:]), tables.figures(load.prefix)) != []
    tables.close()


@pytest.mark.req("EVT-02", "EVT-04")
async def test_broken_records_become_dead_letters_and_the_part_beats_on(
    fresh_broker: Broker, fresh_log: KafkaLog, worker: Worker
) -> None:
    ledger: list[Sent] = []
    load = Load(6, "letters", int(time.time()), ledger.append)
    sender = producer(fresh_broker.bootstrap)
    load.send(sender, 200)
    name = uuid7().encode()
    sender.produce("weir.llm.costs.v1", b"rubbish", name, partition=1)
    sender.produce("weir.llm.responses.v1", b"\xc3\x01" + bytes(20), name, partition=3)
    load.send(sender, 200)
    worker.start()
    tables = Tables(fresh_broker.bootstrap)
    await asyncio.to_thread(tables.caught_up)
    assert differences(recount(ledger), tables.figures(load.prefix)) == []
    tables.close()
    letters = [
        letter
        for letter in await last(fresh_log, DEAD_LETTERS)
        if isinstance(letter, DeadLetter) and letter.record_key == name
    ]
    readers = [
        f"streams:{fold.name}"
        for fold in folds()
        if fold.source.name in {"weir.llm.costs.v1", "weir.llm.responses.v1"}
    ]
    assert sorted(letter.consumer for letter in letters) == sorted(readers)
    assert {letter.error_code for letter in letters} == {"unknown_schema"}
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        beats = [beat for beat in await last(fresh_log, HEARTBEATS) if isinstance(beat, Heartbeat)]
        if beats and beats[-1].lag == 0 and beats[-1].positions:
            break
        await asyncio.sleep(0.5)
    assert beats[-1].lag == 0
    sources = {fold.source for fold in folds()}
    assert len(beats[-1].positions) == sum(source.partitions for source in sources)


def feedback(scope: str) -> FeedbackRecorded:
    identifier = uuid7()
    return FeedbackRecorded(
        event_id=identifier,
        occurred_at_us=now_us(),
        feedback_id=identifier,
        key_id="k",
        user_id="u",
        feedback_type="correction",
        satisfaction_score=1.0,
        has_correction=True,
        model_id=scope,
        data_key_id="d",
        nonce=b"n",
        ciphertext=b"c",
    )


@pytest.mark.req("FB-06", "EVT-04")
async def test_one_trigger_per_crossing_over_kills(fresh_log: KafkaLog, worker: Worker) -> None:
    scope, draw = f"only-{uuid7()}", random.Random(3)
    worker.words["feedback_scope"] = f"model:{scope}"
    crossings = 2
    worker.start()
    for crossing in range(1, crossings + 1):
        killed_at = draw.randrange(THRESHOLD)
        for number in range(THRESHOLD):
            await fresh_log.publish(feedback(scope))
            if number == killed_at:
                worker.end()
                worker.start()
        fired = await _fired(fresh_log, f"model:{scope}", crossing)
        assert len(fired) == crossing
        assert fired[-1].count == THRESHOLD
        worker.end()
        worker.start()
    await asyncio.sleep(4)
    fired = await _fired(fresh_log, f"model:{scope}", crossings)
    assert [trigger.trigger_id for trigger in fired] == [
        f"model:{scope}#{number}" for number in range(1, crossings + 1)
    ]


async def _fired(log: KafkaLog, scope: str, count: int) -> list[TriggerFired]:
    deadline = time.monotonic() + 25
    while True:
        found = [
            event
            for event in await last(log, TRIGGERS)
            if isinstance(event, TriggerFired) and event.scope == scope
        ]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.3)
