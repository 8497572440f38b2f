"""`GET /routing/decisions` (RT-16): what was decided, for whom, and why, from the log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response

from projections.database import Database
from projections.moments import Moment, naive
from schemas.encoder import LONG_MAX
from schemas.money import to_usd

PATHS = ("/routing/decisions", "/api/v1/routing/decisions")
_COLUMNS = """
    asked.request_id, asked.occurred_at AS decided_at, asked.model_requested, asked.route,
    asked.strategy, asked.reason, asked.propensity, asked.candidates,
    asked.target AS first_target, asked.task_type, asked.task_confidence, asked.complexity,
    asked.decision_us, coalesce(ended.target, asked.target) AS target, ended.outcome,
    ended.attempts, ended.cost_nano_usd
"""
_FROM = "FROM requests AS asked LEFT JOIN responses AS ended USING (request_id)"
_FILTERS = {
    "request_id": "asked.request_id = ?",
    "model": "asked.model_requested = ?",
    "route": "asked.route = ?",
    "strategy": "asked.strategy = ?",
    "target": "asked.target = ?",
    "task_type": "asked.task_type = ?",
    "complexity": "asked.complexity = ?",
    "key_id": "asked.key_id = ?",
    "since": "asked.occurred_at >= ?",
}

Text = Annotated[str | None, Query(description="only decisions with this value")]


def router(live: Callable[[], Database]) -> APIRouter:
    """Return the routes; `live` gives the database of now."""
    routes = APIRouter(tags=["routing"])

    def decisions(
        request_id: Text = None,
        model: Text = None,
        route: Text = None,
        strategy: Text = None,
        target: Text = None,
        task_type: Text = None,
        complexity: Text = None,
        key_id: Text = None,
        since: Annotated[
            Moment | None, Query(description="from this time on; UTC unless it says so")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="at most so many")] = 100,
        offset: Annotated[int, Query(ge=0, le=LONG_MAX, description="after so many")] = 0,
    ) -> Response:
        wanted = {
            "request_id": request_id,
            "model": model,
            "route": route,
            "strategy": strategy,
            "target": target,
            "task_type": task_type,
            "complexity": complexity,
            "key_id": key_id,
            "since": since and naive(since),
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(_FILTERS[name] for name in given) or "true"
        values = list(given.values())
        database = live()
        [(total,)] = database.query(f"SELECT count(*) FROM requests AS asked WHERE {where}", values)
        rows = database.records(
            f"SELECT {_COLUMNS} {_FROM} WHERE {where} "
            "ORDER BY asked.occurred_at DESC, asked.request_id DESC LIMIT ? OFFSET ?",
            [*values, limit, offset],
        )
        body = {"decisions": [_shown(row) for row in rows], "total": total}
        return Response(
            msgspec.json.encode({**body, "limit": limit, "offset": offset}),
            media_type="application/json",
        )

    for path in PATHS:
        routes.get(path, summary="What routing decided, newest first")(decisions)
    return routes


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as it goes out: UTC, durations in milliseconds, money as decimal text."""
    cost, decision_us = row.pop("cost_nano_usd"), row.pop("decision_us")
    attempts = row.pop("attempts") or []
    return {
        **row,
        "decided_at": row["decided_at"].replace(tzinfo=UTC),
        "decision_ms": decision_us / 1000,
        "cost_usd": None if cost is None else to_usd(cost),
        "attempts": [
            {
                "target": attempt["target"],
                "outcome": attempt["outcome"],
                "error_class": attempt["error_class"],
                "latency_ms": attempt["latency_us"] / 1000,
            }
            for attempt in attempts
        ],
        "fallback_used": row["target"] != row["first_target"],
    }
