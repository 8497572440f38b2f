"""Whatever the order, the cuts, the repeats and the crashes: the same rows, of every fold there is.

The folds are discovered and their events drawn by type: a new fold is held to this as it is.
"""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import decode
from schemas.discovery import discover
from schemas.event import Event
from schemas.events.feedback import FeedbackRecorded
from schemas.events.llm import Attempt, CostEntry, ResponseCompleted
from schemas.events.tables import CursorRow, TableRow
from schemas.log import Record
from schemas.partition import partition_of
from schemas.publish import sample
from streams.agents.feedback import FEEDBACK
from streams.agents.health import HEALTH
from streams.agents.liking import LIKING
from streams.agents.opinions import OPINIONS
from streams.agents.spend import SPEND
from streams.fold import AnyFold, Fold
from streams.partition import PartitionFold
from tests.streams.events import BASE_US, events
from tests.streams.harness import Written, contents, cut, folded, records

FOLDS = [pytest.param(fold, id=fold.name) for fold in discover("streams.agents", Fold)]
UNORDERED = [param for param in FOLDS if not param.values[0].ordered]
NUMBERS = st.integers(0, 99)
BUDGET = settings(max_examples=20)


def drawn(data: st.DataObject, fold: AnyFold) -> list[Event]:
    return data.draw(st.lists(events(fold.event), min_size=1, max_size=25))


def repeated(data: st.DataObject, fold: AnyFold, found: Sequence[Event]) -> list[Record]:
    return records(fold, found, data.draw(st.lists(NUMBERS, max_size=3)))


@pytest.mark.req("EVT-02")
@pytest.mark.parametrize("fold", FOLDS)
@BUDGET
@given(data=st.data())
def test_cuts_and_repeats_change_no_byte(fold: AnyFold, data: st.DataObject) -> None:
    found = drawn(data, fold)
    again = repeated(data, fold, found)
    whole = folded(fold, [again])
    parts = folded(fold, cut(again, data.draw(st.lists(NUMBERS, max_size=5))))
    assert parts.values == whole.values
    assert list(parts.emissions.items()) == list(whole.emissions.items())
    assert contents(whole.rows) == contents(folded(fold, [records(fold, found)]).rows)


@pytest.mark.req("EVT-02")
@pytest.mark.parametrize("fold", UNORDERED)
@BUDGET
@given(data=st.data())
def test_the_order_of_events_does_not_matter(fold: AnyFold, data: st.DataObject) -> None:
    found = drawn(data, fold)
    other = data.draw(st.permutations(found))
    assert contents(folded(fold, [records(fold, found)]).rows) == contents(
        folded(fold, [records(fold, other)]).rows
    )


@pytest.mark.req("EVT-02")
@pytest.mark.parametrize("fold", FOLDS)
@BUDGET
@given(data=st.data())
def test_partitions_may_interleave_in_any_way(fold: AnyFold, data: st.DataObject) -> None:
    by_partition: dict[int, list[Event]] = {}
    for event in drawn(data, fold):
        number = partition_of(event.key.encode(), fold.source.partitions)
        by_partition.setdefault(number, []).append(event)
    waiting = {
        number: cut(
            records(fold, found, partition=number), data.draw(st.lists(NUMBERS, max_size=3))
        )
        for number, found in by_partition.items()
    }
    alone = {number: folded(fold, batches, number).values for number, batches in waiting.items()}
    tables = {number: Written(fold, number) for number in waiting}
    parts = {number: table.open() for number, table in tables.items()}
    while any(waiting.values()):
        number = data.draw(st.sampled_from([number for number, left in waiting.items() if left]))
        tables[number].take(parts[number], waiting[number].pop(0))
    assert {number: table.values for number, table in tables.items()} == alone


@pytest.mark.req("EVT-02", "EVT-04")
@pytest.mark.parametrize("fold", FOLDS)
@BUDGET
@given(data=st.data())
def test_a_crash_between_any_two_writes_changes_no_byte(fold: AnyFold, data: st.DataObject) -> None:
    found = repeated(data, fold, drawn(data, fold))
    whole = folded(fold, [found])
    table = Written(fold)
    part = table.open()
    for _ in range(data.draw(st.integers(1, 6))):
        batch = found[part.next_offset :][: data.draw(st.integers(1, 10))]
        writes_max = data.draw(st.one_of(st.none(), st.integers(0, 5)))
        table.take(part, batch, writes_max)
        if writes_max is not None:
            part = table.open()
    table.take(part, found[part.next_offset :])
    assert table.values == whole.values
    assert table.emissions == whole.emissions


@pytest.mark.req("EVT-04")
@pytest.mark.parametrize("fold", FOLDS)
@BUDGET
@given(data=st.data())
def test_a_state_survives_its_row(fold: AnyFold, data: st.DataObject) -> None:
    part = PartitionFold(fold, 0, {})
    step = part.take(records(fold, drawn(data, fold)))
    for row in step.rows:
        state = part._entries[row.event.entity].state
        read = decode(row.value)
        assert isinstance(read, TableRow)
        assert fold.thaw(read) == state
        assert fold.freeze(fold.thaw(read)) == fold.freeze(state)


def test_every_fold_has_a_name_and_rows_of_its_own() -> None:
    folds: list[AnyFold] = [param.values[0] for param in FOLDS]  # type: ignore[misc]
    assert len({fold.name for fold in folds}) == len(folds)
    assert len({fold.row for fold in folds}) == len({fold.cursor for fold in folds}) == len(folds)
    for fold in folds:
        assert fold.cursor.topic is fold.table
        assert issubclass(fold.cursor, CursorRow)
        assert fold.table.cleanup == "compact"
        assert fold.table.partitions == fold.source.partitions


@pytest.mark.req("COST-09")
def test_spend_is_summed_per_owner_and_window() -> None:
    def cost(at_s: int, nano_usd: int | None, **owners: str | None) -> CostEntry:
        return CostEntry(
            event_id="e",
            occurred_at_us=at_s * 1_000_000,
            request_id="r",
            key_id="k1",
            route="r",
            entry="settled" if nano_usd is not None else "unpriced",
            input_tokens=3,
            cost_nano_usd=nano_usd,
            basis="reported",
            **owners,  # type: ignore[arg-type]
        )

    noon = 1_782_907_200  # 2026-07-01T12:00:00Z
    events = [cost(noon, 10), cost(noon + 59, 5, team="t"), cost(noon - 43_201, None)]
    late = msgspec.structs.replace(
        cost(noon, 4), entry="corrected", input_tokens=None, first_price=True
    )
    priced = folded(SPEND, [records(SPEND, [cost(noon, None), late])]).rows[b"total:|0"]
    assert {(w.entries, w.cost_nano_usd, w.unpriced) for w in priced.windows} == {(2, 4, 0)}  # type: ignore[attr-defined]
    rows = folded(SPEND, [records(SPEND, events)]).rows
    windows = {
        (w.window, w.start_s): (w.entries, w.cost_nano_usd, w.unpriced, w.input_tokens)
        for w in rows[b"key:k1|0"].windows  # type: ignore[attr-defined]
    }
    assert windows == {
        ("minute", noon): (2, 15, 0, 6),
        ("hour", noon): (2, 15, 0, 6),
        ("hour", noon - 46_800): (1, 0, 1, 3),
        ("day", noon - 43_200): (2, 15, 0, 6),
        ("day", noon - 129_600): (1, 0, 1, 3),
        ("month", noon - 43_200): (2, 15, 0, 6),
        ("month", noon - 43_200 - 30 * 86_400): (1, 0, 1, 3),
    }
    assert {b"team:t|0", b"total:|0"} < rows.keys()


@pytest.mark.req("BEY-09")
def test_a_callers_mistake_and_a_leaving_client_are_no_failures_of_the_target() -> None:
    def ended(outcome: str, error_class: str | None) -> Attempt:
        return Attempt("t", outcome, error_class, None, 1_000, None)

    event = ResponseCompleted(
        event_id="e",
        occurred_at_us=BASE_US,
        request_id="r",
        key_id="k",
        route="r",
        outcome="success",
        status=200,
        attempts=[
            ended("success", None),
            ended("failed", "server"),
            ended("failed", "context"),
            ended("cancelled", None),
        ],
        usage_basis="none",
        stream=False,
        latency_us=1,
    )
    rows = folded(HEALTH, [records(HEALTH, [event])]).rows
    (bucket,) = rows[b"t|0"].buckets  # type: ignore[attr-defined]
    assert (bucket.calls, bucket.failures) == (3, 1)
    assert bucket.errors == {"cancelled": 1, "context": 1, "server": 1}
    assert sum(bucket.latency.values()) == 1


@pytest.mark.req("FB-01", "RT-14")
@pytest.mark.parametrize("fold", [FEEDBACK, LIKING, OPINIONS], ids=lambda fold: str(fold.name))
def test_names_that_callers_invent_get_no_rows(fold: AnyFold) -> None:
    said = msgspec.structs.replace(sample(FeedbackRecorded), model_id="a/one", task_type="code")
    invented = [
        msgspec.structs.replace(said, model_id=f"a/{number}", model_known=False)
        for number in range(50)
    ]
    alone = folded(fold, [records(fold, [said])]).rows.keys()
    assert folded(fold, [records(fold, [*invented, said])]).rows.keys() == alone
    assert any(b"a/one" in key for key in alone)
