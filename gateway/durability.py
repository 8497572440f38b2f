"""Everything that keeps a worker's records, started and stopped as one."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from gateway.adoption import Adopter, Remains
from gateway.feedback import FeedbackDesk
from gateway.ledger import Recorder
from gateway.outbox import Outbox, OutboxSettings
from gateway.outbox_watch import OutboxWatch, stopped
from gateway.relay import Relay
from schemas.log import Connection
from schemas.privacy import MasterKey

STOP_PATIENCE_S = 8.0
"""How long a stopping worker waits for Kafka; what is left then is adopted at the next start."""
PREPARE_AFTER_S = 1.0
"""When the next segment's room is written: a starting worker needs processor and disk for itself."""

_log = logging.getLogger(__name__)


class OutboxStatus(msgspec.Struct, frozen=True):
    """How far the outbox is ahead of Kafka; `refused` counts requests turned away for its sake."""

    outbox_id: str
    entries_waiting: int
    bytes_used: int
    bytes_limit: int
    open_requests: int
    refused: int
    broker_away: bool
    relay_restarts: int
    adopted: int
    abandoned: int


class Durability:
    """The outbox of this worker with its relay, and the adopter of others' outboxes.

    An async context manager; leave it when no request is in progress any more. `source` names
    this process in its events, `part` the worker across restarts in its heartbeats; `refused` counts
    callers with a wrong key.
    """

    def __init__(
        self,
        settings: OutboxSettings,
        connection: Connection,
        master: MasterKey,
        source: str,
        part: str = "gateway",
        refused: Callable[[], int] = lambda: 0,
    ) -> None:
        self._part = part
        self._refused = refused
        self.outbox = Outbox(settings, source)
        self.recorder = Recorder(self.outbox, master)
        self.feedback = FeedbackDesk(self.recorder)
        self.relay = Relay(self.outbox, connection, settings.max_record_bytes)
        self.adopter = Adopter(settings, connection, source)
        self.outbox.wake, self.outbox.hurry = self.relay.wake, self.relay.hurry
        self._relay_thread = threading.Thread(target=self.relay.run, name="relay", daemon=True)
        self._adopter_thread = threading.Thread(
            target=self.adopter.run, name="adopter", daemon=True
        )

    async def __aenter__(self) -> Self:
        self._later = asyncio.get_running_loop().call_later(
            PREPARE_AFTER_S, self.outbox.prepare_ahead
        )
        self._relay_thread.start()
        watch = OutboxWatch(self._part, self.outbox, self.relay, self._refused)
        self._watching = asyncio.create_task(watch.watch())
        self._adopter_thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, patience_s: float = STOP_PATIENCE_S) -> bool:
        """Hand everything to Kafka and remove the outbox; False when Kafka did not take it.

        Requests still open count as abandoned. What Kafka did not take stays for an adopter.
        """
        self._later.cancel()
        await stopped(self._watching)
        self.adopter.stop()
        await asyncio.to_thread(self._adopter_thread.join)
        deadline = time.monotonic() + (0.0 if self.relay.away else patience_s)
        self.relay.finish(deadline - time.monotonic())
        await asyncio.to_thread(self._relay_thread.join)
        lock = self.outbox.close()
        try:
            return await asyncio.to_thread(self._conclude, deadline)
        finally:
            os.close(lock)

    def _conclude(self, deadline: float) -> bool:
        adopter = Adopter(self.outbox.settings, self.adopter.connection, self.adopter.source)
        patience_s = max(0.0, deadline - time.monotonic())
        done = adopter.adopt(Remains(self.outbox.folder), patience_s)
        if not done:
            _log.warning("outbox %s waits for the broker's return", self.outbox.id)
        return done

    def status(self) -> OutboxStatus:
        """Return the figures that `/status` and the metrics show."""
        outbox = self.outbox
        return OutboxStatus(
            outbox_id=outbox.id,
            entries_waiting=outbox.written - outbox.acked,
            bytes_used=outbox.bytes_used,
            bytes_limit=outbox.settings.max_bytes,
            open_requests=outbox.open_requests,
            refused=outbox.refused,
            broker_away=self.relay.away,
            relay_restarts=self.relay.restarts,
            adopted=self.adopter.adopted,
            abandoned=self.adopter.abandoned,
        )
