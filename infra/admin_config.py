"""`/admin/config`: files of settings, applied, exported and taken back over HTTP."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from infra.admin_desk import ANSWERS, Desk, Limit, Offset, actor_of, iso, page
from infra.change_sets import ChangeSets
from infra.configuration import Document, Step, export, plan
from infra.tables import Table
from schemas.errors import ValidationFailed
from schemas.events.configuration import ConfigurationApplied


class Order(Table):
    """What to apply."""

    document: Document = Field(description="the file")
    name: str | None = Field(default=None, description="the file's own name unless given")
    dry_run: bool = Field(default=False, description="only tell what would change")


class RollbackOrder(Table):
    """What to take back."""

    change_set_id: str | None = Field(
        default=None, description="the last one that still stands unless given"
    )
    dry_run: bool = Field(default=False, description="only tell what would change")
    force: bool = Field(default=False, description="even where others changed something since")


class Difference(Table):
    """One entity that changes."""

    kind: str = Field(description="provider, target, route, key…")
    id: str = Field(description="which one")
    action: str = Field(description="create, change, remove, revoke or restore")
    fields: dict[str, list[Any]] = Field(description="what differs: [before, after]")


class Applied(Table):
    """What was done, or would be."""

    name: str = Field(description="whose settings these are")
    change_set_id: str | None = Field(description="names what was written; null in a dry run")
    dry_run: bool = Field(description="whether nothing was written")
    changes: list[Difference] = Field(description="what changes")
    warnings: list[str] = Field(description="names that nothing stands behind")
    secrets: dict[str, str] = Field(description="of keys that were made, by name: shown this once")


class ChangeSet(Table):
    """A file that was applied, or taken back."""

    id: str
    name: str
    applied_at: str
    summary: list[str]
    reverts: str | None


class ChangeSetPage(Table):
    """Some change sets."""

    items: list[ChangeSet]
    total: int
    limit: int
    offset: int


def config_router(desk: Desk, sets: ChangeSets) -> APIRouter:
    """The endpoints."""
    router = APIRouter(tags=["configuration"])

    @router.get(
        "/config",
        summary="Everything that is set, as a file",
        response_model=Document,
        response_model_exclude_defaults=True,
    )
    async def current() -> Document:
        return export(desk.commands)

    @router.post("/config/apply", summary="Apply a file", response_model=Applied, responses=ANSWERS)
    async def apply(request: Request, order: Order) -> Applied:
        name = order.name or order.document.name
        if name is None:
            raise ValidationFailed("the file has no name", details=["name: missing"])
        made = plan(order.document, desk.commands, name)
        if order.dry_run:
            return _applied(name, None, made.steps, made.warnings, {})
        done = await sets.apply(made, name)
        if done.steps:
            detail = {"change_set_id": done.change_set_id, "changes": str(len(done.steps))}
            await desk.auditor.record(actor_of(request), "config.apply", name, detail)
        return _applied(name, done.change_set_id, done.steps, made.warnings, done.secrets)

    @router.get(
        "/config/change-sets", summary="List what was applied", response_model=ChangeSetPage
    )
    async def listing(limit: Limit = 100, offset: Offset = 0) -> dict[str, Any]:
        return page([_told(it) for it in await sets.list()], limit, offset)

    @router.post(
        "/config/rollback",
        summary="Take a change set back",
        response_model=Applied,
        responses=ANSWERS,
    )
    async def rollback(request: Request, order: RollbackOrder) -> Applied:
        chosen = await sets.choose(order.change_set_id)
        done = await sets.rollback(chosen, dry_run=order.dry_run, force=order.force)
        if order.dry_run:
            return _applied(chosen.name, None, done.steps, [], {})
        detail = {"change_set_id": done.change_set_id, "reverts": chosen.change_set_id}
        await desk.auditor.record(actor_of(request), "config.rollback", chosen.name, detail)
        return _applied(chosen.name, done.change_set_id, done.steps, [], {})

    return router


def _applied(
    name: str,
    change_set_id: str | None,
    steps: Sequence[Step],
    warnings: list[str],
    secrets: dict[str, str],
) -> Applied:
    changes = [
        Difference(
            kind=step.kind,
            id=step.id,
            action=step.action,
            fields={field: list(pair) for field, pair in step.fields.items()},
        )
        for step in steps
    ]
    return Applied(
        name=name,
        change_set_id=change_set_id,
        dry_run=change_set_id is None,
        changes=changes,
        warnings=warnings,
        secrets=secrets,
    )


def _told(event: ConfigurationApplied) -> dict[str, Any]:
    return {
        "id": event.change_set_id,
        "name": event.name,
        "applied_at": iso(event.occurred_at_us),
        "summary": event.summary,
        "reverts": event.reverts,
    }
