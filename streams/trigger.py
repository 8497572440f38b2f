"""Decides when feedback is enough for a fine-tune (FB-06): one event per crossing.

A decision needs the sum over all partitions of the feedback table, so it is made here and not in
the fold, and it enters the state only by being read back from the triggers' topic. Before it
decides, the decider has read that topic to its end; after it decided, it waits for its own event.
A double from two processes at once would carry the same id, which names scope and ordinal.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable

from schemas.clock import now_us
from schemas.codec import decode
from schemas.errors import BrokerUnavailable, CorruptRecord, LogError
from schemas.events.tables import FeedbackRow
from schemas.events.training import TRIGGERS, TriggerFired
from schemas.log import Log, Reader, Record
from streams.agents.feedback import BUCKET_SECONDS, FEEDBACK
from streams.letters import dead_letter
from streams.settings import StreamsSettings

_log = logging.getLogger(__name__)

REASON = "feedback_threshold"
CONSUMER = "streams:trigger"

_SECOND_US = 1_000_000
_BATCH_RECORDS = 5_000
_WAIT_S = 0.5
_NAMESPACE = uuid.UUID("a1c5a2de-55d5-5a0e-8a3c-0b6b0d8a7c51")


class FeedbackLedger:
    """What the two topics say of one scope: its partial counts, and the triggers so far."""

    def __init__(self, settings: StreamsSettings) -> None:
        self.settings = settings
        self._rows: dict[int, FeedbackRow] = {}
        self._fired: dict[str, TriggerFired] = {}
        self._last: TriggerFired | None = None

    def apply(self, record: Record) -> None:
        """Take one record of either topic in. Raises UnknownSchema or CorruptRecord."""
        if record.value is None:
            raise CorruptRecord(f"a record of {record.topic} has no value")
        event = decode(record.value)
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

    def knows(self, trigger_id: str) -> bool:
        """Return whether this trigger has been read back."""
        return trigger_id in self._fired

    def due(self, at_us: int) -> TriggerFired | None:
        """Return the event that is to be published now, if the threshold is crossed."""
        settings, last = self.settings, self._last
        since_us = at_us - settings.feedback_window_s * _SECOND_US
        total = sum(row.total for row in self._rows.values())
        count = min(self._count_since(since_us), total - (last.total if last else 0))
        if count < settings.feedback_threshold:
            return None
        if last is not None:
            if at_us < last.until_us + settings.feedback_cooldown_s * _SECOND_US:
                return None
            since_us = max(since_us, last.until_us)
        trigger_id = f"{settings.feedback_scope}#{len(self._fired) + 1}"
        return TriggerFired(
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

    def _count_since(self, since_us: int) -> int:
        # A bucket that the window's edge cuts counts whole: five minutes in a day.
        return sum(
            count
            for row in self._rows.values()
            for start_s, count in row.buckets.items()
            if (int(start_s) + BUCKET_SECONDS) * _SECOND_US > since_us
        )


async def decide(
    settings: StreamsSettings, log: Log, mine: Callable[[], bool], stop: asyncio.Event
) -> None:
    """Publish each crossing once, until `stop`; waits out a broker that is away.

    `mine` says whether this process is the one to decide. Raises LogTruncated or WrongLog.
    """
    while not stop.is_set():
        try:
            async with log.reader([FEEDBACK.table, TRIGGERS]) as reader:
                await _decide(FeedbackLedger(settings), log, reader, mine, stop)
        except BrokerUnavailable as error:
            # Whether the last event arrived is unknown: read everything back before the next.
            _log.warning("deciding on feedback pauses: %s", error.message)
            await asyncio.sleep(_WAIT_S)


async def _decide(
    ledger: FeedbackLedger, log: Log, reader: Reader, mine: Callable[[], bool], stop: asyncio.Event
) -> None:
    awaited: str | None = None
    while not stop.is_set():
        for record in await reader.batch(_BATCH_RECORDS, _WAIT_S):
            await _take(ledger, log, record)
        if awaited is not None and not ledger.knows(awaited):
            continue
        awaited = None
        if not mine() or (trigger := ledger.due(now_us())) is None or await _behind(reader):
            continue
        await log.publish(trigger, correlation_id=trigger.trigger_id)
        awaited = trigger.trigger_id
        _log.info("feedback reached its threshold: %s, %d pieces", awaited, trigger.count)


async def _behind(reader: Reader) -> bool:
    """Whether there are counts, or a trigger already fired, that were not read yet."""
    ends = await reader.end_positions()
    return any(
        reader.cursor.next_offset(topic, partition) < end
        for topic, partitions in ends.items()
        for partition, end in partitions.items()
    )


async def _take(ledger: FeedbackLedger, log: Log, record: Record) -> None:
    try:
        ledger.apply(record)
    except LogError as error:
        name = f"{CONSUMER}|{record.topic}|{record.partition}@{record.offset}"
        event_id = str(uuid.uuid5(_NAMESPACE, name))
        await log.publish(dead_letter(record, CONSUMER, error, event_id))
