"""Simulated time through the very fold and ledger: rows and decisions as they would stand in the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bench.simulator import Incident, World, events
from schemas.codec import encode
from schemas.event import FACT_PARTITIONS, Event
from schemas.events.llm import ResponseCompleted
from schemas.events.operations import AlertChanged, AnomalyChanged, Heartbeat
from schemas.log import Record
from schemas.partition import partition_of
from streams.agents.traffic import TRAFFIC
from streams.anomalies.ledger import AnomalyLedger
from streams.partition import PartitionFold

STEP_S = 10
DUE_S = 5
"""The ledger is asked so long after each step."""


@dataclass
class Run:
    """One world's decisions, in order, with all alerts."""

    changes: list[AnomalyChanged] = field(default_factory=list)
    alerts: list[AlertChanged] = field(default_factory=list)

    @property
    def found(self) -> list[AnomalyChanged]:
        """The first word of each anomaly."""
        return [change for change in self.changes if change.number == 1]


class Table:
    """The traffic fold over all partitions, and everybody who reads its rows."""

    def __init__(self) -> None:
        self.parts = [PartitionFold(TRAFFIC, number, {}) for number in range(FACT_PARTITIONS)]
        self._offsets = [0] * FACT_PARTITIONS
        self.kept: dict[bytes, Event] = {}

    def take(self, found: Iterable[ResponseCompleted]) -> Iterator[Event | bytes]:
        """Fold events; yield the rows and cursors written, and the keys of rows that expired."""
        batches: list[list[Record]] = [[] for _ in self.parts]
        for event in found:
            part = partition_of(event.request_id.encode(), FACT_PARTITIONS)
            value = encode(event)
            record = Record(TRAFFIC.source.name, part, self._offsets[part], 0, b"k", value, ())
            self._offsets[part] += 1
            batches[part].append(record)
        for fold, batch in zip(self.parts, batches, strict=True):
            step = fold.take(batch)
            for row in [*step.rows, *([step.cursor] if step.cursor else [])]:
                self.kept[row.key] = row.event
                yield row.event
            for tombstone in step.swept:
                self.kept.pop(tombstone.key, None)
                yield tombstone.key
            fold.published(step)


def give(ledger: AnomalyLedger, item: Event | bytes) -> None:
    """Hand one record of the log to a ledger."""
    if isinstance(item, bytes):
        ledger.removed(TRAFFIC.table.name, item)
    else:
        ledger.apply(item)


def simulate(
    world: World,
    from_s: int,
    to_s: int,
    *,
    restarts: Iterable[int] = (),
    deaf: bool = False,
    before: Iterable[ResponseCompleted] = (),
) -> Run:
    """Run a span of simulated time.

    At `restarts` a new ledger takes over with what the log holds. `deaf` leaves every fifth second
    of the traffic out, as a consumer that skips would (sabotage). `before` is traffic of weeks before.
    """
    run, table, ledger = Run(), Table(), AnomalyLedger()
    for item in table.take(before):
        give(ledger, item)
    answered = (
        event
        for event in events(world, from_s=from_s, to_s=to_s)
        if isinstance(event, ResponseCompleted)
    )
    waiting: list[ResponseCompleted] = []
    source = iter(answered)
    exhausted = False
    for now_s in range(from_s + STEP_S, to_s + 1, STEP_S):
        end_us = (world.start_s + now_s) * 1_000_000
        while not exhausted and (
            not waiting or waiting[-1].occurred_at_us - waiting[-1].latency_us < end_us
        ):
            event = next(source, None)
            exhausted = event is None
            if event is not None and not (deaf and event.occurred_at_us // 1_000_000 % 5):
                waiting.append(event)
        ready = sorted(
            (event for event in waiting if event.occurred_at_us < end_us),
            key=lambda event: event.occurred_at_us,
        )
        waiting = [event for event in waiting if event.occurred_at_us >= end_us]
        for item in table.take(ready):
            give(ledger, item)
        at_us = end_us + DUE_S * 1_000_000
        beat = Heartbeat(
            event_id="b", occurred_at_us=at_us, part="streams", instance="0", started_at_us=0, lag=0
        )
        if now_s in restarts:
            ledger = AnomalyLedger()
            for kept in [*run.changes, *table.kept.values()]:
                ledger.apply(kept)
        ledger.apply(beat)
        _decide(ledger, at_us, run, 200 if now_s in restarts else 4)
    return run


def _decide(ledger: AnomalyLedger, at_us: int, run: Run, rounds: int) -> None:
    for _ in range(rounds):
        for event in ledger.due(at_us):
            if isinstance(event, AlertChanged):
                run.alerts.append(event)
            elif isinstance(event, AnomalyChanged):
                run.changes.append(event)
                ledger.apply(event)


def driver_of(incident: Incident) -> str:
    """Return the series that makes the difference, as the detector would name it."""
    dimension = "task" if incident.dimension == "task_type" else incident.dimension
    return f"{dimension}:{'' if dimension == 'total' else incident.name}"
