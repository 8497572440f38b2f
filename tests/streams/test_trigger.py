"""FB-06: one event per crossing."""

import pytest

from schemas.errors import ConfigurationError, CorruptRecord
from schemas.events.tables import FeedbackRow
from streams.agents.trigger import FeedbackLedger
from streams.settings import StreamsSettings

DAY_S = 86_400
NOW_S = 1_790_000_000


def settings(**words: int | str) -> StreamsSettings:
    return StreamsSettings(data_dir="unused", **words)  # type: ignore[arg-type]


def row(
    total: int, buckets: dict[int, int], partition: int = 0, offset: int = 0, entity: str = "all"
) -> FeedbackRow:
    return FeedbackRow(
        event_id="e",
        occurred_at_us=0,
        entity=entity,
        partition=partition,
        offset=offset,
        total=total,
        buckets={str(start): count for start, count in buckets.items()},
    )


def at(seconds: int) -> int:
    return (NOW_S + seconds) * 1_000_000


@pytest.mark.req("FB-06")
def test_the_partials_of_all_partitions_cross_the_threshold_together() -> None:
    ledger = FeedbackLedger(settings())
    ledger.apply(row(300, {NOW_S - 3_600: 300}, 0))
    ledger.apply(row(199, {NOW_S - 600: 199}, 1))
    assert ledger.due(at(0)) == ()
    ledger.apply(row(200, {NOW_S - 600: 200}, 1, offset=1))
    (trigger,) = ledger.due(at(0))
    assert (trigger.trigger_id, trigger.count, trigger.threshold) == ("all#1", 500, 500)
    assert trigger.until_us - trigger.since_us == DAY_S * 1_000_000


@pytest.mark.req("FB-06")
def test_what_is_older_than_the_window_does_not_count() -> None:
    ledger = FeedbackLedger(settings())
    ledger.apply(row(900, {NOW_S - DAY_S - 600: 500, NOW_S - 10: 400}))
    assert ledger.due(at(0)) == ()


@pytest.mark.req("FB-06")
def test_a_crossing_fires_once_and_the_next_counts_anew() -> None:
    ledger = FeedbackLedger(settings(feedback_threshold=10, feedback_cooldown_s=0))
    ledger.apply(row(12, {NOW_S: 12}))
    (first,) = ledger.due(at(0))
    assert [first] == list(ledger.due(at(0)))
    ledger.apply(first)
    assert ledger.knows(first)
    assert ledger.due(at(1)) == ()
    ledger.apply(row(21, {NOW_S: 21}, offset=1))
    assert ledger.due(at(2)) == ()
    ledger.apply(row(22, {NOW_S: 22}, offset=2))
    (second,) = ledger.due(at(3))
    assert (second.trigger_id, second.count, second.since_us) == ("all#2", 10, first.until_us)


@pytest.mark.req("FB-06")
def test_it_rests_for_the_cooldown() -> None:
    ledger = FeedbackLedger(settings(feedback_threshold=10))
    ledger.apply(row(10, {NOW_S: 10}))
    (first,) = ledger.due(at(0))
    ledger.apply(first)
    ledger.apply(row(50, {NOW_S: 10, NOW_S + 86_100: 40}, offset=1))
    assert ledger.due(at(DAY_S - 1)) == ()
    assert ledger.due(at(DAY_S))


def test_a_double_is_recognised_by_its_id() -> None:
    ledger = FeedbackLedger(settings(feedback_threshold=1, feedback_cooldown_s=0))
    ledger.apply(row(1, {NOW_S: 1}))
    (first,) = ledger.due(at(0))
    ledger.apply(first)
    ledger.apply(first)
    ledger.apply(row(2, {NOW_S: 2}, offset=1))
    (second,) = ledger.due(at(1))
    assert second.trigger_id == "all#2"
    assert second.event_id != first.event_id


def test_a_late_older_row_and_other_scopes_change_nothing() -> None:
    ledger = FeedbackLedger(settings(feedback_threshold=5))
    ledger.apply(row(5, {NOW_S: 5}, offset=9))
    ledger.apply(row(1, {NOW_S: 1}, offset=3))
    ledger.apply(row(9, {NOW_S: 9}, entity="model:m"))
    (trigger,) = ledger.due(at(0))
    assert trigger.total == 5


def test_a_scope_of_its_own_choice() -> None:
    ledger = FeedbackLedger(settings(feedback_threshold=5, feedback_scope="model:m"))
    ledger.apply(row(9, {NOW_S: 9}))
    assert ledger.due(at(0)) == ()
    ledger.apply(row(5, {NOW_S: 5}, entity="model:m"))
    assert ledger.due(at(0))


def test_a_tombstone_is_refused() -> None:
    with pytest.raises(CorruptRecord):
        FeedbackLedger(settings()).removed("t", b"k")


def test_a_window_longer_than_the_counts_are_kept_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="feedback window"):
        settings(feedback_window_s=3 * DAY_S)
