"""Decides when feedback is enough for a fine-tune (FB-06): one event per crossing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from schemas.event import Event
from schemas.events.tables import FeedbackRow
from schemas.events.training import TRIGGERS, TriggerFired
from streams.agents.feedback import BUCKET_SECONDS, FEEDBACK
from streams.decider import Decider, Ledger
from streams.settings import StreamsSettings

REASON = "feedback_threshold"
_SECOND_US = 1_000_000
_NAMESPACE = uuid.UUID("a1c5a2de-55d5-5a0e-8a3c-0b6b0d8a7c51")


class FeedbackLedger(Ledger):
    """What the two topics say of one scope: its partial counts, and the triggers so far."""

    def __init__(self, settings: StreamsSettings) -> None:
        self.settings = settings
        self._rows: dict[int, FeedbackRow] = {}
        self._fired: dict[str, TriggerFired] = {}
        self._last: TriggerFired | None = None

    def apply(self, event: Event) -> None:
        """Take in a row or a trigger."""
        if isinstance(event, FeedbackRow) and event.entity == self.settings.feedback_scope:
            known = self._rows.get(event.partition)
            if known is None or event.offset >= known.offset:
                self._rows[event.partition] = event
        elif (
            isinstance(event, TriggerFired)
            and event.scope == self.settings.feedback_scope
            and event.reason == REASON
            and event.trigger_id not in self._fired
        ):
            self._fired[event.trigger_id] = event
            if self._last is None or event.total >= self._last.total:
                self._last = event

    def knows(self, decision: Event) -> bool:
        """Return whether this trigger has been read back."""
        return isinstance(decision, TriggerFired) and decision.trigger_id in self._fired

    def due(self, at_us: int) -> Sequence[TriggerFired]:
        """Return the event that is to be published now, if the threshold is crossed."""
        settings, last = self.settings, self._last
        since_us = at_us - settings.feedback_window_s * _SECOND_US
        total = sum(row.total for row in self._rows.values())
        count = min(self._count_since(since_us), total - (last.total if last else 0))
        if count < settings.feedback_threshold:
            return ()
        if last is not None:
            if at_us < last.until_us + settings.feedback_cooldown_s * _SECOND_US:
                return ()
            since_us = max(since_us, last.until_us)
        trigger_id = f"{settings.feedback_scope}#{len(self._fired) + 1}"
        trigger = TriggerFired(
            event_id=str(uuid.uuid5(_NAMESPACE, trigger_id)),
            occurred_at_us=at_us,
            trigger_id=trigger_id,
            scope=settings.feedback_scope,
            reason=REASON,
            count=count,
            threshold=settings.feedback_threshold,
            since_us=since_us,
            until_us=at_us,
            total=total,
        )
        return (trigger,)

    def _count_since(self, since_us: int) -> int:
        # A bucket that the window's edge cuts counts whole: five minutes in a day.
        return sum(
            count
            for row in self._rows.values()
            for start_s, count in row.buckets.items()
            if (int(start_s) + BUCKET_SECONDS) * _SECOND_US > since_us
        )


TRIGGER = Decider(
    name="trigger",
    leads=FEEDBACK,
    reads=(FEEDBACK.table,),
    decisions=TRIGGERS,
    ledger=FeedbackLedger,
    settled=(FEEDBACK.table,),
)
