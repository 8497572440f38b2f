"""Tells people of alerts: one control delivers, with repeats, until each channel has taken it.

What was tried stands in the log and is known by reading it back, so a control that starts, or takes
over, goes on where the last one was. A notification may arrive twice (the sender died between the
receiver's answer and the log's), always under one id.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from infra.alerting.outstanding import DeliverySettings, Notification, Outstanding
from schemas.clock import now_us
from schemas.codec import decode
from schemas.errors import BrokerUnavailable, LogError, WeirError
from schemas.event import Event
from schemas.events.alerts import ALERT_SETTINGS, DELIVERIES, AlertChannelChanged
from schemas.events.operations import ALERTS
from schemas.log import Log, Reader

TOPICS = (ALERT_SETTINGS, ALERTS, DELIVERIES)
_BATCH_RECORDS = 5_000
_WAIT_S = 0.25
_RETRY_S = 1.0
_LAST_S = 3.0
_log = logging.getLogger(__name__)

Send = Callable[[AlertChannelChanged, Notification, float], Awaitable[None]]
"""Tells one channel of one change within so many seconds. Raises DeliveryFailed."""


class DeliveryFailed(WeirError):
    """A channel did not take a notification; it is told again later."""

    code = "delivery_failed"
    status = 502
    retryable = True
    action = "Look at the channel's settings and at its receiver; it is told again by itself."


class Turn(Protocol):
    """Whether this process is the one that delivers."""

    def mine(self) -> bool:
        """Whether it is now."""
        ...


class Deliverer:
    """The loop. `waiting` and `figures` tell what it has done since the start."""

    def __init__(self, log: Log, settings: DeliverySettings, send: Send, turn: Turn) -> None:
        self._log = log
        self._settings = settings
        self._send = send
        self._turn = turn
        self._outstanding = Outstanding(settings)
        self._sending: dict[str, asyncio.Task[Event]] = {}
        self.delivered = 0
        self.failed = 0

    def status(self) -> dict[str, Any]:
        """Figures for `/status`."""
        return {
            "delivers": self._turn.mine(),
            "delivered": self.delivered,
            "failed": self.failed,
            "waiting": self._outstanding.waiting,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop`; waits out a broker that is away. Raises LogTruncated or WrongLog."""
        while not stop.is_set():
            try:
                async with self._log.reader(TOPICS) as reader:
                    self._outstanding = Outstanding(self._settings)
                    await self._deliver(reader, stop)
            except BrokerUnavailable as error:
                # Whether the last result was written is unknown: read everything back.
                _log.warning("no alert is delivered for now: %s", error.message)
                await asyncio.sleep(_RETRY_S)
            finally:
                for task in self._sending.values():
                    task.cancel()
                await asyncio.gather(*self._sending.values(), return_exceptions=True)
                self._sending.clear()

    async def _deliver(self, reader: Reader, stop: asyncio.Event) -> None:
        told: set[str] = set()
        while not stop.is_set():
            for record in await reader.batch(_BATCH_RECORDS, _WAIT_S):
                try:
                    if record.value is not None:
                        self._outstanding.apply(event := decode(record.value))
                        told.discard(event.event_id)
                except LogError as error:
                    _log.error("%s|%d: %s", record.topic, record.offset, error.message)
            await self._finish(told)
            at_us = now_us()
            if told or not self._turn.mine() or not self._outstanding.stirs(at_us):
                continue  # a result that was not read back would be made twice
            if await _behind(reader):
                continue
            self._outstanding.settle(at_us)
            for notification, why in self._outstanding.unwanted():
                event = self._outstanding.abandoned(notification, why, at_us)
                told.add(event.event_id)
                await self._log.publish(event, causation_id=notification.alert.event_id)
            for channel, notification in list(self._outstanding.due(at_us)):
                if channel.name not in self._sending:
                    self._sending[channel.name] = asyncio.create_task(
                        self._attempt(channel, notification)
                    )
        if self._sending:  # what a receiver has taken must not be told again by the next start
            await asyncio.wait(self._sending.values(), timeout=_LAST_S)
            await self._finish(told)

    async def _finish(self, told: set[str]) -> None:
        """Write what came of the attempts that have ended."""
        for name, task in list(self._sending.items()):
            if task.done():
                del self._sending[name]
                event = task.result()
                told.add(event.event_id)
                await self._log.publish(event)

    async def _attempt(self, channel: AlertChannelChanged, notification: Notification) -> Event:
        began_us, problem = now_us(), None
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._send(channel, notification, self._settings.timeout_s)
            self.delivered += 1
        except WeirError as error:
            problem = error.message
        except TimeoutError:
            problem = f"{channel.name} did not answer within {self._settings.timeout_s:g} s"
        if problem is not None:
            self.failed += 1
            _log.warning(
                "%s was not told of %s: %s", channel.name, notification.alert.alert_id, problem
            )
        return self._outstanding.result(notification, problem, began_us, now_us())


async def _behind(reader: Reader) -> bool:
    ends = await reader.end_positions()
    return any(
        reader.cursor.next_offset(topic, partition) < end
        for topic, partitions in ends.items()
        for partition, end in partitions.items()
    )
