"""The projections over HTTP, and what control runs of them."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, model_validator

from projections import routing_api, usage
from projections.analyst import Analyst, Result
from projections.data_keys import DataKeys
from projections.feedback import FeedbackStore
from projections.jobs import Replays
from projections.moments import Moment
from projections.projection import projections, topics_of
from projections.projector import Projector
from projections.replay import Replayer, reference_of
from projections.settings import ProjectionsSettings
from schemas.encoder import LONG_MAX
from schemas.errors import InvalidRequest, NotFound
from schemas.log import Log
from schemas.privacy import MasterKey, Opener

_FEEDBACK_MAX = 1000
_USER_FEEDBACK_MAX = 100
_CALL_PARTS = {
    "requests": "SELECT * FROM requests WHERE request_id = ? ORDER BY log_offset",
    "responses": "SELECT * FROM responses WHERE request_id = ? ORDER BY log_offset",
    "costs": "SELECT * FROM costs WHERE request_id = ? ORDER BY log_offset",
    "feedback": "SELECT feedback_id, occurred_at, feedback_type, satisfaction_score, "
    "has_correction FROM feedback WHERE request_id = ? ORDER BY log_offset",
}

Since = Annotated[Moment | None, Query(description="from this time on; UTC unless it says so")]
Kind = Annotated[str | None, Query(description="a feedback type", examples=["thumbs_up"])]
Offset = Annotated[int, Query(ge=0, le=LONG_MAX, description="how many to skip")]


class Statement(BaseModel):
    """An analyst's statement. `moment` names a database that a replay `as_of` has kept."""

    query: str = Field(description="one statement that reads", examples=["FROM calls LIMIT 10"])
    limit: int | None = Field(None, ge=1, description="rows at most; 1,000 unless given")
    timeout_seconds: float | None = Field(None, gt=0, description="30 unless given")
    format: Literal["rows", "objects", "csv"] = Field("rows", description="shape of the answer")
    moment: str | None = Field(None, description="a database of the past instead of now")

    @model_validator(mode="before")
    @classmethod
    def _accept_sql(cls, data: Any) -> Any:
        if isinstance(data, dict) and "sql" in data and "query" not in data:
            return {**data, "query": data["sql"]}
        return data


class ReplayOrder(BaseModel):
    """How to replay; see `weir replay --help`."""

    verify: bool = Field(False, description="only compare, then throw the rebuild away")
    as_of: str | None = Field(None, description="a time, or offsets as JSON", examples=[None])


def component(
    settings: ProjectionsSettings,
    log: Log,
    open_log: Callable[[], AbstractAsyncContextManager[Log]],
) -> Projections:
    """Return what control runs and serves."""
    return Projections(settings, log, open_log)


class Projections:
    """The projector, the analysts' workers, the replays, and the routes to them."""

    def __init__(
        self,
        settings: ProjectionsSettings,
        log: Log,
        open_log: Callable[[], AbstractAsyncContextManager[Log]],
    ) -> None:
        self._log = log
        self._keys = DataKeys()
        self.projector = Projector(settings, open_log)
        self.analyst = Analyst(
            settings, self.projector.snapshot, [item.name for item in projections()]
        )
        self.replays = Replays(Replayer(settings, open_log, self.projector))
        opener = (
            Opener(MasterKey(settings.master_key), self._keys.find) if settings.master_key else None
        )
        self.feedback = FeedbackStore(opener)
        decisions = routing_api.router(self.projector.live)
        used = usage.router(self.projector.live)
        self.routers = [_sql(self), _tables(self), _feedback(self), decisions, used]

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log until `stop`. Raises what ended it before."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._log.follow([self._keys.view], stop))  # type: ignore[list-item]
                group.create_task(self.projector.run(stop))
        finally:
            await asyncio.to_thread(self.analyst.close)

    def ready(self) -> str | None:
        """Say why queries would not see what happens now, None when they do."""
        status = self.projector.status
        if status.error is not None:
            return f"projections: {status.error}"
        if not self.projector.caught_up.is_set():
            return f"projections: {status.lag_records} records behind"
        return None

    def status(self) -> dict[str, Any]:
        """Return the projector's figures."""
        plain: dict[str, Any] = msgspec.to_builtins(self.projector.status)
        return plain


def _sql(owner: Projections) -> APIRouter:
    router = APIRouter(tags=["analytics"])
    summary = "Run a statement on a snapshot at most seconds old"
    answers: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}}}}

    @router.post("/sql", summary=summary, responses=answers)
    @router.post("/api/v1/sql", summary=summary, responses=answers)
    def run_statement(statement: Statement) -> Response:
        result = owner.analyst.run(
            statement.query,
            rows=statement.limit,
            timeout_s=statement.timeout_seconds,
            database=None if statement.moment is None else _moment(owner, statement.moment),
        )
        if statement.format == "csv":
            return Response(_csv(result), media_type="text/csv; charset=utf-8")
        if statement.format == "objects":
            names = [column["name"] for column in result.columns]
            rows = msgspec.json.decode(result.rows, type=list[list[Any]])
            objects = [dict(zip(names, row, strict=True)) for row in rows]
            return _json(msgspec.to_builtins(msgspec.structs.replace(result, rows=objects)))
        return _json(result)

    return router


def _tables(owner: Projections) -> APIRouter:
    router = APIRouter(prefix="/api/v1", tags=["projections"])

    @router.get("/projections", summary="What is projected, how far it is, and its digests")
    def list_projections(
        digest: Annotated[bool, Query(description="hash every row too: seconds")] = False,
    ) -> Response:
        chosen = projections()
        body: dict[str, Any] = {
            "projector": owner.status(),
            "cursor": owner.projector.live().cursor().positions,
            "projections": [
                {
                    "name": item.name,
                    "kind": "table" if item.event_type else "view",
                    "event": item.event_type.type if item.event_type else None,
                    "version": item.version,
                    "grain": item.grain,
                    "reads": list(item.sources) or [topic.name for topic in topics_of([item])],
                    "audits": [audit.name for audit in item.audits],
                }
                for item in chosen
            ],
        }
        if digest:
            reference = reference_of(owner.projector.snapshot(0.0).path, chosen)
            body["digests"] = reference.digests
            body["digests_at"] = reference.cursor.positions
        return _json(body)

    @router.post("/projections/{name}/replay", status_code=202, summary="Rebuild from the log")
    def replay(name: str, order: ReplayOrder) -> Response:
        return _json(owner.replays.start(name, order.verify, order.as_of), 202)

    @router.get("/replays", summary="The last replays, newest first")
    def list_replays() -> Response:
        return _json({"replays": owner.replays.all()})

    @router.get("/replays/{replay_id}", summary="How far a replay is, and what it found")
    def get_replay(replay_id: str) -> Response:
        return _json(owner.replays.get(replay_id))

    @router.get("/calls/{request_id}", summary="Everything recorded of one request but its texts")
    def get_call(request_id: str) -> Response:
        database = owner.projector.live()
        calls = database.records("SELECT * FROM calls WHERE request_id = ?", [request_id])
        if not calls:
            raise NotFound(
                f"no request {request_id} is known",
                action="Check the id; a request shows within seconds of its admission.",
            )
        parts = {
            name: [_utc(row) for row in database.records(statement, [request_id])]
            for name, statement in _CALL_PARTS.items()
        }
        return _json({"call": _utc(calls[0]), **parts})

    return router


def _feedback(owner: Projections) -> APIRouter:
    router = APIRouter(tags=["feedback"])

    @router.get("/api/v1/feedback", summary="Feedback from a time on, oldest first")
    def list_feedback(
        since: Since = None,
        type: Kind = None,  # noqa: A002 - the query parameter's name
        limit: Annotated[int, Query(ge=1, le=_FEEDBACK_MAX)] = _USER_FEEDBACK_MAX,
        offset: Offset = 0,
    ) -> Response:
        database = owner.projector.live()
        found = owner.feedback.since(database, since, type, limit, offset)
        total = owner.feedback.count(database, since, type)
        return _json({"feedback": found, "total": total, "limit": limit, "offset": offset})

    @router.get("/api/v1/feedback/count", summary="How much feedback there is from a time on")
    def count_feedback(since: Since = None, type: Kind = None) -> Response:  # noqa: A002
        return _json({"count": owner.feedback.count(owner.projector.live(), since, type)})

    @router.get("/api/v1/feedback/{feedback_id}", summary="One piece of feedback")
    def get_feedback(feedback_id: str) -> Response:
        return _json(owner.feedback.get(owner.projector.live(), feedback_id))

    @router.get("/api/v1/users/{user_id}/feedback", summary="A user's feedback, newest first")
    def user_feedback(
        user_id: str,
        limit: Annotated[int, Query(ge=1, le=_FEEDBACK_MAX)] = _USER_FEEDBACK_MAX,
        offset: Offset = 0,
    ) -> Response:
        found = owner.feedback.by_user(owner.projector.live(), user_id, limit, offset)
        return _json({"feedback": found, "limit": limit, "offset": offset})

    return router


def _moment(owner: Projections, name: str) -> Path:
    path = owner.projector.folder.moments / name
    if path.parent != owner.projector.folder.moments or not path.is_file():
        raise InvalidRequest(
            f"there is no database {name!r} of the past",
            action="POST /api/v1/projections/all/replay with as_of makes one and names it.",
        )
    return path


def _utc(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose times say that they are UTC."""
    return {
        name: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
        for name, value in row.items()
    }


def _csv(result: Result) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(column["name"] for column in result.columns)
    for row in msgspec.json.decode(result.rows, type=list[list[Any]]):
        writer.writerow(
            msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value
            for value in row
        )
    return sink.getvalue()


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
