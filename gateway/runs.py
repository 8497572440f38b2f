"""Which run an idempotency key belongs to, as the order of the log decides."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import msgspec

from schemas.clock import now_us
from schemas.codec import decode
from schemas.events.idempotency import IdempotencyClaimed, IdempotencySettled
from schemas.log import Record
from schemas.table_view import TableView

VALID_S = 24 * 3600
"""How long a key is remembered: as long as the topic keeps its records."""
KEYS_MAX = 100_000
"""Runs that a worker remembers, the oldest are forgotten first: about 30 MB."""


class Run(msgspec.Struct):
    """The run that a key belongs to; `settled_at` is where its answer lies (partition, offset)."""

    request_id: str
    fingerprint: str
    outbox_id: str
    claimed_at_us: int
    settled_at: tuple[int, int] | None = None


class Ticket(msgspec.Struct, frozen=True):
    """Allows a call to run under a key."""

    idempotency_id: str


class Runs(TableView[IdempotencyClaimed]):
    """The runs by key, as the log's order decides; belongs to the event loop's thread."""

    def __init__(self) -> None:
        super().__init__(IdempotencyClaimed)
        self.runs: OrderedDict[str, Run] = OrderedDict()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    def apply(self, record: Record) -> None:
        """Fold one record in. Raises as `schemas.codec.decode`."""
        if record.value is None:
            return
        event = decode(record.value)
        if isinstance(event, IdempotencyClaimed):
            self._claimed(event)
        elif isinstance(event, IdempotencySettled):
            self._settled(event, record)

    def find(self, key: str) -> Run | None:
        """Return the run of a key that is still valid."""
        run = self.runs.get(key)
        return None if run is None or _expired(run, now_us()) else run

    async def change(self, key: str, wait_s: float) -> None:
        """Wait until something happens to a key. Raises TimeoutError."""
        waiter = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(key, [])
        waiters.append(waiter)
        try:
            await asyncio.wait_for(waiter, wait_s)
        finally:
            waiters.remove(waiter)
            if not waiters and self._waiting.get(key) is waiters:
                del self._waiting[key]

    def _claimed(self, event: IdempotencyClaimed) -> None:
        known = self.runs.get(event.idempotency_id)
        if known is None or _expired(known, event.occurred_at_us):
            self.runs[event.idempotency_id] = Run(
                event.request_id, event.fingerprint, event.outbox_id, event.occurred_at_us
            )
            self.runs.move_to_end(event.idempotency_id)
            if len(self.runs) > KEYS_MAX:
                self.runs.popitem(last=False)
        self._wake(event.idempotency_id)

    def _settled(self, event: IdempotencySettled, record: Record) -> None:
        run = self.runs.get(event.idempotency_id)
        if run is None or run.request_id != event.request_id:
            return
        if event.ciphertext is None and event.status >= 500:
            del self.runs[event.idempotency_id]  # nothing was billed: the next claim may run
        else:
            run.settled_at = (record.partition, record.offset)
        self._wake(event.idempotency_id)

    def _wake(self, key: str) -> None:
        for waiter in self._waiting.get(key, ()):
            if not waiter.done():
                waiter.set_result(None)


def _expired(run: Run, at_us: int) -> bool:
    return at_us - run.claimed_at_us > VALID_S * 1_000_000
