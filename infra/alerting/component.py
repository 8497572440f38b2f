"""What control runs of alerts: their state, the endpoints, and the delivery."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from infra.alerting.api import Acts, alerts_router
from infra.alerting.book import AlertBook
from infra.alerting.delivery import Deliverer
from infra.alerting.outstanding import DeliverySettings
from infra.alerting.senders import send, told
from infra.alerting.turn import GroupTurn
from infra.audit import Auditor
from infra.event_streams import Listeners, frame
from schemas.events.operations import AlertChanged
from schemas.log import Log
from schemas.table_view import TableView


class Alerting:
    """Follows all alerts and tells people of them."""

    def __init__(self, log: Log, settings: DeliverySettings, auditor: Auditor) -> None:
        self._log = log
        self.book = AlertBook()
        self._turn = GroupTurn(log.connection)
        self._deliverer = Deliverer(log, settings, send, self._turn)
        self._listeners = Listeners("/admin/alerts/stream", settings.listeners_max)
        self.acts = Acts(log, self.book, auditor)
        self.book.hear(self._tell)

    @property
    def routers(self) -> Sequence[APIRouter]:
        """The endpoints."""
        return [alerts_router(self.book, self.acts, self._listeners)]

    async def run(self, stop: asyncio.Event) -> None:
        """Follow and deliver until `stop`."""
        views: list[TableView[Any]] = [self.book]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._log.follow(views, stop))
            group.create_task(self._turn.run(stop))
            group.create_task(self._deliverer.run(stop))
            await stop.wait()
            self._listeners.close()

    def ready(self) -> str | None:
        """Alerts are no reason not to serve."""
        return None

    def status(self) -> dict[str, Any]:
        """How many stand, who listens, and what was delivered since the start."""
        return {
            "standing": len(self.book.standing),
            "listeners": len(self._listeners),
            "listeners_dropped": self._listeners.dropped,
            **self._deliverer.status(),
        }

    def _tell(self, alert: AlertChanged) -> None:
        if self.book.caught_up.is_set():
            self._listeners.tell(frame("alert", told(alert), alert.event_id))
