"""Privileged acts as a chain of events.

Each record carries the hash of the one before, so whoever takes one out, changes one or swaps two
breaks the chain at that place. Several control processes may write: of two records with one number
the first on the log is the chain's, and whoever wrote the other one writes it again behind it.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from schemas.clock import now_us
from schemas.codec import decode_as
from schemas.errors import BrokerUnavailable, CorruptRecord
from schemas.events.operations import AUDIT, AuditRecorded
from schemas.identity import uuid7
from schemas.log import Cursor, Log, Record

FIRST = "0" * 64
"""What the first record of the chain names as the one before."""
WINDOW = 256
"""Records that are read to find the chain's end: more than processes that write at once."""
_RETRY_S = 1.0
_WAIT_S = 2.0
_log = logging.getLogger(__name__)


class End(NamedTuple):
    """The chain's last record, and the offset of the next one if nobody else writes."""

    last: AuditRecorded | None
    offset: int


class Auditor:
    """Appends records in order; those that the broker does not take wait here for it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: asyncio.Queue[tuple[AuditRecorded, asyncio.Event]] = asyncio.Queue()
        self._end: End | None = None

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
            chain, offset = await read_end(self._log)
            self._end = End(chain[-1] if chain else None, offset)
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
            while not await self._linked(event):
                _log.info("another control wrote at the same time: %s again", event.action)
        except BrokerUnavailable:
            return False
        return True

    async def _linked(self, event: AuditRecorded) -> bool:
        """Write a record behind the chain's end; return whether it is the chain's."""
        end, self._end = self._end, None  # until the broker has said where this one stands
        if end is None:
            chain, offset = await read_end(self._log)
            if any(one.event_id == event.event_id for one in chain):
                return True  # it had been written when the broker was thought to be away
            end = End(chain[-1] if chain else None, offset)
        linked = link(event, end.last)
        place = await self._log.publish(linked)
        if place.offset == end.offset:
            self._end = End(linked, place.offset + 1)
            return True
        chain, _ = await read_end(self._log)
        return any(one.hash == linked.hash for one in chain)


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


def chain_of(records: Iterable[AuditRecorded]) -> list[AuditRecorded]:
    """Return the records that count, in their order: the first of each number."""
    first: dict[int, AuditRecorded] = {}
    for record in records:
        first.setdefault(record.sequence, record)
    return [first[number] for number in sorted(first)]


async def read_end(log: Log) -> tuple[list[AuditRecorded], int]:
    """Return the chain's last records and the log's end. Raises BrokerUnavailable, CorruptRecord."""
    async with log.reader([AUDIT]) as reader:
        end = (await reader.end_positions())[AUDIT.name][0]
    found: list[AuditRecorded] = []
    begin = max(0, end - WINDOW)
    async with log.reader([AUDIT], Cursor({AUDIT.name: {0: begin}})) as reader:
        while reader.cursor.positions[AUDIT.name].get(0, 0) < end:
            found += [_audited(record) for record in await reader.batch(WINDOW, 1.0)]
    return chain_of(found), end


def _audited(record: Record) -> AuditRecorded:
    event = None if record.value is None else decode_as(record.value, AuditRecorded)
    if event is None:
        raise CorruptRecord(f"record {record.offset} of {AUDIT.name} is no audit record")
    return event
