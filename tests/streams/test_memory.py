"""Deciders remember what came of their decisions: a start reads on, and knows what it would have known."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.alerts import ACKNOWLEDGED, OPEN, RESOLVED, followed, retold
from schemas.circuits import RULES
from schemas.codec import decode, encode
from schemas.event import Event
from schemas.events.circuits import CircuitChanged
from schemas.events.deciders import DECIDERS, DecisionsRemembered
from schemas.events.operations import HEARTBEATS, AlertChanged, AnomalyChanged
from schemas.log import Cursor
from schemas.publish import sample
from streams import decider as deciding
from streams import memory
from streams.agents.alert_rules import RuleLedger
from streams.agents.alert_watch import OWNER, WatchLedger
from streams.agents.breaker import CircuitLedger
from streams.agents.health import HEALTH
from streams.agents.lag import LagLedger
from streams.anomalies.ledger import AnomalyLedger
from streams.decider import Decider, Ledger, decide
from streams.memory import Memory, beginning, remembered
from streams.settings import StreamsSettings
from tests.streams.test_anomalies import BURST, CALM, START_S, Life
from tests.streams.test_decider import ALERTS, FakeLog, beat

pytestmark = pytest.mark.req("EVT-04")


def alert(alert_id: str, status: str, number: int, **fields: Any) -> AlertChanged:
    return AlertChanged(
        event_id=f"{alert_id}{number}",
        occurred_at_us=number,
        alert_id=alert_id,
        alert_type="t",
        severity="warning",
        scope="s:",
        status=status,
        message=f"{status} {number}",
        number=number,
        **fields,
    )


PEOPLE = st.sampled_from([None, "ada"])
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["rule:a", "rule:b", "lag:x", "drift:y"]),
        st.sampled_from([OPEN, ACKNOWLEDGED, RESOLVED]),
        PEOPLE,
    ),
    max_size=20,
)


def told(changes: Sequence[tuple[str, str, str | None]]) -> list[AlertChanged]:
    return [
        alert(
            alert_id,
            status,
            number,
            value=float(number),
            rule_id="r" if alert_id.startswith("rule") else None,
            resolved_by=who if status == RESOLVED else None,
            acknowledged_by=who if status == ACKNOWLEDGED else None,
            details={"decider": OWNER} if alert_id.startswith("drift") else {},
        )
        for number, (alert_id, status, who) in enumerate(changes, 1)
    ]


@settings(max_examples=100, deadline=None)
@given(CHANGES)
def test_an_alert_is_retold_by_two_events(changes: list[tuple[str, str, str | None]]) -> None:
    state = again = None
    for event in told(changes):
        state = followed(state, event) or state
    if state is not None:
        events = list(retold(state))
        for event in events:
            again = followed(again, event)
        assert again == state
        assert len(events) <= 2


@settings(max_examples=100, deadline=None)
@given(CHANGES)
def test_a_ledger_that_is_reminded_knows_the_same(
    changes: list[tuple[str, str, str | None]],
) -> None:
    makers: list[tuple[Callable[[], Ledger], list[str]]] = [
        (RuleLedger, ["_alerts"]),
        (WatchLedger, ["_mine", "_workers"]),
        (lambda: LagLedger(1, 1), ["_alerts"]),
    ]
    for make, parts in makers:
        ledger, again = make(), make()
        for event in told(changes):
            ledger.apply(event)
        for event in ledger.remembered() or ():
            again.apply(event)
        for part in parts:
            assert getattr(again, part) == getattr(ledger, part)


def test_circuits_are_remembered() -> None:
    ledger, again = CircuitLedger(RULES), CircuitLedger(RULES)
    for number in range(1, 4):
        ledger.apply(
            CircuitChanged(
                event_id=str(number),
                occurred_at_us=number,
                target="a/m",
                provider="a",
                model="m",
                state="open",
                number=number,
                since_us=number,
                openings=1,
                opened_at_us=1,
                next_probe_at_us=1,
                failure_count=1,
                success_count=0,
                last_failure_at_us=1,
                reason="r",
            )
        )
    for event in ledger.remembered() or ():
        again.apply(event)
    assert again._changes == ledger._changes


def test_anomalies_are_found_once_and_ended_by_who_only_remembers_them() -> None:
    def reminded(life: Life) -> None:
        found = [event for event in life.log if not isinstance(event, AlertChanged)]
        tables = [event for event in found if event not in life.changes]
        events = list(life.ledger.remembered())
        life.ledger = AnomalyLedger()
        for event in (*events, *tables):
            life.ledger.apply(event)

    life, undisturbed = Life(2), Life(2)
    for minutes, rates in ((30, CALM), (3, BURST), (3, BURST), (10, CALM), (5, BURST)):
        life.spend(minutes, rates)
        undisturbed.spend(minutes, rates)
        reminded(life)
    known = [(change.anomaly_id, change.number) for change in life.changes]
    assert known == [(change.anomaly_id, change.number) for change in undisturbed.changes]
    assert len(known) == len(set(known)) > 6
    assert {change.anomaly_id.partition("#")[2][:11] for change in life.changes} == {"2026-09-21-"}


def test_numbers_of_the_day_are_remembered_longer_than_anomalies() -> None:
    hour_us = 3_600_000_000
    ledger, again = AnomalyLedger(), AnomalyLedger()
    for name, hour in (("calls|user:a#2026-09-21-1", 1), ("calls|user:b#2026-09-21-1", 20)):
        at_us = START_S * 1_000_000 + hour * hour_us
        change = msgspec.structs.replace(
            sample(AnomalyChanged),
            anomaly_id=name,
            occurred_at_us=at_us,
            started_at_us=at_us,
            ended_at_us=at_us,
        )
        ledger.apply(change)
    for event in ledger.remembered():
        again.apply(event)
    assert again._numbered == ledger._numbered
    assert len(again._numbered) == 2
    assert again._known == ledger._known
    assert len(again._known) == 1


class Counting(Ledger):
    """Knows how many alerts there were; decides nothing."""

    def __init__(self) -> None:
        self.last: AlertChanged | None = None
        self.applied = 0

    def apply(self, event: Event) -> None:
        if isinstance(event, AlertChanged):
            self.applied += 1
            self.last = event

    def remembered(self) -> Sequence[Event]:
        return [] if self.last is None else [self.last]

    def due(self, at_us: int) -> Sequence[Event]:
        del at_us
        return ()

    def knows(self, decision: Event) -> bool:
        del decision
        return True


async def start(log: FakeLog, until: Callable[[Counting], bool]) -> Counting:
    """Run a decider on a log until something holds of its ledger."""
    ledger, stop = Counting(), asyncio.Event()
    seat = Decider("d", HEALTH, (HEARTBEATS,), ALERTS, lambda _: ledger, wait_s=0.01)
    settings = StreamsSettings(Path("no"))
    running = asyncio.create_task(decide([(seat, lambda: True)], settings, log, stop))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while not until(ledger):
            await asyncio.sleep(0.01)
    stop.set()
    await running
    return ledger


def append(log: FakeLog, numbers: range) -> None:
    for number in numbers:
        event = alert("rule:a", OPEN, number)
        log.append(ALERTS, event.key.encode(), encode(event))


async def test_a_start_reads_on_from_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "RECORDS", 10)
    log = FakeLog()
    log.append(HEARTBEATS, b"p", encode(beat("p", 1)))
    append(log, range(1, 13))
    await start(log, lambda _: bool(log.records[DECIDERS.name]))
    append(log, range(13, 16))
    ledger = await start(log, lambda it: it.last is not None and it.last.number == 15)
    assert ledger.applied == 1 + 3
    assert len(log.records[DECIDERS.name]) == 1
    assert log.opened[-1][1] == {ALERTS.name: {0: 12}}


async def test_what_is_remembered_of_another_log_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deciding, "RECORDS", 10)
    log, other = FakeLog(), FakeLog()
    append(log, range(1, 13))
    await start(log, lambda _: bool(log.records[DECIDERS.name]))
    other.records[DECIDERS.name] = [*log.records[DECIDERS.name]]
    other.append(DECIDERS, b"d", b"rubbish")
    append(other, range(1, 4))
    ledger = await start(other, lambda it: it.applied == 3)
    assert ledger.last is not None
    assert ledger.last.number == 3


def test_readers_of_a_topic_begin_where_the_last_of_them_was() -> None:
    def at(*offsets: int) -> Memory:
        positions = {ALERTS.name: dict(enumerate(offsets))}
        marks = {ALERTS.name: {0: {"o": offsets[0]}}}
        return Memory(ALERTS.name, Cursor(positions, marks, "c", {ALERTS.name: "t"}), [])

    begun = beginning({ALERTS.name: [at(5, 9), at(7, 2)], HEARTBEATS.name: [None]})
    assert begun.positions == {ALERTS.name: {0: 5, 1: 2}}
    assert begun.watermarks[ALERTS.name][0] == {"o": 5}
    assert (begun.cluster_id, begun.topic_ids) == ("c", {ALERTS.name: "t"})
    assert beginning({ALERTS.name: [at(5, 9), None]}).positions == {}


def test_a_memory_that_is_too_large_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = Cursor({ALERTS.name: {0: 3}, HEARTBEATS.name: {0: 1}})
    made = remembered("d", ALERTS, [alert("rule:a", OPEN, 1)], cursor)
    assert isinstance(made, DecisionsRemembered)
    assert Cursor.load(made.cursor).positions == {ALERTS.name: {0: 3}}
    assert [decode(it) for it in made.events] == [alert("rule:a", OPEN, 1)]
    monkeypatch.setattr(memory, "BYTES_MAX", 10)
    assert remembered("d", ALERTS, [alert("rule:a", OPEN, 1)], cursor) is None
