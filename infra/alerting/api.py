"""`/admin/alerts` (OPS-01): what is wrong, what was; acknowledged and resolved by hand; as a stream."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from infra.admin_desk import ANSWERS, PREFIXES, Limit, Offset, actor_of
from infra.alerting.book import AlertBook
from infra.alerting.senders import told
from infra.audit import Auditor
from infra.event_streams import EventStream, Listeners, frame
from schemas.alerts import ACKNOWLEDGED, RESOLVED, rank
from schemas.clock import now_us
from schemas.errors import Conflict, NotFound, Unavailable
from schemas.events.operations import AlertChanged
from schemas.identity import uuid7
from schemas.log import Log

APPLIED_WITHIN_S = 2.0


class Alert(BaseModel):
    """Something that is wrong, or was."""

    id: str = Field(description="names what is wrong", examples=["circuit:openai/gpt-4o"])
    type: str = Field(examples=["circuit_open"])
    severity: str = Field(description="info, warning, error or critical", examples=["error"])
    scope: str = Field(description="whom it concerns", examples=["target:openai/gpt-4o"])
    status: str = Field(description="open, acknowledged or resolved", examples=["open"])
    message: str
    value: float | None = Field(description="the figure that raised it")
    threshold: float | None = Field(description="what it is compared with")
    opened_at: datetime | None = Field(description="when it was raised (UTC)")
    updated_at: datetime | None = Field(description="when something was said of it last (UTC)")
    acknowledged_at: datetime | None
    acknowledged_by: str | None = Field(description="a key's id, or operator")
    resolved_at: datetime | None
    resolved_by: str | None = Field(description="who did it by hand; null when it ended by itself")
    rule_id: str | None = Field(description="the rule that raised it")
    channels: list[str] = Field(description="who is told; all channels when empty")
    details: dict[str, str]


class AlertPage(BaseModel):
    """Alerts that stand before those that are over, each the newest first."""

    items: list[Alert]
    total: int
    limit: int
    offset: int


Status = Annotated[
    Literal["open", "acknowledged", "resolved", "standing"] | None,
    Query(description="those of this status; standing: open and acknowledged"),
]
Kind = Annotated[str | None, Query(alias="type", description="of this type")]
Severity = Annotated[
    Literal["info", "warning", "error", "critical"] | None, Query(description="at least so bad")
]
Scope = Annotated[str | None, Query(description="of this scope", examples=["team:search"])]


class Acts:
    """What people do to alerts, as events."""

    def __init__(self, log: Log, book: AlertBook, auditor: Auditor) -> None:
        self._log = log
        self._book = book
        self._auditor = auditor

    async def act(self, alert_id: str, status: str, actor: str) -> JSONResponse:
        """Acknowledge or resolve an alert by hand. Raises NotFound, Conflict, BrokerUnavailable."""
        current = self.find(alert_id)
        if current.status == RESOLVED:
            raise Conflict(f"the alert {alert_id} is over", action="Nothing is left to be done.")
        if current.status == status:
            raise Conflict(
                f"{current.acknowledged_by} has acknowledged {alert_id}",
                action="Nothing is left to be done.",
            )
        event = self._event(current, status, actor)
        read_back: asyncio.Future[AlertChanged] = asyncio.get_running_loop().create_future()

        def hear(state: AlertChanged) -> None:
            if state.event_id == event.event_id and not read_back.done():
                read_back.set_result(state)

        unhear = self._book.hear(hear)
        try:
            place = await self._log.publish(event)
            await self._auditor.record(actor, f"alert.{status}", alert_id)
            async with asyncio.timeout(APPLIED_WITHIN_S):
                return JSONResponse(told(await read_back))
        except TimeoutError:
            position = f"{place.topic}|{place.partition}@{place.offset}"
            late = {"status": "accepted", "entity": alert_id, "position": position}
            return JSONResponse(late, 202)
        finally:
            unhear()

    def find(self, alert_id: str) -> AlertChanged:
        """Return an alert. Raises NotFound, Unavailable."""
        if not self._book.caught_up.is_set():
            raise Unavailable("control has not read its alerts yet", retry_after_seconds=1.0)
        found = self._book.get(alert_id)
        if found is None:
            raise NotFound(
                f"there is no alert {alert_id}",
                action="List them with `weir alerts list --all`, or GET /admin/alerts.",
            )
        return found

    def _event(self, current: AlertChanged, status: str, actor: str) -> AlertChanged:
        at_us = now_us()
        by_hand = {
            ACKNOWLEDGED: {"acknowledged_at_us": at_us, "acknowledged_by": actor},
            RESOLVED: {"resolved_at_us": at_us, "resolved_by": actor},
        }[status]
        return msgspec.structs.replace(
            current, event_id=uuid7(), occurred_at_us=at_us, status=status, **by_hand
        )


def alerts_router(book: AlertBook, acts: Acts, listeners: Listeners) -> APIRouter:
    """The endpoints."""
    router = APIRouter(tags=["alerts"])

    async def listing(
        status: Status = None,
        kind: Kind = None,
        severity: Severity = None,
        scope: Scope = None,
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> JSONResponse:
        found = [
            alert
            for alert in book.entries.values()
            if (status is None or alert.status == status)
            or (status == "standing" and alert.status != RESOLVED)
        ]
        found = [
            alert
            for alert in found
            if (kind is None or alert.alert_type == kind)
            and (severity is None or rank(alert.severity) >= rank(severity))
            and (scope is None or alert.scope == scope)
        ]
        found.sort(key=lambda alert: (alert.status == RESOLVED, -(alert.opened_at_us or 0)))
        items = [told(alert) for alert in found[offset : offset + limit]]
        page = {"items": items, "total": len(found), "limit": limit, "offset": offset}
        return JSONResponse(page)

    async def stream() -> EventStream:
        def standing() -> list[bytes]:
            return [frame("alert", told(it), it.event_id) for it in reversed(book.standing)]

        return listeners.response(standing)

    async def one(alert_id: str) -> JSONResponse:
        return JSONResponse(told(acts.find(alert_id)))

    async def acknowledge(request: Request, alert_id: str) -> JSONResponse:
        return await acts.act(alert_id, ACKNOWLEDGED, actor_of(request))

    async def resolve(request: Request, alert_id: str) -> JSONResponse:
        return await acts.act(alert_id, RESOLVED, actor_of(request))

    for prefix in PREFIXES:
        path = f"{prefix}/admin/alerts"
        shown: dict[str, Any] = {"include_in_schema": prefix != ""}
        done: dict[str, Any] = {**shown, "response_model": Alert, "responses": ANSWERS}
        stream_form: dict[int | str, dict[str, Any]] = {
            200: {
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
                "description": "`event: alert`, its data an alert; first those that stand",
            }
        }
        router.get(path, summary="Alerts", response_model=AlertPage, **shown)(listing)
        router.get(
            f"{path}/stream",
            summary="Alerts as they change (SSE)",
            status_code=200,  # FastAPI reads it off no class of one's own
            response_class=EventStream,
            responses=stream_form,
            **shown,
        )(stream)
        router.get(f"{path}/{{alert_id:path}}", summary="One alert", **done)(one)
        router.post(
            f"{path}/{{alert_id:path}}/acknowledge", summary="Say that it is known", **done
        )(acknowledge)
        router.post(f"{path}/{{alert_id:path}}/resolve", summary="End it by hand", **done)(resolve)
    return router
