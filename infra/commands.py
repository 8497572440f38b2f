"""Commands: how control changes what the log says of keys, routes, budgets and the rest.

A command writes the whole entity with the version after the one that it was made of. Whoever is first
in partition order wins (`Change.follows`), so any number of controls may write: each learns from its
own view of the log whether its change is in force.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from schemas.clock import now_us
from schemas.errors import Conflict, NotFound, Unavailable
from schemas.events.changes import Change
from schemas.identity import uuid7
from schemas.log import Log, Position, Record
from schemas.table_view import TableView

APPLIED_WITHIN_S = 2.0
META = ("event_id", "occurred_at_us", "entity_version", "actor", "deleted")

C = TypeVar("C", bound=Change)


class CommandView(TableView[C]):
    """A view that tells those who wait what became of their change."""

    def __init__(self, event_type: type[C]) -> None:
        super().__init__(event_type)
        self._waiting: dict[bytes, asyncio.Future[bool]] = {}

    def expect(self, event_id: str) -> "asyncio.Future[bool]":
        """What becomes of a change: True when it is in force, False when another was first."""
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[event_id.encode()] = verdict
        return verdict

    def forget(self, event_id: str) -> None:
        """Nobody waits for this change any more."""
        self._waiting.pop(event_id.encode(), None)

    def apply(self, record: Record) -> None:
        """Fold a record in and settle who waits for it."""
        before = self.generation
        super().apply(record)
        verdict = self._waiting.pop(record.header("ce_id") or b"", None)
        if verdict is not None and not verdict.done():
            verdict.set_result(self.generation != before)


@dataclass(frozen=True)
class Accepted:
    """A command that the log has. `in_force` False: our view had not read it after two seconds."""

    event: Change
    position: Position
    in_force: bool


class Commands:
    """Carries out changes of the given kinds and keeps the views that they are made of."""

    def __init__(self, log: Log, event_types: tuple[type[Change], ...]) -> None:
        self._log = log
        self._views = {kind: CommandView(kind) for kind in event_types}

    @property
    def kinds(self) -> tuple[type[Change], ...]:
        """The kinds that it changes."""
        return tuple(self._views)

    @property
    def views(self) -> list[TableView[Any]]:
        """Every view, for `Log.follow`."""
        return list(self._views.values())

    def view_of(self, kind: type[C]) -> CommandView[C]:
        """The view of one kind, read or not."""
        view: CommandView[Any] = self._views[kind]
        return view

    def view(self, kind: type[C]) -> CommandView[C]:
        """The view of one kind. Raises Unavailable before it was read once."""
        view = self.view_of(kind)
        if not view.caught_up.is_set():
            raise Unavailable("control has not read its configuration yet", retry_after_seconds=1.0)
        return view

    async def put(
        self,
        kind: type[C],
        key: str,
        fields: Mapping[str, Any],
        *,
        actor: str,
        expected_version: int | None = None,
        correlation_id: str | None = None,
    ) -> Accepted:
        """Create or replace the entity under a key; `fields` are the event's own.

        `expected_version` 0 demands that it does not exist yet. Raises Conflict, BrokerUnavailable.
        """
        current = self.view(kind).get(key)
        event = kind(**meta(key, current, actor, expected_version), **fields)
        return await self._publish(event, correlation_id)

    async def delete(
        self,
        kind: type[C],
        key: str,
        *,
        actor: str,
        expected_version: int | None = None,
        correlation_id: str | None = None,
    ) -> Accepted:
        """Remove the entity under a key. Raises NotFound, Conflict, BrokerUnavailable."""
        current = self.view(kind).get(key)
        if current is None:
            name = kind.__name__.removesuffix("Changed")
            what = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
            raise NotFound(f"there is no {what} {key.removeprefix(f'{what}:')}")
        changes = meta(key, current, actor, expected_version)
        event = msgspec.structs.replace(current, **changes, deleted=True)
        return await self._publish(event, correlation_id)

    async def _publish(self, event: Change, correlation_id: str | None) -> Accepted:
        view = self._views[type(event)]
        verdict = view.expect(event.event_id)
        try:
            position = await self._log.publish(event, correlation_id=correlation_id)
            async with asyncio.timeout(APPLIED_WITHIN_S):
                in_force = await verdict
        except TimeoutError:
            return Accepted(event, position, in_force=False)
        finally:
            view.forget(event.event_id)
        if not in_force:
            raise _conflict(event.key, view.get(event.key), event.entity_version - 1)
        return Accepted(event, position, in_force=True)


def meta(
    key: str, current: Change | None, actor: str, expected_version: int | None = None
) -> dict[str, Any]:
    """What the next change of an entity begins with. Raises Conflict for another version."""
    version = current.entity_version if current else 0
    if expected_version is not None and expected_version != version:
        raise _conflict(key, current, expected_version)
    return {
        "event_id": uuid7(),
        # Later than what it replaces, whichever control's clock is ahead.
        "occurred_at_us": max(now_us(), current.occurred_at_us + 1 if current else 0),
        "entity_version": version + 1,
        "actor": actor,
    }


def facts(event: Change) -> dict[str, Any]:
    """What a change says of its entity, without who said it and when."""
    fields = msgspec.structs.asdict(event)
    return {name: value for name, value in fields.items() if name not in META}


def _conflict(key: str, current: Change | None, expected_version: int) -> Conflict:
    if current is None:
        return Conflict(f"{key} does not exist, version {expected_version} was expected")
    if expected_version == 0:
        return Conflict(f"{key} exists already", action="Change it, or choose another name.")
    return Conflict(f"{key} has version {current.entity_version}, expected was {expected_version}")
