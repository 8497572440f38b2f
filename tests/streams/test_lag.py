"""A fold that stays behind raises one alert, and ends it when it has caught up."""

import pytest

from schemas.events.operations import AlertChanged, Heartbeat
from streams.agents.lag import SILENT_US, LagLedger

SECOND_US = 1_000_000


class Streams:
    """Heartbeats of some processes, and a decider that reads its own alerts back."""

    def __init__(self) -> None:
        self.ledger = LagLedger(records_max=100, for_s=30)
        self.told: list[AlertChanged] = []

    def beat(self, second: int, part: str = "streams", **lags: int) -> list[str]:
        self.ledger.apply(
            Heartbeat(
                event_id="e",
                occurred_at_us=second * SECOND_US,
                part=part,
                instance="0",
                started_at_us=0,
                lags=lags,
            )
        )
        return self.decide(second)

    def decide(self, second: int) -> list[str]:
        due = self.ledger.due(second * SECOND_US)
        for event in due:
            assert isinstance(event, AlertChanged)
            assert not self.ledger.knows(event)
            self.ledger.apply(event)
            assert self.ledger.knows(event)
            self.told.append(event)
        return [f"{event.key} {event.status}" for event in self.told[len(self.told) - len(due) :]]


@pytest.mark.req("OPS-01", "EVT-04")
def test_a_fold_that_stays_behind_is_told_once_and_resolved_when_it_has_caught_up() -> None:
    streams = Streams()
    assert streams.beat(0, health=101, spend=100) == []
    assert streams.beat(29, health=500, spend=100) == []
    assert streams.beat(30, health=500, spend=100) == ["lag:health open"]
    assert streams.beat(90, health=900, spend=0) == []
    assert streams.beat(91, health=99, spend=0) == []
    assert streams.beat(92, health=50, spend=0) == ["lag:health resolved"]
    assert streams.beat(93, health=101) == []
    assert streams.beat(123, health=101) == ["lag:health open"]
    assert len({alert.event_id for alert in streams.told}) == 3
    assert (streams.told[0].value, streams.told[0].threshold) == (500.0, 100.0)


def test_a_moment_behind_is_no_news() -> None:
    streams = Streams()
    for second in range(0, 200, 10):
        assert streams.beat(second, health=500 if second % 20 else 100) == []


def test_processes_that_share_a_fold_are_added_and_a_silent_one_is_left_out() -> None:
    streams = Streams()
    for second in (0, 10, 20, 30):
        streams.beat(second, health=60)
        streams.beat(second, part="streams-1", health=60)
    assert len(streams.told) == 1
    later = 31 + SILENT_US // SECOND_US
    assert streams.beat(later, health=50) == ["lag:health resolved"]
    streams.ledger.removed("weir.heartbeats.v1", b"streams")
    assert streams.decide(later) == []


def test_another_process_makes_the_same_decision() -> None:
    first, second = Streams(), Streams()
    for streams in (first, second):
        streams.beat(0, health=500)
        streams.beat(30, health=500)
    assert [alert.event_id for alert in first.told] == [alert.event_id for alert in second.told]
