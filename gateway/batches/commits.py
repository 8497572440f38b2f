"""Changes of files and batches by a worker: through its outbox, in force when its view shows them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from gateway.outbox import Outbox
from schemas.clock import now_us
from schemas.errors import BrokerUnavailable, NotFound, Unavailable
from schemas.events.changes import Change
from schemas.identity import uuid7
from schemas.table_view import TableView

COMMIT_S = 5.0
NEWS_S = 1.0
"""How long a worker waits for what another one may just have made."""

C = TypeVar("C", bound=Change)


class Commits:
    """Commits changes; belongs to the event loop's thread."""

    def __init__(self, outbox: Outbox, actor: str, views: Iterable[TableView[Any]]) -> None:
        self._outbox = outbox
        self._actor = actor
        self._waiting: list[asyncio.Future[None]] = []
        for view in views:
            view.listen(self._wake)

    @property
    def outbox(self) -> Outbox:
        """Where changes are appended."""
        return self._outbox

    async def commit(self, view: TableView[C], change: C, *, version: int) -> bool:
        """Append a change as `version` of its entity; return whether it is the one in force.

        Another worker's change of the same version may have come first. Raises Unavailable while
        the log does not take it.
        """
        change = msgspec.structs.replace(
            change,
            event_id=uuid7(),
            occurred_at_us=now_us(),
            actor=self._actor,
            entity_version=version,
        )
        sequence = self._outbox.append(change)
        try:
            async with asyncio.timeout(COMMIT_S):
                await self._outbox.durable("replicated", sequence)
                while not self._decided(view, change):
                    await self._news()
        except (TimeoutError, BrokerUnavailable) as error:
            raise Unavailable(
                "the log is away, so nothing can be changed now", retry_after_seconds=5.0
            ) from error
        current = view.get(change.key)
        return change.deleted or (current is not None and self._is(current, change))

    async def update(self, view: TableView[C], key: str, **fields: object) -> C:
        """Change fields of whatever is in force, as often as others come first. Raises NotFound."""
        while True:
            current = view.get(key)
            if current is None:
                raise NotFound(f"{key} does not exist")
            changed = msgspec.structs.replace(current, **fields)
            if await self.commit(view, changed, version=current.entity_version + 1):
                return changed

    async def find(self, view: TableView[C], key: str) -> C | None:
        """Return what is under a key, waiting a moment for what another worker may have made."""
        try:
            async with asyncio.timeout(NEWS_S):
                while (found := view.get(key)) is None:
                    await self._news()
        except TimeoutError:
            return None
        return found

    async def _news(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake(self, *_: object) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _decided(self, view: TableView[C], change: C) -> bool:
        current = view.get(change.key)
        if current is None:
            return change.deleted
        return current.entity_version >= change.entity_version

    def _is(self, current: C, change: C) -> bool:
        if current.entity_version == change.entity_version:
            return current.event_id == change.event_id
        # Later versions were made of ours, or of the one that came before it.
        return False
