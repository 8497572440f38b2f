"""A test of every subsystem as it runs (OPS-05): each is asked to do its work once, and reports.

`weir doctor` looks at the machine and the settings; this asks the parts: a record goes through the log and
comes back, every topic is as its events declare it, folds and deciders report, the front door answers.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from infra.admin_desk import PREFIXES, actor_of
from infra.audit import Auditor
from infra.heart import Heart
from infra.initialize import Initialized, told, topic_differences
from infra.state import load_state
from infra.system import Reporting
from infra.topics import partition_counts
from infra.workers import worker_figures
from schemas.clock import now_us
from schemas.errors import Unavailable, WeirError
from schemas.events import topics
from schemas.events.operations import Heartbeat
from schemas.log import Log
from schemas.table_view import TableView

ROUND_TRIP_S = 5.0
SILENT_S = 10.0
LATE_S = 1.0
_LOOK_S = 0.02


class Check(BaseModel):
    """One subsystem's result."""

    subsystem: str = Field(examples=["log"])
    ok: bool
    text: str = Field(description="what was found")
    action: str = Field(description="what to do when it is not ok")
    milliseconds: float


class SelfTestReport(BaseModel):
    """All of them."""

    ok: bool
    initialized: Initialized | None = Field(description="what was changed, if that was asked for")
    checks: list[Check]


class SelfTestOrder(BaseModel):
    """How to test."""

    initialize: bool = Field(
        default=False,
        description="first create what is missing of topics and of what the settings name, and put right"
        " the settings of topics",
    )


class SelfTest:
    """Asks every subsystem of a running installation."""

    def __init__(
        self,
        home: Path,
        log: Log,
        components: Mapping[str, Reporting],
        heartbeats: TableView[Heartbeat],
        heart: Heart,
        initialize: Callable[[], Awaitable[Initialized]],
    ) -> None:
        self._home = home
        self._log = log
        self._components = components
        self._heartbeats = heartbeats
        self._heart = heart
        self._initialize = initialize

    async def report(self, *, initialize: bool = False) -> SelfTestReport:
        """Ask all of them, one after the other."""
        initialized = await self._initialize() if initialize else None
        asked: dict[str, Callable[[], Awaitable[str]]] = {
            "log": self._round_trip,
            "topics": self._topics,
            "streams": self._streams,
            "gateway": self._gateway,
            "workers": self._workers,
            "parts": self._parts,
        }
        for name, component in self._components.items():
            asked[name] = _readiness(component)
        checks = [await _checked(name, ask) for name, ask in asked.items()]
        return SelfTestReport(
            ok=all(check.ok for check in checks), initialized=initialized, checks=checks
        )

    async def _round_trip(self) -> str:
        """A record is appended, and our own view reads it back."""
        beat = await self._heart.beat()
        deadline = time.monotonic() + ROUND_TRIP_S
        while time.monotonic() < deadline:
            seen = self._heartbeats.get(beat.key)
            if seen is not None and seen.event_id == beat.event_id:
                return "a record came back"
            await asyncio.sleep(_LOOK_S)
        raise Unavailable(f"a record did not come back within {ROUND_TRIP_S:g} s")

    async def _topics(self) -> str:
        counts = await asyncio.to_thread(partition_counts, self._log.connection)
        wrong = [topic.name for topic in topics() if counts.get(topic.name) != topic.partitions]
        wrong = wrong or told(await asyncio.to_thread(topic_differences, self._log.connection))
        if wrong:
            raise Unavailable(
                f"not as declared: {', '.join(wrong)}",
                action="Create and put right what is wrong: `weir selftest --initialize`.",
            )
        return f"{len(topics())} as declared"

    async def _streams(self) -> str:
        beat = self._heartbeats.get("streams")
        if beat is None or now_us() - beat.occurred_at_us > SILENT_S * 1e6:
            raise Unavailable("no heartbeat for ten seconds", action="See logs/streams.log.")
        return f"{len(beat.positions)} partitions are folded, {beat.lag} records behind"

    async def _gateway(self) -> str:
        state = await asyncio.to_thread(load_state, self._home)
        if state is None:
            raise Unavailable("the installation has no state file", action="See `weir status`.")
        url = f"{state.public_url}/health"
        try:
            status = await asyncio.to_thread(_answered, url)
        except OSError as error:
            raise Unavailable(f"{url}: {error}", action="See logs/gateway.log.") from error
        return f"{url} answers {status}"

    async def _workers(self) -> str:
        found = await asyncio.to_thread(worker_figures, self._home)
        late = [one["worker"] for one in found if one["lag_seconds"] > LATE_S]
        if not found or late:
            what = f"late by more than a second: {', '.join(late)}" if late else "none reports"
            raise Unavailable(what, action="See `weir status`.")
        waiting = sum(one["outbox"]["entries_waiting"] for one in found)
        return f"{len(found)} report, {waiting} records are not in Kafka yet"

    async def _parts(self) -> str:
        state = await asyncio.to_thread(load_state, self._home)
        bad = [part.name for part in state.parts if part.status != "ready"] if state else []
        if bad:
            raise Unavailable(f"not ready: {', '.join(bad)}", action="See `weir status`.")
        return f"{len(state.parts) if state else 0} ready"


def _readiness(component: Reporting) -> Callable[[], Awaitable[str]]:
    async def ask() -> str:
        if reason := component.ready():
            raise Unavailable(reason, action="Wait a moment; see `weir status`.")
        return "ready"

    return ask


async def _checked(name: str, ask: Callable[[], Awaitable[str]]) -> Check:
    began_s = time.monotonic()
    try:
        ok, text, action = True, await ask(), ""
    except WeirError as error:
        ok, text, action = False, error.message, error.advice
    took_ms = round((time.monotonic() - began_s) * 1000, 1)
    return Check(subsystem=name, ok=ok, text=text, action=action, milliseconds=took_ms)


def _answered(url: str) -> int:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=ROUND_TRIP_S)
    try:
        connection.request("GET", place.path)
        return connection.getresponse().status
    finally:
        connection.close()


def selftest_router(test: SelfTest, auditor: Auditor) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["system"])

    async def run(request: Request, body: SelfTestOrder | None = None) -> SelfTestReport:
        order = body or SelfTestOrder()
        await auditor.record(actor_of(request), "selftest", "installation")
        return await test.report(initialize=order.initialize)

    for prefix in PREFIXES:
        router.post(
            f"{prefix}/admin/selftest",
            summary="Test every subsystem as it runs",
            include_in_schema=prefix != "",
        )(run)
    return router
