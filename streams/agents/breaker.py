"""Decides when circuits open, half open and close (RT-07), from everybody's outcomes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from schemas.circuits import CLOSED, NEW, OPEN, Circuit, CircuitRules, circuit_of, judged, merged
from schemas.event import Event
from schemas.events.circuits import CIRCUIT_TABLE, CIRCUITS, CircuitChanged, CircuitRow
from schemas.events.operations import AlertChanged
from streams.agents import circuits
from streams.decider import Decider, Ledger

_NAMESPACE = uuid.UUID("0d1f7d3c-6a94-5a57-9a3e-7d2c9f4b8e60")


class CircuitLedger(Ledger):
    """What the two topics say: the partials of every target, and the circuits so far."""

    def __init__(self, rules: CircuitRules) -> None:
        self._rules = rules
        self._rows: dict[str, dict[int, CircuitRow]] = {}
        self._changes: dict[str, CircuitChanged] = {}
        self._restless: set[str] = set()
        """Targets that may be due: a new row, or a circuit that is not closed."""

    def apply(self, event: Event) -> None:
        """Take in a row or a change."""
        if isinstance(event, CircuitRow):
            rows = self._rows.setdefault(event.entity, {})
            known = rows.get(event.partition)
            if known is None or event.offset >= known.offset:
                rows[event.partition] = event
                self._restless.add(event.entity)
        elif isinstance(event, CircuitChanged):
            self._changes[event.target] = event
            self._restless.add(event.target)

    def remembered(self) -> Iterable[Event]:
        """Return the last change of each target."""
        return self._changes.values()

    def knows(self, decision: Event) -> bool:
        """Whether this change, or a later one, has been read back."""
        if not isinstance(decision, CircuitChanged):
            return False
        known = self._changes.get(decision.target)
        return known is not None and known.number >= decision.number

    def due(self, at_us: int) -> Sequence[Event]:
        """Return the changes that are to be published now, each after its alert."""
        due: list[Event] = []
        for target in sorted(self._restless):
            known = self._changes.get(target)
            before = circuit_of(known) if known is not None else NEW
            after = judged(before, merged(self._rows.get(target, {}).values()), self._rules, at_us)
            if after is not before:
                change = self._change(target, after, at_us)
                due += [alert for alert in [alert_of(change)] if alert is not None]
                due.append(change)
            elif after.state == CLOSED:
                self._restless.discard(target)
        return due

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


BREAKER = Decider(
    name="breaker",
    leads=circuits.CIRCUITS,
    reads=(CIRCUIT_TABLE,),
    decisions=CIRCUITS,
    ledger=lambda settings: CircuitLedger(settings.circuits),
    wait_s=0.2,
)
