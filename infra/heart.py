"""Control's heartbeat: that it lives, and how many callers it has refused for their key (OPS-01)."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from schemas.clock import now_us
from schemas.errors import BrokerUnavailable
from schemas.events.operations import Heartbeat
from schemas.identity import uuid7
from schemas.log import Log

PART = "control"
EVERY_S = 5.0
_log = logging.getLogger(__name__)


class Heart:
    """Beats every five seconds while the broker answers; `refused` counts since the start."""

    def __init__(self, log: Log, refused: Callable[[], int]) -> None:
        self._log = log
        self._refused = refused
        self._instance = uuid7()
        self._started_at_us = now_us()

    async def run(self, stop: asyncio.Event) -> None:
        """Beat until `stop`."""
        while not stop.is_set():
            try:
                await self.beat()
            except BrokerUnavailable as error:
                _log.warning("no heartbeat: %s", error.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), EVERY_S)

    async def beat(self) -> Heartbeat:
        """Append one heartbeat. Raises BrokerUnavailable."""
        event = Heartbeat(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            part=PART,
            instance=self._instance,
            started_at_us=self._started_at_us,
            refused=self._refused(),
        )
        await self._log.publish(event)
        return event
