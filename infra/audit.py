"""Privileged acts as a chain of events: control is the topic's only writer.

Each record carries the hash of the one before, so whoever takes one out, changes one or swaps two
breaks the chain at that place.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Mapping

import msgspec

from schemas.clock import now_us
from schemas.codec import decode_as
from schemas.errors import BrokerUnavailable, CorruptRecord
from schemas.events.operations import AUDIT, AuditRecorded
from schemas.identity import uuid7
from schemas.log import Cursor, Log

FIRST = "0" * 64
"""What the first record of the chain names as the one before."""
_RETRY_S = 1.0
_WAIT_S = 2.0
_log = logging.getLogger(__name__)


class Auditor:
    """Appends records in order; those that the broker does not take wait here for it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: asyncio.Queue[tuple[AuditRecorded, asyncio.Event]] = asyncio.Queue()
        self._last: AuditRecorded | None = None
        self._known = False

    async def record(
        self, actor: str, action: str, subject: str, detail: Mapping[str, str] | None = None
    ) -> None:
        """Note that `actor` did `action` to `subject`; waits up to two seconds for the broker.

        What was done stands in its own event, so a record that comes late is no reason to refuse.
        """
        event = AuditRecorded(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            actor=actor,
            action=action,
            subject=subject,
            detail=dict(detail or {}),
            sequence=0,
            previous_hash="",
            hash="",
        )
        written = asyncio.Event()
        self._waiting.put_nowait((event, written))
        try:
            async with asyncio.timeout(_WAIT_S):
                await written.wait()
        except TimeoutError:
            _log.warning("an audit record waits for the broker: %s %s", action, subject)

    async def run(self, stop: asyncio.Event) -> None:
        """Write what is recorded until `stop`, then what is left while the broker takes it."""
        stopping = asyncio.create_task(stop.wait())
        with contextlib.suppress(BrokerUnavailable):  # asked again by the first record
            self._last, self._known = await last_record(self._log), True
        while not stop.is_set() or not self._waiting.empty():
            getting = asyncio.create_task(self._waiting.get())
            await asyncio.wait({getting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                return
            event, written = getting.result()
            while not await self._append(event):
                if stop.is_set():
                    _log.error("an audit record is lost: %s %s", event.action, event.subject)
                    return
                await asyncio.sleep(_RETRY_S)
            written.set()

    async def _append(self, event: AuditRecorded) -> bool:
        try:
            if not self._known:
                self._last, self._known = await last_record(self._log), True
            self._known = False  # until the broker has said that this one is the last
            linked = link(event, self._last)
            await self._log.publish(linked)
        except BrokerUnavailable:
            return False
        self._last, self._known = linked, True
        return True


def link(event: AuditRecorded, previous: AuditRecorded | None) -> AuditRecorded:
    """The record as the next one of the chain."""
    placed = msgspec.structs.replace(
        event,
        sequence=previous.sequence + 1 if previous else 0,
        previous_hash=previous.hash if previous else FIRST,
    )
    return msgspec.structs.replace(placed, hash=hash_of(placed))


def hash_of(event: AuditRecorded) -> str:
    """SHA-256 (hex) of everything in a record but its own hash."""
    fields = msgspec.structs.asdict(event)
    del fields["hash"]
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


async def last_record(log: Log) -> AuditRecorded | None:
    """The chain's end as the log has it. Raises BrokerUnavailable, CorruptRecord."""
    async with log.reader([AUDIT]) as reader:
        end = (await reader.end_positions())[AUDIT.name][0]
    if end == 0:
        return None
    async with log.reader([AUDIT], Cursor({AUDIT.name: {0: end - 1}})) as reader:
        while not (records := await reader.batch(1, 1.0)):
            pass
    value = records[0].value
    event = None if value is None else decode_as(value, AuditRecorded)
    if event is None:
        raise CorruptRecord(f"the last record of {AUDIT.name} is no audit record")
    return event
