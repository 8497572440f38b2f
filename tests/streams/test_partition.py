"""The rules of exactness, one by one."""

from dataclasses import replace
from typing import Any

import pytest

from schemas.codec import encode
from schemas.errors import WrongLog
from schemas.event import Event
from schemas.events.feedback import FeedbackRecorded
from schemas.events.operations import DeadLetter
from schemas.events.tables import FeedbackCursor, FeedbackRow
from schemas.events.training import TriggerFired
from schemas.letters import VALUE_BYTES_MAX
from schemas.log import Record
from streams import partition
from streams.agents.feedback import FEEDBACK
from streams.partition import OFFSET_HEADER, OUTBOXES_MAX, PartitionFold, Step, recovered


def feedback(model: str = "m") -> FeedbackRecorded:
    return FeedbackRecorded(
        event_id="e",
        occurred_at_us=1_000_000,
        feedback_id="f",
        key_id="k",
        user_id="u",
        feedback_type="rating",
        satisfaction_score=0.0,
        has_correction=False,
        model_id=model,
        data_key_id="d",
        nonce=b"",
        ciphertext=b"",
    )


def record(offset: int, value: bytes | None = None, outbox: str = "o", seq: Any = None) -> Record:
    headers = (("weir-outbox", outbox.encode()), ("weir-seq", str(seq or offset).encode()))
    value = encode(feedback()) if value is None else value
    return Record("weir.llm.feedback.v1", 2, offset, 5, b"k", value, headers)


def total(step: Step) -> int:
    (row,) = [row.event for row in step.rows if row.key == b"all|2"]
    assert isinstance(row, FeedbackRow)
    return row.total


def stored(step: Step) -> dict[bytes, bytes]:
    assert step.cursor is not None
    return {row.key: row.value for row in [*step.rows, step.cursor]}


@pytest.mark.req("EVT-02")
def test_a_row_says_what_it_includes_and_the_cursor_follows() -> None:
    part = PartitionFold(FEEDBACK, 2, {}, "topic-id")
    step = part.take([record(0), record(1), record(2)])
    assert {row.key: row.event.offset for row in step.rows} == {b"all|2": 2, b"model:m|2": 2}
    assert step.cursor is not None
    cursor = step.cursor.event
    assert isinstance(cursor, FeedbackCursor)
    assert (cursor.key, cursor.offset, cursor.watermarks) == (":cursor|2", 2, {"o": 2})
    assert cursor.topic_id == "topic-id"
    assert part.next_offset == 3


@pytest.mark.req("EVT-02")
def test_a_producers_repeats_count_once_also_across_a_restart() -> None:
    part = PartitionFold(FEEDBACK, 2, {})
    step = part.take([record(0, seq=7), record(1, seq=7), record(2, seq=8)])
    assert total(step) == 2
    part = PartitionFold(FEEDBACK, 2, stored(step))
    step = part.take([record(3, seq=7), record(4, seq=8), record(5, seq=9), record(6, outbox="p")])
    assert total(step) == 4


@pytest.mark.req("EVT-02", "EVT-04")
def test_rows_that_are_ahead_of_the_cursor_are_not_counted_twice() -> None:
    first = PartitionFold(FEEDBACK, 2, {})
    table = stored(first.take([record(0), record(1)]))
    ahead = first.take([record(2), record(3)])
    table[b"all|2"] = next(row.value for row in ahead.rows if row.key == b"all|2")
    again = PartitionFold(FEEDBACK, 2, table)
    assert again.next_offset == 2
    step = again.take([record(2), record(3), record(4)])
    rows = {row.key: row.event for row in step.rows}
    assert {key: row.total for key, row in rows.items() if isinstance(row, FeedbackRow)} == {
        b"all|2": 5,
        b"model:m|2": 5,
    }


def test_what_was_read_already_is_left_alone() -> None:
    part = PartitionFold(FEEDBACK, 2, {})
    part.published(part.take([record(0), record(1)]))
    assert part.take([record(0), record(1)]) == ([], [], None, [])


@pytest.mark.req("EVT-02")
@pytest.mark.parametrize(
    ("spoiled", "code"),
    [
        (record(1, value=b"no avro at all"), "unknown_schema"),
        (record(1, value=encode(feedback())[:-3]), "corrupt_record"),
        (record(1, value=encode(feedback()) + b"x"), "corrupt_record"),
        (record(1)._replace(value=None), "corrupt_record"),
    ],
)
def test_what_cannot_be_read_becomes_a_dead_letter_and_nothing_else(
    spoiled: Record, code: str
) -> None:
    part = PartitionFold(FEEDBACK, 2, {})
    step = part.take([record(0), spoiled, record(2)])
    (letter,) = step.emissions
    assert isinstance(letter, DeadLetter)
    assert (letter.error_code, letter.consumer, letter.source_offset) == (
        code,
        "streams:feedback",
        1,
    )
    assert letter.record_value == spoiled.value
    assert total(step) == 2
    assert part.next_offset == 3
    (same,) = PartitionFold(FEEDBACK, 2, {}).take([record(0), spoiled]).emissions
    assert same.event_id == letter.event_id


def _choke(state: Any, part: Any) -> Any:
    if part == 13:
        raise ValueError("thirteen")
    return FEEDBACK.apply(state, part)


@pytest.mark.req("EVT-02")
def test_an_event_that_breaks_its_fold_half_way_leaves_no_trace() -> None:
    fold = replace(
        FEEDBACK,
        split=lambda event: [
            ("all", 1),
            (event.model_id or "", 13 if event.model_id == "bad" else 1),
        ],
        apply=_choke,
    )
    part = PartitionFold(fold, 2, {})
    part.published(part.take([record(0)]))
    bad = record(2, value=encode(feedback("bad")))
    step = part.take([record(1), bad, record(3)])
    (letter,) = step.emissions
    assert isinstance(letter, DeadLetter)
    assert letter.error_code == "fold_failed"
    assert "thirteen" in letter.error
    assert total(step) == 3
    assert {row.key for row in step.rows} == {b"all|2", b"m|2"}
    assert part.next_offset == 4


def test_a_fold_that_cannot_split_an_event_gives_a_dead_letter() -> None:
    def split(event: Any) -> Any:
        yield "all", 1
        raise KeyError("no")

    step = PartitionFold(replace(FEEDBACK, split=split), 2, {}).take([record(0)])
    assert [type(event) for event in step.emissions] == [DeadLetter]
    assert step.rows == []
    assert step.cursor is not None


def _trigger(state: Any, part: Any) -> list[Event]:
    FEEDBACK.apply(state, part)
    return [
        TriggerFired(
            event_id="",
            occurred_at_us=1,
            trigger_id="t",
            scope="s",
            reason="r",
            count=1,
            threshold=1,
            since_us=0,
            until_us=1,
        )
    ]


def test_what_a_fold_emits_has_an_id_of_its_position() -> None:
    fold = replace(FEEDBACK, apply=_trigger)
    whole = PartitionFold(fold, 2, {}).take([record(0), record(1)]).emissions
    part = PartitionFold(fold, 2, {})
    cut = [*part.take([record(0)]).emissions, *part.take([record(1)]).emissions]
    assert whole == cut
    assert len({event.event_id for event in whole}) == 4


def test_watermarks_are_bounded_and_forget_the_outbox_heard_of_longest_ago() -> None:
    part = PartitionFold(FEEDBACK, 2, {})
    part.take([record(0, outbox="faithful"), record(1, outbox="gone")])
    for number in range(2, OUTBOXES_MAX + 2):
        step = part.take(
            [record(number * 2, outbox=f"o{number}"), record(number * 2 + 1, outbox="faithful")]
        )
    assert step.cursor is not None
    marks = step.cursor.event
    assert isinstance(marks, FeedbackCursor)
    assert len(marks.watermarks) == OUTBOXES_MAX
    assert "faithful" in marks.watermarks
    assert "gone" not in marks.watermarks


@pytest.mark.req("EVT-04")
def test_states_in_memory_are_bounded_and_read_back_from_their_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partition, "STATES_MAX", 3)
    part = PartitionFold(FEEDBACK, 2, {})
    rows: dict[bytes, Any] = {}
    for offset in range(40):
        step = part.take([record(offset, encode(feedback(f"m{offset % 8}")))])
        part.published(step)
        rows |= {row.key: row.event for row in step.rows}
        assert len(part._entries) <= 3
    assert {row.total for key, row in rows.items() if key != b"all|2"} == {5}
    assert rows[b"all|2"].total == 40


def test_a_source_that_was_created_anew_stops_the_fold() -> None:
    step = PartitionFold(FEEDBACK, 2, {}, "old").take([record(0)])
    with pytest.raises(WrongLog, match="created anew"):
        PartitionFold(FEEDBACK, 2, stored(step), "new")


@pytest.mark.req("EVT-02")
def test_recovery_keeps_the_row_that_includes_most_not_the_last() -> None:
    def row(key: bytes, offset: int, value: bytes | None, partition: int = 2) -> Record:
        headers = ((OFFSET_HEADER, str(offset).encode()),)
        return Record("weir.feedback.tables.v1", partition, 0, 0, key, value, headers)

    records = [
        row(b"a|2", 5, b"5"),
        row(b"a|2", 9, b"9"),
        row(b"b|2", 7, b"7"),
        row(b"a|2", 6, b"late"),
        row(b"b|2", 7, b"7 again"),
        row(b"c|3", 1, b"1", 3),
        Record("weir.feedback.tables.v1", 2, 0, 0, b"foreign|2", b"x", ()),
    ]
    assert recovered(records, [2, 3, 0]) == {
        2: {b"a|2": b"9", b"b|2": b"7 again"},
        3: {b"c|3": b"1"},
        0: {},
    }


def test_a_letter_fits_a_record_whatever_its_content() -> None:
    step = PartitionFold(FEEDBACK, 2, {}).take([record(0, value=bytes(VALUE_BYTES_MAX + 1))])
    (letter,) = step.emissions
    assert isinstance(letter, DeadLetter)
    assert letter.record_value is not None
    assert len(letter.record_value) == VALUE_BYTES_MAX
    assert str(VALUE_BYTES_MAX + 1) in letter.error
