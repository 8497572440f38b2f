"""The administration of keys, tenants, routing, prices, limits and budgets: commands over HTTP."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from infra.admin_config import config_router
from infra.admin_desk import PREFIXES, Desk
from infra.admin_entities import entity_router
from infra.admin_keys import key_router
from infra.audit import Auditor
from infra.change_sets import ChangeSets
from infra.commands import Commands
from infra.entities import BUDGET, KINDS
from schemas.events.changes import Change, KeyChanged
from schemas.events.configuration import ConfigurationApplied
from schemas.events.optimizer import OptimizerRuleChanged
from schemas.log import Log

EVENTS: tuple[type[Change], ...] = (
    KeyChanged,
    ConfigurationApplied,
    OptimizerRuleChanged,
    *(kind.event for kind in KINDS),
)


class Administration:
    """Follows what can be administered and serves the commands that change it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.commands = Commands(log, EVENTS)
        self._auditor = Auditor(log)
        self.desk = Desk(self.commands, self._auditor)
        self._sets = ChangeSets(log, self.commands)

    @property
    def routers(self) -> Sequence[APIRouter]:
        """The endpoints, below `/api/v1/admin` and `/admin`."""
        return [*self._below(PREFIXES[0]), *self._below(PREFIXES[1], in_schema=False)]

    def _below(self, prefix: str, *, in_schema: bool = True) -> list[APIRouter]:
        outer = APIRouter(prefix=f"{prefix}/admin", include_in_schema=in_schema)
        outer.include_router(key_router(self.desk))
        outer.include_router(config_router(self.desk, self._sets))
        for kind in KINDS:
            # What a budget has spent is told with the budget, by `budgets_api`.
            outer.include_router(entity_router(self.desk, kind, reads=kind is not BUDGET))
        return [outer]

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log and write the audit until `stop`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._log.follow(self.commands.views, stop, at_once=True))
            group.create_task(self._auditor.run(stop))

    def ready(self) -> str | None:
        """Why nothing can be administered yet."""
        if all(view.caught_up.is_set() for view in self.commands.views):
            return None
        return "the configuration is being read"

    def status(self) -> dict[str, Any]:
        """How much there is, and how many changes came too late."""
        views = self.commands.views
        return {
            "entities": {view.event_type.type: len(view.entries) for view in views},
            "changes_refused": sum(view.refused for view in views),
        }
