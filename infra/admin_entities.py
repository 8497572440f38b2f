"""One set of endpoints for each kind of entity: list, read, create, replace, change, remove."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, create_model

from infra import entities
from infra.admin_desk import (
    ANSWERS,
    Desk,
    Expected,
    Limit,
    Offset,
    about,
    actor_of,
    found,
    merged,
    page,
)
from infra.commands import Commands
from infra.configuration import Document, dangling
from infra.kinds import Kind
from schemas.errors import Conflict
from schemas.identity import uuid7

PATHS = {
    "budgets": "/cost/budgets",
    "alert_rules": "/cost/alerts",
    "alert_channels": "/alerts/channels",
}
"""Where a kind's path is not its plural."""
OWN_IDS = frozenset({"budgets", "limits", "alert_rules"})
"""Kinds whose ids are made where none is given."""
NAMING = frozenset({"routes", "alert_rules"})
"""Kinds that name others, which may come later: what nobody has is told and not refused."""


def entity_router(desk: Desk, kind: Kind[Any, Any], *, reads: bool = True) -> APIRouter:
    """The endpoints of a kind; without `reads` somebody else serves what is read."""
    router = APIRouter(tags=[kind.plural])
    path = PATHS.get(kind.plural, f"/{kind.plural}")
    if reads:
        _reading(router, desk, kind, path)
    _writing(router, desk, kind, path)
    return router


def shown(kind: Kind[Any, Any], event: Any, commands: Commands) -> dict[str, Any]:
    """An entity as it is told outside, with what it names and nobody has now."""
    entity_id, table = kind.identify(event), kind.table(event)
    told = {"id": entity_id, **about(event), **table.model_dump(mode="json")}
    if kind.plural in NAMING:
        alone = Document().model_copy(update={kind.plural: {entity_id: table}})
        told["warnings"] = list(dangling(alone, commands))
    return told


def _key(desk: Desk, kind: Kind[Any, Any], entity_id: str) -> str:
    """The key of what a path names; a price without its ``@MICROSECONDS`` is the one in force."""
    view, key = desk.commands.view(kind.event), kind.key(entity_id, None)
    if kind is entities.PRICE and view.get(key) is None:
        event = entities.in_force(entity_id, view.entries.values())
        return key if event is None else event.key
    return key


def _models(kind: Kind[Any, Any]) -> tuple[type[BaseModel], type[BaseModel], type[BaseModel]]:
    """What is told of an entity, a page of them, and what creates one."""
    name = kind.name.title().replace("_", "")
    identity: Any = (str, Field(description="names it", examples=[_EXAMPLES.get(kind.name, "…")]))
    entity = create_model(
        name,
        __base__=kind.model,
        id=identity,
        version=(int, Field(description="counts its changes")),
        actor=(
            str,
            Field(description="who changed it last: a key id, operator, settings, apply:…"),
        ),
        updated_at=(str, Field(description="when", examples=["2026-11-20T21:45:20.864Z"])),
        **({"warnings": _WARNINGS} if kind.plural in NAMING else {}),
    )
    listed = create_model(
        f"{name}Page",
        items=(list[entity], ...),  # type: ignore[valid-type]
        total=(int, Field(description="how many there are")),
        limit=(int, ...),
        offset=(int, ...),
    )
    chosen: Any = (
        (str | None, Field(default=None, description="made unless given"))
        if kind.plural in OWN_IDS
        else identity
    )
    return entity, listed, create_model(f"New{name}", __base__=kind.model, id=chosen)


_WARNINGS: Any = (list[str], Field(description="names that nothing stands behind"))
_EXAMPLES = {
    "provider": "my-vllm",
    "target": "my-vllm/llama-3.1-8b",
    "route": "support",
    "tenant": "team:search",
    "price": "my-vllm/llama-3.1-8b",
    "alert_rule": "search-burns",
    "alert_channel": "on-call",
}


def _reading(router: APIRouter, desk: Desk, kind: Kind[Any, Any], path: str) -> None:
    entity, listed, _ = _models(kind)

    @router.get(path, summary=f"List {kind.plural.replace('_', ' ')}", response_model=listed)
    async def listing(limit: Limit = 100, offset: Offset = 0) -> JSONResponse:
        events = sorted(desk.commands.view(kind.event).entries.values(), key=kind.identify)
        items = [shown(kind, event, desk.commands) for event in events[offset : offset + limit]]
        told = page([], limit, offset) | {"items": items, "total": len(events)}
        return JSONResponse(told)

    @router.get(
        path + "/{entity_id:path}",
        summary=f"One {kind.name.replace('_', ' ')}",
        response_model=entity,
        responses={404: ANSWERS[404]},
    )
    async def one(entity_id: str) -> JSONResponse:
        event = desk.commands.view(kind.event).get(_key(desk, kind, entity_id))
        return JSONResponse(shown(kind, found(event, f"{kind.name} {entity_id}"), desk.commands))


def _writing(router: APIRouter, desk: Desk, kind: Kind[Any, Any], path: str) -> None:
    entity, _, new = _models(kind)
    told: dict[str, Any] = {"response_model": entity, "responses": ANSWERS}

    async def put(
        request: Request, entity_id: str, table: Any, expected: int | None, action: str
    ) -> Response:
        view = desk.commands.view(kind.event)
        if kind is entities.PRICE:
            table = entities.dated(entity_id, table, view.entries.values())
        key = kind.key(entity_id, table)
        exists = view.get(key) is not None
        accepted = await desk.commands.put(
            kind.event,
            key,
            kind.fields(entity_id, table),
            actor=actor_of(request),
            expected_version=expected,
        )
        body = shown(kind, accepted.event, desk.commands)
        return await desk.done(
            f"{kind.name}.{action if exists else 'create'}", accepted, body, 200 if exists else 201
        )

    async def create(request: Request, body: Any) -> Response:
        entity_id = body.id or uuid7()
        table = kind.model.model_validate(body.model_dump(exclude={"id"}))
        return await put(request, entity_id, table, 0, "create")

    async def replace(
        request: Request, entity_id: str, body: Any, expected_version: Expected = None
    ) -> Response:
        return await put(request, entity_id, body, expected_version, "replace")

    async def change(
        request: Request,
        entity_id: str,
        body: dict[str, Any],
        expected_version: Expected = None,
    ) -> Response:
        event = found(
            desk.commands.view(kind.event).get(_key(desk, kind, entity_id)),
            f"{kind.name} {entity_id}",
        )
        table = merged(kind.table(event), body)
        if expected_version not in {None, event.entity_version}:
            raise Conflict(f"{event.key} has version {event.entity_version}")
        return await put(request, kind.identify(event), table, event.entity_version, "change")

    async def remove(request: Request, entity_id: str, expected_version: Expected = None) -> Any:
        accepted = await desk.commands.delete(
            kind.event,
            _key(desk, kind, entity_id),
            actor=actor_of(request),
            expected_version=expected_version,
        )
        body = {"id": entity_id, "deleted": True, **about(accepted.event)}
        return await desk.done(f"{kind.name}.delete", accepted, body)

    # FastAPI reads a body's form from the annotation, which differs from kind to kind.
    create.__annotations__["body"] = new
    replace.__annotations__["body"] = kind.model
    place = path + "/{entity_id:path}"
    noun = _noun(kind)
    new_one = {201: {"model": entity, "description": "there was none: it is made"}}
    made: dict[str, Any] = {**told, "responses": {**ANSWERS, **new_one}}
    router.post(path, summary=f"Create {noun}", status_code=201, **told)(create)
    router.put(place, summary=f"Create or replace {noun}", **made)(replace)
    router.patch(place, summary=f"Change some fields of {noun}", **told)(change)
    router.delete(place, summary=f"Remove {noun}", responses=ANSWERS)(remove)


def _noun(kind: Kind[Any, Any]) -> str:
    article = "an" if kind.name[0] in "aeiou" else "a"
    return f"{article} {kind.name.replace('_', ' ')}"
