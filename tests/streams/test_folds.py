"""Whatever the order, the cuts, the repeats and the crashes: the same rows."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import encode
from schemas.event import Event
from schemas.events.feedback import FeedbackRecorded
from schemas.events.llm import Attempt, CostEntry, ResponseCompleted
from schemas.events.tables import CursorRow, TableRow
from schemas.log import Record
from streams.agents.circuits import CIRCUITS
from streams.agents.feedback import FEEDBACK
from streams.agents.health import HEALTH
from streams.agents.spend import SPEND
from streams.fold import AnyFold
from streams.partition import PartitionFold

BASE_US = 1_790_000_000_000_000
TIMES = st.one_of(st.integers(0, 300), st.integers(0, 40_000_000)).map(
    lambda s: BASE_US + s * 1_000_000
)
NAMES = st.sampled_from(["a", "b", "c"])


@st.composite
def responses(draw: st.DrawFn) -> ResponseCompleted:
    attempt = st.builds(
        Attempt,
        target=NAMES,
        outcome=st.sampled_from(["success", "failed", "cancelled"]),
        error_class=st.sampled_from([None, "server", "request", "timeout"]),
        status=st.none(),
        latency_us=st.integers(0, 10**11),
        first_token_us=st.one_of(st.none(), st.integers(0, 10**6)),
    )
    return ResponseCompleted(
        event_id="e",
        occurred_at_us=draw(TIMES),
        request_id="r",
        key_id="k",
        route="r",
        outcome="success",
        status=200,
        attempts=draw(st.lists(attempt, max_size=3)),
        usage_basis="none",
        stream=False,
        latency_us=1,
    )


@st.composite
def costs(draw: st.DrawFn) -> CostEntry:
    return CostEntry(
        event_id="e",
        occurred_at_us=draw(TIMES),
        request_id="r",
        key_id=draw(NAMES),
        team=draw(st.one_of(st.none(), NAMES)),
        project=draw(st.one_of(st.none(), NAMES)),
        target=draw(st.one_of(st.none(), NAMES)),
        route="r",
        entry=draw(st.sampled_from(["settled", "corrected", "unpriced", "abandoned", "admitted"])),
        input_tokens=draw(st.one_of(st.none(), st.integers(0, 10**6))),
        cost_nano_usd=draw(st.one_of(st.none(), st.integers(-(10**12), 10**12))),
        basis="reported",
    )


@st.composite
def feedback(draw: st.DrawFn) -> FeedbackRecorded:
    return FeedbackRecorded(
        event_id="e",
        occurred_at_us=draw(TIMES),
        feedback_id="f",
        key_id="k",
        user_id="u",
        feedback_type="rating",
        satisfaction_score=0.0,
        has_correction=False,
        model_id=draw(st.one_of(st.none(), NAMES)),
        task_type=draw(st.one_of(st.none(), NAMES)),
        data_key_id="d",
        nonce=b"",
        ciphertext=b"",
    )


FOLDS = [
    pytest.param(HEALTH, responses(), id="health"),
    pytest.param(CIRCUITS, responses(), id="circuits"),
    pytest.param(SPEND, costs(), id="spend"),
    pytest.param(FEEDBACK, feedback(), id="feedback"),
]


def records(fold: AnyFold, events: Sequence[Event], repeats: Sequence[int] = ()) -> list[Record]:
    """As one outbox would send them; a repeat is the resend of the last few."""
    values = [(number, encode(event)) for number, event in enumerate(events)]
    for at in repeats:
        if values:
            at %= len(values)
            values[at + 1 : at + 1] = values[max(0, at - 2) : at + 1]
    return [
        Record(
            fold.source.name,
            0,
            offset,
            0,
            b"k",
            value,
            (("weir-outbox", b"o"), ("weir-seq", str(number).encode())),
        )
        for offset, (number, value) in enumerate(values)
    ]


def cut(found: Sequence[Record], at: Sequence[int]) -> list[Sequence[Record]]:
    edges = sorted({0, len(found), *(number % (len(found) + 1) for number in at)})
    return [found[a:b] for a, b in pairwise(edges)]


def contents(rows: dict[bytes, TableRow]) -> dict[bytes, object]:
    """The rows without what depends on positions."""
    return {
        key: {
            name: getattr(row, name)
            for name in row.__struct_fields__
            if name not in {"event_id", "offset"}
        }
        for key, row in rows.items()
        if not isinstance(row, CursorRow)
    }


class Written:
    """A table as it would lie in Kafka."""

    def __init__(self, fold: AnyFold) -> None:
        self.fold = fold
        self.values: dict[bytes, bytes] = {}
        self.rows: dict[bytes, TableRow] = {}

    def open(self) -> PartitionFold:
        return PartitionFold(self.fold, 0, dict(self.values))

    def take(
        self, part: PartitionFold, batch: Sequence[Record], rows_max: int | None = None
    ) -> None:
        """Publish a step, or only so many of its rows, as when the process dies in the middle."""
        step = part.take(batch)
        written = [*step.rows, *([step.cursor] if step.cursor else [])]
        for row in written if rows_max is None else step.rows[:rows_max]:
            self.values[row.key], self.rows[row.key] = row.value, row.event
        part.published(step)


def folded(fold: AnyFold, batches: Sequence[Sequence[Record]]) -> Written:
    table = Written(fold)
    part = table.open()
    for batch in batches:
        table.take(part, batch)
    return table


@pytest.mark.req("EVT-02")
@pytest.mark.parametrize(("fold", "strategy"), FOLDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_cuts_and_repeats_change_no_byte(
    fold: AnyFold, strategy: st.SearchStrategy[Event], data: st.DataObject
) -> None:
    events = data.draw(st.lists(strategy, max_size=25))
    found = records(fold, events, data.draw(st.lists(st.integers(0, 99), max_size=3)))
    cuts = data.draw(st.lists(st.integers(0, 99), max_size=5))
    assert folded(fold, cut(found, cuts)).values == folded(fold, [found]).values
    assert contents(folded(fold, [found]).rows) == contents(
        folded(fold, [records(fold, events)]).rows
    )


@pytest.mark.req("EVT-02")
@pytest.mark.parametrize(("fold", "strategy"), FOLDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_order_of_events_does_not_matter(
    fold: AnyFold, strategy: st.SearchStrategy[Event], data: st.DataObject
) -> None:
    events = data.draw(st.lists(strategy, max_size=25))
    other = data.draw(st.permutations(events))
    assert contents(folded(fold, [records(fold, events)]).rows) == contents(
        folded(fold, [records(fold, other)]).rows
    )


@pytest.mark.req("EVT-02", "EVT-04")
@pytest.mark.parametrize(("fold", "strategy"), FOLDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_crash_between_any_two_writes_changes_no_byte(
    fold: AnyFold, strategy: st.SearchStrategy[Event], data: st.DataObject
) -> None:
    events = data.draw(st.lists(strategy, min_size=1, max_size=25))
    found = records(fold, events, data.draw(st.lists(st.integers(0, 99), max_size=3)))
    whole = folded(fold, [found])
    table = Written(fold)
    part = table.open()
    for _ in range(data.draw(st.integers(1, 6))):
        at = part.next_offset
        batch = found[at : at + data.draw(st.integers(1, 10))]
        rows_max = data.draw(st.one_of(st.none(), st.integers(0, 5)))
        table.take(part, batch, rows_max)
        if rows_max is not None:
            part = table.open()
    table.take(part, found[part.next_offset :])
    assert table.values == whole.values


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
