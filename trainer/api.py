"""Training runs and model versions over HTTP: views of the log, and a run on demand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response

from schemas.clock import now_us
from schemas.encoder import LONG_MAX
from schemas.errors import NotFound
from schemas.events.changes import DeploymentChanged, ModelVersionChanged
from schemas.events.training import StepCompleted, TriggerFired
from schemas.identity import uuid7
from schemas.log import Log
from schemas.table_view import TableView
from trainer.journal import Journal, TrainingRun
from trainer.pipeline import STEPS
from trainer.settings import TrainerSettings

REQUESTED = "requested"
"""Scope and reason of a run that a person asked for; thresholds do not count it."""

Limit = Annotated[int, Query(ge=1, le=100, description="how many at most")]
Offset = Annotated[int, Query(ge=0, le=LONG_MAX, description="how many to skip")]
Name = Annotated[str | None, Query(description="versions of this name alone")]
Status = Annotated[str | None, Query(description="only those in this status")]


def component(
    settings: TrainerSettings,
    log: Log,
    open_log: Callable[[], AbstractAsyncContextManager[Log]],
) -> TrainingDesk:
    """Return what control runs and serves."""
    del open_log
    return TrainingDesk(settings, log)


class TrainingDesk:
    """Views of runs, versions and deployments, and the routes to them."""

    def __init__(self, settings: TrainerSettings, log: Log) -> None:
        self.settings = settings
        self.log = log
        self.journal = Journal()
        self.versions = TableView(ModelVersionChanged)
        self.deployments = TableView(DeploymentChanged)
        self.views: list[TableView[Any]] = [*self.journal.views, self.versions, self.deployments]
        self.routers = [_runs(self), _versions(self)]

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log until `stop`. Raises as the log's readers do."""
        await self.log.follow(self.views, stop)

    def ready(self) -> str | None:
        """Say why runs would be missing, None when they are all known."""
        behind = [view.topic.name for view in self.views if not view.caught_up.is_set()]
        return f"training: still reading {', '.join(sorted(set(behind)))}" if behind else None

    def status(self) -> dict[str, Any]:
        """Return how many runs and versions there are in which state."""
        return {
            "runs": dict(Counter(run.status for run in self.journal.listed())),
            "versions": dict(Counter(v.status for v in self.versions.entries.values())),
        }

    def found(self, run_id: str) -> TrainingRun:
        """Return a run. Raises NotFound."""
        run = self.journal.runs.get(run_id)
        if run is None or run.trigger is None:
            raise NotFound(f"there is no training run {run_id}")
        return run


def requested_run() -> TriggerFired:
    """Return the event by which a person starts a run on the feedback so far."""
    at_us = now_us()
    return TriggerFired(
        event_id=uuid7(),
        occurred_at_us=at_us,
        trigger_id=f"{REQUESTED}#{uuid7()}",
        scope=REQUESTED,
        reason=REQUESTED,
        count=0,
        threshold=0,
        since_us=0,
        until_us=at_us,
    )


class Markdown(Response):
    """A text as it is written."""

    media_type = "text/markdown"


def _runs(desk: TrainingDesk) -> APIRouter:
    router = APIRouter(prefix="/api/model-training", tags=["training"])

    @router.get("/training-jobs", summary="Training runs, newest first")
    def list_runs(limit: Limit = 10, offset: Offset = 0, status: Status = None) -> Response:
        runs = [r for r in desk.journal.listed() if status in {None, r.status}]
        page = [_run_view(run) for run in runs[offset : offset + limit]]
        return _json({"training_jobs": page, "total": len(runs), "limit": limit, "offset": offset})

    @router.post("/training-jobs", status_code=202, summary="Start a run on the feedback so far")
    async def start_run() -> Response:
        event = requested_run()
        await desk.log.publish(event)
        url = f"/api/model-training/training-jobs/{event.event_id}"
        return _json({"job_id": event.event_id, "status_url": url}, 202)

    @router.get("/training-jobs/{job_id}", summary="One run: status, progress, outcome")
    def get_run(job_id: str) -> Response:
        return _json(_run_view(desk.found(job_id)))

    @router.get("/training-jobs/{job_id}/steps", summary="The steps of a run, in order")
    def get_steps(job_id: str) -> Response:
        run = desk.found(job_id)
        return _json({"job_id": job_id, "steps": [_step_view(run, step.name) for step in STEPS]})

    return router


def _versions(desk: TrainingDesk) -> APIRouter:
    router = APIRouter(prefix="/api/model-training", tags=["models"])

    @router.get("/models", summary="Model versions, newest first")
    def list_versions(
        limit: Limit = 10, offset: Offset = 0, name: Name = None, status: Status = None
    ) -> Response:
        found = sorted(
            (
                version
                for version in desk.versions.entries.values()
                if name in {None, version.name} and status in {None, version.status}
            ),
            key=lambda version: (version.occurred_at_us, version.model_version_id),
            reverse=True,
        )
        page = [_version_view(desk, version) for version in found[offset : offset + limit]]
        return _json({"models": page, "total": len(found), "limit": limit, "offset": offset})

    @router.get("/models/{model_id}", summary="One version: files, metrics, where it is deployed")
    def get_version(model_id: str) -> Response:
        return _json(_version_view(desk, _version(desk, model_id)))

    @router.get(
        "/models/{model_id}/report",
        summary="Its evaluation against its base, as Markdown",
        response_class=Markdown,
    )
    def get_report(model_id: str) -> Response:
        version = _version(desk, model_id)
        file = desk.settings.models_dir / version.model_version_id / "report.md"
        if not file.exists():
            raise NotFound(f"{model_id} has no report on this machine")
        return Markdown(file.read_bytes())

    return router


def _version(desk: TrainingDesk, model_id: str) -> ModelVersionChanged:
    version = desk.versions.get(model_id)
    if version is None:
        raise NotFound(f"there is no model version {model_id}")
    return version


def _run_view(run: TrainingRun) -> dict[str, Any]:
    assert run.trigger is not None
    done = sum(step.name in run.completed for step in STEPS)
    ending = run.ending
    version = run.completed.get("register") or run.completed.get("tune")
    return {
        "job_id": run.run_id,
        "status": run.status,
        "progress": 100 if ending else round(100 * done / len(STEPS)),
        "step": None
        if ending
        else next((s.name for s in STEPS if s.name not in run.completed), None),
        "model_id": version.output.get("model_version_id") if version else None,
        "message": ending.reason if ending else None,
        "trigger": msgspec.to_builtins(run.trigger),
        "created_at": _time(run.trigger.occurred_at_us),
        "ended_at": _time(ending.occurred_at_us) if ending else None,
        "tuning": msgspec.to_builtins(run.progress) if run.progress else None,
    }


def _step_view(run: TrainingRun, name: str) -> dict[str, Any]:
    event: StepCompleted | None = run.completed.get(name)
    attempts = run.attempts.get(name, 0)
    started = run.started_at_us.get(name)
    return {
        "step": name,
        "status": event.status if event else "running" if attempts else "pending",
        "attempts": attempts,
        "started_at": _time(started) if started else None,
        "ended_at": _time(event.occurred_at_us) if event else None,
        "duration_seconds": event.duration_us / 1_000_000 if event else None,
        "output": event.output if event else {},
        "metrics": event.metrics if event else {},
        "reason": event.reason if event else None,
    }


def _version_view(desk: TrainingDesk, version: ModelVersionChanged) -> dict[str, Any]:
    return {
        "id": version.model_version_id,
        "name": version.name,
        "status": version.status,
        "base_model": version.base_model,
        "training_job_id": version.run_id,
        "dataset_id": version.dataset_id,
        "files": version.files,
        "metrics": version.metrics,
        "metadata": version.metadata,
        "reason": version.reason,
        "updated_at": _time(version.occurred_at_us),
        "deployments": [
            {"id": d.deployment_id, "model": d.model, "state": d.state, "percentage": d.percentage}
            for d in desk.deployments.entries.values()
            if d.model_version_id == version.model_version_id
        ],
    }


def _time(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat().replace("+00:00", "Z")


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
