"""`/admin/keys`: API keys over HTTP. A secret is shown in one answer, and never again."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AliasChoices, Field

from infra.admin_desk import (
    ANSWERS,
    Desk,
    Expected,
    Limit,
    Offset,
    about,
    actor_of,
    iso,
    merged,
    page,
)
from infra.keys import OVERLAP, KeyCommands, key_fields, key_table
from infra.tables import KeyTable, Table
from schemas.clock import now_us
from schemas.errors import ValidationFailed
from schemas.events.changes import KeyChanged
from schemas.identity import uuid7_ms

_NO_OVERLAP = timedelta(0)
_OVERLAP_MAX = timedelta(days=365)
_LIFE_MAX = timedelta(days=36_525)


class NewKey(KeyTable):
    """What creates a key."""

    name: str = Field(min_length=1, max_length=200, description="for people", examples=["search"])
    expires_in: timedelta | None = Field(
        ge=_NO_OVERLAP,
        le=_LIFE_MAX,
        default=None,
        validation_alias=AliasChoices(
            "expires_in", "expiresIn", "expires_in_seconds", "expiresInSeconds"
        ),
        description="instead of expires_at: seconds, ISO 8601 (P30D) or hh:mm:ss",
        examples=["P90D"],
    )


class Key(KeyTable):
    """A key as it is told; its secret is known to nobody."""

    id: str = Field(description="names it in the log, in SQL and in these paths")
    name: str
    status: str = Field(description="active, expired or revoked", examples=["active"])
    created_at: str = Field(description="when it was made")
    previous_expires_at: str | None = Field(
        description="until when the secret before the last rotation works"
    )
    version: int = Field(description="counts its changes")
    actor: str = Field(description="who changed it last")
    updated_at: str


class KeyPage(Table):
    """Some keys."""

    items: list[Key]
    total: int
    limit: int
    offset: int


class KeyWithSecret(Table):
    """A key and its secret, this once."""

    key: Key
    secret: str | None = Field(description="the API key; null where its hash was given")


class Rotation(Table):
    """How to rotate."""

    overlap: timedelta = Field(
        default=OVERLAP,
        ge=_NO_OVERLAP,
        le=_OVERLAP_MAX,
        validation_alias=AliasChoices("overlap", "overlap_seconds", "overlapSeconds"),
        description="how long the previous secret still works: seconds, ISO 8601 or hh:mm:ss",
        examples=["PT1H"],
    )


def key_router(desk: Desk) -> APIRouter:
    """The endpoints."""
    router = APIRouter(tags=["keys"])
    keys = KeyCommands(desk.commands)
    _reading(router, keys)
    _writing(router, desk, keys)
    _ending(router, desk, keys)
    return router


def shown(event: KeyChanged) -> dict[str, Any]:
    """A key as it is told outside."""
    table = key_table(event).model_dump(mode="json")
    del table["secret_hash"]
    return {
        "id": event.key_id,
        "name": event.name,
        "status": status_of(event),
        "created_at": iso(uuid7_ms(event.key_id) * 1000),
        "previous_expires_at": iso(event.previous_expires_at_us),
        **about(event),
        **table,
    }


def status_of(event: KeyChanged) -> str:
    """Whether a key can be used."""
    if event.revoked:
        return "revoked"
    ended = event.expires_at_us is not None and event.expires_at_us <= now_us()
    return "expired" if ended else "active"


def _reading(router: APIRouter, keys: KeyCommands) -> None:
    @router.get("/keys", summary="List keys", response_model=KeyPage)
    async def listing(
        limit: Limit = 100,
        offset: Offset = 0,
        status: Annotated[str | None, Query(description="active, expired or revoked")] = None,
        team: Annotated[str | None, Query(description="of this team")] = None,
        project: Annotated[str | None, Query(description="of this project")] = None,
        name: Annotated[str | None, Query(description="with exactly this name")] = None,
    ) -> JSONResponse:
        wanted = {"status": status, "team": team, "project": project, "name": name}
        asked = {field: value for field, value in wanted.items() if value is not None}
        rows = [shown(event) for event in keys.list()]
        rows = [row for row in rows if all(row[field] == asked[field] for field in asked)]
        return JSONResponse(page(rows, limit, offset))

    @router.get(
        "/keys/{key_id}", summary="One key", response_model=Key, responses={404: ANSWERS[404]}
    )
    async def one(key_id: str) -> JSONResponse:
        return JSONResponse(shown(keys.get(key_id)))


def _writing(router: APIRouter, desk: Desk, keys: KeyCommands) -> None:
    @router.post(
        "/keys",
        summary="Create a key; its secret is shown this once",
        status_code=201,
        response_model=KeyWithSecret,
        responses=ANSWERS,
    )
    async def create(request: Request, body: NewKey) -> Response:
        table = KeyTable.model_validate(body.model_dump(exclude={"name", "expires_in"}))
        if body.expires_in is not None:
            if body.expires_at is not None:
                raise ValidationFailed("give expires_in or expires_at, not both")
            until_us = now_us() + body.expires_in // timedelta(microseconds=1)
            table = merged(table, {"expires_at": iso(until_us)})
        accepted, secret = await keys.create(body.name, table, actor_of(request))
        told = {"key": shown(_key(accepted.event)), "secret": secret}
        return await desk.done("key.create", accepted, told, 201)

    @router.patch(
        "/keys/{key_id}",
        summary="Change some fields of a key; its secret stays",
        response_model=Key,
        responses=ANSWERS,
    )
    async def change(
        request: Request, key_id: str, body: dict[str, Any], expected_version: Expected = None
    ) -> Response:
        current = keys.get(key_id)
        name = body.pop("name", current.name)
        if not isinstance(name, str) or not name:
            raise ValidationFailed("a name is a text", details=["name: must be a text"])
        if {"secret_hash", "secretHash"} & set(body):
            raise ValidationFailed("a secret is changed by rotating the key")
        table = merged(key_table(current), body)
        fields = key_fields(key_id, name, table, current.secret_hash)
        accepted = await keys.change(key_id, expected_version, actor_of(request), **fields)
        return await desk.done("key.change", accepted, shown(_key(accepted.event)))


def _ending(router: APIRouter, desk: Desk, keys: KeyCommands) -> None:
    @router.post(
        "/keys/{key_id}/rotate",
        summary="Give a key a new secret, shown this once",
        response_model=KeyWithSecret,
        responses=ANSWERS,
    )
    async def rotate(
        request: Request,
        key_id: str,
        body: Rotation | None = None,
        expected_version: Expected = None,
    ) -> Response:
        overlap = body.overlap if body else OVERLAP
        accepted, secret = await keys.rotate(key_id, overlap, expected_version, actor_of(request))
        told = {"key": shown(_key(accepted.event)), "secret": secret}
        return await desk.done("key.rotate", accepted, told)

    async def revoke(request: Request, key_id: str, expected_version: Expected = None) -> Response:
        accepted = await keys.revoke(key_id, expected_version, actor_of(request))
        return await desk.done("key.revoke", accepted, shown(_key(accepted.event)))

    told: dict[str, Any] = {"response_model": Key, "responses": ANSWERS}
    router.post("/keys/{key_id}/revoke", summary="End a key for good", **told)(revoke)
    router.delete("/keys/{key_id}", summary="The same as revoking it", **told)(revoke)


def _key(event: Any) -> KeyChanged:
    assert isinstance(event, KeyChanged)
    return event
