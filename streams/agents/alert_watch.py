"""Opens an alert for each condition that holds, and ends it when it holds no more (OPS-01)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schemas.alerts import OPEN, RESOLVED, followed, retold
from schemas.event import Event
from schemas.events.changes import BUDGETS, DEPLOYMENTS, IDENTITY
from schemas.events.limits import LIMITS
from schemas.events.operations import (
    ALERTS,
    DEAD_LETTERS,
    HEARTBEATS,
    AlertChanged,
    OutboxClosed,
)
from schemas.events.optimizer import OPTIMIZER
from schemas.events.training import STEPS, TRIGGERS
from streams.agents.spend import SPEND
from streams.conditions import (
    CONDITIONS_MAX,
    Canaries,
    Condition,
    DeadLetters,
    Drift,
    Keys,
    Limits,
    Opportunities,
    Runs,
    Source,
    Strangers,
)
from streams.decider import Decider, Ledger, daily_id

OWNER = "alert_watch"
"""Written into each alert, so that nobody else's is ended here."""
_LOOK_US = 1_000_000


class WatchLedger(Ledger):
    """What holds, and the alerts that stand for it; also those of workers that are gone."""

    def __init__(self) -> None:
        self._limits = Limits()
        self._sources: tuple[Source, ...] = (
            Runs(),
            Canaries(),
            Keys(),
            Strangers(),
            self._limits,
            Opportunities(),
            Drift(),
            DeadLetters(),
        )
        self._mine: dict[str, AlertChanged] = {}
        self._workers: dict[str, AlertChanged] = {}
        self._closed: set[str] = set()
        self._held: set[str] = set()
        self._looked_us = 0

    def apply(self, event: Event) -> None:
        """Take in an event of any subject, or an alert."""
        if isinstance(event, AlertChanged):
            self._take(event)
        elif isinstance(event, OutboxClosed):
            self._closed.add(event.outbox_id)
        else:
            for source in self._sources:
                source.apply(event)

    def _take(self, event: AlertChanged) -> None:
        mine = event.details.get("decider") == OWNER or event.alert_id in self._mine
        theirs = "outbox_id" in event.details or event.alert_id in self._workers
        if not mine and not theirs:
            return
        book = self._mine if mine else self._workers
        after = followed(book.get(event.alert_id), event)
        if after is None:
            return
        book[event.alert_id] = after
        if after.status == RESOLVED:
            if mine and after.resolved_by is not None:
                self._held.add(event.alert_id)
            elif theirs:
                del book[event.alert_id]

    def removed(self, topic: str, key: bytes) -> None:
        """Take in that a worker is forgotten."""
        if topic == LIMITS.name:
            self._limits.forget(key.decode())
        elif topic != HEARTBEATS.name:
            super().removed(topic, key)

    def remembered(self) -> Iterator[Event]:
        """Return what leads to the alerts as they are."""
        return (
            event
            for alert in (*self._mine.values(), *self._workers.values())
            for event in retold(alert)
        )

    def knows(self, decision: Event) -> bool:
        """Whether this change of an alert, or a later one, has been read back."""
        if not isinstance(decision, AlertChanged):
            return False
        if "outbox_id" in decision.details:
            return decision.alert_id not in self._workers
        known = self._mine.get(decision.alert_id)
        return known is not None and known.number >= decision.number

    def due(self, at_us: int) -> Sequence[Event]:
        """Return the alerts that open and end now; it is looked once a second."""
        if at_us - self._looked_us < _LOOK_US:
            return ()
        self._looked_us = at_us
        standing = frozenset(name for name, it in self._mine.items() if it.status != RESOLVED)
        holds: dict[str, Condition] = {}
        for source in self._sources:
            for number, condition in enumerate(source.holds(at_us, standing)):
                if number < CONDITIONS_MAX:
                    holds[condition.alert_id] = condition
        self._held &= holds.keys()
        opened = [
            self._opened(condition, at_us)
            for name, condition in holds.items()
            if name not in self._held
            and (name not in standing or self._mine[name].severity != condition.severity)
        ]
        over = [self._over(self._mine[name], at_us) for name in sorted(standing - holds.keys())]
        for name in [it for it, alert in self._mine.items() if alert.status == RESOLVED]:
            if name not in holds and self._mine[name].occurred_at_us < at_us - 31 * 86_400_000_000:
                del self._mine[name]
        gone = [
            self._over(alert, at_us)
            for alert in self._workers.values()
            if alert.details["outbox_id"] in self._closed
        ]
        return [*opened, *over, *gone]

    def _opened(self, condition: Condition, at_us: int) -> AlertChanged:
        known = self._mine.get(condition.alert_id)
        number = known.number + 1 if known is not None else 1
        return AlertChanged(
            event_id=daily_id(OWNER, f"{condition.alert_id}#{number}", at_us),
            occurred_at_us=at_us,
            status=OPEN,
            details={"decider": OWNER},
            number=number,
            **condition._asdict(),
        )

    def _over(self, alert: AlertChanged, at_us: int) -> AlertChanged:
        number = alert.number + 1
        return AlertChanged(
            event_id=daily_id(OWNER, f"{alert.alert_id}#{number}", at_us),
            occurred_at_us=at_us,
            alert_id=alert.alert_id,
            alert_type=alert.alert_type,
            severity=alert.severity,
            scope=alert.scope,
            status=RESOLVED,
            message=f"no longer: {alert.message}",
            details=alert.details,
            number=number,
        )


ALERT_WATCH = Decider(
    name="alert_watch",
    leads=SPEND,
    reads=(
        STEPS,
        TRIGGERS,
        DEPLOYMENTS,
        IDENTITY,
        BUDGETS,
        LIMITS,
        OPTIMIZER,
        DEAD_LETTERS,
        HEARTBEATS,
    ),
    decisions=ALERTS,
    ledger=lambda _: WatchLedger(),
    settled=(IDENTITY, BUDGETS, STEPS, TRIGGERS, DEPLOYMENTS, OPTIMIZER),
)
