"""`/health`, `/ready` and `/status`: whether it lives, whether it can serve, how it is."""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psutil
from fastapi import APIRouter, Request

from infra.broker import serves
from infra.state import seen_state
from infra.workers import worker_figures
from schemas import __version__
from schemas.clock import now_us
from schemas.errors import Unavailable
from schemas.events.operations import Heartbeat
from schemas.log import Connection
from schemas.table_view import TableView


class Reporting(Protocol):
    """The part of a component that this page asks."""

    def ready(self) -> str | None:
        """Why it cannot serve yet, None when it can."""
        ...

    def status(self) -> dict[str, Any]:
        """Its figures."""
        ...


def system_router(
    home: Path,
    connection: Connection,
    components: Mapping[str, Reporting],
    configured: Sequence[TableView[Any]],
    heartbeats: TableView[Heartbeat],
) -> APIRouter:
    """The routes; `configured` are the views that must not be empty before requests can flow."""
    router = APIRouter(tags=["system"])

    @router.get("/", summary="Where things are")
    async def root() -> dict[str, str]:
        return {
            "service": "weir",
            "openai_base_url": "/v1",
            "anthropic_base_url": "/",
            "models": "/v1/models",
            "health": "/health",
            "ready": "/ready",
            "openapi": "/openapi.json",
        }

    @router.get("/health", summary="Whether control lives")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @router.get("/ready", summary="503 until broker, projections and one model route work")
    async def ready() -> dict[str, str]:
        if reasons := await _reasons(connection, components, configured):
            raise Unavailable(f"not ready: {'; '.join(reasons)}", details=reasons)
        return {"status": "ready"}

    @router.get("/status", summary="Parts, workers, lag, machine, version")
    async def status(request: Request) -> dict[str, Any]:
        del request
        state = await asyncio.to_thread(seen_state, home)
        return {
            "version": __version__,
            "time": datetime.now(UTC).isoformat(),
            "uptime_seconds": None if state is None else (now_us() - state.started_at_us) / 1e6,
            "sandbox": None if state is None else state.sandbox,
            "broker": {
                "bootstrap": connection.bootstrap,
                "reachable": await asyncio.to_thread(serves, connection),
            },
            "parts": [] if state is None else msgspec.to_builtins(state.parts),
            "trainer_environment": None if state is None else state.trainer_environment,
            "heartbeats": {
                key: {
                    "age_seconds": (now_us() - beat.occurred_at_us) / 1e6,
                    "lag": beat.lag,
                    "lags": beat.lags,
                    "late": beat.late,
                    "instance": beat.instance,
                }
                for key, beat in heartbeats.entries.items()
            },
            "workers": await asyncio.to_thread(worker_figures, home),
            "machine": await asyncio.to_thread(machine, home),
            **{name: component.status() for name, component in components.items()},
        }

    return router


async def _reasons(
    connection: Connection,
    components: Mapping[str, Reporting],
    configured: Sequence[TableView[Any]],
) -> list[str]:
    reasons = []
    if not await asyncio.to_thread(serves, connection):
        reasons.append(f"Kafka at {connection.bootstrap} does not answer")
    for view in configured:
        if not view.entries:
            name = view.event_type.__name__.removesuffix("Changed").lower()
            reasons.append(f"no {name} is configured")
    for name, component in components.items():
        if reason := component.ready():
            reasons.append(f"{name}: {reason}")
    return reasons


def machine(home: Path) -> dict[str, Any]:
    """Return how busy this machine is."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(home)
    return {
        "cpu_percent": psutil.cpu_percent(),
        "cpu_count": psutil.cpu_count(),
        "memory_used_bytes": memory.total - memory.available,
        "memory_total_bytes": memory.total,
        "disk_free_bytes": disk.free,
        "gpu": _gpus(),
    }


def _gpus() -> list[str]:
    """The accelerators that the kernel's driver shows; empty without any."""
    folder = Path("/proc/driver/nvidia/gpus")
    if not folder.is_dir():
        return []
    lines = [line for card in folder.iterdir() for line in _lines(card / "information")]
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
