"""RT-07: changes of circuits are decided once, of the rows of all partitions, and read back."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from infra.kafka import KafkaLog
from schemas.circuits import RULES
from schemas.clock import now_us
from schemas.codec import decode
from schemas.events.circuits import (
    CIRCUITS,
    CircuitBucket,
    CircuitChanged,
    CircuitOutcome,
    CircuitRow,
)
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.identity import uuid7
from streams.agents.breaker import BREAKER, CircuitLedger, alert_of
from streams.agents.circuits import split
from streams.decider import decide
from streams.settings import StreamsSettings

S = 1_000_000
NOW = 1_790_000_000 * S


def due(ledger: CircuitLedger, at_us: int) -> list[CircuitChanged]:
    return [event for event in ledger.due(at_us) if isinstance(event, CircuitChanged)]


def row(
    target: str, bad_s: Sequence[float], partition: int = 0, offset: int = 0, now: int = NOW
) -> CircuitRow:
    ends = [now + int(at * S) for at in bad_s]
    return CircuitRow(
        event_id="e",
        occurred_at_us=0,
        entity=target,
        partition=partition,
        offset=offset,
        outcomes=[CircuitOutcome(end, end, good=False) for end in ends],
        buckets=[CircuitBucket(now // S, len(ends), len(ends))],
        last_failure_at_us=max(ends, default=None),
    )


@pytest.mark.req("RT-07", "EVT-01")
def test_the_partials_of_all_partitions_open_a_circuit_together() -> None:
    ledger = CircuitLedger(RULES)
    ledger.apply(row("a/b/c", [0.1, 0.3, 0.5], 0))
    ledger.apply(row("a/b/c", [0.2], 1))
    assert due(ledger, NOW + S) == []
    ledger.apply(row("a/b/c", [0.2, 0.4], 1, offset=1))
    (change,) = due(ledger, NOW + S)
    assert (change.provider, change.model, change.state) == ("a", "b/c", "open")
    assert (change.number, change.openings, change.failure_count) == (1, 1, 5)
    assert change.opened_at_us == change.last_failure_at_us == NOW + S // 2
    assert change.next_probe_at_us == NOW + S // 2 + 30 * S
    assert not ledger.knows(change)
    assert due(ledger, NOW + S)[0].event_id == change.event_id
    ledger.apply(change)
    assert ledger.knows(change)
    assert due(ledger, NOW + 30 * S) == []
    (half,) = due(ledger, NOW + 31 * S)
    assert (half.state, half.number) == ("half_open", 2)
    ledger.apply(half)
    assert due(ledger, NOW + 99 * S) == []


@pytest.mark.req("OPS-01")
def test_an_alert_opens_with_the_first_opening_and_ends_with_the_closing() -> None:
    ledger = CircuitLedger(RULES)
    ledger.apply(row("a/b", [0.1, 0.2, 0.3, 0.4, 0.5]))
    (opened,) = due(ledger, NOW + S)

    def told(state: str, openings: int) -> str | None:
        alert = alert_of(msgspec.structs.replace(opened, state=state, openings=openings))
        return alert.status if alert is not None else None

    assert [told("open", 1), told("half_open", 1), told("open", 2), told("closed", 0)] == [
        "open",
        None,
        None,
        "resolved",
    ]
    first, again = alert_of(opened), alert_of(opened)
    assert first is not None
    assert first == again
    assert first.alert_id == "circuit:a/b"


@pytest.mark.req("RT-07")
def test_a_late_older_row_changes_nothing() -> None:
    ledger = CircuitLedger(RULES)
    ledger.apply(row("t", [], offset=9))
    ledger.apply(row("t", [0.1] * 5, offset=3))
    assert due(ledger, NOW + S) == []


@pytest.mark.req("RT-07")
def test_a_call_speaks_for_each_target_that_it_tried() -> None:
    def attempt(target: str, outcome: str, error_class: str | None) -> Attempt:
        return Attempt(target, outcome, error_class, None, 1_000, None)

    event = ResponseCompleted(
        event_id="e",
        occurred_at_us=NOW,
        request_id="r",
        key_id="k",
        route="r",
        outcome="success",
        status=200,
        attempts=[
            attempt("a", "failed", "timeout"),
            attempt("b", "failed", "context"),
            attempt("c", "success", None),
        ],
        usage_basis="none",
        stream=False,
        latency_us=1,
    )
    assert sorted(split(event)) == [
        ("a", CircuitOutcome(NOW - 2_000, NOW - 3_000, good=False)),
        ("c", CircuitOutcome(NOW, NOW - 1_000, good=True)),
    ]


@pytest.mark.req("RT-07", "EVT-04")
async def test_on_a_broker_each_change_is_published_once(log: KafkaLog) -> None:
    target, stop = f"breaker/{uuid7()}", asyncio.Event()
    await log.publish(row(target, [-0.1] * 5, now=now_us()))

    async def changes() -> list[CircuitChanged]:
        async with log.reader([CIRCUITS]) as reader:
            found = []
            while await reader.lag():
                found += [decode(one.value) for one in await reader.batch(1_000, 0.1) if one.value]
        return [one for one in found if isinstance(one, CircuitChanged) and one.target == target]

    first = asyncio.create_task(
        decide([(BREAKER, lambda: True)], StreamsSettings(Path("unused")), log, stop)
    )
    async with asyncio.timeout(20):
        while not (found := await changes()):
            await asyncio.sleep(0.1)
    # Another that takes over reads it back instead of deciding it anew.
    second = asyncio.create_task(
        decide([(BREAKER, lambda: True)], StreamsSettings(Path("unused")), log, stop)
    )
    await asyncio.sleep(1.5)
    stop.set()
    await asyncio.gather(first, second)
    assert [(one.state, one.number) for one in await changes()] == [("open", 1)]
    assert found[0].reason == "5 failures in a row"
