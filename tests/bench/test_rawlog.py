"""The raw log: decoding by published schemas alone, and the rule of repeats held against the ids."""

import asyncio

import pytest

from bench.rawlog import Raw, audit, decode, read_topics, unique
from infra.broker import Broker
from infra.kafka import KafkaLog
from schemas.codec import encode
from schemas.events.llm import CostEntry
from schemas.events.operations import HEARTBEATS, Heartbeat
from schemas.identity import uuid7
from schemas.publish import sample


def _raw(event: str, outbox: str, sequence: int, offset: int = 0, partition: int = 0) -> Raw:
    return Raw("t", partition, offset, 0, None, "x", outbox, sequence, {"event_id": event})


def test_decodes_by_the_published_schema() -> None:
    kind, body = decode(encode(sample(CostEntry)))
    assert kind == "weir.llm.cost.entered"
    assert body is not None
    assert body["entry"] == "entry ✓"


@pytest.mark.parametrize(
    "spoil", [lambda v: v[:-1], lambda v: v + b"x", lambda v: b"{}", lambda v: None]
)
def test_a_broken_record_is_none(spoil) -> None:
    assert decode(spoil(encode(sample(CostEntry)))) == (None, None)


def test_repeats_within_the_rule_lose_and_double_nothing() -> None:
    records = [_raw("a", "o", 1), _raw("b", "o", 2), _raw("a", "o", 1), _raw("b", "o", 2)]
    found = audit([*records, _raw("c", "o", 3), _raw("d", "p", 1)])
    assert (found.records, found.events, found.repeats) == (6, 4, 2)
    assert (found.lost, found.doubled, found.holes) == (0, 0, 0)
    assert [record.event_id for record in unique(records)] == ["a", "b"]


@pytest.mark.parametrize(
    ("records", "broken"),
    [
        ([_raw("a", "o", 2), _raw("b", "o", 1)], "lost"),
        ([_raw("a", "o", 1), _raw("a", "p", 1)], "doubled"),
        ([_raw("a", "o", 1), _raw("b", "o", 3)], "holes"),
    ],
)
def test_the_audit_notices(records: list[Raw], broken: str) -> None:
    assert getattr(audit(records), broken) == 1


async def test_reads_a_topic_to_its_end(broker: Broker, log: KafkaLog) -> None:
    instance = uuid7()
    beat = Heartbeat(
        event_id=uuid7(), occurred_at_us=1, part="bench", instance=instance, started_at_us=1
    )
    await log.publish(beat)
    records = await asyncio.to_thread(read_topics, broker.bootstrap, [HEARTBEATS.name])
    assert [r.event_id for r in records if r.body and r.body.get("instance") == instance] == [
        beat.event_id
    ]
