"""Rows of blocks of time expire by event time: the same ones whatever the order and the crashes."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.kafka import KafkaLog
from schemas.codec import encode
from schemas.events.feedback import FeedbackRecorded
from schemas.events.operations import DeadLetter
from schemas.events.tables import FeedbackRow, block_key, block_of
from schemas.log import Record
from schemas.partition import partition_of
from schemas.table_view import TableView
from streams.agents.feedback import FEEDBACK
from streams.fold import AnyFold
from streams.partition import AHEAD_US_MAX, OFFSET_HEADER, PartitionFold, Tombstone, recovered
from streams.windows import Window
from tests.streams.harness import Written, contents, cut, folded, records, served

START_S = 1_790_000_000 // 60 * 60
MINUTES = Window("minutes", keep=3, seconds=60)
SECOND_US = 1_000_000


def split(event: FeedbackRecorded) -> Iterator[tuple[str, int]]:
    """Yield the moment under its minute, in total and per model, and under a row that stays."""
    at_us = event.occurred_at_us
    yield MINUTES.block("total:", at_us), at_us
    yield MINUTES.block(f"model:{event.model_id}", at_us), at_us
    yield "ever", at_us


def expires(entity: str) -> int | None:
    return None if entity == "ever" else MINUTES.expires(entity)


BLOCKS: AnyFold = replace(FEEDBACK, name="blocks", split=split, expires=expires)


def feedback(second: int, model: str = "m") -> FeedbackRecorded:
    return FeedbackRecorded(
        event_id="e",
        occurred_at_us=(START_S + second) * SECOND_US,
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


EVENTS = st.lists(
    st.builds(feedback, st.integers(0, 600), st.sampled_from(["a", "b@c"])), min_size=1, max_size=25
)


def totals(table: Written) -> dict[str, int]:
    return {
        row.entity: row.total
        for row in table.rows.values()
        if isinstance(row, FeedbackRow) and row.entity.startswith(("total:", "ever"))
    }


def block(second: int) -> str:
    return f"total:@{START_S + second}"


@pytest.mark.req("EVT-02")
def test_rows_leave_with_a_tombstone_when_their_time_is_over_and_what_is_late_stays_out() -> None:
    found = records(BLOCKS, [feedback(5), feedback(179), feedback(59), feedback(180), feedback(7)])
    table = Written(BLOCKS)
    part = table.open()
    table.take(part, found[:3])
    assert totals(table) == {block(0): 2, block(120): 1, "ever": 3}
    step = part.take(found[3:])
    assert step.swept == [Tombstone(_model(0), 3), Tombstone(f"{block(0)}|0".encode(), 3)]
    assert {row.event.entity for row in step.rows} == {
        block(180),
        f"model:m@{START_S + 180}",
        "ever",
    }
    assert part.late == 2  # of the two blocks of the last event; what stays has counted it
    assert totals(folded(BLOCKS, [found])) == {block(120): 1, block(180): 1, "ever": 5}


def _model(second: int) -> bytes:
    return f"model:m@{START_S + second}|0".encode()


@pytest.mark.req("EVT-02")
@settings(max_examples=50)
@given(data=st.data())
def test_order_cuts_and_repeats_do_not_change_what_remains(data: st.DataObject) -> None:
    events = data.draw(EVENTS)
    whole = folded(BLOCKS, [records(BLOCKS, events)])
    found = records(BLOCKS, events, data.draw(st.lists(st.integers(0, 99), max_size=3)))
    repeated = folded(BLOCKS, cut(found, data.draw(st.lists(st.integers(0, 99), max_size=6))))
    assert contents(repeated.rows) == contents(whole.rows)
    other = folded(BLOCKS, [records(BLOCKS, data.draw(st.permutations(events)))])
    assert contents(other.rows) == contents(whole.rows)
    newest = max(event.occurred_at_us for event in events)
    alive = [e for e in events if MINUTES.expires(MINUTES.block("", e.occurred_at_us)) > newest]
    assert sum(totals(whole).values()) == len(alive) + len(events)


@pytest.mark.req("EVT-02", "EVT-04")
@settings(max_examples=80)
@given(data=st.data())
def test_a_crash_between_any_two_writes_changes_no_byte(data: st.DataObject) -> None:
    found = records(BLOCKS, data.draw(EVENTS))
    whole = folded(BLOCKS, [found])
    table = Written(BLOCKS)
    part = table.open()
    for _ in range(data.draw(st.integers(1, 6))):
        at = part.next_offset
        batch = found[at : at + data.draw(st.integers(1, 10))]
        writes_max = data.draw(st.one_of(st.none(), st.integers(0, 9)))
        table.take(part, batch, writes_max)
        if writes_max is not None:
            part = table.open()
    table.take(part, found[part.next_offset :])
    assert table.values == whole.values


@pytest.mark.req("EVT-02", "EVT-04")
def test_a_tombstone_that_a_crash_left_out_is_written_by_the_successor() -> None:
    found = records(BLOCKS, [feedback(5), feedback(200), feedback(6)])
    table = Written(BLOCKS)
    part = table.open()
    table.take(part, found[:1])
    table.take(part, found[1:2], writes_max=4)  # three rows and the cursor
    assert f"{block(0)}|0".encode() in table.values
    part = table.open()
    assert [row.key for row in part.take([]).swept] == [_model(0), f"{block(0)}|0".encode()]
    table.take(part, found[2:])
    assert totals(table) == {block(180): 1, "ever": 3}
    assert part.take([]).swept == []


def test_a_late_write_of_a_worker_that_was_cut_off_does_not_bring_a_row_back() -> None:
    def row(key: bytes, offset: int, value: bytes | None) -> Record:
        return Record("t", 0, 0, 0, key, value, ((OFFSET_HEADER, str(offset).encode()),))

    found = [
        row(b"a|0", 5, b"5"),
        row(b"a|0", 9, None),
        row(b"a|0", 6, b"late"),
        row(b"b|0", 1, b"1"),
    ]
    assert recovered(found, [0]) == {0: {b"b|0": b"1"}}


def test_an_expired_row_that_outlived_its_tombstone_is_swept_again() -> None:
    old = folded(BLOCKS, [records(BLOCKS, [feedback(5)])]).values
    new = folded(BLOCKS, [records(BLOCKS, [feedback(5), feedback(200)])]).values
    part = PartitionFold(BLOCKS, 0, old | new)  # compaction took the tombstone, not the late row
    assert [row.key for row in part.take([]).swept] == [_model(0), f"{block(0)}|0".encode()]


@pytest.mark.req("EVT-02")
def test_one_clock_that_is_ahead_does_not_end_everybodys_present() -> None:
    def at(second: int, claims_s: int, offset: int) -> Record:
        value = encode(feedback(claims_s))
        return Record(BLOCKS.source.name, 0, offset, (START_S + second) * 1_000, b"k", value, ())

    ahead_s = AHEAD_US_MAX // SECOND_US
    found = [at(10, 10, 0), at(20, 10**8, 1), at(30, 30 + ahead_s, 2), at(30, 30, 3)]
    table = folded(BLOCKS, [found[:2]])
    assert totals(table) == {block(0): 2, "ever": 2}
    assert totals(folded(BLOCKS, [found])) == {block((30 + ahead_s) // 60 * 60): 1, "ever": 4}


def test_an_entity_that_names_no_block_condemns_its_event_alone() -> None:
    def broken(event: FeedbackRecorded) -> Iterator[tuple[str, int]]:
        yield "ever", 1
        yield MINUTES.block("a", event.occurred_at_us) if event.model_id == "m" else "plain", 1

    part = PartitionFold(replace(BLOCKS, split=broken), 0, {})
    step = part.take(records(BLOCKS, [feedback(1), feedback(2, "other"), feedback(3)]))
    (letter,) = step.emissions
    assert isinstance(letter, DeadLetter)
    assert letter.error_code == "fold_failed"
    assert {row.event.entity: row.event.total for row in step.rows} == {  # type: ignore[attr-defined]
        "ever": 2,
        f"a@{START_S}": 2,
    }


@pytest.mark.parametrize(
    ("window", "second", "name", "expires_s"),
    [
        (MINUTES, 61, f"x@{START_S + 60}", START_S + 240),
        (Window("m", keep=2, seconds=None), 0, "x@1788220800", 1793491200),  # September, November
    ],
)
def test_a_block_says_when_it_starts_and_expires(
    window: Window, second: int, name: str, expires_s: int
) -> None:
    assert window.block("x", (START_S + second) * SECOND_US) == name
    assert window.expires(name) == expires_s * SECOND_US


def test_a_block_has_a_name_of_any_kind() -> None:
    assert block_of(block_key("user:a@b.example", 60)) == ("user:a@b.example", 60)
    with pytest.raises(ValueError, match="invalid literal"):
        block_of("user:a@b.example")


def test_a_view_forgets_what_was_swept() -> None:
    table = folded(BLOCKS, [records(BLOCKS, [feedback(5)])])
    view = TableView(FeedbackRow)
    for offset, (key, value) in enumerate(table.values.items()):
        view.apply(Record(view.topic.name, 0, offset, 0, key, value, ()))
    assert len(view.entries) == 3
    view.apply(Record(view.topic.name, 0, 9, 0, f"{block(0)}|0".encode(), None, ()))
    assert set(view.entries) == {"ever|0", f"model:m@{START_S}|0"}


@pytest.mark.req("EVT-02", "EVT-04")
async def test_the_topic_gets_tombstones_that_recovery_understands(
    fresh_log: KafkaLog, tmp_path: Path
) -> None:
    partition = partition_of(feedback(0).key.encode(), BLOCKS.source.partitions)
    first = f"{block(0)}|{partition}".encode()
    read: list[Record] = []
    async with (
        served(BLOCKS, fresh_log, tmp_path),
        fresh_log.reader([BLOCKS.table]) as reader,
        asyncio.timeout(40),
    ):
        for second, alive in ((5, True), (200, False)):
            await fresh_log.publish(feedback(second))
            while (first, alive) not in {(r.key, r.value is not None) for r in read}:
                read += await reader.batch(100, 0.2)
    rows = recovered(read, [partition])[partition]
    assert first not in rows
    assert f"{block(180)}|{partition}".encode() in rows
