"""Batches of good records, and one bad one among them."""

import pytest

from projections.decode import decode_batch, empty
from schemas.codec import encode
from schemas.errors import CorruptRecord, UnknownSchema
from schemas.events.feedback import FeedbackRecorded
from schemas.events.llm import CostEntry, RequestAdmitted
from schemas.log import Record
from tests.projections.records import Appender, admitted, event, settled

WANTED = {RequestAdmitted, CostEntry, FeedbackRecorded}


def spoil(record: Record, how: str) -> Record:
    value = record.value or b""
    spoiled = {
        "no value": None,
        "empty": b"",
        "text": b"not avro",
        "unknown schema": b"\xc3\x01" + b"\x07" * 8 + value[10:],
        "cut short": value[: len(value) // 2],
        "something behind": value + b"\x00",
        "invalid utf-8": value.replace(b"team", b"\xff\xfe\xfd\xfc"),
        "before 1970": encode(admitted(occurred_at_us=-1)),
        "after 9999": encode(admitted(occurred_at_us=2**62)),
    }[how]
    assert spoiled != value
    return record._replace(value=spoiled)


HOWS = {
    "no value": CorruptRecord,
    "empty": UnknownSchema,
    "text": UnknownSchema,
    "unknown schema": UnknownSchema,
    "cut short": CorruptRecord,
    "something behind": CorruptRecord,
    "invalid utf-8": CorruptRecord,
    "before 1970": CorruptRecord,
    "after 9999": CorruptRecord,
}


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize("how", HOWS)
def test_a_bad_record_is_named_and_disturbs_no_other(how: str) -> None:
    records = Appender().records([admitted(f"r{number}") for number in range(50)])
    victim = spoil(records[20], how)
    records[20] = victim
    decoded = decode_batch(records, WANTED)
    rows = decoded.rows[RequestAdmitted]
    assert rows.column("request_id").to_pylist() == [f"r{n}" for n in range(50) if n != 20]
    [rejected] = decoded.rejected
    assert rejected.record == victim
    assert isinstance(rejected.error, HOWS[how])


def test_the_fast_way_and_the_slow_way_agree() -> None:
    records = Appender().records(
        [admitted(f"r{number}", team=None if number % 2 else "é") for number in range(20)]
    )
    fast = decode_batch(records, WANTED).rows[RequestAdmitted]
    # One bad record sends the whole group down the slow way.
    bad = records[0]._replace(value=(records[0].value or b"") + b"x")
    slow = decode_batch([*records, bad], WANTED).rows[RequestAdmitted]
    assert fast.equals(slow)
    assert fast.schema == empty(RequestAdmitted).schema


def test_types_are_told_apart_and_bytes_survive() -> None:
    feedback = event("weir.llm.feedback.recorded", feedback_id="f", nonce=b"\x00\xff")
    records = Appender().records([admitted("r"), settled("r"), feedback])
    decoded = decode_batch(records, WANTED)
    assert {kind: table.num_rows for kind, table in decoded.rows.items()} == {
        RequestAdmitted: 1,
        CostEntry: 1,
        FeedbackRecorded: 1,
    }
    assert decoded.rows[FeedbackRecorded].column("nonce").to_pylist() == [b"\x00\xff"]


def test_an_event_on_a_foreign_topic_is_refused() -> None:
    [record] = Appender().records([admitted("r")])
    strayed = record._replace(topic="weir.llm.costs.v1")
    decoded = decode_batch([strayed], WANTED)
    assert decoded.rows == {}
    assert "does not belong" in decoded.rejected[0].error.message


def test_places_follow_their_records() -> None:
    appender = Appender()
    records = [appender.record(admitted("same"), timestamp_ms=number) for number in range(3)]
    rows = decode_batch(records, WANTED).rows[RequestAdmitted]
    assert rows.column("log_offset").to_pylist() == [0, 1, 2]
    assert rows.column("appended_at_ms").to_pylist() == [0, 1, 2]
    assert set(rows.column("log_partition").to_pylist()) == {records[0].partition}
