"""What all administration endpoints share: who acts, how a change is carried out, told and audited."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from infra.audit import Auditor
from infra.commands import Accepted, Commands
from schemas.encoder import LONG_MAX
from schemas.errors import NotFound, ValidationFailed
from schemas.events.changes import Change, KeyChanged

OPERATOR = "operator"
"""The actor of commands on the installation's own machine."""

PREFIXES = ("/api/v1", "")
"""Where the administration's paths answer: with our prefix, and as the first clients wrote them."""

Limit = Annotated[int, Query(ge=1, le=1000, description="how many at most")]
Offset = Annotated[int, Query(ge=0, le=LONG_MAX, description="how many to skip")]
Expected = Annotated[
    int | None,
    Query(
        ge=0,
        validation_alias="expected_version",
        description="refuse with 409 unless this is the current version; 0: must not exist yet",
    ),
]


class Problem(BaseModel):
    """What went wrong, as every endpoint of ours tells it."""

    code: str = Field(description="stable", examples=["version_conflict"])
    message: str = Field(description="what happened")
    type: str = Field(description="whose fault it is")
    action: str = Field(description="what to do about it")
    details: list[str] = Field(description="every field that is wrong")
    request_id: str = Field(description="names the request in the log")
    retryable: bool = Field(description="whether the same request may succeed later")
    retry_after_seconds: float | None = Field(description="when")


class ProblemBody(BaseModel):
    """The body of every error."""

    error: Problem


class Pending(BaseModel):
    """A command that the log has and this control has not read back within two seconds."""

    status: str = Field("accepted", description="always accepted")
    entity: str | None = Field(
        None, description="what the log calls it; of an API key its id", examples=["route:support"]
    )
    position: str = Field(description="topic|partition@offset", examples=["weir.routing…|0@17"])


ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {"model": Pending, "description": "the log has it; not read back yet"},
    404: {"model": ProblemBody, "description": "there is no such entity"},
    409: {"model": ProblemBody, "description": "another change was first"},
    422: {"model": ProblemBody, "description": "fields are wrong"},
    503: {"model": ProblemBody, "description": "the broker is away; nothing was changed"},
}


@dataclass(frozen=True)
class Desk:
    """The way in for every change."""

    commands: Commands
    auditor: Auditor

    async def done(
        self,
        action: str,
        accepted: Accepted,
        body: Mapping[str, Any],
        status: int = 200,
    ) -> Response:
        """Audit a command and answer it."""
        event = accepted.event
        await self.auditor.record(
            event.actor, action, event.key, {"version": str(event.entity_version)}
        )
        if not accepted.in_force:
            place = accepted.position
            position = f"{place.topic}|{place.partition}@{place.offset}"
            # A secret is shown once, so it is shown even now.
            late = {"status": "accepted", "entity": event.key, "position": position}
            return JSONResponse(late | {k: v for k, v in body.items() if k == "secret"}, 202)
        return JSONResponse(dict(body), status, {"ETag": f'"{event.entity_version}"'})


def actor_of(request: Request) -> str:
    """Who asks: the id of a key, or the operator of this machine."""
    key: KeyChanged | None = getattr(request.state, "key", None)
    return key.key_id if key is not None else OPERATOR


def about(event: Change) -> dict[str, Any]:
    """What every entity tells of its last change."""
    return {
        "version": event.entity_version,
        "actor": event.actor,
        "updated_at": iso(event.occurred_at_us),
    }


def iso(at_us: int | None) -> str | None:
    """A time as it is told outside."""
    if at_us is None:
        return None
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat().replace("+00:00", "Z")


def found(event: Any, what: str) -> Any:
    """The entity, if there is one. Raises NotFound."""
    if event is None:
        raise NotFound(f"there is no {what}")
    return event


def page(items: list[dict[str, Any]], limit: int, offset: int) -> dict[str, Any]:
    """One page of a list."""
    shown = items[offset : offset + limit]
    return {"items": shown, "total": len(items), "limit": limit, "offset": offset}


def merged(table: BaseModel, patch: Mapping[str, Any]) -> Any:
    """A table with some fields replaced. Raises ValidationFailed with every field that is wrong."""
    changes = {snake(name): value for name, value in patch.items()}
    return validated(type(table), {**table.model_dump(), **changes})


def validated(model: type[BaseModel], fields: Mapping[str, Any]) -> Any:
    """A table of these fields. Raises ValidationFailed with every field that is wrong."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        details = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()
        ]
        raise ValidationFailed(
            "the request does not have the expected form", details=details
        ) from error


def snake(name: str) -> str:
    """A field's name in our own case."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda it: "_" + it[1].lower(), name)
