"""The endpoints: `/api/ai/health`, `/api/phase3/status`, `/routing/optimizer`, insights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from infra.admin_desk import ANSWERS, Limit, Offset, actor_of, found
from infra.steering import forms
from infra.steering.acts import DONE, SteeringActs
from infra.steering.board import SteeringBoard, told
from infra.steering.canaries import CanaryBoard
from infra.steering.insights import insights

ROUTING_PATHS = ("/routing/optimizer", "/api/v1/routing/optimizer")
INSIGHT_PATHS = ("/admin/analytics/insights", "/api/v1/admin/analytics/insights")


_ANSWERS = {
    **ANSWERS,
    202: {"model": forms.Done, "description": "the log has it; not read back yet"},
}


def steering_router(
    board: SteeringBoard,
    canaries: CanaryBoard,
    acts: SteeringActs,
    monitoring: Callable[[], dict[str, Any]],
) -> APIRouter:
    """The routes; `monitoring` are further figures for the status."""
    router = APIRouter(tags=["steering"])

    @router.get("/api/ai/health", summary="The state of the whole")
    async def health() -> forms.AiHealth:
        return board.health(insights(board), canaries.states())

    async def done(action: str, params: dict[str, Any], actor: str) -> JSONResponse:
        status, result = await acts.act(action, params, actor)
        body = forms.Done(action=action, status=status, result=result)
        return JSONResponse(body.model_dump(mode="json"), 200 if status == DONE else 202)

    @router.post(
        "/api/ai/health",
        summary="Do something about it",
        description=f"Actions: {', '.join(acts.names)}.",
        response_model=forms.Done,
        responses=_ANSWERS,
    )
    async def act(request: Request, body: forms.Command) -> JSONResponse:
        return await done(body.action, body.params, actor_of(request))

    @router.get("/api/phase3/status", summary="What acts by itself, and what it brings")
    async def phase3() -> forms.Phase3Status:
        return board.phase3(monitoring())

    async def history(limit: Limit = 100, offset: Offset = 0) -> forms.ActionPage:
        every = [told(item) for item in reversed(board.history.acts)]
        return forms.ActionPage(
            rules=board.rules(),
            preferences=board.preferences(),
            items=every[offset : offset + limit],
            total=len(every),
            limit=limit,
            offset=offset,
        )

    async def listing(limit: Limit = 100, offset: Offset = 0) -> forms.InsightPage:
        every = insights(board)
        items = every[offset : offset + limit]
        return forms.InsightPage(items=items, total=len(every), limit=limit, offset=offset)

    async def apply(request: Request, insight_id: str) -> JSONResponse:
        chosen = next((one for one in insights(board) if one.id == insight_id), None)
        one: forms.Insight = found(chosen, f"insight {insight_id}")
        return await done(one.action, one.params, actor_of(request))

    for path in ROUTING_PATHS:
        router.get(path, summary="The optimizer's rules and changes")(history)
    for path in INSIGHT_PATHS:
        shown = path.startswith("/api")
        router.get(path, summary="What is worth doing", include_in_schema=shown)(listing)
        router.post(
            f"{path}/{{insight_id:path}}/apply",
            summary="Do what an insight proposes",
            include_in_schema=shown,
            response_model=forms.Done,
            responses=_ANSWERS,
        )(apply)
    return router
