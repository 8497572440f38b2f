"""Which control delivers: the one to which Kafka gives the partition of a consumer group.

The group's coordinator knows within seconds that a member died and gives its partition to another.
A member that was only paused may deliver once more before it learns of that; its notifications
carry the ids of the other's.
"""

import asyncio
import contextlib
import logging

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from schemas.connection import aiokafka_options
from schemas.events.alerts import DELIVERIES
from schemas.log import Connection

GROUP = "weir-alert-delivery"
SESSION_S = 6.0
_LOOK_S = 0.5
_RETRY_S = 1.0
_log = logging.getLogger(__name__)


class GroupTurn:
    """Membership in the group; nothing is read through it and nothing committed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._mine = False

    def mine(self) -> bool:
        """Whether this process delivers now."""
        return self._mine

    async def run(self, stop: asyncio.Event) -> None:
        """Stay a member until `stop`; joins again after a broker that was away."""
        while not stop.is_set():
            try:
                await self._join(stop)
            except KafkaError as error:
                _log.warning("the turn to deliver is open: %s", error)
            finally:
                self._mine = False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RETRY_S)

    async def _join(self, stop: asyncio.Event) -> None:
        consumer = AIOKafkaConsumer(
            DELIVERIES.name,
            **aiokafka_options(self._connection),
            group_id=GROUP,
            session_timeout_ms=int(SESSION_S * 1000),
            heartbeat_interval_ms=int(SESSION_S * 1000 / 4),
            enable_auto_commit=False,
            auto_offset_reset="latest",
        )
        await consumer.start()
        try:
            while not stop.is_set():
                assigned = consumer.assignment()
                consumer.pause(*assigned)  # membership is all that is wanted
                self._mine = bool(assigned)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _LOOK_S)
        finally:
            await consumer.stop()
