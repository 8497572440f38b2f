"""Raises an alert when a fold stays behind its log, and ends it when it has caught up (OPS-01)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schemas.alerts import OPEN, RESOLVED, followed, retold
from schemas.event import Event
from schemas.events.operations import ALERTS, HEARTBEATS, AlertChanged, Heartbeat
from streams.agents.health import HEALTH
from streams.decider import Decider, Ledger, decision_id

PREFIX = "lag:"
SILENT_US = 15_000_000
"""What was said longer ago holds no more: the process is gone, others have its partitions."""


class LagLedger(Ledger):
    """The last heartbeats, and the alerts that were made of them."""

    def __init__(self, records_max: int, for_s: float) -> None:
        self._records_max = records_max
        self._for_us = int(for_s * 1_000_000)
        self._beats: dict[str, Heartbeat] = {}
        self._since_us: dict[str, int] = {}
        """Since when a fold has been behind by more than is allowed, without a break."""
        self._alerts: dict[str, AlertChanged] = {}

    def apply(self, event: Event) -> None:
        """Take in a heartbeat, or an alert."""
        if isinstance(event, Heartbeat):
            if event.lags:
                self._beats[event.part] = event
        elif isinstance(event, AlertChanged) and event.alert_id.startswith(PREFIX):
            after = followed(self._alerts.get(event.alert_id), event)
            if after is not None:
                self._alerts[event.alert_id] = after

    def removed(self, topic: str, key: bytes) -> None:
        """Take in that a part is not expected any more."""
        del topic
        self._beats.pop(key.decode("utf-8", "replace"), None)

    def remembered(self) -> Iterator[Event]:
        """Return what leads to the alerts as they are."""
        return (event for alert in self._alerts.values() for event in retold(alert))

    def knows(self, decision: Event) -> bool:
        """Whether this change of an alert, or a later one, has been read back."""
        known = self._alerts.get(decision.key)
        return (
            isinstance(decision, AlertChanged)
            and known is not None
            and known.number >= decision.number
        )

    def due(self, at_us: int) -> Sequence[Event]:
        """Return the alerts that open and end now.

        Half of what is allowed ends one: a fold that stays at the bound would else tell of itself
        over and over.
        """
        due: list[Event] = []
        for fold, lag in sorted(self._lags(at_us).items()):
            stands = self._stands(fold)
            if lag <= self._records_max:
                self._since_us.pop(fold, None)
                if stands and lag <= self._records_max // 2:
                    due.append(self._change(fold, lag, RESOLVED, at_us))
                continue
            since_us = self._since_us.setdefault(fold, at_us)
            if not stands and at_us - since_us >= self._for_us:
                due.append(self._change(fold, lag, OPEN, at_us))
        return due

    def _lags(self, at_us: int) -> dict[str, int]:
        """Return by how many records each fold is behind, in all processes that live."""
        lags: dict[str, int] = {}
        for beat in self._beats.values():
            if at_us - beat.occurred_at_us <= SILENT_US:
                for fold, lag in beat.lags.items():
                    lags[fold] = lags.get(fold, 0) + lag
        return lags

    def _stands(self, fold: str) -> bool:
        known = self._alerts.get(f"{PREFIX}{fold}")
        return known is not None and known.status != RESOLVED

    def _change(self, fold: str, lag: int, status: str, at_us: int) -> AlertChanged:
        alert_id = f"{PREFIX}{fold}"
        known = self._alerts.get(alert_id)
        number = known.number + 1 if known is not None else 1
        return AlertChanged(
            event_id=decision_id("lag", f"{alert_id}#{number}"),
            occurred_at_us=at_us,
            alert_id=alert_id,
            alert_type="lag",
            severity="warning",
            scope=f"fold:{fold}",
            status=status,
            message=f"the live table of {fold} is {lag} records behind the log",
            value=float(lag),
            threshold=float(self._records_max),
            number=number,
        )


LAG = Decider(
    name="lag",
    leads=HEALTH,
    reads=(HEARTBEATS,),
    decisions=ALERTS,
    ledger=lambda settings: LagLedger(settings.lag_records_max, settings.lag_alert_s),
    wait_s=1.0,
)
