"""`/admin/cost/realtime` and `/admin/dashboard/realtime`: JSON, or a stream of it twice a second.

Who asks with ``Accept: text/event-stream`` gets the stream. The gateway serves the dashboard's as a
WebSocket too.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from infra.admin_desk import PREFIXES
from infra.event_streams import Listeners, frame
from infra.realtime import Live
from infra.realtime_forms import CostNow, DashboardNow
from infra.system import machine
from infra.workers import worker_figures
from schemas.log import Log

LISTENERS_MAX = 50
EVERY_S = 0.5


class Realtime:
    """What control runs of it: the tables are followed, and whoever listens is told."""

    def __init__(
        self, log: Log, live: Live, home: Path, training: Callable[[], dict[str, Any]]
    ) -> None:
        self._log = log
        self._live = live
        self._home = home
        self._training = training
        self._cost = Listeners("/admin/cost/realtime", LISTENERS_MAX)
        self._dashboard = Listeners("/admin/dashboard/realtime", LISTENERS_MAX)

    @property
    def routers(self) -> Sequence[APIRouter]:
        """The endpoints."""
        router = APIRouter(tags=["realtime"])

        async def cost(request: Request) -> Response:
            return self._answer(request, self._cost, "cost", self._live.cost())

        async def dashboard(request: Request) -> Response:
            return self._answer(request, self._dashboard, "dashboard", await self._seen())

        for prefix in PREFIXES:
            shown: dict[str, Any] = {"include_in_schema": prefix != ""}
            router.get(
                f"{prefix}/admin/cost/realtime",
                summary="What is spent now (JSON or SSE)",
                responses=_either(CostNow),
                response_model=CostNow,
                **shown,
            )(cost)
            router.get(
                f"{prefix}/admin/dashboard/realtime",
                summary="What happens now (JSON, SSE or WebSocket)",
                responses=_either(DashboardNow),
                response_model=DashboardNow,
                **shown,
            )(dashboard)
        return [router]

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the tables, and tell listeners twice a second, until `stop`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._log.follow(self._live.views, stop))
            await self._tell(stop)

    async def _tell(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if len(self._cost):
                self._cost.tell(_framed("cost", self._live.cost()))
            if len(self._dashboard):
                self._dashboard.tell(_framed("dashboard", await self._seen()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), EVERY_S)
        self._cost.close()
        self._dashboard.close()

    def ready(self) -> str | None:
        """It is no reason not to serve."""
        return None

    def status(self) -> dict[str, Any]:
        """Who listens."""
        both = (self._cost, self._dashboard)
        return {
            "listeners": sum(map(len, both)),
            "listeners_dropped": sum(it.dropped for it in both),
        }

    async def _seen(self) -> DashboardNow:
        workers = await asyncio.to_thread(worker_figures, self._home)
        resources = await asyncio.to_thread(machine, self._home)
        runs = self._training()["runs"]
        jobs = sum(runs.get(status, 0) for status in ("pending", "running"))
        return self._live.dashboard(workers, jobs, resources)

    @staticmethod
    def _answer(request: Request, listeners: Listeners, kind: str, now: BaseModel) -> Response:
        if "text/event-stream" in request.headers.get("accept", ""):
            return listeners.response(lambda: [_framed(kind, now)])
        return JSONResponse(now.model_dump(mode="json"))


def _framed(kind: str, now: BaseModel) -> bytes:
    return frame(kind, now.model_dump(mode="json"))


def _either(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "model": model,
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "now; as a stream when asked for `text/event-stream`",
        }
    }
