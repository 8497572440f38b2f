"""Decides when circuits open, half open and close (RT-07), from everybody's outcomes.

As with feedback (`streams.trigger`), a decision needs the partials of all partitions, is made by
the one process that leads the fold, and enters the state only by being read back. A double from
two processes at once carries the same id, which names the target and the change's number.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence

from schemas.circuits import CLOSED, NEW, OPEN, Circuit, CircuitRules, circuit_of, judged, merged
from schemas.clock import now_us
from schemas.codec import decode
from schemas.errors import BrokerUnavailable, CorruptRecord, LogError
from schemas.events.circuits import CIRCUIT_TABLE, CIRCUITS, CircuitChanged, CircuitRow
from schemas.events.operations import AlertChanged
from schemas.log import Log, Reader, Record
from streams.letters import dead_letter

CONSUMER = "streams:breaker"

_BATCH_RECORDS = 5_000
_WAIT_S = 0.2
_RETRY_S = 0.5
_NAMESPACE = uuid.UUID("0d1f7d3c-6a94-5a57-9a3e-7d2c9f4b8e60")
_log = logging.getLogger(__name__)


class CircuitLedger:
    """What the two topics say: the partials of every target, and the circuits so far."""

    def __init__(self, rules: CircuitRules) -> None:
        self._rules = rules
        self._rows: dict[str, dict[int, CircuitRow]] = {}
        self._changes: dict[str, CircuitChanged] = {}
        self._restless: set[str] = set()
        """Targets that may be due: a new row, or a circuit that is not closed."""

    def apply(self, record: Record) -> None:
        """Take one record of either topic in. Raises UnknownSchema or CorruptRecord."""
        if record.value is None:
            raise CorruptRecord(f"a record of {record.topic} has no value")
        event = decode(record.value)
        if isinstance(event, CircuitRow):
            rows = self._rows.setdefault(event.entity, {})
            known = rows.get(event.partition)
            if known is None or event.offset >= known.offset:
                rows[event.partition] = event
                self._restless.add(event.entity)
        elif isinstance(event, CircuitChanged):
            self._changes[event.target] = event
            self._restless.add(event.target)

    def knows(self, change: CircuitChanged) -> bool:
        """Whether this change, or a later one, has been read back."""
        known = self._changes.get(change.target)
        return known is not None and known.number >= change.number

    def due(self, at_us: int) -> Sequence[CircuitChanged]:
        """Return the changes that are to be published now."""
        changes = []
        for target in sorted(self._restless):
            known = self._changes.get(target)
            before = circuit_of(known) if known is not None else NEW
            after = judged(before, merged(self._rows.get(target, {}).values()), self._rules, at_us)
            if after is not before:
                changes.append(self._change(target, after, at_us))
            elif after.state == CLOSED:
                self._restless.discard(target)
        return changes

    def _change(self, target: str, circuit: Circuit, at_us: int) -> CircuitChanged:
        known = self._changes.get(target)
        number = known.number + 1 if known is not None else 1
        seen = merged(self._rows.get(target, {}).values())
        calls, failures = seen.window(at_us - int(self._rules.window_s * 1_000_000))
        provider, _, model = target.partition("/")
        return CircuitChanged(
            event_id=str(uuid.uuid5(_NAMESPACE, f"{target}#{number}")),
            occurred_at_us=at_us,
            target=target,
            provider=provider,
            model=model,
            state=circuit.state,
            number=number,
            since_us=circuit.since_us,
            openings=circuit.openings,
            opened_at_us=circuit.opened_at_us,
            next_probe_at_us=circuit.next_probe_at_us,
            failure_count=failures,
            success_count=calls - failures,
            last_failure_at_us=seen.last_failure_at_us,
            reason=circuit.reason,
        )


async def decide(
    rules: CircuitRules, log: Log, mine: Callable[[], bool], stop: asyncio.Event
) -> None:
    """Publish each change once, until `stop`; waits out a broker that is away.

    `mine` says whether this process is the one to decide. Raises LogTruncated or WrongLog.
    """
    while not stop.is_set():
        try:
            async with log.reader([CIRCUIT_TABLE, CIRCUITS]) as reader:
                await _decide(CircuitLedger(rules), log, reader, mine, stop)
        except BrokerUnavailable as error:
            # Whether the last event arrived is unknown: read everything back before the next.
            _log.warning("deciding on circuits pauses: %s", error.message)
            await asyncio.sleep(_RETRY_S)


async def _decide(
    ledger: CircuitLedger, log: Log, reader: Reader, mine: Callable[[], bool], stop: asyncio.Event
) -> None:
    awaited: list[CircuitChanged] = []
    while not stop.is_set():
        for record in await reader.batch(_BATCH_RECORDS, _WAIT_S):
            await _take(ledger, log, record)
        awaited = [change for change in awaited if not ledger.knows(change)]
        if awaited or not mine() or not (due := ledger.due(now_us())) or await _behind(reader):
            continue
        for change in due:
            # The alert first: after a death between the two both are made again, with their ids.
            if (alert := alert_of(change)) is not None:
                await log.publish(alert, correlation_id=change.event_id)
            await log.publish(change, correlation_id=change.event_id)
            awaited.append(change)
            _log.warning("the circuit of %s is %s: %s", change.target, change.state, change.reason)


def alert_of(change: CircuitChanged) -> AlertChanged | None:
    """Return the alert (OPS-01) of a circuit that opens after it was closed, or closes."""
    opens = change.state == OPEN and change.openings == 1
    if not opens and change.state != CLOSED:
        return None
    return AlertChanged(
        event_id=str(uuid.uuid5(_NAMESPACE, f"alert|{change.event_id}")),
        occurred_at_us=change.occurred_at_us,
        alert_id=f"circuit:{change.target}",
        alert_type="circuit_open",
        severity="error",
        scope=f"target:{change.target}",
        status="open" if opens else "resolved",
        message=f"the circuit of {change.target} is {change.state}: {change.reason}",
        value=float(change.failure_count),
    )


async def _behind(reader: Reader) -> bool:
    """Whether there are changes that were not read yet. Rows come all the time: they may wait."""
    ends = (await reader.end_positions())[CIRCUITS.name]
    return any(
        reader.cursor.next_offset(CIRCUITS.name, partition) < end for partition, end in ends.items()
    )


async def _take(ledger: CircuitLedger, log: Log, record: Record) -> None:
    try:
        ledger.apply(record)
    except LogError as error:
        name = f"{CONSUMER}|{record.topic}|{record.partition}@{record.offset}"
        event_id = str(uuid.uuid5(_NAMESPACE, name))
        await log.publish(dead_letter(record, CONSUMER, error, event_id))
