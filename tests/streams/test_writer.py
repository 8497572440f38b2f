"""What vouches for rows follows them, however many batches they fill."""

from infra.kafka import KafkaLog
from schemas.events.tables import FeedbackCursor, FeedbackRow
from streams.agents.feedback import FEEDBACK
from streams.partition import OFFSET_HEADER, Row, Tombstone
from streams.writer import _BATCH_BYTES, TableWriter


def row(number: int, fill: int) -> Row:
    event = FeedbackRow(
        event_id="e",
        occurred_at_us=1,
        entity=f"m{number}",
        partition=2,
        offset=7,
        total=0,
        buckets={},
    )
    return Row(event.key.encode(), b"v" * fill, event)


def cursor() -> Row:
    event = FeedbackCursor(event_id="e", occurred_at_us=1, entity=":cursor", partition=2, offset=7)
    return Row(event.key.encode(), b"c", event)


async def test_rows_then_cursor_then_tombstones(fresh_log: KafkaLog) -> None:
    large = _BATCH_BYTES // 3
    rows = [row(number, large) for number in range(7)] + [row(7, 2 * _BATCH_BYTES)]
    async with TableWriter(fresh_log.connection, "/test") as writer:
        await writer.append(FEEDBACK.table, 2, rows, [cursor(), Tombstone(b"m0|2", 7)])
        await writer.append(FEEDBACK.table, 2, [], [cursor()])
        await writer.append(FEEDBACK.table, 2, [], [])
    found = []
    async with fresh_log.reader([FEEDBACK.table]) as reader:
        while await reader.lag():
            found += await reader.batch(100, 0.2)
    ours = [record for record in found if record.partition == 2][-11:]
    assert [record.key for record in ours] == [
        *(one.key for one in rows),
        b":cursor|2",
        b"m0|2",
        b":cursor|2",
    ]
    assert [len(record.value or b"") for record in ours[:8]] == [large] * 7 + [2 * _BATCH_BYTES]
    assert ours[9].value is None
    assert {record.header(OFFSET_HEADER) for record in ours} == {b"7"}
